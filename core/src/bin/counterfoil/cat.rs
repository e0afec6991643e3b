//! `counterfoil cat`

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::RecvTimeoutError,
    time::{Duration, SystemTime},
};

use clap::Args;
use counterfoil::{BatchError, Cursor, Error, LogId, Record, RecordedWrite, Seq, Space, SpaceName};
use counterfoil_storage::ReadError;
use serde::Serialize;

use crate::{
    collection::{Key, Text},
    failure::{Answer, Failure, tell},
    open::{in_order, lost_end, open_to_read, space_of, space_there},
    output::{self, Output},
    signals, when,
};

/// Print records, one a line
#[derive(Debug, Args)]
pub(crate) struct Cat {
    /// Folder of the store; another process may be writing it
    store: PathBuf,
    /// Space to read; the node's own name unless given
    #[arg(long, value_name = "S")]
    space: Option<String>,
    /// Only this log of the space
    #[arg(long, value_name = "ID")]
    log: Option<LogId>,
    /// All logs of the space in one order, the same at every node that holds as much: by time, then log
    #[arg(long, conflicts_with_all = ["log", "from", "follow"])]
    merged: bool,
    /// Begin at this sequence number
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// End after so many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Go on with what is appended, until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// One JSON object a line, with the record's place and time
    #[arg(long)]
    json: bool,
}

/// How often somebody who follows looks for more.
const GLANCE: Duration = Duration::from_millis(50);

impl Cat {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let store = open_to_read(&self.store)?;
        let space = space_there(&store, &self.store, self.space.as_deref())?;
        let logs: Vec<LogId> = match self.log {
            Some(log) => vec![log],
            None => in_order(space.logs()).iter().map(|info| info.id).collect(),
        };
        if let (Some(from), true) = (self.from, logs.len() > 1) {
            let (space, count) = (space.name(), logs.len());
            let usage = format!("space {space} has {count} logs and --from {from} is a place in one: add --log ID");
            return Err(Failure::Usage(usage));
        }
        let mut printer = Printer {
            output: Output::new(),
            space: space.name().clone(),
            is_json: self.json,
            left: self.limit,
            is_from_start: self.from.is_none(),
        };
        let (mut is_whole, mut holes) = (true, Vec::new());
        if self.merged {
            holes = print_merged(space.read(..)?, &mut printer, &self.store)?;
        } else if self.follow {
            is_whole = self.follow(&space, &logs, &mut printer)?;
        } else {
            for log in &logs {
                is_whole &= print_all(space.read_log(*log, self.from()..)?, &mut printer)?;
            }
        }
        printer.output.flush()?;
        if !is_whole {
            return Ok(Answer::BadNews(None));
        }
        Ok(match lost_end(&store, &logs, &holes) {
            Some(damage) => Answer::BadNews(Some(format!(
                "records may be missing: {damage}; a mirror may have them: `counterfoil cat` there"
            ))),
            None if holes.is_empty() => Answer::Done,
            None => Answer::BadNews(None),
        })
    }

    fn from(&self) -> Seq {
        Seq(self.from.unwrap_or_default())
    }

    /// Prints what is there and what comes, in the order in which each log grows, until the end is asked for or records
    /// can't be read; false in the latter case.
    fn follow(&self, space: &Space, logs: &[LogId], printer: &mut Printer) -> Result<bool, Failure> {
        let signals = signals::receive(false)?;
        let mut cursor = Cursor::start();
        if let [only] = logs {
            cursor.set(*only, self.from());
        }
        let is_wanted = |record: &Record| self.log.is_none_or(|log| record.log() == log);
        let mut changes = Changes::new(&self.store);
        let mut space = space.clone();
        loop {
            let mut records = space.follow(cursor);
            let mut floors = Vec::new();
            loop {
                match records.next_timeout(Duration::ZERO) {
                    Ok(Some(record)) if is_wanted(&record) => printer.print(&record)?,
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => match printer.pass_floor(&error)? {
                        Some(place) => floors.push(place),
                        None => return printer.meet(error).map(|()| false),
                    },
                }
                if printer.is_done() {
                    return Ok(true);
                }
            }
            printer.output.flush()?;
            cursor = records.cursor().clone();
            for (log, first_seq) in floors {
                // Nothing may have come behind it yet, and it is told once.
                cursor.set(log, cursor.next_seq(log).max(first_seq));
            }
            // A store opened to read stays as it was then: it is opened anew once its files have changed.
            while !changes.have_come() {
                let is_stopped = !matches!(signals.recv_timeout(GLANCE), Err(RecvTimeoutError::Timeout));
                if is_stopped || output::is_closed() {
                    return Ok(true);
                }
            }
            space = space_of(&open_to_read(&self.store)?, self.space.as_deref())?;
        }
    }
}

/// Prints the records of all logs, naming those that can't be read and going on behind them; which they are: log, first
/// record, after the last.
fn print_merged(
    records: impl Iterator<Item = Result<Record, Error>>,
    printer: &mut Printer,
    store: &Path,
) -> Result<Vec<(LogId, Seq, Seq)>, Failure> {
    let mut holes = Vec::new();
    for record in records {
        if printer.is_done() {
            break;
        }
        let error = match record {
            Ok(record) => {
                printer.print(&record)?;
                continue;
            }
            Err(error) => error,
        };
        if printer.pass_floor(&error)?.is_some() {
            continue;
        }
        let (hole, advice) = match &error {
            Error::Read(
                ReadError::Damaged { log, first_seq, next_seq, .. } | ReadError::Hole { log, first_seq, next_seq },
            ) => {
                let repair =
                    format!("; `counterfoil repair {} --from NODE@ADDR --tls DIR` gets it back", store.display());
                ((*log, *first_seq, *next_seq), repair)
            }
            Error::Read(ReadError::Trimmed { log, first_seq, first_available }) => {
                ((*log, *first_seq, *first_available), String::new())
            }
            // A faulty writer's: what follows in its batch can't be told either, the batches behind it can.
            Error::Batch(BatchError::Records { log, first_seq }) => ((*log, *first_seq, *first_seq), String::new()),
            _ => return Err(error.into()),
        };
        printer.output.flush()?;
        tell(&format!("{error}{advice}"));
        holes.push(hole);
    }
    Ok(holes)
}

