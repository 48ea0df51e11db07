//! Webhooks on an `SQLite` file beside what the disk and the processor can do, in the same run.
//!
//! ```text
//! cargo bench -p tests --bench webhooks
//! ```
//!
//! Each figure is printed with its bound. The ratios are medians of rounds in which the two sides take
//! turns, so that a busy machine slows both. `FORGOTTEN` sets how many messages are forgotten while keys are
//! revoked (200,000), `SCALE` how much of everything is done (1).

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "these are counts and figures that are printed"
)]

use std::convert::Infallible;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, thread};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use keyward::testing::block_on;
use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, NewKey};
use keyward_sqlite::SqliteStore;
use keyward_tower::{ReceiveWebhookLayer, WebhookSender};
use keyward_webhooks::sealing::{SealingKey, SealingKeys};
use keyward_webhooks::send::{DueDelivery, EndpointUrl, WebhookEndpoint};
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use keyward_webhooks::store::WebhookCommit;
use keyward_webhooks::{
    WebhookAdmin, WebhookMessage, WebhookReceiver, WebhookSigner, WebhookStore, WebhookVerifier,
};
use rusqlite::{Connection, params};
use sha2::Sha256;
use tower::{Layer, ServiceExt, service_fn};

const LIVE: Environment = Environment::LIVE;
const PAYLOAD: &str = "{\"type\":\"report.done\",\"data\":{\"id\":\"report-17\",\"pages\":12}}";

fn main() {
    if let Ok(path) = env::var("WEBHOOKS_OTHER") {
        return other_process(Path::new(&path));
    }
    // `cargo test --benches` runs it once, to see that it works.
    let scale = if env::args().any(|arg| arg == "--bench") {
        env::var("SCALE").map_or(1.0, |text| text.parse().unwrap())
    } else {
        0.02
    };
    let scaled = |count: f64| ((count * scale) as usize).max(4);
    println!("{:<58} {:>9}   bound", "", "figure");
    accept(scaled(400.0));
    deliver(100, scaled(2000.0), 1.9);
    deliver(1, scaled(600.0), 0.6);
    drain(scaled(10_000.0));
    arrival(scaled(200.0));
    revoke(
        "at 1,000 events a second",
        5.0,
        scaled(100.0),
        &Beside::Events,
    );
    let forgotten = env::var("FORGOTTEN").map_or(200_000.0, |text| text.parse().unwrap());
    let beside = Beside::Forget(scaled(forgotten));
    revoke("while messages are forgotten", 20.0, scaled(100.0), &beside);
    revoke(
        "beside another process's sender",
        50.0,
        scaled(100.0),
        &Beside::Process,
    );
    receive(scaled(2000.0));
}

fn line(what: &str, figure: &str, bound: &str, holds: bool) {
    let missed = if holds { "" } else { "   MISSED" };
    println!("{what:<58} {figure:>9}   {bound}{missed}");
}

fn at_least(what: &str, figure: f64, bound: f64) {
    line(
        what,
        &format!("{figure:.2}"),
        &format!(">= {bound}"),
        figure >= bound,
    );
}

