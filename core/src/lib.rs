//! Records in an append-only log on your own disk, replicated in real time to other machines.
//!
//! An application embeds a [`Store`]. It reads and writes on its own disk and never waits for the
//! network, unless it asks to ([`Durability::Mirrored`]).
//!
#![cfg_attr(feature = "net", doc = "```no_run")]
#![cfg_attr(not(feature = "net"), doc = "```ignore")]
//! use std::time::Duration;
//!
//! use counterfoil::{Durability, Store, Tls};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Visit { patient: u64, note: String }
//!
//! fn main() -> Result<(), counterfoil::Error> {
//!     let store = Store::builder().node("practice-12").open_or_create("practice.store")?;
//!     for damage in store.recovery().damage() { eprintln!("{damage}"); }
//!     let visits = store.space("practice-12")?.typed::<Visit>();
//!     // The folder `tls` is made by `counterfoil cert`.
//!     let link = store.mirror_to("hub@hub.example:7400", Tls::from_dir("tls")?).spaces(["practice-12"]).start()?;
//!
//!     let receipt = visits.append(&Visit { patient: 7, note: "BP 120/80".into() })?;
//!     receipt.wait(Durability::Local)?;
//!     let asked = Durability::Mirrored(1);
//!     let reached = receipt.wait_timeout(asked, Duration::from_secs(2))?;
//!     if reached < asked {
//!         eprintln!("only {reached} so far, lag {}", link.status().lag);
//!     }
//!     for visit in visits.read(..)? {                        // a part: visits.read(Seq(3)..Seq(5))
//!         let visit = visit?;
//!         println!("{} {}", visit.seq(), visit.value().note);
//!     }
//!     store.close(Duration::from_secs(5))                    // reports what is not mirrored yet
//! }
//! // under tokio or any executor: receipt.durable(Durability::Local).await?;  visits.follow(cursor).into_stream()
//! ```
//!
//! # Words
//!
//! A **record** is an opaque byte string with a sequence number and a time. A **log** is a sequence
//! of records with exactly one writer, for ever. A **space** is a named set of logs that replicate
//! together; each node that writes to it has its own log there. A **node** is one store with one
//! identity. **Durable** means: survives power loss.
//!
//! # Features
//!
//! - `collections` (default): values under keys, which several nodes may write at once.
//! - `net` (default): links and servers over TCP and TLS 1.3.
//! - `json`: the codec [`Json`], for types that bincode can't read back.
//! - `cli`: the command `counterfoil`.
#![warn(clippy::missing_errors_doc)]

mod acks;
#[cfg(feature = "net")]
pub mod certificates;
mod codec;
#[cfg(feature = "collections")]
mod collection;
mod cursor;
mod error;
mod follow;
mod frontier;
#[cfg(feature = "net")]
mod link;
mod local_link;
mod merge;
mod options;
mod read;
mod receipt;
#[cfg(feature = "net")]
mod repair;
mod retention;
#[cfg(feature = "net")]
mod runtime;
#[cfg(feature = "net")]
mod server;
mod space;
mod stats;
mod status;
mod store;
mod time;
mod token;
mod typed;

pub use acks::Ack;
#[cfg(feature = "json")]
pub use codec::Json;
pub use codec::{Bincode, Codec, CodecError, ENVELOPE_LEN, MAX_VALUE_LEN};
#[cfg(feature = "collections")]
pub use collection::{
    Change, ChangeStream, Changes, Collection, Entries, History, IndexProgress, KeepBoth, Key, Keys, MAX_KEY_LEN,
    MissingRange, NewestByClock, ParseVersionError, RecordedWrite, Resolution, Resolver, Settled, Transaction, Version,
    VersionId, Versions,
};
#[cfg(feature = "net")]
pub use counterfoil_replication::net::{
    ListenError, Target as PeerAddress, TargetError as PeerAddressError, Tls, TlsError,
};
pub use counterfoil_replication::{Flow, Policy, PolicyError, Rights};
pub use counterfoil_storage::{
    AppendError, BatchError, Compression, Damage, Digest, DiskError, Finding, Genesis, Head, Hlc, Hole, Holes,
    Incarnation, LogId, LogInfo, MAX_NAME_LEN, MAX_RECORD_LEN, MendError, NameError, NodeName, OpenError, Parent,
    ParseIdError, Place, ReadError, Recovery, SegmentNumber, Seq, SpaceName, StoreError, StoreId, SystemClock, Term,
    TrimError, VerifyReport, WallClock, vfs,
};
pub use cursor::Cursor;
pub use error::{Error, ErrorKind, Result};
pub use follow::{Follow, FollowStream};
pub use frontier::Frontier;
#[cfg(feature = "net")]
pub use link::{Link, LinkBuilder};
pub use local_link::{LocalLink, LocalLinkBuilder};
pub use options::Builder;
pub use read::{Read, Record};
pub use receipt::{Durability, Durable, Receipt};
#[cfg(feature = "net")]
pub use repair::{Repair, RepairProgress, Unmended};
pub use retention::{Held, Retention, RetentionStats, Trimmed, TrimmedLog};
#[cfg(feature = "net")]
pub use server::{Peer, Server, ServerBuilder};
pub use space::Space;
pub use stats::{SpaceStats, Stats};
pub use status::{Lag, LinkEvent, LinkEvents, LinkState, LinkStatus, Unmirrored};
pub use store::Store;
pub use token::TokenError;
pub use typed::{Entry, Typed, TypedFollow, TypedFollowStream, TypedRead};

/// Compiles the example of the README.
#[cfg(all(doctest, feature = "net"))]
#[doc = include_str!("../../README.md")]
struct Readme;
