//! A folder in which the command is run.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use counterfoil::{NodeName, SystemClock, WallClock as _, certificates};
use tempfile::TempDir;

/// A test that has not got on after this long hangs: no machine is so busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// A temporary folder: the current one of all commands run in it.
pub(crate) struct Sandbox(TempDir);

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    #[track_caller]
    pub(crate) fn expect_status(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "stderr: {}", self.stderr);
        self
    }

    /// The only line on standard error.
    #[track_caller]
    pub(crate) fn only_error(&self) -> &str {
        let lines: Vec<_> = self.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "one line: {lines:?}");
        lines[0]
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With a store called `practice.store`, of the node `practice-1`.
    pub(crate) fn with_practice() -> Self {
        let sandbox = Self::new();
        sandbox.run("init practice.store --node practice-1").expect_status(0);
        sandbox
    }

    /// With `practice.store`, and a `hub.store` of the node `hub`, and certificates for both in `tls-…`.
    pub(crate) fn with_practice_and_hub() -> Self {
        let sandbox = Self::with_practice();
        sandbox.run("init hub.store --node hub").expect_status(0);
        sandbox.run("cert ca ca").expect_status(0);
        for node in ["practice-1", "hub"] {
            sandbox.certify(node);
        }
        sandbox
    }

    /// With `a.store`, `b.store` and `hub.store`, certificates for them, and `policy.toml`, by which `a` and `b` are
    /// members of the space `s` at the hub.
    pub(crate) fn with_members_and_hub() -> Self {
        let sandbox = Self::new();
        sandbox.run("cert ca ca").expect_status(0);
        for node in ["a", "b", "hub"] {
            sandbox.run(&format!("init {node}.store --node {node}")).expect_status(0);
            sandbox.certify(node);
        }
        let grant = |node| format!("[[grant]]\nnode = \"{node}\"\nspace = \"s\"\nrights = [\"read\", \"write\"]\n");
        sandbox.write("policy.toml", grant("a") + &grant("b"));
        sandbox
    }

    /// Issues a certificate to `node` in `tls-NODE`.
    pub(crate) fn certify(&self, node: &str) {
        self.run(&format!("cert node ca --node {node} --out tls-{node}")).expect_status(0);
    }

    /// Issues a certificate to `node` that expired yesterday.
    pub(crate) fn certify_expired(&self, node: &str, folder: &str) {
        let (day, now) = (Duration::from_secs(24 * 60 * 60), Duration::from_millis(SystemClock.unix_ms()));
        let yesterday = SystemTime::UNIX_EPOCH + now - day;
        let (ca, node) = (self.path("ca"), NodeName::new(node).unwrap());
        certificates::issue_for(&ca, &node, &self.path(folder), yesterday - day..yesterday).unwrap();
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Runs the command, its words separated by spaces, without input.
    pub(crate) fn run(&self, words: &str) -> Ended {
        self.run_with(words, b"")
    }

    /// Runs the command with this on its standard input.
    pub(crate) fn run_with(&self, words: &str, input: &[u8]) -> Ended {
        let mut running = self.start(words);
        let stdin = running.stdin.take();
        let input = input.to_vec();
        let writer = thread::spawn(move || {
            // The command may have seen enough before it is all written.
            let _ = stdin.unwrap().write_all(&input);
        });
        let ended = running.finish();
        writer.join().unwrap();
        ended
    }

    /// Starts an `append` to a space that is empty yet, of a record that is not mirrored: returns once that is in the
    /// store, so that a signal finds the command waiting for the mirror.
    pub(crate) fn start_unmirrored(&self, words: &str, store: &str, space: &str, record: &str) -> Running {
        let mut append = self.start(words);
        append.write(record);
        eventually(|| (!self.heads(store, space).is_empty()).then_some(()))
            .unwrap_or_else(|| panic!("{words}: {}", append.errors()));
        append
    }

    /// Starts the command. Standard error is read all the time.
    pub(crate) fn start(&self, words: &str) -> Running {
        self.start_in(None, words)
    }

    /// Starts the command in a network namespace.
    pub(crate) fn start_in(&self, namespace: Option<&str>, words: &str) -> Running {
        let program = env!("CARGO_BIN_EXE_counterfoil");
        let mut command = match namespace {
            None => Command::new(program),
            Some(namespace) => {
                // Becomes the program: its process is the one that is signalled.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, program]);
                command
            }
        };
        let mut process = command
            .args(words.split_whitespace())
            .current_dir(self.0.path())
            .env_remove("COUNTERFOIL_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let errors = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let listener = {
            let errors = Arc::clone(&errors);
            thread::spawn(move || {
                for line in stderr.lines().map_while(Result::ok) {
                    *errors.lock().unwrap() += &(line + "\n");
                }
            })
        };
        Running {
            words: words.to_owned(),
            stdin: process.stdin.take(),
            stdout: process.stdout.take(),
            lines: None,
            process,
            errors,
            listener: Some(listener),
        }
    }

    /// Runs a command that gives up after so many seconds, `SECS` in its words, which a busy machine may need to get as
    /// far as to see what `is_seen` looks for: if so, again with the next, longer time.
    pub(crate) fn run_within(&self, times: &[&str], words: &str, is_seen: impl Fn(&Ended) -> bool) -> Ended {
        let (last, times) = times.split_last().expect("some time");
        let run = |time: &&str| self.run(&words.replace("SECS", time));
        times.iter().map(run).find(&is_seen).unwrap_or_else(|| run(last))
    }

    /// An address of this machine that no other sandbox has, with a port to be picked: nobody takes it from a hub that is
    /// down for a while.
    #[cfg(target_os = "linux")]
    pub(crate) fn own_address() -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("127.{}.{}.{}:0", 2 + std::process::id() % 250, number / 250, 1 + number % 250)
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn own_address() -> String {
        "127.0.0.1:0".to_owned()
    }

    /// Starts `counterfoil serve hub.store` with more options; its address once it listens.
    pub(crate) fn serve(&self, listen: &str, more: &str) -> (Running, String) {
        self.serve_as("hub", listen, more)
    }

    /// Starts `counterfoil serve NODE.store` with more options; its address once it listens.
    pub(crate) fn serve_as(&self, node: &str, listen: &str, more: &str) -> (Running, String) {
        let mut hub = self.start(&format!("serve {node}.store --listen {listen} --tls tls-{node} {more}"));
        let line = hub.read_line();
        let address = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}, {}", hub.errors()));
        (hub, address.to_owned())
    }

    /// `status --json` of a store.
    pub(crate) fn status(&self, store: &str) -> serde_json::Value {
        let status = self.run(&format!("status {store} --json")).expect_status(0);
        serde_json::from_slice(&status.stdout).unwrap()
    }

    /// Logs of a space as `status --json` shows them: id, digest and length of each that is not empty.
    pub(crate) fn heads(&self, store: &str, space: &str) -> Vec<(String, String, u64)> {
        let status = self.status(store);
        let logs = status["logs"].as_array().unwrap().iter().filter(|log| log["space"] == space);
        let text = |log: &serde_json::Value, field: &str| log[field].as_str().unwrap().to_owned();
        let heads = logs.map(|log| (text(log, "id"), text(log, "digest"), log["next_seq"].as_u64().unwrap()));
        heads.filter(|(_, _, next_seq)| *next_seq > 0).collect()
    }

    /// Digest and length of the only log of a space, as `status --json` shows it.
    pub(crate) fn head(&self, store: &str, space: &str) -> (String, u64) {
        // Beside a writer a commit is seen once it is proven, a few milliseconds after the acknowledgement.
        let only_log = || {
            let status = self.status(store);
            let mut logs = status["logs"].as_array().unwrap().clone();
            logs.retain(|log| log["space"] == space);
            (logs.len() == 1).then_some(logs)
        };
        let logs = eventually(only_log).unwrap_or_else(|| panic!("one log of {space} in {}", self.status(store)));
        (logs[0]["digest"].as_str().unwrap().to_owned(), logs[0]["next_seq"].as_u64().unwrap())
    }

    /// What `cat` prints of a space that may not be there yet.
    pub(crate) fn cat_if_there(&self, store: &str, space: &str) -> Vec<u8> {
        let ended = self.run(&format!("cat {store} --space {space}"));
        assert!(ended.status == Some(0) || ended.stderr.contains("no space"), "{}", ended.stderr);
        ended.stdout
    }

    /// What `cat` prints.
    pub(crate) fn cat(&self, words: &str) -> Vec<u8> {
        self.run(&format!("cat {words}")).expect_status(0).stdout
    }
}

