//! Fuzzes or replays `footer`; see the library.
#![cfg_attr(fuzzing, no_main)]

counterfoil_fuzz::program!(counterfoil_fuzz::footer::run);
