//! Hostile connections by the thousand to a hub's door, and an honest mirror that notices nothing.
//!
//! `COUNTERFOIL_DOOR` sets how many, for longer exploration. What an honest mirror's acks take beside them is printed:
//! `COUNTERFOIL_DOOR=10000 cargo test --release -p counterfoil --test command_line -- --nocapture door::`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use counterfoil::{NodeName, SpaceName, Tls};
use counterfoil_replication::{
    Ack, Announce, Credit, FrontierHash, Heads, Hello, LogHead, Message, Offer, Reconciled, Rewind, Scope, Want, codec,
};
use counterfoil_storage::{BatchBuilder, Digest, Genesis, Head, Hlc, Incarnation, LogId, Seq};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    refusals::{Scene, in_scene, nobody},
    sandbox::{PATIENCE, Running, count_from_env},
};

/// Nodes with good certificates that behave badly.
const MALICIOUS: usize = 4;
/// Addresses that the connections come from.
const ADDRESSES: usize = 40;
/// How many are open at once, as far as the hub lets them.
const AT_ONCE: usize = 250;
/// How long one that waits for nothing stays if it is let.
const STAY: Duration = Duration::from_secs(2);

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Manner {
    Silence,
    HalfAHandshake,
    Garbage,
    NoCertificate,
    /// The following have a valid certificate.
    GarbageInside,
    SilenceInside,
    OneByteAtATime,
    HugeClaims,
    OutOfOrder,
    LogsWithoutNumber,
    OthersLogs,
    NeverReads,
}

const MANNERS: [Manner; 12] = [
    Manner::Silence,
    Manner::HalfAHandshake,
    Manner::Garbage,
    Manner::NoCertificate,
    Manner::GarbageInside,
    Manner::SilenceInside,
    Manner::OneByteAtATime,
    Manner::HugeClaims,
    Manner::OutOfOrder,
    Manner::LogsWithoutNumber,
    Manner::OthersLogs,
    Manner::NeverReads,
];

/// Whom the connections belong to.
struct Gang {
    address: SocketAddr,
    members: Vec<(NodeName, Tls)>,
    /// How many of each manner were let in as far as to say what they had to say.
    heard: BTreeMap<Manner, AtomicUsize>,
}

impl Gang {
    fn new(scene: &Scene) -> Self {
        let members = (0..MALICIOUS).map(|number| {
            let name = format!("mallory-{number}");
            scene.sandbox.certify(&name);
            (NodeName::new(&name).unwrap(), Tls::from_dir(scene.sandbox.path(format!("tls-{name}"))).unwrap())
        });
        Self {
            address: scene.address.parse().unwrap(),
            members: members.collect(),
            heard: MANNERS.iter().map(|manner| (*manner, AtomicUsize::new(0))).collect(),
        }
    }

