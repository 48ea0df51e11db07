//! Rate limits that Redis counts, beside bare calls of the same script in the same run.
//!
//! ```text
//! cargo bench -p tests --bench limiter
//! ```
//!
//! It starts a private `redis-server`. The two sides take turns, and each figure is the median of the
//! rounds. `ROUNDS` sets their number (9), `SECONDS` how long a side takes each time (1). The private
//! workspace `tests/limitador` runs the same with the crate limitador as a third side.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "these are counts and figures that are printed"
)]

use std::env;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use keyward::clock::SystemClock;
use keyward::gate::{Decision, Verdict};
use keyward::record::{Account, KeyRecord};
use keyward::replica::{Replica, Revision};
use keyward::testing::{TestRequest, World};
use keyward::{Gate, RateLimit, RateLimits, Requirement};
use keyward_redis::RedisLimiter;
use keyward_redis::testing::RedisServer;
use redis::aio::MultiplexedConnection;
use tokio::runtime::Builder;

const TAKE: &str = include_str!("../../crates/keyward-redis/src/take.lua");

/// The number of keys that are used in turn.
const KEYS: usize = 32;

fn main() {
    run(None);
}

/// A request to another limiter, with the number of its key; `false` if it was refused.
pub type Peer = Arc<dyn Fn(usize) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// Connects another limiter to a URL.
pub type ConnectPeer = fn(&str) -> Pin<Box<dyn Future<Output = Peer> + Send>>;

/// Runs everything, with another limiter beside it.
///
/// # Panics
/// Panics if there is no `redis-server`.
pub fn run(peer: Option<(&str, ConnectPeer)>) {
    // `cargo test --benches` runs it once, to see that it works.
    let is_bench = env::args().any(|arg| arg == "--bench");
    let number = |name, otherwise: f64| match env::var(name) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => otherwise,
    };
    let rounds = number("ROUNDS", if is_bench { 9.0 } else { 1.0 }) as usize;
    let time = number("SECONDS", if is_bench { 1.0 } else { 0.05 });
    let time = Duration::from_secs_f64(time);
    let Some(server) = RedisServer::start() else {
        return;
    };
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let raw = Raw::new(&server).await;
        let here = Node::many(KEYS, "1000000/1;1000000", None);
        let limiter = limiter(&server).await;
        let shared = Node::many(KEYS, "1000000/1;1000000", Some(&limiter));
        let peer = match peer {
            Some((name, connect)) => Some((name, connect(&server.url()).await)),
            None => None,
        };
        println!("| at once | | requests/s | of bare EVALSHA | p50 | p99 |");
        println!("|---|---|---|---|---|---|");
        for at_once in [1, 16, 64, 256] {
            let mut sides: Vec<(&str, Side)> = vec![
                ("bare EVALSHA", raw.side()),
                ("gate with keyward-redis", Node::side(&shared)),
                ("gate that counts itself", Node::side(&here)),
            ];
            if let Some((name, peer)) = &peer {
                sides.push((name, Arc::clone(peer)));
            }
            let mut measured: Vec<Vec<Figures>> = vec![Vec::new(); sides.len()];
            for _ in 0..rounds {
                for ((_, side), all) in sides.iter().zip(&mut measured) {
                    all.push(load(side, at_once, time).await);
                }
            }
            let bare = measured[0].clone();
            for ((name, _), all) in sides.iter().zip(&measured) {
                let rate = median(all, |figures| figures.rate);
                // Of the same round, since a busy machine slows both.
                let pairs = all.iter().zip(&bare);
                let mut ratios: Vec<_> = pairs.map(|(own, bare)| own.rate / bare.rate).collect();
                ratios.sort_by(f64::total_cmp);
                let ratio = ratios[ratios.len() / 2];
                let micros = |of: fn(&Figures) -> f64| median(all, of) * 1e6;
                println!(
                    "| {at_once} | {name} | {rate:.0} | {ratio:.2} | {:.0} us | {:.0} us |",
                    micros(|figures| figures.p50),
                    micros(|figures| figures.p99)
                );
            }
        }
        flood(&server, time * 5).await;
    });
}

async fn limiter(server: &RedisServer) -> RedisLimiter {
    let limiter = RedisLimiter::builder(&server.url()).unwrap();
    // A figure is of requests that Redis has answered, also on a busy machine.
    let limiter = limiter.deadline(Duration::from_secs(5));
    limiter.connect().await.unwrap()
}

/// What a side does for a request with the number of a key.
type Side = Peer;

/// Bare calls of the script, through one connection as in the limiter.
struct Raw {
    connection: MultiplexedConnection,
    hash: String,
}

impl Raw {
    async fn new(server: &RedisServer) -> Self {
        let client = redis::Client::open(server.url()).unwrap();
        let config = redis::AsyncConnectionConfig::new();
        let config = config
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1024);
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connecting.await.unwrap();
        let load = redis::cmd("SCRIPT").arg("LOAD").arg(TAKE).to_owned();
        let hash = load.query_async(&mut connection).await.unwrap();
        Self { connection, hash }
    }

    fn side(&self) -> Side {
        let (connection, hash) = (self.connection.clone(), self.hash.clone());
        Arc::new(move |key| {
            let (mut connection, hash) = (connection.clone(), hash.clone());
            Box::pin(async move {
                let mut command = redis::cmd("EVALSHA");
                // A million a second, as below.
                command.arg(hash).arg(1).arg(format!(
                    "bare:{{acme:live}}:key_{key:012}:1000000/1;1000000"
                ));
                command.arg(&[1_u64, 0, 1_000_000, 0]);
                let reply: Vec<u64> = command.query_async(&mut connection).await.unwrap();
                reply[0] == 1
            })
        })
    }
}

