//! The course of the run: who is started, what is broken when, and when it is over.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use counterfoil::{NodeName, Store, certificates};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    Cli, Result,
    hub::{self, Hub},
    ledger::{Ledger, Phase},
    line::Line,
    outcome,
    records::Records,
    site::News,
};

/// A practice as this process sees it.
#[derive(Debug)]
pub(crate) struct Practice {
    pub(crate) name: String,
    pub(crate) store: PathBuf,
    pub(crate) records: Records,
    pub(crate) record_count: u64,
    ledger: Arc<Mutex<Ledger>>,
    line: Line,
    tls: PathBuf,
    seconds: u16,
    process: Option<(Child, JoinHandle<()>)>,
}

/// After this long without an end something hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs everything; whether every promise was kept.
pub(crate) fn run(cli: &Cli) -> Result<bool> {
    let temporary = tempfile::tempdir()?;
    let folder = cli.folder.as_deref().unwrap_or(temporary.path());
    let authority = folder.join("ca");
    certificates::create_ca(&authority)?;
    let hub_tls = folder.join("tls-hub");
    certificates::issue(&authority, &NodeName::new(hub::NODE)?, &hub_tls, certificates::DAYS_DEFAULT)?;
    let mut hub = Hub::new(folder.join("hub"), hub_tls)?;

    let count = if cli.input.is_some() { 1 } else { cli.practices };
    let mut practices =
        (1..=count).map(|number| Practice::new(number, cli, folder, &hub)).collect::<Result<Vec<_>>>()?;
    let bar = progress_bar(&practices);
    let began_at = now();
    for practice in &mut practices {
        practice.start()?;
    }
    for phase in Phase::ALL {
        let due = practices[0].record_count * phase.begins_at_percent() / 100;
        watch(&mut practices, &bar, began_at, |practices| practices[0].ledger().acked >= due)?;
        begin(phase, &mut practices, &mut hub)?;
    }
    watch(&mut practices, &bar, began_at, |practices| practices.iter().all(|practice| practice.ledger().is_closed))?;
    bar.finish_and_clear();
    hub.stop()?;
    outcome::show(&practices, &Store::open_read_only(folder.join("hub"))?)
}

/// Does what makes the phase.
fn begin(phase: Phase, practices: &mut [Practice], hub: &mut Hub) -> Result<()> {
    let began_at = now();
    match phase {
        Phase::AllUp => {}
        Phase::LineCut => practices[0].line.cut(),
        Phase::LineMended => practices[0].line.mend(),
        Phase::HubStopped => hub.stop()?,
        Phase::HubBack => hub.start()?,
        Phase::SiteKilled => practices[0].kill()?,
    }
    for practice in practices.iter() {
        practice.ledger().begin(phase, began_at);
    }
    if phase == Phase::SiteKilled {
        practices[0].start()?;
    }
    Ok(())
}

/// Waits until something is so; meanwhile moves the bar and looks after the practices.
fn watch(
    practices: &mut [Practice],
    bar: &ProgressBar,
    began_at: Instant,
    is_so: impl Fn(&[Practice]) -> bool,
) -> Result<()> {
    while !is_so(practices) {
        thread::sleep(Duration::from_millis(5));
        bar.set_position(practices.iter().map(|practice| practice.ledger().acked).sum());
        for practice in practices.iter_mut() {
            practice.check()?;
        }
        if began_at.elapsed() > PATIENCE + Duration::from_secs(practices[0].seconds.into()) {
            return Err("it takes too long: something hangs".into());
        }
    }
    Ok(())
}

fn progress_bar(practices: &[Practice]) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed_precise} {bar:40} {pos} of {len} records acknowledged");
    let bar = ProgressBar::new(practices.iter().map(|practice| practice.record_count).sum());
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl Practice {
    fn new(number: u8, cli: &Cli, folder: &Path, hub: &Hub) -> Result<Self> {
        let name = format!("practice-{number}");
        let tls = folder.join(format!("tls-{name}"));
        certificates::issue(&folder.join("ca"), &NodeName::new(&name)?, &tls, certificates::DAYS_DEFAULT)?;
        let store = folder.join(&name);
        Store::builder().node(name.as_str()).create(&store)?.close(Duration::ZERO)?;
        let input = cli.input.as_deref().map(std::path::absolute).transpose()?;
        let records = Records { seed: cli.seed.wrapping_add(number.into()), days: cli.days, input };
        Ok(Self {
            record_count: records.all()?.len() as u64,
            ledger: Arc::new(Mutex::new(Ledger::new(now()))),
            line: Line::new(hub.address())?,
            seconds: cli.seconds,
            process: None,
            name,
            store,
            records,
            tls,
        })
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the practice's process, and a thread that notes what it says.
    fn start(&mut self) -> Result<()> {
        let mut process = Command::new(env::current_exe()?)
            .arg("site")
            .arg("--store")
            .arg(&self.store)
            .arg("--tls")
            .arg(&self.tls)
            .args(["--hub", &format!("{}@{}", hub::NODE, self.line.address())])
            .args(["--seconds", &self.seconds.to_string()])
            .args(self.records.to_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let news = process.stdout.take().ok_or("the practice's process has no output")?;
        let ledger = Arc::clone(&self.ledger);
        let listener = thread::spawn(move || {
            for line in BufReader::new(news).lines().map_while(std::io::Result::ok) {
                if let Some(news) = News::parse(&line) {
                    ledger.lock().unwrap_or_else(PoisonError::into_inner).hear(news, now());
                }
            }
        });
        self.process = Some((process, listener));
        Ok(())
    }

    /// SIGKILL: the process has no say in it.
    fn kill(&mut self) -> Result<()> {
        if let Some((mut process, listener)) = self.process.take() {
            process.kill()?;
            process.wait()?;
            // What it said before it died is heard before what the next one says.
            listener.join().map_err(|_| "a thread panicked")?;
        }
        Ok(())
    }

    /// An error if the process has ended before its time.
    fn check(&mut self) -> Result<()> {
        let Some((process, _)) = &mut self.process else { return Ok(()) };
        match process.try_wait()? {
            Some(status) if !status.success() => Err(format!("the process of {} ended: {status}", self.name).into()),
            _ => Ok(()),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "to measure how long things take")]
fn now() -> Instant {
    Instant::now()
}
