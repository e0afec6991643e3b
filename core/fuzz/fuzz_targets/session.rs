//! Fuzzes or replays `session`; see the library.
#![cfg_attr(fuzzing, no_main)]

counterfoil_fuzz::program!(counterfoil_fuzz::session::run);
