//! Servers of other people's, run by `servers.sh` for as long as they are needed.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use counterfoil_benches::Outcome;

use crate::turn::now;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/arena/peers/servers.sh");
/// How long a server may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(300);
const GLANCE: Duration = Duration::from_millis(10);

/// A server that runs; it ends when dropped.
pub(super) struct Server {
    child: Child,
}

impl Server {
    /// Starts one in the foreground of the script; what it says goes to `log`. Returns once it listens on `port`.
    pub(super) fn start(arguments: &[&str], port: u16, log: &Path) -> Outcome<Self> {
        let said = File::create(log)?;
        let mut command = Command::new(SCRIPT);
        command.args(arguments).stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let mut server = Self { child: command.spawn()? };
        let start = now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if server.child.try_wait()?.is_some() || start.elapsed() > PATIENCE {
                return Err(format!("it did not start: {}", last_line(log)).into());
            }
            thread::sleep(GLANCE);
        }
        Ok(server)
    }

    fn stop(&mut self) -> Outcome<()> {
        run(&["stop", &self.child.id().to_string()])?;
        let start = now();
        while self.child.try_wait()?.is_none() && start.elapsed() < PATIENCE {
            thread::sleep(GLANCE);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // If it can't be asked it is made to; if that fails too, it ends with this program.
        if self.stop().is_err() || self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn last_line(log: &Path) -> String {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("not a word").to_owned()
}

/// Has the script do something and waits for it.
pub(super) fn run(arguments: &[&str]) -> Outcome<()> {
    let output = Command::new(SCRIPT).args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it failed without a word").to_owned().into())
}

/// Why a kind of server can't be had.
pub(super) fn missing(kind: &str) -> Option<String> {
    run(&["check", kind]).err().map(|error| error.to_string())
}

/// A port that was free just now.
pub(super) fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A certificate for loopback and its key, in a folder.
pub(super) fn certificate(dir: &Path) -> Outcome<(PathBuf, PathBuf)> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let (certificate, key) = (dir.join("server.pem"), dir.join("server.key"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    Ok((certificate, key))
}
