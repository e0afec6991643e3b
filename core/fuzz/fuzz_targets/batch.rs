//! Fuzzes or replays `batch`; see the library.
#![cfg_attr(fuzzing, no_main)]

counterfoil_fuzz::program!(counterfoil_fuzz::batch::run);
