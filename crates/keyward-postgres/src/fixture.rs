//! Shared fixtures of the tests: a private server, and a database for each test.
//!
//! The server is the one of `KEYWARD_POSTGRES`, a URL of a superuser, which `scripts/test` sets. Without
//! it, a server is started for this process, and ends with it.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keyward::testing::block_on;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::{PostgresOptions, PostgresStore};
pub(crate) use keyward::testing::probe::*;

/// A server that ends with this value, or with this process if that is killed.
pub(crate) struct Server {
    pub(crate) url: String,
    /// A shell that stops the server when its input ends.
    keeper: Child,
    folder: PathBuf,
}

impl Server {
    /// Creates and starts a server of its own, on a port of the loopback interface.
    pub(crate) fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("keyward-postgres-{}-{number}", std::process::id());
        Self::start_in(std::env::temp_dir().join(name))
    }

    fn start_in(folder: PathBuf) -> Self {
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let mut keeper = as_somebody("sh")
            .arg("-c")
            .arg(KEEPER)
            .arg("keeper")
            .arg(programs())
            .arg(&folder)
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("postgres://keyward@127.0.0.1:{port}/postgres");
        let began = Instant::now();
        while connect(&url).is_err() {
            let ended = keeper.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < Duration::from_secs(60),
                "the server did not start ({ended:?}): see {}.log",
                folder.display()
            );
            thread::sleep(Duration::from_millis(50));
        }
        Self {
            url,
            keeper,
            folder,
        }
    }

    /// Starts another server with a copy of the files of this one, which is stopped meanwhile.
    ///
    /// A replica waits for changes of a primary that is never named.
    pub(crate) fn copy_of(&self, is_replica: bool) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.with_extension(format!("copy{number}"));
        // The files of a checkpoint, and the log since: like a backup of the disk.
        connect(&self.url).unwrap().execute("CHECKPOINT").unwrap();
        self.signal("STOP");
        let copy = as_somebody("cp")
            .arg("-a")
            .arg(&self.folder)
            .arg(&folder)
            .status();
        self.signal("CONT");
        assert!(copy.unwrap().success());
        for own in ["postmaster.pid", "postmaster.opts"] {
            drop(std::fs::remove_file(folder.join(own)));
        }
        if is_replica {
            let signal = as_somebody("touch")
                .arg(folder.join("standby.signal"))
                .status();
            assert!(signal.unwrap().success());
        }
        Self::start_in(folder)
    }

    /// Makes the server speak TLS, and returns its certificate as PEM.
    pub(crate) fn speak_tls(&self) -> Vec<u8> {
        let at = |name: &str| self.folder.join(name);
        let made = as_somebody("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=db",
            ])
            .args(["-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(at("server.key"))
            .arg("-out")
            .arg(at("server.crt"))
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        let mut admin = connect(&self.url).unwrap();
        admin.execute("ALTER SYSTEM SET ssl = on").unwrap();
        admin.execute("SELECT pg_reload_conf()").unwrap();
        std::fs::read(at("server.crt")).unwrap()
    }

    /// Returns the id of the server's first process.
    pub(crate) fn pid(&self) -> u32 {
        let file = self.folder.join("postmaster.pid");
        let file = std::fs::read_to_string(file).unwrap();
        file.lines().next().unwrap().parse().unwrap()
    }

    /// Sends a signal to all processes of the server.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        if signal != "CONT" {
            // It would start others after they are listed.
            let stop = Command::new("kill").args(["-s", "STOP", &pid]).status();
            assert!(stop.unwrap().success());
        }
        let others = Command::new("pgrep").args(["-P", &pid]).output().unwrap();
        let others = String::from_utf8(others.stdout).unwrap();
        let mut kill = Command::new("kill");
        kill.args(["-s", signal, &pid]).args(others.lines());
        // One of them may have ended by now, so it may fail.
        kill.stderr(Stdio::null()).status().unwrap();
        // Until all have ended, they hold memory without which no other server starts in the folder.
        let remains = || {
            let mut left = Command::new("ps");
            left.args(["-o", "stat=", "-p", &pid]);
            left.args(others.lines().flat_map(|other| ["-p", other]));
            let left = String::from_utf8(left.output().unwrap().stdout).unwrap();
            left.lines().any(|state| !state.trim().starts_with('Z'))
        };
        while signal == "KILL" && remains() {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts the server again after it has ended.
    pub(crate) fn start_again(&mut self) {
        writeln!(self.keeper.stdin.as_mut().unwrap()).unwrap();
        let began = Instant::now();
        while connect(&self.url).is_err() {
            if began.elapsed() >= Duration::from_secs(60) {
                let log = std::fs::read_to_string(format!("{}.log", self.folder.display()))
                    .unwrap_or_default();
                let last = log.len().saturating_sub(1500);
                panic!("it did not start: {}", log.get(last..).unwrap_or(&log));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        drop(self.keeper.wait());
    }
}

/// Creates the server `$2`, and starts it at each line of input; stops and removes it at the end.
const KEEPER: &str = r#"
    set -eu
    bin=$1 folder=$2 port=$3
    [ -e "$folder" ] || "$bin/initdb" -D "$folder" -U keyward -A trust -E UTF8 --locale=C --no-sync \
        >"$folder.log" 2>&1
    start() {
        "$bin/postgres" -D "$folder" -p "$port" -k "$folder" \
            -c listen_addresses=127.0.0.1,127.0.0.11,127.0.0.12,127.0.0.13 \
            -c max_connections=400 -c shared_buffers=64MB -c fsync=off \
            >>"$folder.log" 2>&1 </dev/null &
        server=$!
    }
    start
    while read -r again; do
        wait "$server" || true
        start
    done
    kill -INT "$server" 2>/dev/null || true
    wait "$server" || true
    rm -rf "$folder" "$folder.log"
"#;

/// A command of another user if this is the administrator, as whom the server does not run.
pub(crate) fn as_somebody(program: &str) -> Command {
    let id = Command::new("id").arg("-u").output().unwrap();
    if id.stdout != b"0\n" {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    command.arg(program);
    command
}

/// Returns the folder of the server's programs. Debian has them where no PATH leads.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    for version in versions.into_iter().flatten().flatten() {
        folders.push(version.path().join("bin"));
    }
    let has_all = |folder: &PathBuf| {
        let has = |name| Path::new(folder).join(name).exists();
        has("initdb") && has("postgres")
    };
    folders.into_iter().rfind(has_all).expect(
        "initdb and postgres are not installed (Debian: postgresql). scripts/test installs them; \
         with --no-postgres it does without these tests",
    )
}

/// Returns the URL of the superuser of the server that all tests share.
fn shared_server() -> &'static str {
    static SERVER: OnceLock<(Option<Server>, String)> = OnceLock::new();
    let (_, url) = SERVER.get_or_init(|| {
        let given = std::env::var("KEYWARD_POSTGRES").ok();
        let server = given.is_none().then(Server::start);
        let own = server.as_ref().map(|server| server.url.clone());
        let url = given.or(own).unwrap_or_default();
        let mut admin = connect(&url).unwrap();
        let (name, _) = create_database(&mut admin, &url, "template0");
        block_on(PostgresStore::migrate(&named(&url, &name))).unwrap();
        let rename = format!("ALTER DATABASE {name} RENAME TO {}", template());
        admin.execute(&rename).unwrap();
        (server, url)
    });
    url
}

