//! What is being done: a line that changes on a terminal, nothing elsewhere.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use counterfoil_benches::Workload;
use indicatif::{ProgressBar, ProgressStyle};

pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new() -> Self {
        if !stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("{elapsed_precise} {msg}").expect("a template that is right");
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.enable_steady_tick(Duration::from_secs(1));
        Self(bar)
    }

    pub(crate) fn say(&self, workload: Workload, system: &str, what: &str) {
        self.0.set_message(format!("{} {}: {system}, {what}", workload.letter(), workload.title()));
    }

    /// Prints lines that stay.
    pub(crate) fn print(&self, text: &str) {
        self.0.suspend(|| println!("{text}"));
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
