//! `counterfoil append`: one record a line from standard input.
//!
//! Three threads: one reads and appends, one waits for receipts in their order and prints acks, the
//! main one waits for the end of input, a failure or a signal. So records go on being queued, and
//! are committed together, while earlier ones are on their way to the disk or the mirror.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    mem,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use counterfoil::{Compression, Durability, Error, ErrorKind, MAX_RECORD_LEN, Receipt, Seq, Space, Store};

use crate::{
    collection::BytesCollection,
    failure::{self, Answer, Failure},
    lines::{Group, Lines},
    mirror::Target,
    open::{open_with, space_of},
    output::count,
    pointer::Pointers,
    progress::{Progress, Sum},
    seconds::{SECONDS_DEFAULT, seconds},
    signals::{self, Signal},
};

/// How batches are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Packed {
    None,
    Lz4,
    Zstd,
}

impl From<Packed> for Compression {
    fn from(packed: Packed) -> Self {
        match packed {
            Packed::None => Self::None,
            Packed::Lz4 => Self::Lz4,
            Packed::Zstd => Self::Zstd,
        }
    }
}

/// Append records, one a line of standard input
#[derive(Debug, Args)]
pub(crate) struct Append {
    /// Folder of the store
    store: PathBuf,
    /// Space to append to; the node's own name unless given
    #[arg(long, value_name = "S")]
    space: Option<String>,
    /// Put each line, which is JSON, into this collection, under the key that it holds
    #[arg(long, value_name = "C", requires = "key_pointers", conflicts_with = "batch")]
    collection: Option<String>,
    /// Where the key is: the text at this JSON pointer, as in /id (a whole number, true or false counts as its text: 5 and
    /// "5" are one key); given again, the texts are joined with /, which only the last may hold
    #[arg(long = "key-pointer", value_name = "POINTER", requires = "collection")]
    key_pointers: Vec<String>,
    /// What a record must reach before it is acknowledged
    #[arg(long, value_enum, default_value_t = Level::Local)]
    durability: Level,
    /// Print "ack SEQ" once record SEQ has reached it, in order, flushed at once
    #[arg(long)]
    ack: bool,
    /// Commit every N lines; without it, whatever is waiting is committed together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// How what is appended now is stored and sent
    #[arg(long, value_enum, default_value_t = Packed::None)]
    compression: Packed,
    /// Mirror the space to this node meanwhile
    #[arg(long, value_name = "NODE@ADDR", requires = "tls")]
    mirror_to: Option<String>,
    /// Folder with ca.pem, cert.pem and key.pem
    #[arg(long, value_name = "DIR", requires = "mirror_to")]
    tls: Option<PathBuf>,
    /// Compress what is sent to the mirror; see `counterfoil mirror --help` for when not to
    #[arg(long, requires = "mirror_to")]
    compress: bool,
    /// How long a record, and the end, may wait for the mirror; 0 does not wait
    #[arg(long, value_name = "SECS", default_value_t = SECONDS_DEFAULT, value_parser = seconds, allow_hyphen_values = true)]
    timeout: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// In the queue of this process
    Buffered,
    /// On this node's disk
    Local,
    /// On this node's disk and on the mirror's
    Mirrored,
}

impl Level {
    fn durability(self) -> Durability {
        match self {
            Self::Buffered => Durability::Buffered,
            Self::Local => Durability::Local,
            Self::Mirrored => Durability::Mirrored(1),
        }
    }
}

/// Appends whose receipts have not been looked at yet: bounds what waits for a mirror.
const RECEIPTS_MAX: usize = 1024;

/// How often one who waits looks whether it still should.
const GLANCE: Duration = Duration::from_millis(100);

/// An append on its way to its ack.
struct Pending {
    receipt: Receipt,
    /// When it will have waited long enough.
    deadline: Instant,
}

/// What the appending thread shares with the main one.
struct Appender {
    progress: Progress,
    /// `None` once no more is to be appended.
    pending: Option<SyncSender<Pending>>,
}

/// What the main thread waits for.
enum Event {
    InputEnded(Result<(), Failure>),
    AcksEnded(Result<Outcome, Failure>),
    Stop,
}

/// How the waiting for receipts ended.
#[derive(Debug)]
enum Outcome {
    /// Every record has reached what was asked for.
    Reached,
    /// This one has not in its time, only this level; later ones were not looked at.
    Late(Seq, Durability),
    /// Somebody wanted it to end before all was known.
    Stopped,
}

