//! What in a journal is news to a session: found at the cost of what has changed, not of what is there.

use std::{
    collections::HashSet,
    mem,
    task::{Context, Poll, Waker},
};

use counterfoil_storage::{Arrival, Journal, LogId, SpaceName, Watch};

/// Spaces that are watched one by one: on a hub a commit for one practice does not wake the sessions of all others. A
/// session with more spaces watches the whole journal.
const WATCHES_MAX: usize = 16;

/// So many arrivals are looked through for what has changed; after more of them all logs of the session are listed.
const ARRIVALS_MAX: u64 = 256;

/// Tells what has changed in a journal.
#[derive(Debug)]
pub(super) struct News {
    journal: Journal,
    watches: Watches,
}

#[derive(Debug)]
enum Watches {
    /// At most [`WATCHES_MAX`], all of spaces that have a log here: a journal keeps a space's watch for ever, so names
    /// that a peer has made up are none of them.
    Spaces(Vec<SpaceWatch>),
    /// `seen`: the arrival number before which all has been told, and how many holes had been found and filled; `None`
    /// if everything is to be told.
    All { watch: Watch, seen: Option<(Arrival, u64)> },
}

#[derive(Debug)]
struct SpaceWatch {
    space: SpaceName,
    watch: Watch,
    /// Something was told that has not been taken.
    has_news: bool,
}

/// What has to be looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// All logs of these spaces.
    Spaces(Vec<SpaceName>),
    /// These logs, of any spaces, in the order in which they first grew.
    Logs(Vec<LogId>),
}

impl News {
    pub(super) fn of(journal: Journal) -> Self {
        Self { journal, watches: Watches::Spaces(Vec::new()) }
    }

    /// Watches a space too. Call before its logs are looked at, so that no change comes between.
    pub(super) fn watch(&mut self, space: &SpaceName) {
        let Watches::Spaces(watches) = &mut self.watches else { return };
        if watches.iter().any(|watched| watched.space == *space) {
            return;
        }
        if watches.len() < WATCHES_MAX && has_log(&self.journal, space) {
            watches.push(SpaceWatch::new(&self.journal, space.clone(), false));
        } else {
            self.watches = Watches::All { watch: self.journal.watch(None), seen: None };
        }
    }

    /// Ready when there may be news since it was last ready, else the task is woken when there are.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_ready = match &mut self.watches {
            Watches::Spaces(watches) => watches.iter_mut().fold(false, |ready, watched| ready | watched.poll(cx)),
            Watches::All { watch, seen } => watch.poll_changed(cx).is_ready() || seen.is_none(),
        };
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// What has changed since it was last taken, for a session with these `spaces`.
    pub(super) fn take<'a>(&mut self, spaces: impl Iterator<Item = &'a SpaceName> + Clone) -> Changed {
        match &mut self.watches {
            Watches::Spaces(watches) => {
                // Nobody need have polled.
                let mut cx = Context::from_waker(Waker::noop());
                for watched in watches.iter_mut() {
                    watched.poll(&mut cx);
                }
                let told = watches
                    .iter_mut()
                    .filter_map(|watched| mem::take(&mut watched.has_news).then(|| watched.space.clone()));
                Changed::Spaces(told.collect())
            }
            Watches::All { seen, .. } => {
                let now = (self.journal.next_arrival(), self.journal.holes_changed());
                let seen = seen.replace(now).filter(|(_, holes)| *holes == now.1);
                let logs = seen.and_then(|(seen, _)| arrived(&self.journal, seen, now.0));
                self.narrow(spaces.clone());
                logs.map_or_else(|| Changed::Spaces(spaces.cloned().collect()), Changed::Logs)
            }
        }
    }

    /// Goes back to watching spaces one by one once they are few and all have a log here.
    fn narrow<'a>(&mut self, spaces: impl Iterator<Item = &'a SpaceName> + Clone) {
        if spaces.clone().count() <= WATCHES_MAX && spaces.clone().all(|space| has_log(&self.journal, space)) {
            // What came before the watches were made may not have been told.
            let watches = spaces.map(|space| SpaceWatch::new(&self.journal, space.clone(), true));
            self.watches = Watches::Spaces(watches.collect());
        }
    }
}

impl SpaceWatch {
    fn new(journal: &Journal, space: SpaceName, has_news: bool) -> Self {
        Self { watch: journal.watch(Some(&space)), space, has_news }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        self.has_news |= self.watch.poll_changed(cx).is_ready();
        self.has_news
    }
}

