//! The logs that were announced in segments which have been freed: a file that stands in for their announcements.
//!
//! It is needed where no footer that lists all logs is left, and is read only then. Replaced as a whole before a segment
//! is freed in which a log was announced that it does not have, and when the first segment is freed in a life of the store:
//! one that has rotted is whole again then.
//!
//! # Bytes of the file `logs`
//!
//! Little-endian, twice (see the module `twice`):
//!
//! | bytes | field |
//! |---|---|
//! | 4 | magic and version, `CFL1` |
//! | 4 | number of logs |
//! | 4 + n each | a genesis: its length, its bytes; ascending by log id |
//! | 4 | CRC-32 of what is before |

use std::{collections::HashMap, io, path::Path, sync::Arc};

use super::twice::{self, Twice};
use crate::{
    field::Fields,
    genesis::{Genesis, MAX_GENESIS_LEN},
    ids::LogId,
    vfs::Vfs,
};

const LOGS_FILE: &str = "logs";
const MAGIC: [u8; 4] = *b"CFL1";

/// The longest file, in bytes: bounds what is read before a checksum is known to match.
const FILE_LEN_MAX: u64 = 512 << 20;

/// Replaces the file.
///
/// **Durability**: on `Ok` it survives power loss; on `Err` it is as it was or as it should be.
pub(crate) fn write(vfs: &dyn Vfs, dir: &Path, logs: &HashMap<LogId, Arc<Genesis>>) -> io::Result<()> {
    twice::write(vfs, dir, LOGS_FILE, encode(logs))
}

/// What the file says: logs that were announced in segments which have been freed, or were about to be. That it is missing is right
/// if no segment was ever freed.
pub(crate) type LogsState = Twice<Vec<Genesis>>;

impl LogsState {
    /// What is wrong with it, in a store that has or has not freed segments.
    pub(crate) fn damage(&self, has_freed: bool) -> Option<&'static str> {
        let is_damage = *self == Self::Damaged || (has_freed && *self == Self::Missing);
        is_damage.then_some("the file of logs is missing or damaged: some logs may not be known")
    }

    pub(crate) fn known(&self) -> &[Genesis] {
        match self {
            Self::Known(logs) => logs,
            Self::Missing | Self::Damaged => &[],
        }
    }
}

/// Reads the file.
pub(crate) fn read(vfs: &dyn Vfs, dir: &Path) -> io::Result<LogsState> {
    twice::read(vfs, dir, LOGS_FILE, FILE_LEN_MAX, decode)
}

/// What is before the checksum.
fn encode(logs: &HashMap<LogId, Arc<Genesis>>) -> Vec<u8> {
    let mut ordered: Vec<_> = logs.iter().collect();
    ordered.sort_unstable_by_key(|(log, _)| **log);
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&(ordered.len() as u32).to_le_bytes());
    for (_, genesis) in ordered {
        let encoded = genesis.encode();
        out.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        out.extend_from_slice(&encoded);
    }
    out
}

fn decode(contents: &[u8]) -> Option<Vec<Genesis>> {
    let mut fields = Fields(contents);
    let magic: [u8; 4] = fields.array()?;
    let count = fields.u32().filter(|_| magic == MAGIC)?;
    let mut logs = Vec::new();
    for _ in 0..count {
        let len = fields.u32()? as usize;
        let encoded = fields.bytes(len).filter(|_| len <= MAX_GENESIS_LEN)?;
        logs.push(Genesis::decode(encoded).ok()?);
    }
    fields.0.is_empty().then_some(logs)
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::{
        ids::{Digest, NodeName, SpaceName},
        vfs::{Memory, OpenMode, read_full, write_full},
    };

    fn logs() -> HashMap<LogId, Arc<Genesis>> {
        let genesis = |nonce| Genesis::new(SpaceName::new("s").unwrap(), NodeName::new("n").unwrap(), [nonce; 16]);
        (0..3).map(genesis).map(|genesis| (genesis.log_id(), Arc::new(genesis))).collect()
    }

    #[test]
    fn the_file_reads_back_and_any_flipped_bit_leaves_the_other_copy() {
        let (vfs, dir) = (Memory::default(), Path::new("s"));
        assert_eq!(read(&vfs, dir).unwrap(), LogsState::Missing);
        write(&vfs, dir, &logs()).unwrap();
        let file = vfs.open(&dir.join(LOGS_FILE), OpenMode::Write).unwrap();
        let len = file.len().unwrap();
        for byte in 0..len {
            let mut old = [0];
            read_full(&*file, &mut old, byte).unwrap();
            write_full(&*file, &mut [IoSlice::new(&[old[0] ^ 4])], byte).unwrap();
            let LogsState::Known(found) = read(&vfs, dir).unwrap() else { panic!("byte {byte}") };
            let found: HashMap<_, _> = found.into_iter().map(|genesis| (genesis.log_id(), Arc::new(genesis))).collect();
            assert_eq!(found, logs(), "byte {byte}");
            write_full(&*file, &mut [IoSlice::new(&old)], byte).unwrap();
        }
        for byte in [5, len / 2 + 5] {
            write_full(&*file, &mut [IoSlice::new(&[0xff])], byte).unwrap();
        }
        assert_eq!(read(&vfs, dir).unwrap(), LogsState::Damaged);
    }

    #[test]
    fn the_bytes_of_the_file_are_fixed_for_ever() {
        assert_eq!(
            Digest::of(&twice::with_crc(encode(&logs()))).to_string(),
            "5d77dbd50a1a0656fb9ca8768138abea1fb3c7239161f1b816df74a182d5fb75"
        );
    }
}