/// A command that runs. It is killed when dropped.
pub(crate) struct Running {
    words: String,
    process: Child,
    pub(crate) stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    /// Lines of standard output, once somebody wants them one by one.
    lines: Option<Receiver<String>>,
    errors: Arc<Mutex<String>>,
    listener: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stdin.as_mut().unwrap().write_all(bytes.as_ref()).unwrap();
    }

    /// The next line of standard output without LF; empty at the end.
    #[track_caller]
    pub(crate) fn read_line(&mut self) -> String {
        if let Some(stdout) = self.stdout.take() {
            let (tell, lines) = mpsc::channel();
            // Ends with the process, or when nobody wants more.
            thread::spawn(move || {
                BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| tell.send(line))
            });
            self.lines = Some(lines);
        }
        match self.lines.as_ref().expect("standard output was taken").recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => String::new(),
            Err(RecvTimeoutError::Timeout) => panic!("{} prints nothing: {}", self.words, self.errors()),
        }
    }

    /// Its end of standard output, to be read elsewhere.
    pub(crate) fn take_stdout(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.stdout.take().expect("nobody has read it"))
    }

    /// What is on standard error so far.
    pub(crate) fn errors(&self) -> String {
        self.errors.lock().unwrap().clone()
    }

    /// Waits until a line on standard error contains `text`; that line.
    #[track_caller]
    pub(crate) fn wait_for_error(&self, text: &str) -> String {
        eventually(|| self.errors().lines().find(|line| line.contains(text)).map(str::to_owned))
            .unwrap_or_else(|| panic!("{}: no {text:?} in: {}", self.words, self.errors()))
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal by name: `TERM`, `HUP`, `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// SIGKILL; what it had printed.
    pub(crate) fn kill(mut self) -> Ended {
        self.process.kill().unwrap();
        self.finish()
    }

    /// Closes its input and waits for its end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Ended {
        drop(self.stdin.take());
        let reader = self.stdout.take().map(|mut stdout| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                stdout.read_to_end(&mut bytes).unwrap();
                bytes
            })
        });
        let status = eventually(|| self.process.try_wait().unwrap());
        let status = status.unwrap_or_else(|| panic!("{} hangs: {}", self.words, self.errors()));
        let stdout = reader.map(|reader| reader.join().unwrap()).unwrap_or_default();
        self.listener.take().unwrap().join().unwrap();
        Ended { status: status.code(), stdout, stderr: self.errors() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks again until there is an answer; `None` if there is none for long.
#[expect(clippy::disallowed_methods, reason = "a bound for a test that hangs")]
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let began_at = Instant::now();
    while began_at.elapsed() < PATIENCE {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        thread::sleep(Duration::from_millis(2));
    }
    None
}

/// As many as an environment variable says, for longer exploration in CI.
pub(crate) fn count_from_env(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}