fn at_most(what: &str, figure: f64, bound: f64) {
    line(
        what,
        &format!("{figure:.2}"),
        &format!("<= {bound}"),
        figure <= bound,
    );
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn percentile(all: &mut [f64], part: f64) -> f64 {
    all.sort_by(f64::total_cmp);
    all[((all.len() - 1) as f64 * part) as usize]
}

/// A service that sends webhooks, over a file of its own.
struct World {
    folder: tempfile::TempDir,
    store: Arc<SqliteStore>,
    keys: KeyAdmin,
    webhooks: WebhookAdmin,
    operator: Actor,
    acme: AccountId,
}

fn sealing() -> SealingKeys {
    SealingKeys::new(SealingKey::new("2026", &[7; 32]).unwrap())
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self::over(folder);
        block_on(world.keys.open_account(&world.operator, &world.acme)).unwrap();
        world
    }

    fn over(folder: tempfile::TempDir) -> Self {
        let store = Arc::new(SqliteStore::open(folder.path().join("keys.db")).unwrap());
        let scheme = KeyScheme::new(KeyFormat::new("bench_{env}_").unwrap());
        Self {
            keys: KeyAdmin::new(&store, &scheme).max_active_keys(u32::MAX),
            webhooks: WebhookAdmin::new(Arc::clone(&store) as _, &scheme, sealing()),
            operator: Actor::operator("bench"),
            acme: AccountId::parse("acme").unwrap(),
            folder,
            store,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("keys.db")
    }

    /// So many endpoints there, in one commit.
    fn endpoints(&self, at: &str, count: usize) {
        let (url, now) = (EndpointUrl::parse(at).unwrap(), SystemTime::now());
        let endpoint = || {
            let (acme, secret) = (self.acme.clone(), WebhookSecret::random().unwrap());
            WebhookEndpoint::new(acme, LIVE, url.clone(), &secret, &sealing(), now).unwrap()
        };
        let commit = WebhookCommit {
            endpoints: (0..count).map(|_| endpoint()).collect(),
            ..WebhookCommit::default()
        };
        block_on(self.store.commit_webhooks(commit)).unwrap();
    }

    fn type_in(&self, sql: &str) {
        let file = Connection::open(self.path()).unwrap();
        file.busy_timeout(Duration::from_secs(60)).unwrap();
        file.execute_batch(sql).unwrap();
    }

    fn message(&self) -> WebhookMessage {
        let id = WebhookId::random().unwrap();
        WebhookMessage::new(self.acme.clone(), LIVE, id, PAYLOAD).unwrap()
    }

    fn publish(&self) {
        block_on(self.webhooks.publish(&self.operator, self.message())).unwrap();
    }

    /// Runs a sender until so many have arrived, and tells how long that took.
    fn send(&self, count: usize, arrived: &Arc<AtomicU64>) -> Duration {
        arrived.store(0, Ordering::Relaxed);
        let began = Instant::now();
        runtime().block_on(async {
            let sending = tokio::spawn(sender(&self.store, arrived).run());
            while arrived.load(Ordering::Relaxed) < count as u64 {
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
            let took = began.elapsed();
            sending.abort();
            took
        })
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_time().build().unwrap()
}

type HttpClient =
    tower::util::BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, Infallible>;
type Sender = WebhookSender<HttpClient, fn(Duration) -> tokio::time::Sleep>;

/// One whose client answers at once; it never answers for hosts that begin with `dead`.
fn sender(store: &Arc<SqliteStore>, arrived: &Arc<AtomicU64>) -> Sender {
    let arrived = Arc::clone(arrived);
    let client = service_fn(move |request: Request<Full<Bytes>>| {
        let arrived = Arc::clone(&arrived);
        async move {
            if request
                .uri()
                .host()
                .is_some_and(|host| host.starts_with("dead"))
            {
                std::future::pending::<()>().await;
            }
            assert!(request.extensions().get::<DueDelivery>().is_some());
            arrived.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(Response::new(Full::default()))
        }
    });
    let client = tower::util::BoxCloneSyncService::new(client);
    let store = Arc::clone(store) as Arc<dyn WebhookStore>;
    WebhookSender::new(client, store, sealing(), tokio::time::sleep)
}

/// How many rows a bare loop inserts and commits in a second, in a file like ours.
fn bare_loop(folder: &Path, count: usize) -> f64 {
    let path = folder.join("bare.db");
    drop(fs::remove_file(&path));
    let file = Connection::open(path).unwrap();
    let settings = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
         CREATE TABLE message (id TEXT PRIMARY KEY, payload BLOB NOT NULL)";
    file.execute_batch(settings).unwrap();
    let mut insert = file.prepare("INSERT INTO message VALUES (?1, ?2)").unwrap();
    let began = Instant::now();
    for number in 0..count {
        insert
            .execute(params![number.to_string(), PAYLOAD])
            .unwrap();
    }
    count as f64 / began.elapsed().as_secs_f64()
}

fn accept(count: usize) {
    let world = World::new();
    world.endpoints("https://acme.example/hook", 1);
    let ratios = (0..7).map(|_| {
        let bare = bare_loop(world.folder.path(), count / 2);
        let began = Instant::now();
        thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| (0..count / 4).for_each(|_| world.publish()));
            }
        });
        let rate = (count / 4 * 8) as f64 / began.elapsed().as_secs_f64();
        (rate / bare, rate, bare)
    });
    let rounds: Vec<_> = ratios.collect();
    for (_, rate, bare) in &rounds {
        eprintln!("  accept {rate:.0}/s, bare loop {bare:.0}/s");
    }
    let ratio = median(rounds.iter().map(|round| round.0).collect());
    at_least("accept with 8 tasks / bare insert and commit", ratio, 1.6);
}