impl Append {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        if self.durability == Level::Mirrored && self.mirror_to.is_none() {
            let usage = "--durability mirrored needs a mirror: add --mirror-to NODE@ADDR --tls DIR";
            return Err(Failure::Usage(usage.to_owned()));
        }
        let target = self.mirror_to.as_deref().zip(self.tls.as_deref()).map(|(to, tls)| Target::new(to, tls));
        let target = target.transpose()?.map(|target| target.compress(self.compress));
        let pointers = Pointers::new(&self.key_pointers)?;
        let store = open_with(Store::builder().compression(self.compression.into()), &self.store)?;
        let space = space_of(&store, self.space.as_deref())?;
        let collection = self.collection.as_ref().map(|name| space.collection_of_bytes(name)).transpose()?;
        if let Some(target) = target {
            target.mirror(&store, &space)?;
        }
        let sink = match collection {
            Some(collection) => Sink::Collection { collection, pointers },
            None => Sink::Space(space.clone()),
        };
        let (mut progress, outcome) = self.append(sink);
        progress.finish();
        // One that was late has had its time.
        let timeout = if matches!(outcome, Ok(Outcome::Reached)) { self.timeout() } else { Duration::ZERO };
        let closed = store.close(timeout);
        summarize(progress.durable(), &space);
        match (outcome.map_err(|failure| cut_short(&failure, &progress))?, closed) {
            (Outcome::Late(seq, reached), closed) => {
                let what = self.late(seq, reached, reason_of(closed), &progress);
                Ok(Answer::BadNews(Some(format!("{what}; {}", kept(&progress)))))
            }
            (_, Err(error @ Error::NotMirrored { .. })) => {
                Ok(Answer::BadNews(Some(format!("{error}; {}", kept(&progress)))))
            }
            (_, closed) => Ok(closed.map(|()| Answer::Done)?),
        }
    }

    /// Which record is late, and why if that is known.
    fn late(&self, seq: Seq, reached: Durability, reason: Option<String>, progress: &Progress) -> String {
        let line = progress.line_of(seq).map(|line| format!(" (line {line} of the input)")).unwrap_or_default();
        let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("record {seq}{line} is only {reached} after {} s{reason}", self.timeout)
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout)
    }

    /// Appends until the input ends, a failure or a signal.
    fn append(&self, sink: Sink) -> (Progress, Result<Outcome, Failure>) {
        let (tell, events) = mpsc::channel();
        let (pending, receipts) = mpsc::sync_channel(RECEIPTS_MAX);
        let is_stopping = Arc::new(AtomicBool::new(false));
        let appender = Arc::new(Mutex::new(Appender { progress: Progress::default(), pending: Some(pending) }));

        let on_signal = tell.clone();
        let stop = move |_: Signal| {
            let _ = on_signal.send(Event::Stop);
        };
        if let Err(failure) = signals::listen(false, stop) {
            return (Progress::default(), Err(failure));
        }
        let acker = Acker {
            receipts,
            level: self.durability.durability(),
            is_printing: self.ack,
            is_stopping: Arc::clone(&is_stopping),
        };
        let on_acks = tell.clone();
        thread::spawn(move || on_acks.send(Event::AcksEnded(ended_of(|| acker.run()))));
        let lines = {
            let appender = Arc::clone(&appender);
            let (group, timeout) = (self.group(), self.timeout());
            move || append_lines(&sink, &appender, group, timeout)
        };
        // It may wait for input for ever, so it is not joined.
        thread::spawn(move || tell.send(Event::InputEnded(ended_of(lines))));

        let mut input = Ok(());
        let outcome = loop {
            match events.recv() {
                Ok(Event::InputEnded(result)) => input = result,
                Ok(Event::AcksEnded(outcome)) => break outcome,
                Ok(Event::Stop) => is_stopping.store(true, Ordering::Relaxed),
                Err(mpsc::RecvError) => break Ok(Outcome::Stopped),
            }
            // With the last sender gone the acks end.
            lock(&appender).pending = None;
        };
        let mut appender = lock(&appender);
        appender.pending = None;
        (mem::take(&mut appender.progress), input.and(outcome))
    }

    fn group(&self) -> Group {
        self.batch.map_or(Group::Waiting, |lines| Group::Lines(lines as usize))
    }
}

/// How a thread's work ended, also if it panicked: whoever waits for the end must hear of it.
fn ended_of<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    // Nothing that the work has touched is used after it.
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Failure::Bug))
}

/// Why the rest was not appended, which lines were, and what to do.
fn cut_short(failure: &Failure, progress: &Progress) -> Failure {
    let (stored, going_on) = (progress.stored(), progress.going_on());
    let kind = if let Failure::Counterfoil(error) = failure { Some(error.kind()) } else { None };
    Failure::CutShort(match kind {
        Some(ErrorKind::StorageFull) => {
            format!("no space left on the store's disk: {stored}; free some space, then {going_on}")
        }
        Some(ErrorKind::Disk) => format!(
            "{failure}; {stored}, of the lines after them it is not known: see with `counterfoil cat` what is there, \
             then append what is not"
        ),
        _ => format!("{failure}; {stored}: {going_on}"),
    })
}

/// What is to be appended, and not again, where only the mirror is late.
fn kept(progress: &Progress) -> String {
    let (stored, going_on) = (progress.stored(), progress.going_on());
    format!("{stored}, and what the mirror lacks goes there with the next `append --mirror-to` or `mirror`: {going_on}")
}