fn has_log(journal: &Journal, space: &SpaceName) -> bool {
    !journal.logs(Some(space)).is_empty()
}

/// The logs of which batches arrived in a range, if they can be told cheaply: the newest are in memory.
fn arrived(journal: &Journal, from: Arrival, next: Arrival) -> Option<Vec<LogId>> {
    let count = next.0.checked_sub(from.0).filter(|count| *count <= ARRIVALS_MAX)?;
    let (mut seen, mut logs) = (HashSet::new(), Vec::new());
    for arrived in journal.read_arrivals(from).take(count as usize) {
        let log = arrived.ok()?.1.log();
        if seen.insert(log) {
            logs.push(log);
        }
    }
    Some(logs)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use counterfoil_storage::{Genesis, LogWriter, NodeName, Options, vfs::Memory};

    use super::*;

    fn space(number: usize) -> SpaceName {
        SpaceName::new(&format!("space-{number}")).unwrap()
    }

    fn journal() -> Journal {
        let mut options = Options::default();
        options.vfs = Arc::new(Memory::default());
        options.background = false;
        Journal::create(Path::new("store"), NodeName::new("hub").unwrap(), options).unwrap()
    }

    fn writer(journal: &Journal, number: usize) -> LogWriter {
        let identity = journal.identity();
        let genesis = Genesis::new(space(number), identity.node.clone(), *identity.incarnation.as_bytes());
        journal.writer(journal.create_log(genesis).unwrap()).unwrap()
    }

    fn is_told(news: &mut News) -> bool {
        news.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn of_many_spaces_only_the_logs_that_grew_are_told() {
        let journal = journal();
        let writers: Vec<_> = (0..100).map(|number| writer(&journal, number)).collect();
        writers.iter().for_each(|writer| drop(writer.append(b"first").unwrap()));
        journal.commit().unwrap();
        let spaces: Vec<_> = (0..100).map(space).collect();
        let mut news = News::of(journal.clone());
        spaces.iter().for_each(|space| news.watch(space));
        assert!(is_told(&mut news));
        assert_eq!(news.take(spaces.iter()), Changed::Spaces(spaces.clone()), "all at first");
        assert!(!is_told(&mut news));
        for number in [7, 70] {
            writers[number].append(b"second").unwrap();
        }
        journal.commit().unwrap();
        assert!(is_told(&mut news));
        assert_eq!(news.take(spaces.iter()), Changed::Logs([7, 70].map(|number| writers[number].log()).into()));
        assert_eq!(news.take(spaces.iter()), Changed::Logs(Vec::new()));
        assert!(!is_told(&mut news));
    }

    #[test]
    fn of_few_spaces_only_those_that_grew_are_told() {
        let journal = journal();
        let writers: Vec<_> = (0..3).map(|number| writer(&journal, number)).collect();
        writers.iter().for_each(|writer| drop(writer.append(b"first").unwrap()));
        journal.commit().unwrap();
        let spaces: Vec<_> = (0..2).map(space).collect();
        let mut news = News::of(journal.clone());
        spaces.iter().for_each(|space| news.watch(space));
        writers[2].append(b"of another space").unwrap();
        journal.commit().unwrap();
        assert!(!is_told(&mut news));
        writers[1].append(b"second").unwrap();
        journal.commit().unwrap();
        assert!(is_told(&mut news));
        assert_eq!(news.take(spaces.iter()), Changed::Spaces(vec![space(1)]));
        writers[0].append(b"second").unwrap();
        journal.commit().unwrap();
        assert_eq!(news.take(spaces.iter()), Changed::Spaces(vec![space(0)]), "though nobody polled");
    }

    #[test]
    fn names_that_a_peer_makes_up_leave_nothing_in_the_journal_and_what_comes_of_them_is_told() {
        let journal = journal();
        let spaces = [space(0)];
        let mut news = News::of(journal.clone());
        news.watch(&spaces[0]);
        assert!(matches!(news.watches, Watches::All { .. }), "no watch of its own is left behind");
        drop(news.take(spaces.iter()));
        assert!(!is_told(&mut news));
        writer(&journal, 0).append(b"now it is there").unwrap();
        journal.commit().unwrap();
        assert!(is_told(&mut news));
        assert_ne!(news.take(spaces.iter()), Changed::Logs(Vec::new()));
        assert!(matches!(news.watches, Watches::Spaces(_)), "from now on other spaces don't wake it");
    }
}