/// Prints records as far as they can be read; whether none is damaged or missing.
fn print_all(records: impl Iterator<Item = Result<Record, Error>>, printer: &mut Printer) -> Result<bool, Failure> {
    for record in records {
        if printer.is_done() {
            break;
        }
        match record {
            Ok(record) => printer.print(&record)?,
            Err(error) => match printer.pass_floor(&error)? {
                Some(_) => {}
                None => return printer.meet(error).map(|()| false),
            },
        }
    }
    Ok(true)
}

/// Tells when the files of a store may have changed, by their times and lengths.
struct Changes {
    store: PathBuf,
    seen: Vec<(PathBuf, u64, SystemTime)>,
    /// Times of files are coarse: a change may hide behind one seen just before, so each is told twice.
    is_told_once: bool,
}

impl Changes {
    fn new(store: &Path) -> Self {
        Self { store: store.to_owned(), seen: Vec::new(), is_told_once: false }
    }

    fn have_come(&mut self) -> bool {
        let now = self.look();
        let have_come = self.seen != now || self.is_told_once;
        self.is_told_once = self.seen != now;
        self.seen = now;
        have_come
    }

    fn look(&self) -> Vec<(PathBuf, u64, SystemTime)> {
        // A file that vanishes meanwhile is a change, and so is a folder that can't be read: opening tells.
        let entries = fs::read_dir(&self.store).into_iter().flatten().flatten();
        let file = |entry: fs::DirEntry| {
            let metadata = entry.metadata().ok()?;
            Some((entry.path(), metadata.len(), metadata.modified().ok()?))
        };
        let mut files: Vec<_> = entries.filter_map(file).collect();
        files.sort();
        files
    }
}

/// Prints records until there have been enough.
struct Printer {
    output: Output,
    space: SpaceName,
    is_json: bool,
    /// How many more; without a bound if `None`.
    left: Option<u64>,
    /// Whoever asks for all that there is gets what is kept.
    is_from_start: bool,
}

/// A record as `--json` shows it.
#[derive(Serialize)]
struct Line<'a> {
    log: String,
    node: &'a str,
    space: &'a str,
    seq: u64,
    /// When its writer recorded it, in milliseconds since 1970.
    time_ms: u64,
    recorded_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    happened_at: Option<String>,
    #[serde(flatten)]
    content: Content<'a>,
}

/// What a record holds: bytes, or writes to collections.
#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Body(Text<'a>),
    Writes { writes: Vec<Write<'a>> },
}

#[derive(Serialize)]
struct Write<'a> {
    collection: &'a str,
    #[serde(flatten)]
    key: Key<'a>,
    /// Left out of a write that puts a value.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(flatten)]
    body: Option<Text<'a>>,
}

impl<'a> From<&'a RecordedWrite> for Write<'a> {
    fn from(write: &'a RecordedWrite) -> Self {
        Self {
            collection: &write.collection,
            key: Text::of(&write.key).into_key(),
            deleted: write.value.is_none(),
            body: write.value.as_ref().map(|value| Text::of(value)),
        }
    }
}

impl Printer {
    fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// Tells what of a log's beginning retention removed, if that is all that is in the way of one who asks for all that there
    /// is; where it goes on.
    fn pass_floor(&mut self, error: &Error) -> Result<Option<(LogId, Seq)>, Failure> {
        let Error::Read(ReadError::Trimmed { log, first_seq: Seq::ZERO, first_available }) = error else {
            return Ok(None);
        };
        if !self.is_from_start {
            return Ok(None);
        }
        self.output.flush()?;
        tell(&error.to_string());
        Ok(Some((*log, *first_available)))
    }

    /// Records can't be read: what could be read before them is printed, then one line says which they are and how to
    /// go on behind them.
    fn meet(&mut self, error: Error) -> Result<(), Failure> {
        self.output.flush()?;
        match &error {
            Error::Read(
                ReadError::Damaged { log, next_seq, .. }
                | ReadError::Hole { log, next_seq, .. }
                | ReadError::Trimmed { log, first_available: next_seq, .. },
            ) => {
                tell(&format!("{error}; `--log {log} --from {next_seq}` goes on after it"));
                Ok(())
            }
            _ => Err(error.into()),
        }
    }

    fn print(&mut self, record: &Record) -> Result<(), Failure> {
        self.left = self.left.map(|left| left - 1);
        let writes = record.writes();
        if !self.is_json {
            return match &writes {
                // What was put; that something was deleted is shown as JSON only.
                Some(writes) => {
                    writes.iter().filter_map(|write| write.value.as_ref()).try_for_each(|value| self.output.line(value))
                }
                None => self.output.line(record.body()),
            };
        }
        let content = match &writes {
            Some(writes) => Content::Writes { writes: writes.iter().map(Write::from).collect() },
            None => Content::Body(Text::of(record.body())),
        };
        self.output.json(&Line {
            log: record.log().to_string(),
            node: record.node().as_str(),
            space: self.space.as_str(),
            seq: record.seq().0,
            time_ms: record.time().unix_ms(),
            recorded_at: when::text(record.recorded_at()),
            happened_at: record.happened_at().map(when::text),
            content,
        })
    }
}