/// A gate with one key.
struct Node {
    gate: Gate,
    request: TestRequest,
}

impl Node {
    fn many(keys: usize, limit: &str, limiter: Option<&RedisLimiter>) -> Arc<Vec<Self>> {
        let world = World::new();
        let mut all = Vec::new();
        for _ in 0..keys {
            all.push(Self::new(&world, limit, limiter).0);
        }
        Arc::new(all)
    }

    fn new(world: &World, limit: &str, limiter: Option<&RedisLimiter>) -> (Self, KeyRecord) {
        let limits = RateLimits::parse(limit).unwrap();
        let created = world.create(world.new_key().rate_limits(limits));
        let request = TestRequest::get().key(created.key.unwrap().expose_secret());
        let gate = Self::gate(world, &created.record, limiter);
        (Self { gate, request }, created.record)
    }

    /// A gate with a memory of its own, as another process has.
    fn gate(world: &World, record: &KeyRecord, limiter: Option<&RedisLimiter>) -> Gate {
        let replica = Replica::with(Arc::new(SystemClock), 1000);
        let mut poll = replica.poll();
        poll.account(Account::new(record.account.clone()));
        poll.key(record);
        poll.finish(Revision {
            number: 1,
            nonce: 0,
        })
        .unwrap();
        let gate = Gate::builder_from_replica(&replica, world.scheme());
        let gate = gate.max_staleness(Duration::MAX);
        let gate = match limiter {
            Some(limiter) => gate.limiter(limiter.clone()),
            None => gate,
        };
        gate.build().unwrap()
    }

    fn ask(gate: &Gate, request: &TestRequest) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        match gate.check(request, &Arc::new(Requirement::new()), None) {
            Decision::Ready(verdict) => {
                let passes = matches!(verdict, Verdict::Admit(_));
                Box::pin(async move { passes })
            }
            Decision::Pending(pending) => {
                let verdict = pending.with_timer(tokio::time::sleep);
                Box::pin(async { matches!(verdict.await, Verdict::Admit(_)) })
            }
        }
    }

    fn side(nodes: &Arc<Vec<Self>>) -> Side {
        let nodes = Arc::clone(nodes);
        Arc::new(move |key| {
            let node = &nodes[key % nodes.len()];
            Self::ask(&node.gate, &node.request)
        })
    }
}

#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    p50: f64,
    p99: f64,
}

fn median(all: &[Figures], of: impl Fn(&Figures) -> f64) -> f64 {
    let mut all: Vec<_> = all.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Keeps this many requests under way for a time.
async fn load(side: &Side, at_once: usize, time: Duration) -> Figures {
    let since = Instant::now();
    let clients = (0..at_once).map(|client| {
        let side = Arc::clone(side);
        tokio::spawn(async move {
            let mut took = Vec::new();
            let mut key = client;
            while since.elapsed() < time {
                let asked = Instant::now();
                assert!(side(key % KEYS).await, "refused below the limit");
                took.push(asked.elapsed());
                key += at_once;
                // A gate that counts itself would never let another client in.
                tokio::task::consume_budget().await;
            }
            took
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut took = Vec::new();
    for client in clients {
        took.extend(client.await.unwrap());
    }
    let rate = took.len() as f64 / since.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64();
    Figures {
        rate,
        p50: at(0.5),
        p99: at(0.99),
    }
}

/// Four processes flood one key.
async fn flood(server: &RedisServer, time: Duration) {
    println!("\n| limit | passed | at most | refused | trips per refused request |");
    println!("|---|---|---|---|---|");
    for limit in ["100/60;200", "100/1;100", "1000/1;1000"] {
        let world = World::new();
        let (first, record) = Node::new(&world, limit, None);
        let (passed, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (mut clients, mut limiters) = (Vec::new(), Vec::new());
        let since = Instant::now();
        for _ in 0..4 {
            let limiter = limiter(server).await;
            limiters.push(limiter.clone());
            let gate = Node::gate(&world, &record, Some(&limiter));
            for _ in 0..16 {
                let (gate, request) = (gate.clone(), first.request.clone());
                let (passed, refused) = (Arc::clone(&passed), Arc::clone(&refused));
                clients.push(tokio::spawn(async move {
                    while since.elapsed() < time {
                        let counter = if Node::ask(&gate, &request).await {
                            &passed
                        } else {
                            &refused
                        };
                        counter.fetch_add(1, Ordering::Relaxed);
                        yield_now().await;
                    }
                }));
            }
        }
        for client in clients {
            client.await.unwrap();
        }
        let took = since.elapsed();
        let (passed, refused) = (
            passed.load(Ordering::Relaxed),
            refused.load(Ordering::Relaxed),
        );
        let bucket = RateLimit::parse(limit).unwrap();
        let added = (took.as_nanos() / bucket.interval().as_nanos()) as u64;
        let most = u64::from(bucket.max_burst()) + added;
        let asked: u64 = limiters.iter().map(|limiter| limiter.counts().asked).sum();
        let trips = (asked - passed) as f64 / refused as f64;
        println!("| {limit} | {passed} | {most} | {refused} | {trips:.4} |");
        assert!(passed <= most);
    }
}

async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
