//! PostgreSQL of Debian's packages: logical replication where it copies, a synchronous standby where each record waits.

use std::{
    fmt::Write as _,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use counterfoil_benches::{Body, Outcome, Pair, Pairing, Remark, Shaper, Waiter, Workload, line_of};
use postgres::{Client, NoTls, Statement, binary_copy::BinaryCopyInWriter, types::Type};

use super::servers::{self, Server};
use crate::turn::now;

const GLANCE: Duration = Duration::from_millis(2);
/// How long a mirror may take to be there.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) struct PostgreSql;

struct Running {
    dir: PathBuf,
    /// Another one is to wait for each commit, flushed.
    is_synchronous: bool,
    writer: Mutex<Client>,
    appended: AtomicU64,
    port: u16,
    /// What the mirror connects to.
    port_via: u16,
    mirror: Option<Mirror>,
    _server: Server,
    _shaper: Option<Shaper>,
}

struct Mirror {
    client: Mutex<Client>,
    _server: Server,
}

fn lock(client: &Mutex<Client>) -> MutexGuard<'_, Client> {
    client.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the server said: the client's own words are "db error".
fn in_words(error: &postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
}

fn connect(port: u16) -> Outcome<Client> {
    let start = now();
    loop {
        match Client::connect(&format!("host=127.0.0.1 port={port} user=arena dbname=postgres"), NoTls) {
            Ok(client) => return Ok(client),
            Err(error) if start.elapsed() > PATIENCE => return Err(in_words(&error).into()),
            // It is starting up.
            Err(_) => thread::sleep(GLANCE),
        }
    }
}

impl Pairing for PostgreSql {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn durability(&self) -> &'static str {
        "fdatasync at both ends. M, N, V: logical replication, the subscription with synchronous_commit = on; O, P: a standby \
         that the commit waits for (synchronous_commit = on: flushed there, not yet visible there)"
    }

    fn cannot(&self, workload: Workload) -> Option<String> {
        match workload {
            Workload::U => Some("its replication does not compress".to_owned()),
            _ => servers::missing("postgres"),
        }
    }

    fn remark(&self, workload: Workload) -> Option<Remark> {
        match workload {
            Workload::M | Workload::V20 | Workload::V200 => Some(Remark::Otherwise("COPY of 1000 rows a transaction")),
            Workload::N => Some(Remark::Otherwise("the initial copy of a subscription; a quarter of the records")),
            _ => None,
        }
    }

    fn start(&self, dir: &Path, workload: Workload) -> Outcome<Box<dyn Pair>> {
        let port = servers::free_port()?;
        let shaper = line_of(workload).map(|line| Shaper::to((Ipv4Addr::LOCALHOST, port).into(), line)).transpose()?;
        let port_via = shaper.as_ref().map_or(port, |shaper| shaper.address().port());
        let is_synchronous = matches!(workload, Workload::O | Workload::P);
        let special = if is_synchronous { "synchronous_standby_names = '*'\n" } else { "wal_level = logical\n" };
        let server = cluster(&dir.join("source"), port, special)?;
        let mut writer = connect(port)?;
        writer.batch_execute(
            "SET synchronous_commit = local; CREATE TABLE record (body bytea); ALTER TABLE record ALTER body SET STORAGE \
             PLAIN; CREATE TABLE mirrored (count bigint)",
        )?;
        if !is_synchronous {
            writer.batch_execute("CREATE PUBLICATION arena FOR ALL TABLES")?;
        }
        Ok(Box::new(Running {
            dir: dir.to_owned(),
            is_synchronous,
            writer: Mutex::new(writer),
            appended: AtomicU64::new(0),
            port,
            port_via,
            mirror: None,
            _server: server,
            _shaper: shaper,
        }))
    }
}

/// What it has to know beside its defaults.
fn configure(dir: &Path, port: u16, special: &str) -> Outcome<()> {
    let tls = dir.with_extension("tls");
    fs::create_dir(&tls)?;
    let (certificate, key) = servers::certificate(&tls)?;
    let mut configuration = format!(
        "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nssl = on\n\
         ssl_cert_file = '{}'\nssl_key_file = '{}'\n",
        certificate.display(),
        key.display()
    );
    // Enough memory and log that no checkpoint falls into a turn.
    write!(
        configuration,
        "shared_buffers = 256MB\nmax_wal_size = 8GB\nautovacuum = off\nmax_connections = 100\n{special}"
    )?;
    fs::write(dir.with_extension("conf"), configuration)?;
    servers::run(&["postgres-own", &tls.to_string_lossy()])
}

fn cluster(dir: &Path, port: u16, special: &str) -> Outcome<Server> {
    configure(dir, port, special)?;
    servers::run(&["postgres-init", &dir.to_string_lossy()])?;
    Server::start(&["postgres", &dir.to_string_lossy()], port, &dir.with_extension("log"))
}

