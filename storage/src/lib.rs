//! An append-only journal of hash-chained logs, with group commit, for Counterfoil.

mod batch;
mod compression;
mod field;
mod genesis;
mod holes;
mod ids;
mod journal;
mod sync;
mod time;
mod varint;
pub mod vfs;

pub use batch::{
    Attributes, Batch, BatchBuilder, BatchError, BatchHeader, Body, HEADER_LEN, MAX_BATCH_LEN, MAX_RECORD_LEN, Record,
    RecordKind, RecordRef, RecordRefs, Records, split_batch,
};
pub use compression::Compression;
pub use genesis::{Genesis, GenesisError, MAX_GENESIS_LEN, Parent};
pub use holes::{HOLES_MAX, Hole, Holes, HolesError};
pub use ids::{
    Arrival, CommitNumber, Digest, Head, Incarnation, LogId, MAX_NAME_LEN, NameError, NodeName, ParseIdError,
    SegmentNumber, Seq, SpaceName, StoreId, Term,
};
pub use journal::{
    AppendError, ArrivalReader, Damage, DiskError, Finding, Freed, Identity, Journal, JournalStats, Lives, LogInfo,
    LogReader, LogWriter, MAX_APPEND_LEN, MendError, NewLifeError, OpenError, Options, Place, PresentLife, RandomLives,
    ReadError, Receipt, Recovery, StoreError, Stored, TrimError, VerifyReport, Watch, verify,
};
pub use time::{Hlc, SystemClock, WallClock};
pub use varint::{read as read_varint, write as write_varint};
