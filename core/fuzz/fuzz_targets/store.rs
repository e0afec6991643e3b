//! Fuzzes or replays `store`; see the library.
#![cfg_attr(fuzzing, no_main)]

counterfoil_fuzz::program!(counterfoil_fuzz::store::run);
