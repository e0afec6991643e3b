//! Files whose checksums match and whose content lies, disks that are full for a while, and readers in the way.
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::disallowed_methods,
    reason = "an attacker's program, kept as it was"
)]
use std::{
    fs,
    io::{self, IoSlice},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use counterfoil_storage::{
    BatchBuilder, Digest, Genesis, Head, Hlc, Journal, LogId, NodeName, OpenError, Options, Seq, SpaceName, verify,
    vfs::{FileIdentity, Memory, OpenMode, Vfs, VfsFile, VfsLock},
};

fn genesis(node: &str, nonce: u8) -> Genesis {
    Genesis::new(SpaceName::new("shared").unwrap(), NodeName::new(node).unwrap(), [nonce; 16])
}
fn hub() -> NodeName {
    NodeName::new("hub").unwrap()
}
fn own(journal: &Journal) -> counterfoil_storage::LogWriter {
    let g = Genesis::new(SpaceName::new("s").unwrap(), hub(), *journal.identity().incarnation.as_bytes());
    journal.writer(journal.create_log(g).unwrap()).unwrap()
}

/// A store of several segments in a folder.
fn store(dir: &Path) -> LogId {
    let mut o = Options::default();
    o.background = false;
    o.segment_bytes_min = 16 << 10;
    o.segment_bytes_max = 16 << 10;
    let journal = Journal::create(dir, hub(), o).unwrap();
    let writer = own(&journal);
    for n in 0..40_u8 {
        writer.append(&[n; 3000]).unwrap().wait().unwrap();
    }
    let log = writer.log();
    journal.close().unwrap();
    log
}
fn patch_footer(bytes: &mut [u8], patch: impl FnOnce(&mut [u8], usize)) {
    let at = bytes.windows(4).rposition(|w| w == b"CFI1").unwrap();
    let entries = u32::from_le_bytes(bytes[at + 20..at + 24].try_into().unwrap()) as usize;
    let footer = &mut bytes[at..];
    let first_entry = footer.len() - entries * 36;
    patch(footer, first_entry);
    footer[28..32].fill(0);
    let crc = crc32fast::hash(footer);
    footer[28..32].copy_from_slice(&crc.to_le_bytes());
}
fn mend_extent(bytes: &mut [u8]) {
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
}
fn use_store(dir: &Path, log: LogId) -> String {
    let what = catch_unwind(AssertUnwindSafe(|| {
        let mut o = Options::default();
        o.background = false;
        o.segment_bytes_min = 16 << 10;
        o.segment_bytes_max = 16 << 10;
        let (journal, _) = match Journal::open(dir, o.clone()) {
            Ok(opened) => opened,
            Err(error) => return format!("open: {error}"),
        };
        let mut out = vec![];
        for seq in 0..40 {
            out.push(match journal.read_batch(log, Seq(seq)) {
                Ok(Some(b)) => format!("{}", b.first_seq()),
                Ok(None) => "-".into(),
                Err(e) => format!("E({})", e.to_string().chars().take(60).collect::<String>()),
            });
        }
        let scan: Vec<_> = journal.read(log, Seq(0)).take(100).map(|b| b.is_ok()).collect();
        let w = own(&journal);
        let append = w.append(b"x").and_then(|r| r.wait().map(|_| ()));
        for _ in 0..8 {
            w.append(&[7; 3000]).unwrap().wait().unwrap();
        }
        drop(journal.close());
        format!(
            "reads {}; scan {} ok of {}; append {append:?}",
            out.join(" "),
            scan.iter().filter(|o| **o).count(),
            scan.len()
        )
    }));
    what.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|s| s.to_string()));
        format!("PANIC: {text:?}")
    })
}

