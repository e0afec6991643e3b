//! The threads that carry links and servers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Threads for all links and servers of a store. They work, they don't wait: two keep a disk busy.
const WORKER_THREADS: usize = 2;

/// A tokio runtime of the store's own, started with the first link or server.
///
/// The application's own runtime, if it has one, is left alone.
#[derive(Debug, Default)]
pub(crate) struct Runtime {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    NotStarted,
    Running(tokio::runtime::Runtime),
    ShutDown,
}

impl Runtime {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle to it; starts it if need be.
    pub(crate) fn handle(&self) -> Result<tokio::runtime::Handle> {
        let mut state = self.state();
        if let State::Running(runtime) = &*state {
            return Ok(runtime.handle().clone());
        }
        if let State::ShutDown = *state {
            return Err(counterfoil_storage::AppendError::Closed.into());
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .thread_name("counterfoil-net")
            .enable_all()
            .build()
            .map_err(|error| Error::System { what: "starting the threads of links".to_owned(), error })?;
        let handle = runtime.handle().clone();
        *state = State::Running(runtime);
        Ok(handle)
    }

    /// Ends all tasks, without waiting for any, for ever.
    pub(crate) fn shut_down(&self) {
        if let State::Running(runtime) = std::mem::replace(&mut *self.state(), State::ShutDown) {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.shut_down();
    }
}
