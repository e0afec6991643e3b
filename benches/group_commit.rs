//! Group commit as one writes it by hand.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    thread::{self, Thread},
};

use crate::segments::{Frames, Segments};

/// Group commit: one thread writes and flushes for all that wait, and wakes exactly those.
#[derive(Debug)]
pub struct GroupCommit {
    group: Mutex<Group>,
    segments: Mutex<Segments>,
}

#[derive(Debug, Default)]
struct Group {
    frames: Frames,
    waiting: Vec<Thread>,
    /// Number of the group that is being filled.
    number: u64,
    /// Groups before this are durable.
    durable: u64,
    has_leader: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GroupCommit {
    /// Commits into `segments`.
    pub fn new(segments: Segments) -> Self {
        Self { group: Mutex::default(), segments: Mutex::new(segments) }
    }

    /// The segments, for who needs no group.
    pub fn segments(&self) -> MutexGuard<'_, Segments> {
        lock(&self.segments)
    }

    /// Writes `record` and returns once it is durable.
    pub fn append(&self, record: &[u8]) -> io::Result<()> {
        let mut group = lock(&self.group);
        group.frames.push(record);
        let mine = group.number;
        let mut is_registered = false;
        loop {
            if group.durable > mine {
                return Ok(());
            }
            if group.has_leader {
                // Once: the entry goes when the group is taken, and its leader wakes whom it took.
                if !is_registered {
                    group.waiting.push(thread::current());
                    is_registered = true;
                }
                drop(group);
                thread::park();
                group = lock(&self.group);
                continue;
            }
            group.has_leader = true;
            let mut frames = std::mem::take(&mut group.frames);
            let waiting = std::mem::take(&mut group.waiting);
            group.number += 1;
            drop(group);
            let mut segments = self.segments();
            segments.write(&mut frames)?;
            segments.sync()?;
            drop(segments);
            group = lock(&self.group);
            group.durable = mine + 1;
            group.has_leader = false;
            let next = group.waiting.first().cloned();
            drop(group);
            waiting.iter().chain(&next).for_each(Thread::unpark);
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_commit_writes_every_record_of_every_thread_once() {
        let folder = tempfile::tempdir().unwrap();
        let group = GroupCommit::new(Segments::create(folder.path()).unwrap());
        thread::scope(|scope| {
            for writer in 0..8_u8 {
                let group = &group;
                scope.spawn(move || (0..50).for_each(|_| group.append(&[writer + 1; 16]).unwrap()));
            }
        });
        assert_eq!(group.segments().snapshot().scan().unwrap(), 8 * 50);
    }
}