#[test]
fn hostile_files_do_not_panic_or_allocate_without_bound() {
    let mut panics = vec![];
    let mut case = |name: &str, spoil: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("store");
        let log = store(&dir);
        spoil(&dir);
        let said = use_store(&dir, log);
        if said.contains("PANIC") {
            panics.push(name.to_owned());
        }
        let v = catch_unwind(AssertUnwindSafe(|| verify(&dir, &Options::default(), |_, _| {}).map(|r| r.damage.len())));
        if v.is_err() {
            panics.push(format!("verify: {name}"));
        }
    };
    let edit = |dir: &Path, file: &str, f: &dyn Fn(&mut Vec<u8>)| {
        let path = dir.join(file);
        let mut bytes = fs::read(&path).unwrap();
        f(&mut bytes);
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .map(|h| std::os::unix::fs::FileExt::write_all_at(&h, &bytes, 0).unwrap())
            .unwrap();
    };
    let seg2 = "0000000000000002.seg";
    case("nothing", &|_| {});
    case("entry len 4 GiB", &|dir| edit(dir, seg2, &|b| patch_footer(b, |f, e| f[e + 32..e + 36].fill(0xff))));
    case("entry offset max", &|dir| edit(dir, seg2, &|b| patch_footer(b, |f, e| f[e + 24..e + 32].fill(0xff))));
    case("entry count shifted", &|dir| {
        edit(dir, seg2, &|b| patch_footer(b, |f, e| f[e + 4..e + 8].copy_from_slice(&3_u32.to_le_bytes())))
    });
    // Rows: genesis len, genesis, next_seq 8, digest 32, time 8, bytes 8, entries 4, previous 8, path count 4, (depth 4, segment 8, first 8)
    let row = |f: &[u8]| 32 + 4 + u32::from_le_bytes(f[32..36].try_into().unwrap()) as usize;
    for seg in [seg2, "last"] {
        let seg = |dir: &Path| {
            if seg != "last" {
                return seg.to_owned();
            }
            // The newest segment with a footer.
            let mut n: Vec<_> = fs::read_dir(dir)
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .filter(|n| n.ends_with(".seg") && fs::read(dir.join(n)).unwrap().windows(4).any(|w| w == b"CFI1"))
                .collect();
            n.sort();
            n.pop().unwrap()
        };
        case("row depth max", &|dir| {
            edit(dir, &seg(dir), &|b| {
                patch_footer(b, |f, _| {
                    let r = row(f);
                    f[r + 72..r + 76].fill(0xff)
                })
            })
        });
        case("row bytes max", &|dir| {
            edit(dir, &seg(dir), &|b| {
                patch_footer(b, |f, _| {
                    let r = row(f);
                    f[r + 48..r + 56].fill(0xff)
                })
            })
        });
        case("row next_seq max", &|dir| {
            edit(dir, &seg(dir), &|b| {
                patch_footer(b, |f, _| {
                    let r = row(f);
                    f[r..r + 8].fill(0xff)
                })
            })
        });
        case("row previous max", &|dir| {
            edit(dir, &seg(dir), &|b| {
                patch_footer(b, |f, _| {
                    let r = row(f);
                    f[r + 60..r + 68].fill(0xff)
                })
            })
        });
    }
    case("previous_end max", &|dir| {
        edit(dir, "0000000000000003.seg", &|b| {
            for at in [0, 4096] {
                b[at + 64..at + 72].fill(0xff);
                let crc = crc32fast::hash(&b[at..at + 76]);
                b[at + 76..at + 80].copy_from_slice(&crc.to_le_bytes());
            }
        })
    });
    case("first_arrival max", &|dir| {
        edit(dir, "0000000000000003.seg", &|b| {
            for at in [0, 4096] {
                b[at + 56..at + 64].fill(0xff);
                let crc = crc32fast::hash(&b[at..at + 76]);
                b[at + 76..at + 80].copy_from_slice(&crc.to_le_bytes());
            }
        })
    });
    case("extent end max", &|dir| {
        edit(dir, "extent", &|b| {
            b[12..20].fill(0xff);
            mend_extent(b);
        })
    });
    case("extent segment max", &|dir| {
        edit(dir, "extent", &|b| {
            b[4..12].fill(0xff);
            mend_extent(b);
        })
    });
    case("extent first kept max", &|dir| {
        edit(dir, "extent", &|b| {
            b[20..28].fill(0xff);
            mend_extent(b);
        })
    });
    assert!(panics.is_empty(), "panics: {panics:?}");
}

