//! Fuzzes or replays `frames`; see the library.
#![cfg_attr(fuzzing, no_main)]

counterfoil_fuzz::program!(counterfoil_fuzz::frames::run);
