//! A practice's process: appends records, each durable before the next, and mirrors them.
//!
//! It tells the process that started it what happens, a line each on standard output.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use clap::Args;
use counterfoil::{Durability, Link, Seq, Space, Store, Tls};

use crate::{Result, records::Records};

#[derive(Debug, Args)]
pub(crate) struct Site {
    #[arg(long)]
    pub(crate) store: PathBuf,
    #[arg(long)]
    pub(crate) tls: PathBuf,
    #[arg(long)]
    pub(crate) hub: String,
    #[arg(long)]
    pub(crate) seconds: u16,
    #[command(flatten)]
    pub(crate) records: Records,
}

/// What a practice's process says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// The store is open and its log ends here.
    Ready { next_seq: u64 },
    /// This record is durable here; it took so long.
    Ack { seq: u64, latency: Duration },
    /// A bare write and flush of a record's bytes beside the store took so long.
    Bare { latency: Duration },
    /// The hub lacks so many records.
    Lag { records: u64 },
    /// All records are appended.
    Appended,
    /// The hub has them all, and the store is closed.
    Closed,
}

impl News {
    fn line(self) -> String {
        match self {
            Self::Ready { next_seq } => format!("ready {next_seq}"),
            Self::Ack { seq, latency } => format!("ack {seq} {}", latency.as_nanos()),
            Self::Bare { latency } => format!("bare {}", latency.as_nanos()),
            Self::Lag { records } => format!("lag {records}"),
            Self::Appended => "appended".to_owned(),
            Self::Closed => "closed".to_owned(),
        }
    }

    /// Reads a line that another process wrote; it may be half a line if that was killed.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let word = words.next()?;
        let mut number = || words.next()?.parse().ok();
        Some(match word {
            "ready" => Self::Ready { next_seq: number()? },
            "ack" => Self::Ack { seq: number()?, latency: Duration::from_nanos(number()?) },
            "bare" => Self::Bare { latency: Duration::from_nanos(number()?) },
            "lag" => Self::Lag { records: number()? },
            "appended" => Self::Appended,
            "closed" => Self::Closed,
            _ => return None,
        })
    }

    fn tell(self) -> io::Result<()> {
        // One write for each line, so that two threads' lines don't mix.
        io::stdout().lock().write_all((self.line() + "\n").as_bytes())
    }
}

/// How often the lag is told.
const LAG_EVERY: Duration = Duration::from_millis(20);

impl Site {
    pub(crate) fn run(self) -> Result<()> {
        end_with_parent();
        let records = self.records.all()?;
        let store = Store::open(&self.store)?;
        let space = store.own_space()?;
        let link = store.mirror_to(self.hub, Tls::from_dir(&self.tls)?).start()?;

        // Appends go on after the last record in the store: it knows best what was done before.
        let next_seq = space.logs().first().map_or(Seq::ZERO, |info| info.durable.next_seq);
        News::Ready { next_seq: next_seq.0 }.tell()?;
        {
            let (store, space) = (store.clone(), space.clone());
            thread::spawn(move || tell_lag(&store, &space, &link));
        }

        let mut bare = BareFile::new(&self.store.with_extension("bare"))?;
        let pause = Duration::from_secs(self.seconds.into()) / records.len() as u32;
        let started_at = now();
        for (index, record) in records.iter().skip(next_seq.0 as usize).enumerate() {
            thread::sleep((pause * index as u32).saturating_sub(started_at.elapsed()));
            let appended_at = now();
            let receipt = space.append(record)?;
            receipt.wait(Durability::Local)?;
            News::Ack { seq: receipt.first_seq().0, latency: appended_at.elapsed() }.tell()?;
            if index % BARE_EVERY == 0 {
                News::Bare { latency: bare.write(record.as_ref())? }.tell()?;
            }
        }
        News::Appended.tell()?;
        store.close(Duration::from_secs(300))?;
        News::Closed.tell()?;
        Ok(())
    }
}

/// One of so many appends is measured against a bare write.
const BARE_EVERY: usize = 8;

/// A file of zeros beside the store, into which records are written and flushed by hand: what the disk takes by itself.
struct BareFile {
    file: File,
    offset: u64,
}

impl BareFile {
    const LEN: u64 = 1 << 20;

    fn new(path: &Path) -> io::Result<Self> {
        let mut file = File::create(path)?;
        file.write_all(&vec![0; Self::LEN as usize])?;
        file.sync_all()?;
        Ok(Self { file, offset: 0 })
    }

    fn write(&mut self, record: &[u8]) -> io::Result<Duration> {
        if self.offset + record.len() as u64 > Self::LEN {
            self.offset = 0;
        }
        let began_at = now();
        self.file.seek(SeekFrom::Start(self.offset))?;
        self.file.write_all(record)?;
        self.file.sync_data()?;
        self.offset += record.len() as u64;
        Ok(began_at.elapsed())
    }
}

fn tell_lag(store: &Store, space: &Space, link: &Link) {
    loop {
        thread::sleep(LAG_EVERY);
        // After a start it is not known what the hub has until it has said so.
        let has_said = space.own_log().is_some_and(|log| !store.acks(log).is_empty());
        let news = News::Lag { records: link.status().lag.records };
        if has_said && news.tell().is_err() {
            return;
        }
    }
}

/// Ends this process when the one that started it is gone: its end of standard input closes then.
fn end_with_parent() {
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        process::exit(1);
    });
}

#[expect(clippy::disallowed_methods, reason = "to measure latency, and to spread the records over the day")]
fn now() -> Instant {
    Instant::now()
}