impl Running {
    fn begin_standby(&mut self) -> Outcome<()> {
        let (dir, port) = (self.dir.join("standby"), servers::free_port()?);
        configure(&dir, port, "")?;
        servers::run(&["postgres-copy", &dir.to_string_lossy(), &self.port_via.to_string()])?;
        let server = Server::start(&["postgres", &dir.to_string_lossy()], port, &dir.with_extension("log"))?;
        self.mirror = Some(Mirror { client: Mutex::new(connect(port)?), _server: server });
        let is_there = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        wait_until(|| Ok(lock(&self.writer).query_one(is_there, &[])?.try_get::<_, i64>(0)? == 1))
    }

    fn begin_subscription(&mut self) -> Outcome<()> {
        if self.mirror.is_none() {
            let port = servers::free_port()?;
            let server = cluster(&self.dir.join("target"), port, "")?;
            let mut client = connect(port)?;
            client.batch_execute(
                "CREATE TABLE record (body bytea); ALTER TABLE record ALTER body SET STORAGE PLAIN; \
                 CREATE TABLE mirrored (count bigint)",
            )?;
            self.mirror = Some(Mirror { client: Mutex::new(client), _server: server });
        }
        let from = format!("host=127.0.0.1 port={} user=arena dbname=postgres sslmode=require", self.port_via);
        let subscribe =
            format!("CREATE SUBSCRIPTION arena CONNECTION '{from}' PUBLICATION arena WITH (synchronous_commit = 'on')");
        Ok(self.client()?.batch_execute(&subscribe).map_err(|error| in_words(&error))?)
    }

    fn client(&self) -> Outcome<MutexGuard<'_, Client>> {
        Ok(lock(&self.mirror.as_ref().ok_or("no mirror")?.client))
    }
}

fn wait_until(mut holds: impl FnMut() -> Outcome<bool>) -> Outcome<()> {
    while !holds()? {
        thread::sleep(GLANCE);
    }
    Ok(())
}

impl Pair for Running {
    fn begin_mirror(&mut self) -> Outcome<()> {
        if self.is_synchronous { self.begin_standby() } else { self.begin_subscription() }
    }

    fn end_mirror(&mut self) -> Outcome<()> {
        if self.is_synchronous {
            self.mirror = None;
            return Ok(());
        }
        let mut client = self.client()?;
        client.batch_execute("DROP SUBSCRIPTION arena")?;
        Ok(client.batch_execute("TRUNCATE record, mirrored")?)
    }

    fn append_many(&self, bodies: &[Body]) -> Outcome<()> {
        let mut writer = lock(&self.writer);
        let mut transaction = writer.transaction()?;
        let copy = transaction.copy_in("COPY record (body) FROM STDIN BINARY")?;
        let mut rows = BinaryCopyInWriter::new(copy, &[Type::BYTEA]);
        bodies.iter().try_for_each(|body| rows.write(&[&body.as_slice()]))?;
        rows.finish()?;
        let count = self.appended.fetch_add(bodies.len() as u64, Ordering::Relaxed) + bodies.len() as u64;
        // Replicated in order: whoever has this has all before it.
        transaction.execute("INSERT INTO mirrored VALUES ($1)", &[&i64::try_from(count)?])?;
        Ok(transaction.commit()?)
    }

    fn wait_mirrored(&self, count: u64) -> Outcome<()> {
        let count = i64::try_from(count)?;
        let is_there = "SELECT (SELECT count(*) FROM pg_subscription_rel WHERE srsubstate = 'r') = 2 \
                        AND coalesce((SELECT max(count) FROM mirrored), 0) >= $1";
        let mut client = self.client()?;
        let is_there = client.prepare(is_there)?;
        wait_until(|| Ok(client.query_one(&is_there, &[&count])?.try_get(0)?))
    }

    fn waiter(&self) -> Outcome<Box<dyn Waiter + '_>> {
        if !self.is_synchronous {
            return Err("logical replication is not waited for".into());
        }
        let mut client = connect(self.port)?;
        let insert = client.prepare("INSERT INTO record VALUES ($1)")?;
        Ok(Box::new(Inserting { client, insert }))
    }

    fn stop(mut self: Box<Self>) -> Outcome<()> {
        self.mirror = None;
        Ok(())
    }
}

struct Inserting {
    client: Client,
    insert: Statement,
}

impl Waiter for Inserting {
    fn append_mirrored(&mut self, body: &[u8]) -> Outcome<()> {
        let inserted = self.client.execute(&self.insert, &[&body])?;
        if inserted == 1 { Ok(()) } else { Err(io::Error::other("not inserted").into()) }
    }
}