fn deliver(endpoints: usize, count: usize, bound: f64) {
    let world = World::new();
    world.endpoints("https://acme.example/hook", endpoints);
    let arrived = Arc::default();
    let ratios = (0..5).map(|_| {
        (0..(count / endpoints).max(1)).for_each(|_| world.publish());
        let bare = bare_loop(world.folder.path(), count / 5);
        let all = (count / endpoints).max(1) * endpoints;
        let rate = all as f64 / world.send(all, &arrived).as_secs_f64();
        eprintln!("  deliver to {endpoints} {rate:.0}/s, bare loop {bare:.0}/s");
        rate / bare
    });
    let ratio = median(ratios.collect());
    let what = format!("deliver to {endpoints} / a loop that commits each");
    at_least(&what, ratio, bound);
}

fn drain(endpoints: usize) {
    let rate = |has_dead: bool| {
        let world = World::new();
        world.endpoints("https://acme.example/hook", endpoints);
        if has_dead {
            world.endpoints("https://dead.example/hook", 1);
            let dead = "INSERT INTO keyward_message (account, environment, id, payload, created_at) \
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
                 SELECT 'acme', 'live', 'dead' || i, x'7b7d', 0 FROM n; \
                 INSERT INTO keyward_delivery (account, environment, message, endpoint, due_at) \
                 SELECT m.account, m.environment, m.id, e.id, 0 \
                 FROM keyward_message m, keyward_endpoint e \
                 WHERE m.id GLOB 'dead*' AND e.url GLOB '*dead*'";
            world.type_in(dead);
        }
        world.publish();
        let took = world.send(endpoints, &Arc::default());
        endpoints as f64 / took.as_secs_f64()
    };
    let ratios = (0..3).map(|_| {
        let (normal, beside) = (rate(false), rate(true));
        eprintln!("  drain {normal:.0}/s, beside a dead backlog {beside:.0}/s");
        beside / normal
    });
    let ratio = median(ratios.collect());
    at_least(
        "drain 10,000 endpoints beside a dead backlog / normal",
        ratio,
        0.5,
    );
}

fn arrival(count: usize) {
    let world = World::new();
    world.endpoints("https://acme.example/hook", 1);
    let arrived: Arc<AtomicU64> = Arc::default();
    let mut times = runtime().block_on(async {
        let sending = tokio::spawn(sender(&world.store, &arrived).run());
        let mut times = Vec::new();
        for number in 0..count as u64 {
            let publish = world.webhooks.publish(&world.operator, world.message());
            publish.await.unwrap();
            let began = Instant::now();
            while arrived.load(Ordering::Relaxed) <= number {
                tokio::task::yield_now().await;
            }
            times.push(began.elapsed().as_secs_f64() * 1000.0);
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        sending.abort();
        times
    });
    at_most(
        "arrival after publish, p50 in ms",
        percentile(&mut times, 0.5),
        5.0,
    );
    at_most(
        "arrival after publish, p99 in ms",
        percentile(&mut times, 0.99),
        15.0,
    );
}

enum Beside {
    Events,
    Forget(usize),
    Process,
}

fn revoke(what: &str, bound: f64, count: usize, beside: &Beside) {
    let world = World::new();
    world.endpoints("https://acme.example/hook", 1);
    let create = |_| {
        let new = NewKey::new(world.acme.clone(), LIVE, "key");
        block_on(world.keys.create(&world.operator, new))
            .unwrap()
            .record
            .id
    };
    let ids: Vec<_> = (0..count).map(create).collect();
    if let Beside::Forget(messages) = beside {
        world.type_in(&format!(
            "INSERT INTO keyward_message (account, environment, id, payload, created_at) \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {messages}) \
             SELECT 'acme', 'live', 'old' || i, x'7b7d', i FROM n; \
             INSERT INTO keyward_delivery (account, environment, message, endpoint, due_at, status) \
             SELECT m.account, m.environment, m.id, e.id, 0, 'delivered' \
             FROM keyward_message m, keyward_endpoint e"
        ));
    }
    let is_over = AtomicBool::new(false);
    let alone = revoke_all(&world, &ids[..count / 4]);
    let mut times = thread::scope(|threads| {
        let _child = match beside {
            Beside::Events => {
                let publish = || {
                    let mut next = Instant::now();
                    while !is_over.load(Ordering::Relaxed) {
                        world.publish();
                        next += Duration::from_millis(8);
                        thread::sleep(next.saturating_duration_since(Instant::now()));
                    }
                };
                (0..8).for_each(|_| drop(threads.spawn(publish)));
                threads.spawn(|| {
                    runtime().block_on(async {
                        let sending = tokio::spawn(sender(&world.store, &Arc::default()).run());
                        while !is_over.load(Ordering::Relaxed) {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                        sending.abort();
                    });
                });
                None
            }
            Beside::Forget(_) => {
                threads.spawn(|| {
                    let began = Instant::now();
                    let forget = world.store.forget_messages(SystemTime::now());
                    let forgotten = block_on(forget).unwrap();
                    eprintln!("  {forgotten} forgotten in {:.1?}", began.elapsed());
                });
                None
            }
            Beside::Process => {
                let child = Command::new(env::current_exe().unwrap())
                    .env("WEBHOOKS_OTHER", world.folder.path())
                    .spawn();
                thread::sleep(Duration::from_millis(500));
                Some(Stopped(child.unwrap()))
            }
        };
        thread::sleep(Duration::from_millis(100));
        let times = revoke_all(&world, &ids[count / 4..]);
        is_over.store(true, Ordering::Relaxed);
        times
    });
    let (mut alone, p50) = (alone, percentile(&mut times, 0.5));
    eprintln!(
        "  revoke {what}: p50 {p50:.1} ms; alone p50 {:.1}, p99 {:.1} ms",
        percentile(&mut alone, 0.5),
        percentile(&mut alone, 0.99)
    );
    let p99 = percentile(&mut times, 0.99);
    at_most(&format!("revoke {what}, p99 in ms"), p99, bound);
}

/// How long each takes, in milliseconds.
fn revoke_all(world: &World, ids: &[keyward::KeyId]) -> Vec<f64> {
    let revoke = |id: &keyward::KeyId| {
        thread::sleep(Duration::from_millis(10));
        let began = Instant::now();
        block_on(world.keys.revoke(&world.operator, *id, "bench")).unwrap();
        began.elapsed().as_secs_f64() * 1000.0
    };
    ids.iter().map(revoke).collect()
}

struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Publishes and sends as fast as it can, until it is killed, or for a minute.
fn other_process(folder: &Path) {
    let store = Arc::new(SqliteStore::open(folder.join("keys.db")).unwrap());
    let scheme = KeyScheme::new(KeyFormat::new("bench_{env}_").unwrap());
    let webhooks = WebhookAdmin::new(Arc::clone(&store) as _, &scheme, sealing());
    let (operator, acme) = (Actor::operator("other"), AccountId::parse("acme").unwrap());
    let until = Instant::now() + Duration::from_secs(60);
    thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                while Instant::now() < until {
                    let id = WebhookId::random().unwrap();
                    let message = WebhookMessage::new(acme.clone(), LIVE, id, PAYLOAD).unwrap();
                    drop(block_on(webhooks.publish(&operator, message)));
                }
            });
        }
        threads.spawn(|| {
            runtime().block_on(async {
                let sending = sender(&store, &Arc::default()).run();
                drop(tokio::time::timeout(Duration::from_secs(60), sending).await);
            });
        });
    });
}