/// A disk that can be full, without `fallocate` (NFS, ZFS, btrfs behave so): the write that meets it is cut short.
#[derive(Debug, Clone)]
struct Full {
    memory: Memory,
    room: Arc<AtomicU64>,
    limited: Arc<AtomicBool>,
}
#[derive(Debug)]
struct FullFile(Arc<dyn VfsFile>, Full, bool);
impl Vfs for Full {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn VfsFile>> {
        let is_segment = path.extension().is_some_and(|e| e == "seg");
        Ok(Arc::new(FullFile(self.memory.open(path, mode)?, self.clone(), is_segment)))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.memory.create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.memory.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.memory.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.memory.list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.memory.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn VfsLock>>> {
        self.memory.lock(path)
    }
}
impl VfsFile for FullFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        if !self.2 || !self.1.limited.load(Ordering::Relaxed) {
            return self.0.write_at(buffers, offset);
        }
        let all: Vec<u8> = buffers.iter().flat_map(|b| b.to_vec()).collect();
        let len = self.0.len()?;
        // Only what is beyond the file's end takes room.
        let over = (offset + all.len() as u64).saturating_sub(len);
        let room = self.1.room.load(Ordering::Relaxed);
        let take = all.len() as u64 - over.saturating_sub(room).min(all.len() as u64);
        if take == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.1.room.fetch_sub(over.min(room), Ordering::Relaxed);
        self.0.write_at(&[IoSlice::new(&all[..take as usize])], offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn reserve(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }
    fn identity(&self) -> io::Result<FileIdentity> {
        self.0.identity()
    }
}

fn full_options(vfs: &Full) -> Options {
    let mut o = Options::default();
    o.vfs = Arc::new(vfs.clone());
    o.background = false;
    o.segment_bytes_min = 16 << 10;
    o.segment_bytes_max = 16 << 10;
    o
}

#[test]
fn a_disk_that_was_full_for_a_while_leaves_a_store_that_opens_clean() {
    let vfs = Full { memory: Memory::default(), room: Arc::default(), limited: Arc::default() };
    let dir = Path::new("store");
    let journal = Journal::create(dir, hub(), full_options(&vfs)).unwrap();
    let writer = own(&journal);
    writer.append(b"first").unwrap().wait().unwrap();
    vfs.room.store(3000, Ordering::Relaxed);
    vfs.limited.store(true, Ordering::Relaxed);
    assert!(writer.append(&[0xaa; 4000]).and_then(|r| r.wait().map(drop)).is_err(), "the disk is full");
    vfs.limited.store(false, Ordering::Relaxed);
    writer.append(b"second").unwrap().wait().unwrap();
    journal.close().unwrap();
    drop((journal, writer));
    let v = verify(dir, &full_options(&vfs), |_, _| {}).unwrap();
    let (_journal, recovery) = Journal::open(dir, full_options(&vfs)).unwrap();
    assert!(recovery.clean && v.damage.is_empty(), "a cleanly closed store");
}

#[test]
fn a_store_closed_while_the_disk_is_full_has_lost_nothing() {
    let vfs = Full { memory: Memory::default(), room: Arc::default(), limited: Arc::default() };
    let dir = Path::new("store");
    let journal = Journal::create(dir, hub(), full_options(&vfs)).unwrap();
    let writer = own(&journal);
    let incarnation = journal.identity().incarnation;
    for _ in 0..2 {
        writer.append(&[1; 3000]).unwrap().wait().unwrap();
    }
    // The next frame needs a new segment, which finds no space.
    vfs.room.store(0, Ordering::Relaxed);
    vfs.limited.store(true, Ordering::Relaxed);
    assert!(writer.append(&[0xaa; 6000]).and_then(|r| r.wait().map(drop)).is_err(), "the disk is full");
    journal.close().unwrap();
    drop((journal, writer));
    vfs.limited.store(false, Ordering::Relaxed);
    let (journal, recovery) = Journal::open(dir, full_options(&vfs)).unwrap();
    assert_eq!(recovery.damage().next(), None);
    assert_eq!(journal.identity().incarnation, incarnation, "nothing was lost, so own logs go on");
}

#[test]
fn a_reader_that_opens_does_not_keep_the_writer_out() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    let mut o = Options::default();
    o.background = false;
    {
        let journal = Journal::create(&made, hub(), o.clone()).unwrap();
        own(&journal).append(b"acknowledged").unwrap().wait().unwrap();
        // A kill: what is on disk is copied before it is closed.
        let copy = folder.path().join("killed");
        copy_dir(&made, &copy);
    }
    let mut locked = 0;
    for n in 0..200 {
        let dir = folder.path().join(format!("{n}"));
        copy_dir(&folder.path().join("killed"), &dir);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (stop, dir, o) = (&stop, &dir, &o);
            scope.spawn(move || {
                let mut read = o.clone();
                read.read_only = true;
                while !stop.load(Ordering::Relaxed) {
                    drop(Journal::open(dir, read.clone()));
                }
            });
            std::thread::sleep(std::time::Duration::from_micros(n * 37 % 3000));
            if let Err(OpenError::Locked { .. }) = Journal::open(dir, o.clone()) {
                locked += 1;
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
    assert_eq!(locked, 0, "times of 200 that the only writer was told that another has the store");
}
fn copy_dir(from: &Path, to: &PathBuf) {
    fs::create_dir(to).unwrap();
    for e in fs::read_dir(from).unwrap() {
        let e = e.unwrap();
        fs::copy(e.path(), to.join(e.file_name())).unwrap();
    }
}

/// A tenant whose logs have long geneses: what it costs the others.
#[test]
fn the_geneses_of_one_tenant_do_not_swell_every_footer() {
    let vfs = Memory::default();
    let mut o = Options::default();
    o.vfs = Arc::new(vfs.clone());
    o.background = false;
    o.segment_bytes_min = 4 << 20;
    o.segment_bytes_max = 4 << 20;
    o.queue_bytes = 8 << 20;
    let dir = Path::new("store");
    let journal = Journal::create(dir, hub(), o).unwrap();
    let writer = own(&journal);
    let fake = Head { next_seq: Seq(1), digest: Digest::from_bytes([9; 32]) };
    for n in 0..500_u32 {
        let mut g = genesis("practice-2", 2);
        g.nonce[..4].copy_from_slice(&n.to_le_bytes());
        g.base = (0..1160_u32)
            .map(|k| {
                let mut id = [0; 16];
                id[..4].copy_from_slice(&k.to_be_bytes());
                (LogId::from_bytes(id), fake)
            })
            .collect();
        let log = journal.create_log(g.clone()).unwrap();
        let mut b = BatchBuilder::with_capacity(8);
        b.push(Hlc::from_bits(1), b"x");
        journal.store(b.seal(log, g.head())).unwrap();
    }
    journal.commit().unwrap();
    let mut sizes = vec![];
    for n in 0..24 {
        for _ in 0..64 {
            writer.append(&[n; 8000]).unwrap();
        }
        journal.commit().unwrap();
    }
    for name in vfs.list(dir).unwrap() {
        if name.ends_with(".seg") {
            sizes.push(vfs.open(&dir.join(&name), OpenMode::Read).unwrap().len().unwrap() >> 20);
        }
    }
    assert!(
        sizes.iter().rev().skip(1).take(2).all(|s| *s < 12),
        "a segment of 4 MiB of the victim's records got a footer many times as long"
    );
}

#[test]
fn a_hostile_extent_neither_fills_the_memory_nor_has_a_segment_written_over() {
    for segment in [3_000_000_u64, u64::MAX] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("store");
        let log = store(&dir);
        let first = fs::read(dir.join("0000000000000000.seg")).unwrap();
        let mut bytes = b"CFE1".to_vec();
        bytes.extend_from_slice(&segment.to_le_bytes());
        bytes.extend_from_slice(&8192_u64.to_le_bytes());
        bytes.extend_from_slice(&[0; 12]);
        mend_extent(&mut bytes);
        fs::write(dir.join("extent"), &bytes).unwrap();
        let v = catch_unwind(AssertUnwindSafe(|| verify(&dir, &Options::default(), |_, _| {}).map(|r| r.damage.len())));
        assert!(matches!(v, Ok(Ok(1..10))), "extent says segment {segment}: verify says {v:?}");
        for opening in ["first", "second"] {
            let said = use_store(&dir, log);
            let all = (0..40).map(|seq| seq.to_string()).collect::<Vec<_>>().join(" ");
            assert!(
                said.contains(&all) && said.contains("append Ok"),
                "extent says segment {segment}, {opening}: {said}"
            );
        }
        let now = fs::read(dir.join("0000000000000000.seg")).unwrap();
        assert!(now == first, "extent says segment {segment}: segment 0 was written over");
    }
}

/// Twice what stands before a checksum, and the checksum.
fn two_copies(mut copy: Vec<u8>) -> Vec<u8> {
    copy.extend_from_slice(&crc32fast::hash(&copy).to_le_bytes());
    copy.repeat(2)
}

#[test]
fn hostile_files_of_holes_and_logs_neither_panic_nor_keep_anything_from_being_served() {
    let holes = |log: LogId, count: u32, ranges: &[(u64, u64)]| {
        let mut copy = b"CFH1\x01\0\0\0".to_vec();
        copy.extend_from_slice(log.as_bytes());
        copy.extend_from_slice(&count.to_le_bytes());
        for (first, next) in ranges {
            copy.extend_from_slice(&first.to_le_bytes());
            copy.extend_from_slice(&next.to_le_bytes());
        }
        two_copies(copy)
    };
    let many: Vec<_> = (0..17).map(|n| (3 * n, 3 * n + 1)).collect();
    let unknown = LogId::from_bytes([9; 16]);
    let cases: [(&str, &dyn Fn(LogId) -> Vec<u8>, bool); 9] = [
        ("holes", &|_| two_copies(b"CFH1\xff\xff\xff\xff".to_vec()), true),
        ("holes", &|log| holes(log, u32::MAX, &[(1, 2)]), true),
        ("holes", &|log| holes(log, 2, &[(5, 9), (3, 4)]), true),
        ("holes", &|log| holes(log, 1, &[(0, u64::MAX)]), true),
        ("holes", &|log| holes(log, 17, &many), true),
        ("holes", &|log| holes(log, 1, &[(38, 1 << 59)]), false),
        ("holes", &|_| holes(unknown, 1, &[(0, 1)]), false),
        ("logs", &|_| two_copies(b"CFL1\xff\xff\xff\xff".to_vec()), false),
        ("logs", &|_| two_copies(b"CFL1\x01\0\0\0\xff\xff\xff\x7f".to_vec()), false),
    ];
    for (index, (name, content, is_damage)) in cases.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("store");
        let log = store(&dir);
        fs::write(dir.join(name), content(log)).unwrap();
        let found = verify(&dir, &Options::default(), |_, _| {}).unwrap().damage.len();
        assert_eq!(found, usize::from(is_damage), "{index}: {name}");
        let said = use_store(&dir, log);
        let all = (0..40).map(|seq| seq.to_string()).collect::<Vec<_>>().join(" ");
        assert!(said.contains(&all) && said.contains("append Ok"), "{index}: {name}: {said}");
    }
}
