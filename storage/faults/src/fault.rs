//! What can be made to go wrong, and when.

use std::io;

/// What was asked of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// A file opened that is there.
    Open,
    /// A file made.
    Create,
    /// A directory made.
    CreateDir,
    /// A file renamed.
    Rename,
    /// A file removed.
    Remove,
    /// A directory listed.
    List,
    /// A directory's entries flushed.
    SyncDir,
    /// A lock tried.
    Lock,
    /// Bytes read.
    Read,
    /// Bytes written.
    Write,
    /// A file's data flushed.
    SyncData,
    /// A file's length asked.
    Len,
    /// A file cut or extended.
    SetLen,
    /// Space taken for a file.
    Reserve,
    /// A file's identity asked.
    Identity,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Open,
        Self::Create,
        Self::CreateDir,
        Self::Rename,
        Self::Remove,
        Self::List,
        Self::SyncDir,
        Self::Lock,
        Self::Read,
        Self::Write,
        Self::SyncData,
        Self::Len,
        Self::SetLen,
        Self::Reserve,
        Self::Identity,
    ];

    /// Whether it changes anything that a crash could leave behind, or takes a lock.
    pub fn changes_disk(self) -> bool {
        self == Self::Lock || self.needs_space() || self == Self::Remove
    }

    /// Whether it can meet a full disk. A flush can, on a thin volume.
    fn needs_space(self) -> bool {
        use Operation::{Create, CreateDir, Rename, Reserve, SetLen, SyncData, SyncDir, Write};
        matches!(self, Create | CreateDir | Rename | Reserve | SetLen | SyncData | SyncDir | Write)
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The disk fails (`EIO`). A failed write may have changed the front of its range; after a failed
    /// flush the kernel takes what was dirty for clean, whether it is on the medium or not.
    Eio,
    /// The disk is full (`ENOSPC`), for what needs space.
    NoSpace,
    /// A read or write does only a part of what was asked.
    Short,
    /// A read or write is interrupted before it did anything (`EINTR`).
    Interrupted,
    /// The power goes during the operation: it and all later ones fail. Call
    /// [`FaultVfs::crash`](crate::FaultVfs::crash) for what the medium holds then.
    PowerCut,
}

impl Fault {
    /// Whether an operation of this kind can meet this fault.
    pub fn can_meet(self, operation: Operation) -> bool {
        match self {
            Self::Eio | Self::PowerCut => true,
            Self::NoSpace => operation.needs_space(),
            Self::Short | Self::Interrupted => matches!(operation, Operation::Read | Operation::Write),
        }
    }

    /// What the operation returns.
    pub(crate) fn error(self) -> io::Error {
        match self {
            Self::Eio => io::Error::from_raw_os_error(5),
            Self::NoSpace => io::Error::from_raw_os_error(28),
            Self::Interrupted => io::Error::from_raw_os_error(4),
            Self::Short | Self::PowerCut => io::Error::other("the machine is off"),
        }
    }
}

/// A fault and the operations that meet it.
#[derive(Debug, Clone, Copy)]
pub struct Injection {
    fault: Fault,
    only: Option<Operation>,
    from: u64,
    times: u64,
}

impl Injection {
    /// `fault` at operation number `number`, once. Numbers begin at 0 and count all operations of a
    /// [`FaultVfs`](crate::FaultVfs); with [`of`](Self::of) those of one kind.
    pub fn at(number: u64, fault: Fault) -> Self {
        Self { fault, only: None, from: number, times: 1 }
    }

    /// Counts, and fails, operations of one kind only.
    #[must_use]
    pub fn of(self, operation: Operation) -> Self {
        Self { only: Some(operation), ..self }
    }

    /// Also the next ones, `times` in all.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }

    /// Also all later ones.
    #[must_use]
    pub fn for_ever(self) -> Self {
        self.times(u64::MAX)
    }

    /// The same, its number counted from the operation that follows `counts`.
    pub(crate) fn after(self, counts: &Counts) -> Self {
        let before = self.only.map_or(counts.total(), |kind| counts.of(kind));
        Self { from: self.from + before, ..self }
    }

    /// The fault, if the operation that is number `number` of all and `number_of_kind` of its kind meets it.
    pub(crate) fn strikes(&self, operation: Operation, number: u64, number_of_kind: u64) -> Option<Fault> {
        let counted = match self.only {
            None => number,
            Some(only) if only == operation => number_of_kind,
            Some(_) => return None,
        };
        let since = counted.checked_sub(self.from)?;
        (since < self.times && self.fault.can_meet(operation)).then_some(self.fault)
    }
}

/// How many operations there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    by_kind: [u64; Operation::ALL.len()],
    /// Bytes written.
    pub bytes_written: u64,
}

impl Counts {
    /// Of one kind.
    pub fn of(&self, operation: Operation) -> u64 {
        self.by_kind[operation as usize]
    }

    /// Of all kinds.
    pub fn total(&self) -> u64 {
        self.by_kind.iter().sum()
    }

    pub(crate) fn add(&mut self, operation: Operation) {
        self.by_kind[operation as usize] += 1;
    }
}