fn receive(count: usize) {
    let secret = WebhookSecret::random().unwrap();
    let signer = WebhookSigner::new(&secret);
    let verifier = WebhookVerifier::standard(secret.expose_secret()).unwrap();
    let receiver = WebhookReceiver::builder(verifier).build().unwrap();
    let handler = service_fn(async |request: Request<_>| {
        let body = Full::<Bytes>::default();
        drop::<Request<_>>(request);
        Ok::<_, Infallible>(Response::new(body))
    });
    let service = ReceiveWebhookLayer::new(receiver).layer(handler);
    let body = Bytes::from(vec![b'x'; 64 * 1024]);
    let request = || {
        let id = WebhookId::random().unwrap();
        let mut request = Request::post("/hook");
        for (name, value) in signer.headers(&id, SystemTime::now(), &body) {
            request = request.header(name, value);
        }
        request.body(Full::new(body.clone())).unwrap()
    };
    let runtime = runtime();
    let took: Mutex<Vec<(f64, f64)>> = Mutex::default();
    for _ in 0..count {
        let (one, other) = (request(), request());
        runtime.block_on(async {
            let began = Instant::now();
            let answer = service.clone().oneshot(one).await.unwrap();
            assert_eq!(answer.status(), 200);
            let ours = began.elapsed().as_secs_f64();
            let began = Instant::now();
            let read = other.into_body().collect().await.unwrap().to_bytes();
            let mut mac = Hmac::<Sha256>::new_from_slice(&[7; 32]).unwrap();
            mac.update(&read);
            std::hint::black_box(mac.finalize());
            took.lock()
                .unwrap()
                .push((ours, began.elapsed().as_secs_f64()));
        });
    }
    let took = took.into_inner().unwrap();
    let ours = median(took.iter().map(|both| both.0).collect());
    let limit = median(took.iter().map(|both| both.1).collect());
    at_most("receive 64 kB / body and HMAC", ours / limit, 1.15);
}