/// A database with the tables, from which others are copied.
fn template() -> String {
    format!("keyward_template_{}", std::process::id())
}

fn create_database(admin: &mut Psql, url: &str, from: &str) -> (String, String) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("keyward_{}_{number}", std::process::id());
    let create = format!("CREATE DATABASE {name} TEMPLATE {from} STRATEGY file_copy");
    admin.execute(&create).unwrap();
    let url = named(url, &name);
    (name, url)
}

fn named(url: &str, database: &str) -> String {
    let (server, _) = url.rsplit_once('/').unwrap();
    format!("{server}/{database}")
}

/// A connection on which an operator types.
pub(crate) struct Psql {
    runtime: Runtime,
    client: Client,
}

impl Psql {
    /// Runs statements as they are typed.
    pub(crate) fn execute(&mut self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.runtime.block_on(self.client.batch_execute(sql))
    }

    /// Returns the rows of the result, as text.
    pub(crate) fn rows(&mut self, sql: &str) -> Vec<Vec<String>> {
        let messages = self.runtime.block_on(self.client.simple_query(sql));
        let messages = messages.unwrap().into_iter();
        let rows = messages.filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let cells = (0..row.len()).map(|cell| row.get(cell).unwrap_or_default().to_owned());
                Some(cells.collect())
            }
            _ => None,
        });
        rows.collect()
    }

    /// Returns the first cell of the result, as text.
    pub(crate) fn value(&mut self, sql: &str) -> String {
        let mut cells = self.rows(sql).into_iter().flatten();
        cells.next().unwrap_or_default()
    }
}

