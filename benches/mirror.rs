//! Mirroring over TLS on loopback, durable at both ends: M in real time, N catching up from nothing,
//! O one writer that waits until its record is mirrored, P 32 of them.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use counterfoil::{Durability, Link, NodeName, Server, Space, Store, Tls, certificates};
use counterfoil_benches::{
    Contest, Measure, Payload, RECORD_BYTES, Ratios, RemoteCopy, RemoteDisk, Segments, Target, folder, stopwatch,
};
use criterion::Criterion;
use tempfile::TempDir;

const DISK: &str = "the disk of the bench works";
const NET: &str = "the network of the bench works";
const PRACTICE: &str = "practice";
const MIRRORED: Duration = Duration::from_secs(60);

/// A practice's store with its certificates, and the folder for hubs.
struct Practice {
    store: Store,
    space: Space,
    folder: TempDir,
    hubs: AtomicU64,
}

/// A hub that a practice is linked to.
struct Hub {
    link: Link,
    server: Server,
    store: Store,
}

/// Makes a certificate for a node.
fn issue(folder: &TempDir, node: &str) {
    let path = |name: &str| folder.path().join(name);
    let name = NodeName::new(node).expect("a name");
    certificates::issue(&path("ca"), &name, &path(node), certificates::DAYS_DEFAULT).expect("a certificate");
}

impl Practice {
    fn new() -> Self {
        let folder = folder().expect(DISK);
        let path = |name: &str| folder.path().join(name);
        certificates::create_ca(&path("ca")).expect("a private authority");
        issue(&folder, PRACTICE);
        let store = Store::builder().node(PRACTICE).create(path("practice.store")).expect("a new store");
        let space = store.own_space().expect("its own space");
        Self { store, space, folder, hubs: AtomicU64::new(0) }
    }

    fn path(&self, name: &str) -> impl AsRef<Path> + use<> {
        self.folder.path().join(name)
    }

    /// Starts an empty hub and the link to it. Each has a name of its own: what another acked does not count.
    fn link_to_new_hub(&self) -> Hub {
        let hub = format!("hub-{}", self.hubs.fetch_add(1, Ordering::Relaxed));
        issue(&self.folder, &hub);
        let store = Store::builder().node(&hub).create(self.path(&format!("{hub}.store"))).expect("a new store");
        let tls = |node| Tls::from_dir(self.path(node)).expect("its certificates");
        let server = store.serve("127.0.0.1:0", tls(&hub)).start().expect(NET);
        let address = format!("{hub}@{}", server.local_addr());
        let link = self.store.mirror_to(address, tls(PRACTICE)).start().expect(NET);
        Hub { link, server, store }
    }
}

impl Hub {
    fn wait_mirrored(&self) {
        assert!(self.link.wait_mirrored(MIRRORED), "mirrored in time: {:?}", self.link.status());
    }

    fn stop(self) {
        self.link.stop();
        self.server.stop();
        self.store.close(Duration::ZERO).expect(DISK);
    }
}

/// The limit of M and N: the same bytes copied over TLS, hashed, and flushed every MiB.
fn copying(records: usize) -> impl FnMut() -> Duration {
    let payload = Payload::new(1000);
    let copy = RemoteCopy::new();
    move || {
        let folder = folder().expect(DISK);
        let path = folder.path().join("copy");
        stopwatch(|| copy.run(payload.bytes(), records / 1000, path).expect(NET))
    }
}

fn real_time(criterion: &mut Criterion, ratios: &mut Ratios) {
    const RECORDS: usize = 200_000;
    let contest = Contest {
        name: "M mirror in real time",
        operations: RECORDS as u64,
        measure: Measure::Rate,
        target: Target::PerSecond(200_000.0),
    };
    ratios.compare(criterion, contest, || {
        let payload = Payload::new(1000);
        let practice = Practice::new();
        let hub = practice.link_to_new_hub();
        let ours = move || {
            // Captured whole, with its folder.
            let practice = &practice;
            stopwatch(|| {
                for _ in 0..RECORDS / 1000 {
                    for record in payload.records() {
                        practice.space.append(record).expect(DISK);
                    }
                }
                practice.store.commit().expect(DISK);
                hub.wait_mirrored();
            })
        };
        (ours, copying(RECORDS))
    });
}

fn catch_up(criterion: &mut Criterion, ratios: &mut Ratios) {
    const RECORDS: usize = 400_000;
    let contest = Contest {
        name: "N mirror catches up from nothing",
        operations: RECORDS as u64,
        measure: Measure::Rate,
        target: Target::None,
    };
    ratios.compare(criterion, contest, || {
        let payload = Payload::new(1000);
        let practice = Practice::new();
        for _ in 0..RECORDS / 1000 {
            practice.space.append_all(payload.records()).expect(DISK);
        }
        practice.store.commit().expect(DISK);
        let ours = move || {
            let mut hub = None;
            let time = stopwatch(|| hub = Some(practice.link_to_new_hub()).inspect(Hub::wait_mirrored));
            hub.into_iter().for_each(Hub::stop);
            time
        };
        (ours, copying(RECORDS))
    });
}

/// The limit of O: flushed here, sent, flushed there, confirmed.
fn confirming(records: usize) -> impl FnMut() -> Duration {
    let payload = Payload::new(records);
    let folder = folder().expect(DISK);
    let [here, there] = ["here", "there"].map(|name| Segments::create(&folder.path().join(name)).expect(DISK));
    let mut disk = RemoteDisk::connect(here, there).expect(NET);
    move || {
        let _kept = &folder;
        stopwatch(|| payload.records().iter().for_each(|record| disk.append(record).expect(NET)))
    }
}

fn wait_for_each(practice: &Practice, records: &[[u8; RECORD_BYTES]]) {
    for record in records {
        let receipt = practice.space.append(record).expect(DISK);
        let reached = receipt.wait_timeout(Durability::Mirrored(1), MIRRORED).expect(NET);
        assert_eq!(reached, Durability::Mirrored(1));
    }
}

fn waiting(criterion: &mut Criterion, ratios: &mut Ratios, writers: usize) {
    const RECORDS: usize = 100;
    let contest = Contest {
        name: if writers == 1 {
            "O one writer, until durable at the mirror"
        } else {
            "P 32 writers, the same (limit: of O)"
        },
        operations: (writers * RECORDS) as u64,
        measure: if writers == 1 { Measure::Time } else { Measure::Rate },
        target: if writers == 1 { Target::TimesLimit(2.0) } else { Target::None },
    };
    ratios.compare(criterion, contest, || {
        let practice = Practice::new();
        let hub = practice.link_to_new_hub();
        let payload = Payload::new(RECORDS);
        wait_for_each(&practice, payload.records());
        let ours = move || {
            let _kept = &hub;
            stopwatch(|| {
                thread::scope(|scope| {
                    for _ in 0..writers {
                        scope.spawn(|| wait_for_each(&practice, payload.records()));
                    }
                });
            })
        };
        (ours, confirming(writers * RECORDS))
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut ratios = Ratios::default();
    real_time(&mut criterion, &mut ratios);
    catch_up(&mut criterion, &mut ratios);
    waiting(&mut criterion, &mut ratios, 1);
    waiting(&mut criterion, &mut ratios, 32);
    criterion.final_summary();
    ratios.print();
}