    /// Comes from one of many addresses of this machine.
    async fn connect(&self, number: usize) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 1, (1 + number % ADDRESSES) as u8], 0).into())?;
        socket.connect(self.address).await
    }

    async fn attack(&self, number: usize) {
        // So that each manner is seen from each node and many addresses.
        let manner = MANNERS[number % MANNERS.len()];
        let Ok(Ok(stream)) = timeout(PATIENCE, self.connect(number)).await else { return };
        // How long it takes to be let in is up to the hub, and to how busy the machine is.
        if let Ok(true) = timeout(PATIENCE, self.behave(manner, number, stream)).await {
            self.heard[&manner].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether it could say what it had to say.
    async fn behave(&self, manner: Manner, number: usize, mut stream: TcpStream) -> bool {
        match manner {
            Manner::Silence => return stay(stream).await,
            Manner::HalfAHandshake => {
                let hello = client_hello();
                return stream.write_all(&hello[..hello.len() / 2]).await.is_ok() && stay(stream).await;
            }
            Manner::Garbage => return stream.write_all(&noise(number, 3000)).await.is_ok() && stay(stream).await,
            Manner::NoCertificate => {
                let stream = nobody().connect("hub".try_into().unwrap(), stream).await;
                return stream.is_ok();
            }
            _ => {}
        }
        let (name, tls) = &self.members[number / MANNERS.len() % MALICIOUS];
        let Ok(mut stream) = tls.connect(stream, &NodeName::new("hub").unwrap()).await else { return false };
        let said = match manner {
            Manner::GarbageInside => stream.write_all(&noise(number, 3000)).await,
            Manner::HugeClaims if number.is_multiple_of(2) => stream.write_all(&[0xff, 0xff, 0xff, 0x3f, 1]).await,
            Manner::OneByteAtATime => {
                for byte in encoded(&[hello(1 << 20)]) {
                    if stream.write_all(&[byte]).await.is_err() || stream.flush().await.is_err() {
                        return true;
                    }
                    sleep(STAY / 20).await;
                }
                Ok(())
            }
            Manner::SilenceInside => Ok(()),
            manner => stream.write_all(&encoded(&messages(manner, name, number))).await,
        };
        if said.is_err() || stream.flush().await.is_err() {
            // It was cut off while it spoke.
            return true;
        }
        if manner == Manner::NeverReads {
            sleep(STAY).await;
            return true;
        }
        stay(stream).await
    }
}

/// Reads until the hub hangs up, or for a while.
async fn stay(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> bool {
    let mut ignored = [0; 1024];
    let _ = timeout(STAY, async { while stream.read(&mut ignored).await.is_ok_and(|count| count > 0) {} }).await;
    true
}

/// Bytes without sense, the same for the same number.
fn noise(number: usize, count: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let step = |state: &mut u64| {
        *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (*state >> 56) as u8
    };
    (0..count).map(|_| step(&mut state)).collect()
}

/// What a client of TLS says first.
fn client_hello() -> Vec<u8> {
    let mut connection =
        rustls::ClientConnection::new(Arc::clone(nobody().config()), "hub".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

fn hello(window_bytes: u64) -> Message {
    Message::Hello(Hello {
        protocol_min: counterfoil_replication::PROTOCOL_MIN,
        protocol_max: counterfoil_replication::PROTOCOL_MAX,
        incarnation: Incarnation::from_bytes([9; 16]),
        session_window_bytes: window_bytes,
        space_window_bytes: window_bytes,
        batch_len_max_bytes: 1 << 20,
        next_ms: 1000,
        takes_zstd: false,
    })
}

fn encoded(messages: &[Message]) -> BytesMut {
    let mut bytes = BytesMut::new();
    messages.iter().for_each(|message| codec::encode(message, &mut bytes));
    bytes
}

/// What `node` says to be a nuisance.
fn messages(manner: Manner, node: &NodeName, number: usize) -> Vec<Message> {
    let space = SpaceName::new(node.as_str()).unwrap();
    let hash = FrontierHash::from_bytes([1; 16]);
    let offer = |space: &SpaceName| Offer { space: space.clone(), all: hash, heard: Some(hash) };
    let begin = |nonce: u64, writer: &NodeName, space: &SpaceName| {
        let mut bytes = [7; 16];
        bytes[..8].copy_from_slice(&nonce.to_le_bytes());
        let genesis = Genesis::new(space.clone(), writer.clone(), bytes);
        let (log, head) = (genesis.log_id(), genesis.head());
        let mut builder = BatchBuilder::with_capacity(64);
        builder.push(Hlc::from_bits(1), b"of no use");
        let batch = builder.seal(log, head);
        [Message::Announce(Announce { head: batch.head(), genesis }), Message::Batch(batch)]
    };
    let mut said = vec![hello(if manner == Manner::HugeClaims { u64::MAX } else { 1 << 20 })];
    match manner {
        Manner::OutOfOrder => {
            let log = LogId::from_bytes([number as u8; 16]);
            let head = Head { next_seq: Seq(u64::MAX), digest: Digest::from_bytes([1; 32]) };
            let wrong = match number / MANNERS.len() % 7 {
                0 => Message::Equal(Reconciled { space, scope: Scope::All, told: Scope::All, offer: 1 }),
                1 => Message::Heads(Heads {
                    space,
                    scope: Scope::All,
                    told: Scope::All,
                    heads: vec![LogHead { log, head }; codec::HEADS_MAX],
                    since_heard: false,
                    first: false,
                    last: false,
                }),
                2 => Message::Credit(Credit { space, bytes: u64::MAX }),
                3 => Message::Rewind(Rewind { log, head }),
                4 => Message::Ack(Ack {
                    log,
                    node: node.clone(),
                    incarnation: Incarnation::from_bytes([9; 16]),
                    head,
                    holes: counterfoil_storage::Holes::default(),
                    via: Vec::new(),
                    losses: 0,
                }),
                5 => begin(number as u64, node, &space)[1].clone(),
                _ => hello(1 << 20),
            };
            said.push(wrong);
        }
        Manner::LogsWithoutNumber => {
            said.push(Message::Offer(offer(&space)));
            // More than the hub takes of one space, over all of them.
            (0..200).for_each(|n| said.extend(begin((number * 200 + n) as u64, node, &space)));
        }
        Manner::OthersLogs => {
            let practice = NodeName::new("practice-1").unwrap();
            for space in [space, SpaceName::new("practice-1").unwrap()] {
                said.push(Message::Exchange(offer(&space)));
                said.extend(begin(number as u64, &practice, &space));
            }
        }
        Manner::NeverReads => {
            let many = (0..2000).map(|n| SpaceName::new(&format!("space-{n}")).unwrap());
            said.extend(many.map(|space| Message::Want(Want { space })));
        }
        _ => {}
    }
    said
}

/// Acks that are timed before the attack begins.
const QUIET_ROUNDS: usize = 300;

#[expect(clippy::disallowed_methods, reason = "printed, not judged")]
fn time_of(act: impl FnOnce()) -> Duration {
    let began_at = std::time::Instant::now();
    act();
    began_at.elapsed()
}

/// Median and 99th percentile, in words.
fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    format!("{:?} ({:?} the 99th of 100, {} times)", at(50), at(99), times.len())
}

/// How much a process has of something, as Linux says.
fn peak_memory_kib(process: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn open_files(process: &Running) -> usize {
    std::fs::read_dir(Path::new("/proc").join(process.id().to_string()).join("fd")).unwrap().count()
}

/// What the hub may take at most: the files of a store and of its threads, the handshakes, and of each node as many
/// sessions as it may have and as many more that are saying goodbye.
const OPEN_FILES_MAX: usize = 60 + 256 + 8 * (MALICIOUS + 2);
/// A process, its runtime and a small store take some 20 MiB; 256 handshakes of up to 100 KiB; and what sessions are
/// allowed (a window of 8 MiB, 65,536 logs), of which these use little.
const MEMORY_KIB_MAX: u64 = 128 << 10;

#[cfg(target_os = "linux")]
#[test]
fn thousands_of_hostile_connections_cost_an_honest_mirror_nothing_and_the_hub_little() {
    let count = count_from_env("COUNTERFOIL_DOOR", 1000);
    in_scene(|mut scene| {
        let gang = Arc::new(Gang::new(&scene));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let ended = Arc::new(AtomicUsize::new(0));
        let in_peace: Vec<_> = (0..QUIET_ROUNDS)
            .map(|_| {
                std::thread::sleep(Duration::from_millis(5));
                time_of(|| scene.expect_nobody_noticed())
            })
            .collect();
        let has_joined = Arc::new(AtomicBool::new(false));
        let attack = {
            let (gang, ended, has_joined) = (Arc::clone(&gang), Arc::clone(&ended), Arc::clone(&has_joined));
            runtime.spawn(async move {
                let places = Arc::new(Semaphore::new(AT_ONCE));
                let mut connections = JoinSet::new();
                for number in 0..count {
                    // It is not over before somebody else has come in meanwhile.
                    while number == count - count / 4 && !has_joined.load(Ordering::Relaxed) {
                        sleep(Duration::from_millis(5)).await;
                    }
                    let place = Arc::clone(&places).acquire_owned().await.unwrap();
                    let (gang, ended) = (Arc::clone(&gang), Arc::clone(&ended));
                    connections.spawn(async move {
                        gang.attack(number).await;
                        ended.fetch_add(1, Ordering::Relaxed);
                        drop(place);
                    });
                }
                connections.join_all().await;
            })
        };
        let mut open_files_max = 0;
        let mut joined = 0;
        let mut under_attack = Vec::new();
        let lasted = time_of(|| {
            while !attack.is_finished() {
                under_attack.push(time_of(|| scene.expect_nobody_noticed()));
                open_files_max = open_files_max.max(open_files(&scene.hub));
                // Others come in meanwhile, too.
                if ended.load(Ordering::Relaxed) * 4 > count * (joined + 1) {
                    joined += 1;
                    scene.expect_mirror(&format!("latecomer-{joined}"));
                    has_joined.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        runtime.block_on(attack).unwrap();
        scene.expect_nobody_noticed();

        let (memory, log) = (peak_memory_kib(&scene.hub), scene.hub.errors());
        let lines = log.lines().count();
        let turned_away = log.lines().filter(|line| line.contains("turned away")).count();
        println!(
            "{count} hostile connections: {} KiB at most, {open_files_max} files open, {lines} lines logged; \
             {joined} others joined; had their say: {:?}",
            memory, gang.heard
        );
        let [peace, attack] = [in_peace, under_attack].map(quantiles);
        println!("from a record to its ack by the hub: {peace} in peace, {attack} under attack");
        assert!(memory < MEMORY_KIB_MAX, "{memory} KiB");
        assert!(open_files_max < OPEN_FILES_MAX, "{open_files_max} files");
        // 200 at once and 10 a second: of connections, of sessions, of what happens in them; of these each with one more that
        // tells how many were left out.
        let lines_max = 4 * (200 + 10 * lasted.as_secs() as usize) + 20;
        assert!(turned_away > 0 && lines < lines_max, "{lines} lines, not {lines_max}:\n{log}");
        assert!(gang.heard.values().all(|heard| heard.load(Ordering::Relaxed) > 0), "{:?}", gang.heard);
        let status = scene.sandbox.status("hub.store");
        for log in status["logs"].as_array().unwrap() {
            let (space, node) = (log["space"].as_str().unwrap(), log["node"].as_str().unwrap());
            assert_eq!(space, node, "only logs of a node's own in its own space");
        }
        assert!(joined > 0);
        scene.end();
    });
}
