//! A process that is frozen for longer than memory may be old, as a throttled container is.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use actix_web::{App, HttpServer, web};
use axum::Router;
use axum::routing::get;
use keyward::testing::block_on;
use keyward::{
    AccountId, Actor, ApiKey, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, NewKey,
    Requirement,
};
use keyward_actix::RequireKey;
use keyward_sqlite::{SqliteOptions, SqliteStore};
use keyward_tower::RequireKeyLayer;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// Tells the child which file to serve.
const FILE: &str = "KEYWARD_FREEZE_FILE";
/// Tells the child by which stack.
const STACK: &str = "KEYWARD_FREEZE_STACK";

const MAX_STALENESS: Duration = Duration::from_secs(2);
const FROZEN: Duration = Duration::from_millis(2500);
const WAITING: usize = 1000;

/// A child ends even when whoever should kill it is gone.
const LIFETIME: Duration = Duration::from_secs(120);

#[test]
fn a_thawed_axum_service_refuses_nobody_while_the_file_is_there() {
    freeze_and_thaw("axum");
}

#[test]
fn a_thawed_actix_service_refuses_nobody_while_the_file_is_there() {
    freeze_and_thaw("actix");
}

fn freeze_and_thaw(stack: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (file, away) = (dir.path().join("keys.db"), dir.path().join("away.db"));
    let key = make_key(&file);
    let service = Service::start(&dir, &file, stack);

    let (statuses, _) = service.ask_frozen(&key, || {});
    assert_eq!(statuses, all(200), "{stack}, the file is there");

    let (statuses, took) = service.ask_frozen(&key, || fs::rename(&file, &away).unwrap());
    assert_eq!(statuses, all(503), "{stack}, the file is gone");
    // 500 ms; the rest is for a busy machine.
    assert!(took < Duration::from_secs(8), "{stack}: {took:?}");

    fs::rename(&away, &file).unwrap();
    let since = Instant::now();
    while service.ask(&key) != 200 {
        assert!(since.elapsed() < Duration::from_secs(20), "{stack}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// How many requests got which status.
type Statuses = BTreeMap<u16, usize>;

fn all(status: u16) -> Statuses {
    BTreeMap::from([(status, WAITING)])
}

fn format() -> KeyFormat {
    KeyFormat::new("cold_{env}_").unwrap()
}

fn scheme() -> KeyScheme {
    KeyScheme::new(format())
}

fn make_key(file: &Path) -> ApiKey {
    let admin = KeyAdmin::new(&SqliteStore::open(file).unwrap(), &scheme());
    let (operator, acme) = (Actor::operator("ops"), AccountId::parse("acme").unwrap());
    block_on(admin.open_account(&operator, &acme)).unwrap();
    let new = NewKey::new(acme, Environment::LIVE, "key");
    block_on(admin.create(&operator, new)).unwrap().key.unwrap()
}

/// A process that serves keys.
struct Service {
    child: Child,
    at: SocketAddr,
}

impl Service {
    fn start(dir: &TempDir, file: &Path, stack: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "freeze::serves_until_it_is_killed",
                "--nocapture",
            ])
            .current_dir(dir)
            .env(FILE, file)
            .env(STACK, stack)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let told = BufReader::new(child.stdout.take().unwrap());
        let mut lines = told.lines().map_while(Result::ok);
        let at = lines.find_map(|line| Some(line.split_once("serving at ")?.1.to_owned()));
        let at = at.unwrap().parse().unwrap();
        Self { child, at }
    }

    /// Freezes it, does this, and asks with a thousand requests that wait when it thaws; also tells
    /// when the last was answered.
    fn ask_frozen(&self, key: &ApiKey, meanwhile: impl FnOnce()) -> (Statuses, Duration) {
        let mut sockets: Vec<_> = (0..WAITING).map(|_| self.connect()).collect();
        self.signal("-STOP");
        thread::sleep(FROZEN);
        meanwhile();
        for socket in &mut sockets {
            send(socket, key);
        }
        let thawed = Instant::now();
        self.signal("-CONT");
        let mut statuses = Statuses::new();
        for socket in sockets {
            *statuses.entry(status(socket)).or_default() += 1;
        }
        (statuses, thawed.elapsed())
    }

    fn ask(&self, key: &ApiKey) -> u16 {
        let mut socket = self.connect();
        send(&mut socket, key);
        status(socket)
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.at).unwrap()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn send(socket: &mut TcpStream, key: &ApiKey) {
    let key = key.expose_secret();
    let request =
        format!("GET / HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
}

fn status(mut socket: TcpStream) -> u16 {
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Not a test of its own: what runs in the child.
#[test]
fn serves_until_it_is_killed() {
    let (Some(file), Ok(stack)) = (env::var_os(FILE), env::var(STACK)) else {
        return;
    };
    thread::spawn(|| {
        thread::sleep(LIFETIME);
        std::process::exit(1);
    });
    // So long that only a request that waits makes it poll.
    let options = SqliteOptions::new().poll_interval(Duration::from_secs(600));
    let store = options.open(file).unwrap();
    let gate = Gate::builder(&store, &scheme())
        .max_staleness(MAX_STALENESS)
        .build()
        .unwrap();
    if stack == "actix" {
        actix_web::rt::System::new().block_on(serve_actix(gate));
    } else {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(serve_axum(gate));
    }
}

async fn serve_axum(gate: Gate) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("serving at {}", listener.local_addr().unwrap());
    let reached = get(async || "reached");
    let app = Router::<()>::new()
        .route("/", reached)
        .layer(RequireKeyLayer::new(&gate, Requirement::new()));
    axum::serve(listener, app).await.unwrap();
}

async fn serve_actix(gate: Gate) {
    let app = move || {
        let reached = web::get().to(async || "reached");
        App::new()
            .wrap(RequireKey::new(&gate, Requirement::new()))
            .route("/", reached)
    };
    let server = HttpServer::new(app)
        .workers(2)
        .client_request_timeout(Duration::ZERO)
        .bind(("127.0.0.1", 0))
        .unwrap();
    println!("serving at {}", server.addrs()[0]);
    server.run().await.unwrap();
}
