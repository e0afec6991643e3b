//! Rounds in which every system takes its turn, in an order that rotates, so that a noisy moment hits all.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt as _, path::Path, thread};

use counterfoil_benches::{Archive, Contender, Counterfoil, Limit, Outcome, System, Workload, folder};
use tempfile::TempDir;

use crate::{
    alone,
    effort::Effort,
    keyed,
    progress::Progress,
    report::{Entry, Results, Series},
    turn::{self, Bodies, Turn, now},
    ways::{self, Chain, FarDisk},
};

pub(crate) struct Arena<'a> {
    pub(crate) lineup: &'a [&'a dyn Contender],
    pub(crate) effort: Effort,
    pub(crate) bodies: Bodies,
    pub(crate) progress: Progress,
    /// Stores that several workloads read, with the place of their system in the lineup.
    pub(crate) archives: BTreeMap<(Archive, usize), Stand>,
    /// Holds a collection of many keys, once one was made.
    pub(crate) keyed: Option<TempDir>,
    /// Of R, while it runs.
    pub(crate) chain: Option<Chain>,
    pub(crate) far_disk: Option<FarDisk>,
}

/// A system's store and, while it is open, the system.
pub(crate) struct Stand {
    system: Option<Box<dyn System>>,
    folder: TempDir,
}

impl Stand {
    fn create(contender: &dyn Contender, logs: u32) -> Outcome<Self> {
        let folder = folder()?;
        let system = contender.create(folder.path(), logs)?;
        Ok(Self { system: Some(system), folder })
    }

    fn system(&self) -> Outcome<&dyn System> {
        Ok(self.system.as_deref().ok_or("it is closed")?)
    }

    fn close(&mut self) -> Outcome<()> {
        self.system.take().map_or(Ok(()), System::close)
    }

    /// Returns once the file system has done with it: freeing much takes time, which would be the next turn's.
    fn remove(self) -> io::Result<()> {
        let parent = self.folder.path().parent().map(Path::to_owned);
        self.folder.close()?;
        parent.map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    }
}

