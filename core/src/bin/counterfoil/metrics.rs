//! The numbers of a store for Prometheus, over the least of HTTP: one `GET`, one answer, closed.

use std::{
    fmt::Write as _,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use counterfoil::{Error, LinkState, Stats, Store};
use counterfoil_replication::net::ListenError;

use crate::failure::Failure;

/// A client that has not asked, or not taken the answer, in this time is dropped.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest request that is read, in bytes.
const REQUEST_BYTES_MAX: usize = 8 << 10;

/// Answers at `address` from a thread of its own, one client after the other, until the process ends.
pub(crate) fn serve(address: &str, store: Store) -> Result<SocketAddr, Failure> {
    let bind = |source| Error::from(ListenError::Bind { address: address.to_owned(), source });
    let listener = TcpListener::bind(address).map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    let run = move || {
        for client in listener.incoming() {
            match client.and_then(|client| answer(client, &store)) {
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!("a request for metrics was not answered: {error}");
                    // Out of file descriptors, say: no busy loop.
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
    };
    let failed = |error| Failure::System { what: "starting a thread".to_owned(), error };
    thread::Builder::new().name("metrics".to_owned()).spawn(run).map_err(failed)?;
    Ok(bound)
}

fn answer(mut client: TcpStream, store: &Store) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        match client.read(&mut buffer)? {
            0 => break,
            len => request.extend_from_slice(&buffer[..len]),
        }
    }
    let mut words = request.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let (status, body) = match (method, path) {
        (b"GET" | b"HEAD", b"/metrics") => ("200 OK", render(&store.stats(), store.recovery().damage().count())),
        (b"GET" | b"HEAD", _) => ("404 Not Found", "the metrics are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed\r\nAllow: GET, HEAD", "GET /metrics\n".to_owned()),
    };
    let shown = if method == b"HEAD" { "" } else { &body };
    write!(
        client,
        "HTTP/1.0 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{shown}",
        body.len()
    )
}

/// Prometheus' text format. Names of nodes and spaces need no escapes: `a-z A-Z 0-9 . _ -`.
fn render(stats: &Stats, damaged_places: usize) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
        let _ = writeln!(text, "# HELP counterfoil_{name} {help}\n# TYPE counterfoil_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "counterfoil_{name}{{node=\"{}\"{labels}}} {value}", stats.node);
        }
    };
    let of_spaces = |value: fn(&counterfoil::SpaceStats) -> u64| {
        let sample = |space: &counterfoil::SpaceStats| (format!(",space=\"{}\"", space.space), value(space) as f64);
        stats.spaces.iter().map(sample).collect::<Vec<_>>()
    };
    metric("logs", "gauge", "Logs of a space.", &of_spaces(|space| space.logs));
    metric("records", "gauge", "Durable records of a space.", &of_spaces(|space| space.records));
    metric("bytes", "gauge", "Bytes of a space's batches on disk.", &of_spaces(|space| space.bytes));
    let sum = |value: u64| [(String::new(), value as f64)];
    metric("appended_records_total", "counter", "Records appended by this process.", &sum(stats.appended_records));
    metric("appended_bytes_total", "counter", "Bytes of records appended.", &sum(stats.appended_bytes));
    let is = |value: bool| sum(u64::from(value));
    metric(
        "poisoned",
        "gauge",
        "Whether the disk failed: no appends until it is opened again.",
        &is(stats.is_poisoned),
    );
    metric("storage_full", "gauge", "Whether the last write found no space.", &is(stats.is_storage_full));
    let damaged_places = sum(damaged_places as u64);
    metric("damaged_places", "gauge", "Damaged places found when the store was opened.", &damaged_places);
    metric("peers", "gauge", "Connections of other nodes to this one.", &sum(stats.peers.len() as u64));
    let retention = &stats.retention;
    metric("trimmed_records_total", "counter", "Records that retention removed.", &sum(retention.trimmed_records));
    metric("trimmed_bytes_total", "counter", "Bytes of their batches.", &sum(retention.trimmed_bytes));
    metric("freed_bytes_total", "counter", "Bytes of segments given back.", &sum(retention.freed_bytes));
    metric("held_logs", "gauge", "Logs of which something is due and stays.", &sum(retention.held_logs));
    metric(
        "retention_failed",
        "gauge",
        "Whether retention failed when it last looked.",
        &is(retention.last_error.is_some()),
    );
    let of_links = |value: fn(&counterfoil::LinkStatus) -> f64| {
        stats.links.iter().map(|link| (format!(",peer=\"{}\"", link.peer), value(link))).collect::<Vec<_>>()
    };
    let connected = of_links(|link| f64::from(u8::from(link.state == LinkState::Connected)));
    metric("link_connected", "gauge", "Whether a link's two ends are in touch.", &connected);
    metric("link_lag_records", "gauge", "Records that a peer lacks.", &of_links(|link| link.lag.records as f64));
    metric("link_lag_bytes", "gauge", "Bytes that a peer lacks.", &of_links(|link| link.lag.bytes as f64));
    metric("link_lag_seconds", "gauge", "Age of the oldest record that a peer lacks.", &of_links(|l| l.lag.seconds));
    text
}
