//! NATS JetStream of Debian's `nats-server`: a stream on an edge server, mirrored to a hub over a leaf node with TLS.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use counterfoil_benches::{Body, Outcome, Pair, Pairing, Remark, Shaper, Waiter, Workload, line_of};
use serde_json::json;

use super::{
    nats::Client,
    servers::{self, Server},
};
use crate::turn::now;

const SUBJECT: &str = "records";
const GLANCE: Duration = Duration::from_millis(2);
/// How long the leaf node may take to find the hub.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) struct JetStream;

struct Running {
    edge: Mutex<Client>,
    hub: Mutex<Client>,
    /// The order matters: the edge first, which would look for the hub.
    _servers: [Server; 2],
    _shaper: Option<Shaper>,
}

fn lock(client: &Mutex<Client>) -> MutexGuard<'_, Client> {
    client.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pairing for JetStream {
    fn name(&self) -> &'static str {
        "jetstream"
    }

    fn durability(&self) -> &'static str {
        "acks when the edge has written to the page cache: flushed every 2 minutes, at both ends (the default; nats-server \
         2.9 has no other)"
    }

    fn cannot(&self, workload: Workload) -> Option<String> {
        match workload {
            Workload::O | Workload::P => Some("no ack of it waits for a mirror".to_owned()),
            Workload::U => Some("its leaf nodes don't compress".to_owned()),
            _ => servers::missing("nats"),
        }
    }

    fn remark(&self, workload: Workload) -> Option<Remark> {
        Some(Remark::Less(match workload {
            Workload::N => "does not flush before it acks; a quarter of the records",
            _ => "does not flush before it acks",
        }))
    }

    fn start(&self, dir: &Path, workload: Workload) -> Outcome<Box<dyn Pair>> {
        let [edge, hub, leaves] = [servers::free_port()?, servers::free_port()?, servers::free_port()?];
        let (certificate, key) = servers::certificate(dir)?;
        let shaper =
            line_of(workload).map(|line| Shaper::to((Ipv4Addr::LOCALHOST, leaves).into(), line)).transpose()?;
        let leaves_via = shaper.as_ref().map_or(leaves, |shaper| shaper.address().port());
        let dir_text = dir.display();
        let configurations = [
            (
                "hub",
                hub,
                format!(
                    "leafnodes {{ listen: \"127.0.0.1:{leaves}\", tls {{ cert_file: \"{}\", key_file: \"{}\", timeout: 10 }} }}",
                    certificate.display(),
                    key.display()
                ),
            ),
            (
                "edge",
                edge,
                format!(
                    "leafnodes {{ remotes: [ {{ url: \"tls://127.0.0.1:{leaves_via}\", tls {{ insecure: true, timeout: 10 }} }} ] }}"
                ),
            ),
        ];
        let start = |(name, port, leafnodes): &(&str, u16, String)| {
            let path = dir.join(format!("{name}.conf"));
            let configuration = format!(
                "server_name: {name}\nlisten: \"127.0.0.1:{port}\"\n\
                 jetstream {{ store_dir: \"{dir_text}/{name}\", domain: {name}, max_file_store: 64G }}\n{leafnodes}\n"
            );
            fs::write(&path, configuration)?;
            Server::start(&["nats", &path.to_string_lossy()], *port, &dir.join(format!("{name}.log")))
        };
        let [of_hub, of_edge] = &configurations;
        let hub_server = start(of_hub)?;
        let edge_server = start(of_edge)?;
        let (mut edge, hub) = (Client::connect(edge)?, Client::connect(hub)?);
        edge.ask(
            "$JS.API.STREAM.CREATE.RECORDS",
            &json!({"name": "RECORDS", "subjects": [SUBJECT], "storage": "file", "retention": "limits", "num_replicas": 1}),
        )?;
        let servers = [edge_server, hub_server];
        Ok(Box::new(Running { edge: Mutex::new(edge), hub: Mutex::new(hub), _servers: servers, _shaper: shaper }))
    }
}

impl Pair for Running {
    fn begin_mirror(&mut self) -> Outcome<()> {
        let start = now();
        let external = json!({"api": "$JS.edge.API", "deliver": "deliver.mirror"});
        let mirror = json!({"name": "MIRROR", "storage": "file", "num_replicas": 1,
            "mirror": {"name": "RECORDS", "external": external}});
        // Until the leaf node is there.
        while let Err(error) = lock(&self.hub).ask("$JS.API.STREAM.CREATE.MIRROR", &mirror) {
            if start.elapsed() > PATIENCE {
                return Err(error);
            }
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    fn end_mirror(&mut self) -> Outcome<()> {
        lock(&self.hub).ask("$JS.API.STREAM.DELETE.MIRROR", &json!(null))?;
        Ok(())
    }

    fn append_many(&self, bodies: &[Body]) -> Outcome<()> {
        lock(&self.edge).publish(SUBJECT, bodies)
    }

    fn wait_mirrored(&self, count: u64) -> Outcome<()> {
        loop {
            // Unless somebody appends beside this. A client that does not take its acks is cut off.
            if let Ok(mut edge) = self.edge.try_lock() {
                edge.settle(0)?;
            }
            let info = lock(&self.hub).ask("$JS.API.STREAM.INFO.MIRROR", &json!(null))?;
            if info["state"]["messages"].as_u64().is_some_and(|messages| messages >= count) {
                return Ok(());
            }
            thread::sleep(GLANCE);
        }
    }

    fn waiter(&self) -> Outcome<Box<dyn Waiter + '_>> {
        Err("no ack of it waits for a mirror".into())
    }

    fn stop(self: Box<Self>) -> Outcome<()> {
        Ok(())
    }
}