impl Arena<'_> {
    pub(crate) fn run(&mut self, workload: Workload) -> Results {
        let mut results = Results::default();
        let mut stands = BTreeMap::new();
        for (place, contender) in self.lineup.iter().enumerate() {
            self.progress.say(workload, contender.name(), "made ready");
            if let Some(reason) = self.why_not(*contender, workload) {
                results.absent.push((contender.name(), reason.to_owned()));
                continue;
            }
            match self.make_ready(place, *contender, workload) {
                Ok(stand) => drop(stands.insert(place, stand)),
                Err(error) => results.absent.push((contender.name(), format!("failed: {error}"))),
            }
        }
        let mut turns: BTreeMap<usize, Vec<Turn>> = BTreeMap::new();
        for round in 0..self.effort.rounds(workload) {
            let mut order: Vec<usize> = stands.keys().copied().collect();
            let start = round % order.len().max(1);
            order.rotate_left(start);
            for place in order {
                let contender = self.lineup[place];
                self.progress.say(workload, contender.name(), &format!("round {}", round + 1));
                thread::sleep(self.effort.pause);
                let stand = stands.get_mut(&place).expect("it is of the order");
                match self.take_turn(contender, stand, workload) {
                    Ok(turn) => turns.entry(place).or_default().push(turn),
                    Err(error) => {
                        results.absent.push((contender.name(), format!("failed: {error}")));
                        stands.remove(&place);
                        turns.remove(&place);
                    }
                }
            }
        }
        self.far_disk = None;
        if let Some(Err(error)) = self.chain.take().map(Chain::end) {
            results.absent.push((Counterfoil.name(), format!("failed: {error}")));
        }
        for (place, turns) in turns {
            let contender = self.lineup[place];
            let entry = Entry { system: contender.name(), remark: contender.remark(workload) };
            results.series.push(Series::new(entry, turns));
        }
        if let Some(archive) = workload.archive() {
            self.archives.extend(stands.into_iter().map(|(place, stand)| ((archive, place), stand)));
        }
        results
    }

    fn why_not(&self, contender: &dyn Contender, workload: Workload) -> Option<&'static str> {
        if workload.is_asked_of_us_alone() && contender.name() != Counterfoil.name() {
            return Some("a bound for Counterfoil, whatever others reach");
        }
        if workload == Workload::R && ![Counterfoil.name(), Limit.name()].contains(&contender.name()) {
            return Some("a bound for Counterfoil: one flush and one round trip, as the limit has them");
        }
        if workload == Workload::H100g && self.effort.hole_gib.is_none() {
            return Some("only in full: the store takes a minute to make");
        }
        contender.cannot(workload)
    }

    fn make_ready(&mut self, place: usize, contender: &dyn Contender, workload: Workload) -> Outcome<Stand> {
        if let Some(stand) = workload.archive().and_then(|archive| self.archives.remove(&(archive, place))) {
            return Ok(stand);
        }
        if let (Workload::H100g, Some(gib)) = (workload, self.effort.hole_gib) {
            let folder = folder()?;
            alone::fill_with_holes(folder.path(), gib)?;
            return Ok(Stand { system: None, folder });
        }
        if workload.is_of_keys() && workload != Workload::Kput && self.keyed.is_none() {
            let folder = folder()?;
            keyed::put(folder.path(), self.effort.keys, &self.bodies)?;
            self.keyed = Some(folder);
        }
        if workload == Workload::R {
            if contender.name() == Limit.name() {
                self.far_disk = Some(FarDisk::new()?);
            } else {
                self.chain = Some(Chain::new()?);
            }
        }
        if matches!(workload, Workload::Hkill | Workload::W | Workload::R) || workload.is_of_keys() {
            // Each turn makes its own, or all of them share one.
            return Ok(Stand { system: None, folder: folder()? });
        }
        let mut stand = Stand::create(contender, workload.logs())?;
        turn::load(stand.system()?, workload, &self.effort, &self.bodies)?;
        if workload.archive().is_some() {
            // So that all is in the page cache.
            stand.system()?.reader(0)?.scan()?;
        }
        if is_fresh_each_turn(workload) {
            stand.close()?;
        }
        Ok(stand)
    }

    /// One turn with a collection of many keys.
    fn keyed_turn(&self, workload: Workload) -> Outcome<Turn> {
        let keys = self.effort.keys;
        let fresh = if workload == Workload::Kput { Some(folder()?) } else { None };
        let folder = fresh.as_ref().or(self.keyed.as_ref()).ok_or("it was not made ready")?.path();
        match workload {
            Workload::Kput => keyed::put(folder, keys, &self.bodies),
            Workload::Kget => keyed::get(folder, keys, self.effort.reads),
            Workload::Kopen => keyed::reopen(folder),
            _ => Ok(Turn { figure: alone::peak_memory_of_keys(folder, keys)?, latencies: Vec::new() }),
        }
    }

    fn take_turn(&mut self, contender: &dyn Contender, stand: &mut Stand, workload: Workload) -> Outcome<Turn> {
        match workload {
            Workload::H | Workload::H1e5 | Workload::H100g => reopen(contender, stand),
            workload if workload.is_of_keys() => self.keyed_turn(workload),
            Workload::W => ways::both_ways(self.effort.mirrored_records, &self.bodies),
            Workload::R if contender.name() == Limit.name() => {
                self.far_disk.as_mut().ok_or("it was not made ready")?.take(self.effort.waits, &self.bodies)
            }
            Workload::R => self.chain.as_ref().ok_or("it was not made ready")?.take(self.effort.waits, &self.bodies),
            Workload::Hkill => Ok(Turn { figure: alone::reopen_killed()?, latencies: Vec::new() }),
            Workload::Disk => measure(stand, self.effort.archive_records),
            Workload::Mem => {
                stand.close()?;
                Ok(Turn { figure: alone::peak_memory(stand.folder.path())?, latencies: Vec::new() })
            }
            _ if is_fresh_each_turn(workload) => {
                let mut fresh = Stand::create(contender, workload.logs())?;
                turn::load(fresh.system()?, workload, &self.effort, &self.bodies)?;
                thread::sleep(self.effort.pause);
                let turn = turn::take(fresh.system()?, workload, &self.effort, &self.bodies)?;
                fresh.close()?;
                fresh.remove()?;
                Ok(turn)
            }
            _ => {
                let system = stand.system()?;
                let turn = turn::take(system, workload, &self.effort, &self.bodies)?;
                if workload.archive().is_none() {
                    system.flush()?;
                }
                Ok(turn)
            }
        }
    }
}

/// Those that write much begin anew, or the last rounds would find another store than the first.
fn is_fresh_each_turn(workload: Workload) -> bool {
    matches!(workload, Workload::At | Workload::C | Workload::D)
}

fn reopen(contender: &dyn Contender, stand: &mut Stand) -> Outcome<Turn> {
    stand.close()?;
    let start = now();
    let system = contender.reopen(stand.folder.path())?;
    system.reader(0)?.read(0)?;
    let figure = start.elapsed().as_secs_f64() * 1e3;
    system.close()?;
    Ok(Turn { figure, latencies: Vec::new() })
}

fn measure(stand: &mut Stand, records: usize) -> Outcome<Turn> {
    stand.close()?;
    let payload = records * counterfoil_benches::RECORD_BYTES;
    Ok(Turn { figure: used_bytes(stand.folder.path())? as f64 / payload as f64, latencies: Vec::new() })
}

/// Bytes of all files below a folder, each up to its last byte that is not zero: what is preallocated does not count.
fn used_bytes(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in folder.read_dir()? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { used_bytes(&entry.path())? } else { used_len(&entry.path())? };
    }
    Ok(sum)
}

fn used_len(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = end.saturating_sub(buffer.len() as u64);
        let part = &mut buffer[..(end - start) as usize];
        file.read_exact_at(part, start)?;
        if let Some(last) = part.iter().rposition(|byte| *byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