/// What is in the mirror's way, if it is known.
fn reason_of(closed: counterfoil::Result<()>) -> Option<String> {
    match closed {
        Err(Error::NotMirrored { unmirrored }) => unmirrored.into_iter().find_map(|missing| missing.reason),
        _ => None,
    }
}

fn lock(appender: &Mutex<Appender>) -> MutexGuard<'_, Appender> {
    appender.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where lines go.
enum Sink {
    Space(Space),
    Collection { collection: BytesCollection, pointers: Pointers },
}

impl Sink {
    /// Appends the next lines; how many it took. `number` is that of the first.
    fn append(&self, lines: &[&[u8]], number: u64) -> Result<(Receipt, usize), Failure> {
        match self {
            Self::Space(space) => Ok((space.append_all(lines)?, lines.len())),
            Self::Collection { collection, pointers } => {
                let line = lines.first().copied().unwrap_or_default();
                let key = pointers.key_of(line, number)?;
                Ok((collection.put(&key, &Bytes::copy_from_slice(line))?, 1))
            }
        }
    }
}

/// Appends all lines of standard input, a group at a time.
fn append_lines(sink: &Sink, appender: &Mutex<Appender>, group: Group, timeout: Duration) -> Result<(), Failure> {
    let mut lines = Lines::new(io::stdin().lock(), MAX_RECORD_LEN);
    let mut number = 1;
    loop {
        let group = lines.next_group(group)?;
        let mut rest = &group[..];
        loop {
            // Held while appending, so that nothing is appended once the main thread has taken what was.
            let mut appender = lock(appender);
            if group.is_empty() {
                appender.progress.is_input_at_end = true;
                return Ok(());
            }
            let Some(pending) = appender.pending.clone() else { return Ok(()) };
            // What follows a line that was not stored would take its place.
            appender.progress.settle()?;
            let (receipt, taken) = sink.append(rest, number)?;
            if !appender.progress.add(&receipt, &rest[..taken]) {
                // A line was lost meanwhile: its receipt says why.
                return Ok(());
            }
            drop(appender);
            let deadline = now() + timeout;
            if pending.send(Pending { receipt, deadline }).is_err() {
                return Ok(());
            }
            (rest, number) = (&rest[taken..], number + taken as u64);
            if rest.is_empty() {
                break;
            }
        }
    }
}

/// Waits for receipts in their order and prints acks.
struct Acker {
    receipts: Receiver<Pending>,
    level: Durability,
    is_printing: bool,
    is_stopping: Arc<AtomicBool>,
}

impl Acker {
    fn run(mut self) -> Result<Outcome, Failure> {
        while let Ok(Pending { receipt, deadline }) = self.receipts.recv() {
            loop {
                let left = deadline.saturating_duration_since(now());
                let reached = receipt.wait_timeout(self.level, left.min(GLANCE))?;
                if reached >= self.level {
                    break;
                }
                // The own disk is waited for as long as it takes; the mirror is not.
                if reached >= Durability::Local && self.is_stopping.load(Ordering::Relaxed) {
                    return Ok(Outcome::Stopped);
                }
                if reached >= Durability::Local && left.is_zero() {
                    return Ok(Outcome::Late(receipt.first_seq(), reached));
                }
            }
            self.print(&receipt)?;
        }
        Ok(Outcome::Reached)
    }

    fn print(&mut self, receipt: &Receipt) -> Result<(), Failure> {
        if !self.is_printing {
            return Ok(());
        }
        let mut acks = String::new();
        for seq in receipt.first_seq().0..receipt.next_seq().0 {
            acks += "ack ";
            acks += &seq.to_string();
            acks.push('\n');
        }
        let mut stdout = io::stdout().lock();
        match stdout.write_all(acks.as_bytes()).and_then(|()| stdout.flush()) {
            // Nobody listens any more, but the records are still to be appended.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_printing = false;
                failure::tell("nobody reads the acks any more (standard output is closed): appending goes on without");
            }
            result => result.map_err(Failure::Output)?,
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "records are given a time to reach the mirror")]
fn now() -> Instant {
    Instant::now()
}

/// The last line on standard error.
fn summarize(sum: &Sum, space: &Space) {
    let Sum { records, bytes, range } = sum;
    let mut line = format!("appended {}, {}", count(*records, "records"), count(*bytes, "bytes"));
    if let Some((log, first_seq, last_seq)) = range {
        let _ = write!(line, ", seq {first_seq}..{last_seq}");
        if let Some(info) = space.logs().into_iter().find(|info| info.id == *log) {
            let _ = write!(line, ", digest {}", info.durable.digest);
        }
    }
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_is_heard_of() {
        let (tell, events) = mpsc::channel();
        let still_open = tell.clone();
        thread::spawn(move || tell.send(Event::AcksEnded(ended_of(|| panic!("a bug"))))).join().unwrap().unwrap();
        assert!(matches!(events.recv(), Ok(Event::AcksEnded(Err(Failure::Bug)))));
        drop(still_open);
    }
}