pub(crate) fn connect(url: &str) -> Result<Psql, tokio_postgres::Error> {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut config: Config = url.parse().unwrap();
    config.connect_timeout(Duration::from_secs(5));
    let (client, connection) = runtime.block_on(config.connect(NoTls))?;
    runtime.spawn(async move { drop(connection.await) });
    Ok(Psql { runtime, client })
}

/// A database of its own, which is removed at the end of the test.
pub(crate) struct Fixture {
    pub(crate) url: String,
    name: String,
    admin: String,
}

impl Fixture {
    /// Creates a database with the tables.
    pub(crate) fn new() -> Self {
        let admin = shared_server().to_owned();
        let (name, url) = create_database(&mut connect(&admin).unwrap(), &admin, &template());
        Self { url, name, admin }
    }

    /// Creates a database without tables.
    pub(crate) fn empty() -> Self {
        let admin = shared_server().to_owned();
        let (name, url) = create_database(&mut connect(&admin).unwrap(), &admin, "template0");
        Self { url, name, admin }
    }

    /// Creates a database with the tables on a server of the test's own.
    pub(crate) fn on(server: &Server) -> Self {
        let admin = server.url.clone();
        let (name, url) = create_database(&mut connect(&admin).unwrap(), &admin, "template0");
        block_on(PostgresStore::migrate(&url)).unwrap();
        Self { url, name, admin }
    }

    /// Returns the URL of the database of the same name on another server.
    pub(crate) fn url_on(&self, server: &Server) -> String {
        named(&server.url, &self.name)
    }

    /// Opens a store that notices every change soon.
    pub(crate) fn open(&self) -> PostgresStore {
        self.open_with(&patient())
    }

    /// Opens a store that looks for changes of others only when asked or notified.
    pub(crate) fn open_slow(&self) -> PostgresStore {
        self.open_with(&patient().poll_interval(Duration::MAX))
    }

    pub(crate) fn open_with(&self, options: &PostgresOptions) -> PostgresStore {
        block_on(options.connect(&self.url)).unwrap()
    }

    /// Runs what an operator types into `psql`.
    pub(crate) fn type_in(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.psql().execute(sql)
    }

    pub(crate) fn psql(&self) -> Psql {
        connect(&self.url).unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // A server that a test has stopped has no database to remove.
        if let Ok(mut admin) = connect(&self.admin) {
            let remove = format!("DROP DATABASE {} WITH (FORCE)", self.name);
            drop(admin.execute(&remove));
        }
    }
}

/// Creates a database that is removed when the test's thread ends.
pub(crate) fn url_for_this_test() -> String {
    thread_local! {
        static OF_THIS_TEST: RefCell<Vec<Fixture>> = const { RefCell::new(Vec::new()) };
    }
    let fixture = Fixture::new();
    let url = fixture.url.clone();
    OF_THIS_TEST.with_borrow_mut(|all| all.push(fixture));
    url
}

/// Returns options with a deadline that holds on a busy machine too.
pub(crate) fn patient() -> PostgresOptions {
    PostgresOptions::new().deadline(Duration::from_secs(120))
}

/// Waits until the condition holds, and fails if it takes too long.
pub(crate) fn eventually(is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(60), "it never came");
        thread::sleep(Duration::from_millis(1));
    }
}
