//! Ctrl-C and the signals of a service manager.

use std::{io, sync::mpsc, thread};

use tokio::runtime;

use crate::failure::Failure;

/// What somebody asks the process to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// End cleanly: Ctrl-C, SIGTERM.
    Stop,
    /// Read policy and certificates anew: SIGHUP.
    Reload,
}

/// From now on signals do not end the process but can be received: see [`listen`].
pub(crate) fn receive(is_reloading: bool) -> Result<mpsc::Receiver<Signal>, Failure> {
    let (tell, signals) = mpsc::channel();
    let pass_on = move |signal| {
        let _ = tell.send(signal);
    };
    listen(is_reloading, pass_on)?;
    Ok(signals)
}

/// From now on signals do not end the process but are passed to `tell`, on a thread of its own.
///
/// With `is_reloading` SIGHUP asks to reload; otherwise it ends the process as ever.
pub(crate) fn listen(is_reloading: bool, tell: impl Fn(Signal) + Send + 'static) -> Result<(), Failure> {
    let failed = |error| Failure::System { what: "listening for signals".to_owned(), error };
    let runtime = runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    // The handlers are in place before the command goes on.
    let (ready, is_ready) = mpsc::channel();
    let run = move || {
        runtime.block_on(async {
            match Signals::new(is_reloading) {
                Ok(mut signals) => {
                    let _ = ready.send(Ok(()));
                    while let Some(signal) = signals.next().await {
                        tell(signal);
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
    };
    thread::Builder::new().name("signals".to_owned()).spawn(run).map_err(failed)?;
    is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended"))).map_err(failed)
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new(is_reloading: bool) -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: is_reloading.then(|| signal(SignalKind::hangup())).transpose()?,
        })
    }

    async fn next(&mut self) -> Option<Signal> {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            signal = self.interrupt.recv() => signal.map(|()| Signal::Stop),
            signal = self.terminate.recv() => signal.map(|()| Signal::Stop),
            signal = hangup => signal.map(|()| Signal::Reload),
        }
    }
}

/// Elsewhere there is only Ctrl-C.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new(_is_reloading: bool) -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Option<Signal> {
        tokio::signal::ctrl_c().await.ok().map(|()| Signal::Stop)
    }
}
