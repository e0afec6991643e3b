//! What a hand-written program reaches with the same segment policy, and nothing that need not be done: one frame
//! with a CRC for each write, no index on disk, no chain, no recovery.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    group_commit::GroupCommit,
    payload::RECORD_BYTES,
    segments::{Frames, Segments, Snapshot, Spot},
    system::{Body, Contender, Outcome, Reader, System},
    workload::Workload,
};

/// The contender.
#[derive(Debug)]
pub struct Limit;

struct Open {
    group: GroupCommit,
    own: Mutex<Own>,
}

#[derive(Default)]
struct Own {
    frames: Frames,
    /// Where the records of log 0 are that were appended many at a time.
    many: Vec<Spot>,
    /// Where those are, by log, that were appended across logs.
    across: Vec<Vec<Spot>>,
}

impl Contender for Limit {
    fn name(&self) -> &'static str {
        "limit"
    }

    fn durability(&self) -> &'static str {
        "fdatasync into space filled ahead; directories flushed"
    }

    fn cannot(&self, workload: Workload) -> Option<&'static str> {
        match workload {
            Workload::Gc => Some("a record in memory is there already"),
            Workload::H => Some("it has no recovery"),
            _ => None,
        }
    }

    fn create(&self, dir: &Path, logs: u32) -> Outcome<Box<dyn System>> {
        let own = Own { across: vec![Vec::new(); logs as usize], ..Own::default() };
        Ok(Box::new(Open { group: GroupCommit::new(Segments::create(&dir.join("segments"))?), own: Mutex::new(own) }))
    }

    fn reopen(&self, _dir: &Path) -> Outcome<Box<dyn System>> {
        Err("it has no recovery".into())
    }
}

impl Open {
    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl System for Open {
    fn append_durable(&self, _log: u32, body: &Body) -> Outcome<()> {
        Ok(self.group.append(body)?)
    }

    fn append_unflushed(&self, _log: u32, body: &Body) -> Outcome<()> {
        let own = &mut *self.own();
        own.frames.push(body);
        self.group.segments().write(&mut own.frames)?;
        Ok(())
    }

    fn append_many(&self, _log: u32, bodies: &[Body]) -> Outcome<()> {
        let own = &mut *self.own();
        let offsets: Vec<_> = bodies.iter().map(|body| own.frames.push(body) as u64).collect();
        let spot = self.group.segments().write(&mut own.frames)?;
        own.many.extend(offsets.iter().map(|offset| Spot { offset: spot.offset + offset, ..spot }));
        Ok(())
    }

    fn append_across(&self, _first: u32, bodies: &[Body]) -> Outcome<()> {
        let own = &mut *self.own();
        for body in bodies {
            own.frames.push(body);
        }
        let mut segments = self.group.segments();
        segments.write(&mut own.frames)?;
        Ok(segments.sync()?)
    }

    fn append_pipelined(&self, bodies: &[Body], in_flight: usize) -> Outcome<()> {
        bodies.chunks(in_flight).try_for_each(|group| self.append_across(0, group))
    }

    fn load_interleaved(&self, bodies: &[Body]) -> Outcome<()> {
        let own = &mut *self.own();
        let mut segments = self.group.segments();
        for (spots, body) in own.across.iter_mut().zip(bodies) {
            own.frames.push(body);
            spots.push(segments.write(&mut own.frames)?);
        }
        Ok(segments.sync()?)
    }

    fn flush(&self) -> Outcome<()> {
        Ok(self.group.segments().sync()?)
    }

    fn reader(&self, log: u32) -> Outcome<Box<dyn Reader + '_>> {
        let own = self.own();
        let lone = own.across.get(log as usize).cloned().unwrap_or_default();
        Ok(Box::new(Log { snapshot: self.group.segments().snapshot(), many: own.many.clone(), lone }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(())
    }
}

struct Log {
    snapshot: Snapshot,
    many: Vec<Spot>,
    lone: Vec<Spot>,
}

impl Reader for Log {
    fn read(&mut self, seq: u64) -> Outcome<usize> {
        std::hint::black_box(self.snapshot.checked_read(self.many[seq as usize])?);
        Ok(RECORD_BYTES)
    }

    fn scan(&mut self) -> Outcome<u64> {
        if self.lone.is_empty() {
            return Ok(self.snapshot.scan()?);
        }
        let mut count = 0;
        for spot in &self.lone {
            count += self.snapshot.read_lone(*spot, RECORD_BYTES)?;
        }
        Ok(count)
    }
}
