//! What hostile and mistaken peers get: turned away, one line each, and nobody else notices.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use counterfoil_replication::{
    Policy,
    net::{LinkEvent, LinkState, ListenBounds, Listener, Tls},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    authority::{Authority, now},
    node::{Node, link, link_telling, listen_as, listen_within, name, until},
};

/// What was logged in this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines about connections that were turned away.
    fn turned_away(&self) -> Vec<String> {
        self.lines("turned away")
    }

    /// The lines with this in them.
    fn lines(&self, what: &str) -> Vec<String> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
    }
}

async fn tcp(listener: &Listener) -> TcpStream {
    TcpStream::connect(listener.local_addr()).await.unwrap()
}

/// Sends bytes without any TLS and waits until the hub hangs up.
async fn plain(listener: &Listener, bytes: &[u8]) {
    let mut stream = tcp(listener).await;
    stream.write_all(bytes).await.unwrap();
    // A reset will do too.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// Dials by the rules of TLS, says something, and waits until the hub hangs up.
async fn dialled(listener: &Listener, tls: &Tls, bytes: &[u8]) {
    if let Ok(mut stream) = tls.connect(tcp(listener).await, &name("hub")).await {
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}

#[tokio::test]
async fn each_is_turned_away_with_one_line_that_says_who_and_why_while_a_mirror_goes_on() {
    let (log, _guard) = Log::begin();
    let (authority, other) = (Authority::new(), Authority::new());
    let (node, hub) = (Node::new("a"), Node::new("hub"));
    let policy = Policy::parse("[[deny]]\nnode = \"denied\"").unwrap();
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", policy).await;
    let (link, acked) = link(&node, authority.tls("a"), "hub", listener.local_addr().port());
    until("linked", || link.status().sessions == 1).await;
    // A door of the same hub that waits less long, so that those who are in time at the other are so on a busy machine.
    let soon = |bounds: &mut ListenBounds| bounds.handshake_timeout = Duration::from_millis(500);
    let impatient = listen_within(&hub, &authority, "127.0.0.1:0", Policy::own_space_only(), soon).await;

    let mut lines = 0;
    let mut expect = async |reason: &str| {
        lines += 1;
        until(reason, || log.turned_away().len() >= lines).await;
        let logged = log.turned_away();
        assert_eq!(logged.len(), lines, "{logged:#?}");
        assert!(logged[lines - 1].contains(reason) && logged[lines - 1].contains("127.0.0.1:"), "{logged:#?}");
        let head = node.append(1);
        until("acknowledged", || acked.lock().unwrap().contains(&head)).await;
    };
    plain(&listener, b"GET / HTTP/1.1\r\n\r\n").await;
    expect("does not speak TLS").await;
    dialled(&listener, &trusting(&other, &authority, "a"), b"").await;
    expect("not issued by this node's authority").await;
    dialled(&listener, &authority.expired("a"), b"").await;
    expect("has expired").await;
    dialled(&listener, &authority.tls("denied"), b"").await;
    expect("the policy denies denied").await;
    let silent = tcp(&impatient).await;
    expect("did not complete the handshake within 0.5 s").await;
    drop(silent);
    drop(tcp(&listener).await);
    expect("hung up during the handshake").await;
    dialled(&listener, &authority.tls("b"), &[0, 0, 0, 64, 1]).await;
    expect("b broke the protocol: a message of 1073741824 bytes was announced").await;

    assert_eq!(link.status().sessions, 1, "the mirror did not notice");
    assert_eq!(hub.bodies(node.log), node.bodies(node.log));
}

#[tokio::test]
async fn who_reads_in_the_log_why_there_is_no_link_has_been_told_by_the_link() {
    let (log, _guard) = Log::begin();
    let (authority, node) = (Authority::new(), Node::new("a"));
    let lines = log.clone();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    // Nobody listens there.
    let _link = link_telling(&node, authority.tls("a"), "hub", 1, move |event| {
        if matches!(event, LinkEvent::State(LinkState::Waiting { .. })) {
            tell.lock().unwrap().push(lines.lines("no link").len());
        }
    });
    until("logged", || log.lines("no link").len() == 1).await;
    assert_eq!(told.lock().unwrap().first(), Some(&0));
}

#[tokio::test]
async fn a_gigabyte_s_prefix_before_tls_is_turned_away_like_any_garbage() {
    let (log, _guard) = Log::begin();
    let (authority, hub) = (Authority::new(), Node::new("hub"));
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", Policy::own_space_only()).await;
    for bytes in [[0, 0, 0, 64, 0, 0, 0, 0], [64, 0, 0, 0, 0, 0, 0, 0]] {
        plain(&listener, &bytes).await;
    }
    until("logged", || log.turned_away().len() == 2).await;
}

#[tokio::test]
async fn silent_connections_can_t_keep_an_honest_one_out() {
    let (authority, node, hub) = (Authority::new(), Node::new("a"), Node::new("hub"));
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", Policy::own_space_only()).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(tcp(&listener).await);
    }
    let (link, _) = link(&node, authority.tls("a"), "hub", listener.local_addr().port());
    until("linked", || link.status().sessions == 1).await;
}

#[tokio::test]
async fn the_newest_sessions_of_a_node_take_the_places_of_its_oldest() {
    let (authority, hub) = (Authority::new(), Node::new("hub"));
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", Policy::own_space_only()).await;
    let tls = authority.tls("a");
    let mut lost = Vec::new();
    for n in 0..10 {
        let mut stream = tls.connect(tcp(&listener).await, &name("hub")).await.unwrap();
        // The hub's own hello: the session has begun.
        stream.read_exact(&mut [0; 5]).await.unwrap();
        assert!(listener.peers().len() <= n + 1);
        lost.push(stream);
    }
    until("left", || listener.peers().len() == 4).await;
}

#[tokio::test]
async fn a_node_that_comes_again_and_again_and_hears_no_goodbye_takes_no_other_s_place() {
    let (authority, node, hub) = (Authority::new(), Node::new("a"), Node::new("hub"));
    let bound = |bounds: &mut ListenBounds| bounds.sessions_max = 9;
    let listener = listen_within(&hub, &authority, "127.0.0.1:0", Policy::own_space_only(), bound).await;
    let tls = authority.tls("flood");
    let mut never_read = Vec::new();
    for _ in 0..40 {
        let mut stream = tls.connect(tcp(&listener).await, &name("hub")).await.unwrap();
        // The hub's own hello: the session has begun.
        stream.read_exact(&mut [0; 5]).await.unwrap();
        assert!(listener.peers().len() <= 8, "{}", listener.peers().len());
        never_read.push(stream);
    }
    let (link, _) = link(&node, authority.tls("a"), "hub", listener.local_addr().port());
    until("linked", || link.status().sessions == 1).await;
}

#[tokio::test]
async fn who_comes_when_all_places_are_taken_is_turned_away_and_gets_the_next_that_is_free() {
    let (log, _guard) = Log::begin();
    let (authority, node, hub) = (Authority::new(), Node::new("a"), Node::new("hub"));
    let bound = |bounds: &mut ListenBounds| bounds.sessions_max = 2;
    let listener = listen_within(&hub, &authority, "127.0.0.1:0", Policy::own_space_only(), bound).await;
    let mut sessions = Vec::new();
    for other in ["b", "c"] {
        let mut stream = authority.tls(other).connect(tcp(&listener).await, &name("hub")).await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
        sessions.push(stream);
    }
    let (link, _) = link(&node, authority.tls("a"), "hub", listener.local_addr().port());
    until("turned away", || log.turned_away().iter().any(|line| line.contains("2 sessions are there"))).await;
    assert_eq!(link.status().sessions, 0);
    drop(sessions.pop());
    until("linked", || link.status().sessions == 1).await;
}

#[tokio::test]
async fn a_node_that_comes_and_goes_does_not_flood_the_log() {
    let (log, _guard) = Log::begin();
    let (authority, hub) = (Authority::new(), Node::new("hub"));
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", Policy::own_space_only()).await;
    let tls = authority.tls("a");
    let began_at = now();
    for _ in 0..20 {
        let mut stream = tls.connect(tcp(&listener).await, &name("hub")).await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
        stream.shutdown().await.unwrap();
        until("gone", || listener.peers().is_empty()).await;
    }
    let begun = log.lines("session begins").len();
    assert!((5..=lines_max(began_at)).contains(&begun), "{:#?}", log.lines(""));
    until("told", || log.lines("session ended").len() == begun).await;
}

#[tokio::test]
async fn a_handshake_that_began_before_the_authority_was_replaced_leads_to_no_session() {
    let (log, _guard) = Log::begin();
    let (old, new, hub) = (Authority::new(), Authority::new(), Node::new("hub"));
    let listener = listen_as(&hub, &old, "127.0.0.1:0", Policy::own_space_only()).await;
    let stream = tcp(&listener).await;
    // The hub waits for the first byte by now.
    tokio::time::sleep(Duration::from_millis(100)).await;
    listener.set_tls(new.tls("hub")).unwrap();
    if let Ok(mut stream) = old.tls("a").connect(stream, &name("hub")).await {
        assert!(stream.read_exact(&mut [0]).await.is_err(), "the hub says hello");
    }
    until("turned away", || !log.turned_away().is_empty()).await;
    assert!(listener.peers().is_empty());
}

#[tokio::test]
async fn a_flood_of_bad_connections_does_not_flood_the_log() {
    let (log, _guard) = Log::begin();
    let (authority, hub) = (Authority::new(), Node::new("hub"));
    let listener = listen_as(&hub, &authority, "127.0.0.1:0", Policy::own_space_only()).await;
    let began_at = now();
    for _ in 0..50 {
        plain(&listener, b"SSH-2.0-x\r\n").await;
    }
    until("told", || !log.turned_away().is_empty()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let lines = log.turned_away().len();
    assert!(lines <= lines_max(began_at), "{lines}");
}

/// How many lines of one kind there may be by now: 5 at once, then one in 10 s.
fn lines_max(began_at: SystemTime) -> usize {
    5 + now().duration_since(began_at).unwrap().as_secs() as usize / 10
}

/// A node of one authority that believes another too, so that the hub has to decide.
fn trusting(own: &Authority, other: &Authority, node: &str) -> Tls {
    let folder = own.folder(node);
    let both = format!("{}{}", own.ca_pem(), other.ca_pem());
    std::fs::write(folder.join(counterfoil_replication::net::CA_FILE), both).unwrap();
    Tls::from_dir(&folder).unwrap()
}
