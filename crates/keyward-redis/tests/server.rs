//! The limiter against a real Redis, which answers, fails and comes back.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends with what fails, and shows what it measured"
)]

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use keyward::admin::AccountChange;
use keyward::clock::{Clock, ManualClock, SystemClock};
use keyward::gate::{Access, Decision, Finish, GateBuilder, Verdict};
use keyward::limit::Quota;
use keyward::record::{Account, KeyRecord};
use keyward::replica::{Replica, Revision};
use keyward::testing::{TestRequest, TestResponse, World, block_on, decided, suites};
use keyward::{AccountId, ApiKey, Environment, Gate, RateLimit, RateLimits, Requirement};
use keyward_redis::testing::RedisServer;
use keyward_redis::{Fallback, RedisErrorKind, RedisLimiter, RedisLimiterBuilder};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::{Builder, Runtime};

const SECOND: Duration = Duration::from_secs(1);

fn runtime() -> Runtime {
    let mut runtime = Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap()
}

fn builder(server: &RedisServer) -> RedisLimiterBuilder {
    // A busy machine may be late; tests of the deadline set their own.
    let builder = RedisLimiter::builder(&server.url()).unwrap();
    builder.deadline(5 * SECOND).connect_timeout(5 * SECOND)
}

fn limit(text: &str) -> RateLimits {
    RateLimits::parse(text).unwrap()
}

/// A service with one key, and any number of nodes that know it.
struct Service {
    world: World,
    key: ApiKey,
    record: KeyRecord,
    limits: RateLimits,
}

impl Service {
    fn new(limits: &str) -> Self {
        let (world, limits) = (World::new(), limit(limits));
        let created = world.create(world.new_key().rate_limits(limits.clone()));
        let (key, record) = (created.key.unwrap(), created.record);
        Self {
            world,
            key,
            record,
            limits,
        }
    }

    /// A gate with a memory of its own, as another process has.
    fn node(&self, clock: Arc<dyn Clock>) -> GateBuilder {
        let replica = Replica::with(clock, 1000);
        let mut poll = replica.poll();
        poll.account(Account::new(self.record.account.clone()));
        poll.key(&self.record);
        poll.finish(Revision {
            number: 1,
            nonce: 0,
        })
        .unwrap();
        Gate::builder_from_replica(&replica, self.world.scheme()).max_staleness(Duration::MAX)
    }

    fn gate(&self, limiter: &RedisLimiter) -> Gate {
        let node = self.node(Arc::new(SystemClock));
        node.limiter(limiter.clone()).build().unwrap()
    }

    fn check(&self, gate: &Gate, cost: u32) -> Verdict {
        let request = TestRequest::get().key(self.key.expose_secret());
        decided(gate.check(&request, &Arc::new(Requirement::new().cost(cost)), None))
    }

    fn status(&self, gate: &Gate) -> u16 {
        status(&self.check(gate, 1))
    }

    /// How many requests pass at once.
    fn passing(&self, gate: &Gate) -> usize {
        let asked = (0..1000).map(|_| self.status(gate));
        asked.take_while(|status| *status == 200).count()
    }

    /// Sends requests from all nodes for a time, and returns how many passed and were refused.
    fn flood(&self, gates: &[Gate], clients: usize, time: Duration) -> Flood {
        let (passed, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        let requirement = Arc::new(Requirement::new());
        let since = Instant::now();
        let client = async |gate: &Gate| {
            while since.elapsed() < time {
                let request = TestRequest::get().key(self.key.expose_secret());
                let verdict = match gate.check(&request, &requirement, None) {
                    Decision::Ready(verdict) => verdict,
                    Decision::Pending(pending) => pending.with_timer(tokio::time::sleep).await,
                };
                let counter = if status(&verdict) == 200 {
                    &passed
                } else {
                    &refused
                };
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        };
        thread::scope(|threads| {
            for gate in gates {
                threads.spawn(|| {
                    let mut node = Builder::new_current_thread();
                    let node = node.enable_all().build().unwrap();
                    node.block_on(async {
                        let mut all = Vec::new();
                        for _ in 0..clients {
                            all.push(Box::pin(client(gate)));
                        }
                        join_all(all).await;
                    });
                });
            }
        });
        let read = |counter: AtomicU64| counter.into_inner();
        Flood {
            passed: read(passed),
            refused: read(refused),
            took: since.elapsed(),
        }
    }

    /// The number of requests of a full bucket and of what time adds.
    fn most(&self, full: u64, time: Duration) -> u64 {
        let limit = self.limits.iter().next().unwrap();
        let added = time.as_nanos() / limit.interval().as_nanos();
        full * u64::from(limit.max_burst()) + u64::try_from(added).unwrap()
    }
}

#[derive(Debug)]
struct Flood {
    passed: u64,
    refused: u64,
    took: Duration,
}

async fn join_all<F: Future<Output = ()> + Unpin>(mut all: Vec<F>) {
    std::future::poll_fn(|context| {
        all.retain_mut(|one| std::pin::Pin::new(one).poll(context).is_pending());
        if all.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

fn status(verdict: &Verdict) -> u16 {
    match verdict {
        Verdict::Admit(_) => 200,
        Verdict::Refuse(refusal) => refusal.reply.status(),
    }
}

/// What a client sees of a verdict.
fn seen(verdict: &Verdict) -> (u16, Option<Quota>, Vec<String>) {
    match verdict {
        Verdict::Admit(admitted) => match &admitted.access {
            Some(Access::Principal(principal)) => (200, principal.quota(), Vec::new()),
            other => panic!("{other:?}"),
        },
        Verdict::Refuse(refusal) => {
            let headers = refusal.reply.headers();
            let line = |(name, value)| format!("{name}: {value}");
            (refusal.reply.status(), None, headers.map(line).collect())
        }
    }
}

fn finish(verdict: Verdict) -> Option<Finish> {
    match verdict {
        Verdict::Admit(admitted) => Some(admitted.finish),
        Verdict::Refuse(_) => None,
    }
}

/// Waits until a condition holds; a busy machine gets 20 seconds.
fn until(what: &str, holds: impl Fn() -> bool) -> Duration {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < 20 * SECOND, "not in 20 s: {what}");
        thread::sleep(Duration::from_millis(2));
    }
    since.elapsed()
}

#[test]
fn every_promise_of_rate_limits_holds_when_redis_counts() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = runtime();
    let number = AtomicU64::new(0);
    suites::limiter(|clock| {
        let own = number.fetch_add(1, Ordering::Relaxed).to_string();
        let limiter = builder(&server).clock(clock).key_prefix(own);
        runtime.block_on(limiter.connect()).unwrap()
    });
}

#[test]
fn redis_decides_as_a_single_process_whatever_the_node() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = runtime();
    let limits = prop_oneof![
        Just("10/1;3".to_owned()),
        Just("7/3;5 20/60;20".to_owned()),
        Just("1000000/1;9".to_owned()),
        Just("64000/1;9".to_owned()), // whose nanoseconds add up to a whole microsecond
        Just("1/86400;3 3/315360000;3".to_owned()),
        Just("4294967295/4295;4294967295".to_owned()),
        (1_u32..2000, 1_u32..100, 3_u32..50).prop_map(|(n, s, b)| format!("{n}/{s};{b}")),
    ];
    // The pause in hundredths of an interval, a cost, a node, and whether it is given back.
    let pause = prop_oneof![0_u64..250, Just(0), Just(100), Just(101)];
    let step = (pause, 1_u32..4, 0_usize..3, any::<bool>());
    let steps = prop::collection::vec(step, 1..80);
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(48)
    });
    let test = |(limits, steps, refunds): (String, Vec<_>, bool)| {
        let service = Service::new(&limits);
        let clock = Arc::new(ManualClock::at(service.world.clock().unix()));
        let own = || Arc::<ManualClock>::clone(&clock);
        let model = service.node(own()).build().unwrap();
        let nodes = [(); 3].map(|()| {
            let limiter = builder(&server).clock(own());
            let limiter = runtime.block_on(limiter.connect()).unwrap();
            let node = service.node(own()).limiter(limiter.clone());
            (limiter, node.build().unwrap())
        });
        let interval = service.limits.iter().next().unwrap().interval();
        let mut open = Vec::new();
        for (hundredths, cost, node, gives_back) in steps {
            let pause = interval.as_nanos() * u128::from(hundredths) / 100;
            // The server's clock shows whole microseconds.
            let micros = u64::try_from(pause / 1000).unwrap();
            clock.advance(Duration::from_micros(micros));
            // What another node gives back is known a second later.
            let (limiter, node) = &nodes[if refunds { 0 } else { node }];
            let asked = limiter.counts().asked;
            let (here, there) = (service.check(&model, cost), service.check(node, cost));
            let (mut expected, mut actual) = (seen(&here), seen(&there));
            if limiter.counts().asked == asked {
                // Headers of a refusal from memory show what the node knew last.
                (expected.2, actual.2) = Default::default();
            }
            prop_assert_eq!(actual, expected, "{}", limits);
            if let (true, Some(here), Some(there)) =
                (refunds && gives_back, finish(here), finish(there))
            {
                open.push((here, there));
            }
            if micros % 3 == 0 {
                for (here, there) in open.drain(..) {
                    here.give_back();
                    there.give_back();
                }
            }
        }
        Ok(())
    };
    runner.run(&(limits, steps, any::<bool>()), test).unwrap();
}

#[test]
fn four_nodes_that_flood_one_key_let_exactly_the_limit_pass() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = runtime();
    for limits in ["100/1;50", "20/1;5 600/60;300"] {
        let service = Service::new(limits);
        let limiter = || runtime.block_on(builder(&server).connect()).unwrap();
        let limiters = [(); 4].map(|()| limiter());
        let gates = limiters.each_ref().map(|limiter| service.gate(limiter));
        let flood = service.flood(&gates, 8, 2 * SECOND);
        let most = service.most(1, flood.took);
        let sum = |of: fn(&RedisLimiter) -> u64| limiters.iter().map(of).sum::<u64>();
        let asked = sum(|limiter| limiter.counts().asked);
        let trips = asked - flood.passed;
        println!("{limits}: {flood:?}, most {most}, {trips} trips of refused requests");
        assert!(flood.passed <= most, "{flood:?}, at most {most}");
        // A machine that stands still for a while loses what time adds meanwhile.
        assert!(flood.passed >= service.most(1, Duration::ZERO), "{flood:?}");
        assert!(flood.refused > 1000, "no flood: {flood:?}");
        assert!(trips * 5 <= flood.refused, "{trips} trips, {flood:?}");
        assert_eq!(sum(|limiter| limiter.counts().without_redis), 0);
    }
}

#[test]
fn several_limits_are_charged_together_or_not_at_all_and_share_a_slot() {
    let Some(server) = RedisServer::start_with(&["--cluster-enabled", "yes"]) else {
        return;
    };
    let runtime = runtime();
    // A cluster without any slots assigned refuses all commands.
    assert_eq!(server.command("CLUSTER ADDSLOTSRANGE 0 16383"), "+OK\r\n");
    until("the cluster is ok", || {
        server.command("CLUSTER INFO").contains("cluster_state:ok")
    });
    let limiter = runtime.block_on(builder(&server).connect()).unwrap();
    let world = World::new();
    let account = AccountId::parse("a{b}c%d:e").unwrap();
    block_on(world.admin().open_account(&world.operator(), &account)).unwrap();
    let change = AccountChange::new().shared_rate_limits(RateLimit::per_hour(5));
    block_on(
        world
            .admin()
            .update_account(&world.operator(), &account, change),
    )
    .unwrap();
    let gate = world.builder().limiter(limiter).build().unwrap();
    let key = |limit| {
        let new = keyward::NewKey::new(account.clone(), Environment::LIVE, "key");
        world.create(new.rate_limits(limit)).key.unwrap()
    };
    let passing = |key: &ApiKey| {
        let request = TestRequest::get().key(key.expose_secret());
        let ask = || decided(gate.check(&request, &Arc::default(), None));
        (0..100).take_while(|_| status(&ask()) == 200).count()
    };
    let (narrow, wide) = (key(RateLimit::per_hour(2)), key(RateLimit::per_hour(100)));
    assert_eq!(passing(&narrow), 2);
    // What the key's limit refused has not been taken from the account's.
    assert_eq!(passing(&wide), 3);
    assert_eq!(passing(&narrow), 0);

    let keys = server.command("KEYS keyward:*");
    let keys: Vec<_> = keys.lines().filter(|line| line.contains('{')).collect();
    let slot = |key: &&str| server.command(&format!("CLUSTER KEYSLOT {key}"));
    let slots: BTreeSet<_> = keys.iter().map(slot).collect();
    assert_eq!((keys.len(), slots.len()), (3, 1), "{keys:?}");
    let tag = "keyward:{a%7Bb%7Dc%25d:e:live}:";
    assert!(keys.iter().all(|key| key.starts_with(tag)), "{keys:?}");
    assert!(
        keys.iter().any(|key| key[tag.len()..] == *"5/3600;5"),
        "{keys:?}"
    );
}

#[test]
fn a_refund_reaches_other_nodes_within_a_second() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = runtime();
    let service = Service::new("1/86400;1");
    let nodes = [(); 2].map(|()| {
        let limiter = runtime.block_on(builder(&server).connect()).unwrap();
        service.gate(&limiter)
    });
    let taken = finish(service.check(&nodes[0], 1)).unwrap();
    assert_eq!(service.status(&nodes[1]), 429);
    taken.give_back();
    let took = until("the other node asks again", || {
        service.status(&nodes[1]) == 200
    });
    println!("known after {took:?}");
    assert_eq!(service.status(&nodes[0]), 429);
}

#[test]
fn a_key_expires_when_its_bucket_is_full() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = runtime();
    let service = Service::new("10/1;10");
    let gate = service.gate(&runtime.block_on(builder(&server).connect()).unwrap());
    assert_eq!(service.status(&gate), 200);
    assert!(server.command("KEYS keyward:{*").contains("10/1;10"));
    until("the key is gone", || {
        server.command("KEYS keyward:{*") == "*0\r\n"
    });
}

#[test]
fn a_value_far_ahead_counts_as_an_empty_bucket() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = runtime();
    let service = Service::new("1/2;3");
    let gate = service.gate(&runtime.block_on(builder(&server).connect()).unwrap());
    assert_eq!(service.status(&gate), 200);
    let keys = server.command("KEYS keyward:{*");
    let key = keys
        .lines()
        .find(|line| line.starts_with("keyward"))
        .unwrap();
    // As if the clock of the server had gone back by years.
    assert_eq!(
        server.command(&format!("SET {key} 4102444800000000123")),
        "+OK\r\n"
    );
    let (status, _, headers) = seen(&service.check(&gate, 1));
    assert_eq!(status, 429);
    assert!(
        headers.contains(&"retry-after: 2".to_owned()),
        "{headers:?}"
    );
    until("one request passes again", || service.status(&gate) == 200);
    assert_eq!(service.status(&gate), 429);
    // What nobody of us has written counts as nothing.
    for garbage in ["x", "12", "-1"] {
        assert_eq!(server.command(&format!("SET {key} {garbage}")), "+OK\r\n");
        let fresh = service.gate(&runtime.block_on(builder(&server).connect()).unwrap());
        assert_eq!(service.passing(&fresh), 3, "{garbage}");
    }
}

#[test]
fn flushed_scripts_are_loaded_again_unnoticed() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = runtime();
    let service = Service::new("20/86400;20");
    let limiter = runtime.block_on(builder(&server).connect()).unwrap();
    let gate = service.gate(&limiter);
    for _ in 0..5 {
        assert_eq!(server.command("SCRIPT FLUSH SYNC"), "+OK\r\n");
        let taken = service.check(&gate, 1);
        assert_eq!(server.command("SCRIPT FLUSH SYNC"), "+OK\r\n");
        finish(taken).unwrap().give_back();
        assert_eq!(service.status(&gate), 200);
    }
    // The last refund may take a moment.
    let passed = AtomicUsize::new(0);
    until("all refunds have arrived", || {
        let more = service.passing(&gate);
        passed.fetch_add(more, Ordering::Relaxed) + more == 15
    });
    assert_eq!(service.passing(&gate), 0);
    assert_eq!(limiter.counts().without_redis, 0);
}

#[test]
fn flushed_counters_cost_one_more_burst() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = runtime();
    let service = Service::new("10/86400;10");
    let limiter = runtime.block_on(builder(&server).connect()).unwrap();
    let gate = service.gate(&limiter);
    assert_eq!(service.passing(&gate), 10);
    assert_eq!(server.command("FLUSHALL"), "+OK\r\n");
    until("the node asks again", || service.status(&gate) == 200);
    assert_eq!(service.passing(&gate), 9);
}

#[test]
fn a_redis_that_is_killed_and_restarted_costs_one_more_burst() {
    let fallback = Fallback::refuse;
    let Some((passed, most, outage)) = kill_and_restart(fallback) else {
        return;
    };
    println!("{passed} of at most {most}; {outage:?}");
    assert_eq!(outage.without.passed, 0);
    assert!(passed <= most, "{passed} > {most}: {outage:?}");
}

#[test]
fn shares_go_on_from_what_is_left_while_redis_is_killed_and_restarted() {
    let fallback = || Fallback::share(4);
    let Some((passed, most, outage)) = kill_and_restart(fallback) else {
        return;
    };
    // Nodes that are connected later than others use their shares until then. A node may not have
    // heard of what others took last, and lets one pass in any case.
    let late = outage.late.as_millis() * 50 * 3 / 4 / 1000;
    let most = most + u64::try_from(late).unwrap() + 20;
    println!("{passed} of at most {most}; {outage:?}");
    assert!(outage.without.passed > 10, "{outage:?}");
    assert!(passed <= most, "{passed} > {most}: {outage:?}");
}

#[derive(Debug)]
#[expect(dead_code, reason = "shown where a test fails")]
struct Outage {
    before: Flood,
    without: Flood,
    after: Flood,
    /// The time between the first and the last new connection.
    late: Duration,
}

/// Returns what passed, the most that may pass with two full buckets, and the details.
fn kill_and_restart(fallback: impl Fn() -> Fallback) -> Option<(u64, u64, Outage)> {
    let mut server = RedisServer::start()?;
    let runtime = runtime();
    let service = Service::new("50/1;100");
    let limiters = [(); 4].map(|()| {
        let limiter = builder(&server).deadline(Duration::from_millis(100));
        runtime
            .block_on(limiter.fallback(fallback()).connect())
            .unwrap()
    });
    let gates = limiters.each_ref().map(|limiter| service.gate(limiter));
    let connected = || {
        let connected = |limiter: &&RedisLimiter| limiter.is_connected();
        limiters.iter().filter(connected).count()
    };
    let since = Instant::now();
    let before = service.flood(&gates, 4, SECOND);
    server.kill();
    let without = service.flood(&gates, 4, SECOND);
    assert_eq!(connected(), 0);
    let (after, late) = thread::scope(|threads| {
        let late = threads.spawn(|| {
            until("one is connected", || connected() > 0);
            until("all are connected", || connected() == 4)
        });
        server.start_again();
        let after = service.flood(&gates, 4, 3 * SECOND);
        (after, late.join().unwrap())
    });
    let passed = before.passed + without.passed + after.passed;
    let most = service.most(2, since.elapsed());
    // One task of each node has connected, though all requests failed.
    let info = server.command("INFO stats");
    let mut lines = info.lines();
    let connections = lines.find_map(|line| line.strip_prefix("total_connections_received:"));
    let connections: u32 = connections.unwrap().parse().unwrap();
    assert!(connections < 30, "{connections}");
    let outage = Outage {
        before,
        without,
        after,
        late,
    };
    Some((passed, most, outage))
}

#[test]
fn a_frozen_redis_delays_few_requests_and_is_used_again() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = runtime();
    let service = Service::new("10000/1;10000");
    let deadline = Duration::from_millis(50);
    let limiter = builder(&server).deadline(deadline).connect_timeout(SECOND);
    let limiter = limiter.fallback(Fallback::share(5)).max_failures(3);
    let limiter = runtime.block_on(limiter.connect()).unwrap();
    let gate = service.gate(&limiter);
    until("Redis answers in time", || {
        let before = limiter.counts().without_redis;
        service.status(&gate);
        limiter.is_connected() && limiter.counts().without_redis == before
    });
    server.freeze();
    let mut waited = Vec::new();
    for _ in 0..3 {
        let since = Instant::now();
        assert_ne!(service.status(&gate), 503);
        waited.push(since.elapsed());
    }
    assert!(
        waited.iter().all(|waited| *waited >= deadline),
        "{waited:?}"
    );
    assert!(!limiter.is_connected());
    // Nobody waits any more, and nothing piles up.
    let asked = limiter.counts().asked;
    for _ in 0..1000 {
        assert_ne!(service.status(&gate), 503);
    }
    assert_eq!(limiter.counts().asked, asked);
    server.thaw();
    let took = until("it is used again", || limiter.is_connected());
    println!("waited {waited:?}, used again after {took:?}");
}

#[test]
fn no_more_requests_wait_than_may() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = runtime();
    let service = Service::new("1000/1;1000");
    let limiter = builder(&server)
        .deadline(SECOND)
        .max_in_flight(8)
        .max_failures(u32::MAX);
    let limiter = runtime
        .block_on(limiter.fallback(Fallback::insecure_allow()).connect())
        .unwrap();
    let gate = service.gate(&limiter);
    server.freeze();
    let since = Instant::now();
    let requirement = Arc::new(Requirement::new());
    let request = TestRequest::get().key(service.key.expose_secret());
    let mut asked = Vec::new();
    for _ in 0..50 {
        if let Decision::Pending(pending) = gate.check(&request, &requirement, None) {
            asked.push(pending.with_timer(tokio::time::sleep));
        }
    }
    assert_eq!(asked.len(), 8);
    assert_eq!(limiter.counts().without_redis, 42);
    assert!(since.elapsed() < SECOND, "nobody has waited yet");
    for pending in asked {
        assert_eq!(status(&block_on(pending)), 200);
    }
    server.thaw();
    // The places are free again.
    until("Redis is asked again", || {
        let before = limiter.counts().without_redis;
        service.status(&gate) == 200 && limiter.counts().without_redis == before
    });
}

#[test]
fn without_memory_the_fallback_decides() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = runtime();
    let service = Service::new("100/86400;100");
    let limiter = runtime
        .block_on(builder(&server).max_failures(2).connect())
        .unwrap();
    let gate = service.gate(&limiter);
    assert_eq!(service.status(&gate), 200);
    assert_eq!(server.command("CONFIG SET maxmemory 1"), "+OK\r\n");
    assert_eq!(service.status(&gate), 503);
    assert_eq!(service.status(&gate), 503);
    assert!(!limiter.is_connected());
    thread::sleep(Duration::from_millis(300));
    assert!(!limiter.is_connected(), "the probe needs memory too");
    assert_eq!(server.command("CONFIG SET maxmemory 0"), "+OK\r\n");
    until("Redis is used again", || limiter.is_connected());
    assert_eq!(service.passing(&gate), 99);
}

#[test]
fn without_redis_the_service_chooses_what_happens() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let service = Service::new("10/86400;10");
    let passing = |fallback| {
        // Nothing listens there.
        let limiter = RedisLimiter::builder("redis://127.0.0.1:1").unwrap();
        let limiter = limiter.fallback(fallback).connect_lazily().unwrap();
        let gate = service.gate(&limiter);
        let passing = service.passing(&gate);
        assert_eq!(limiter.counts().asked, 0);
        (passing, service.check(&gate, 1))
    };
    let (passed, refusal) = passing(Fallback::default());
    assert_eq!((passed, status(&refusal)), (0, 503));
    let Verdict::Refuse(refusal) = refusal else {
        panic!()
    };
    let body = refusal.reply.body();
    assert!(body.ends_with(br#""code":"rate_limit_unavailable"}"#));
    assert!(
        refusal
            .reply
            .headers()
            .any(|header| header == ("retry-after", "1"))
    );
    let (passed, refusal) = passing(Fallback::share(3));
    assert_eq!((passed, status(&refusal)), (3, 429));
    let (passed, refusal) = passing(Fallback::share_among(|| 100));
    assert_eq!((passed, status(&refusal)), (1, 429));
    let (passed, _) = passing(Fallback::insecure_allow());
    assert_eq!(passed, 1000);
}

#[test]
fn a_refund_without_redis_goes_to_the_share() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let service = Service::new("1/86400;1");
    let limiter = RedisLimiter::builder("redis://127.0.0.1:1").unwrap();
    let gate = service.gate(
        &limiter
            .fallback(Fallback::share(1))
            .connect_lazily()
            .unwrap(),
    );
    let taken = finish(service.check(&gate, 1)).unwrap();
    assert_eq!(service.status(&gate), 429);
    taken.give_back();
    let mut finish = finish(service.check(&gate, 1)).unwrap();
    let mut response = TestResponse::new(200);
    finish.apply(&mut response);
    let lines = response.lines();
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("ratelimit: \"day\";r=0")),
        "{lines:?}"
    );
}

/// The lines that a subscriber has written.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_password_is_in_no_log_error_or_debug_output() {
    const PASSWORD: &str = "correct-horse";
    let Some(mut server) = RedisServer::start_with(&["--requirepass", PASSWORD]) else {
        return;
    };
    let log = Log::default();
    let writer = {
        let log = log.clone();
        move || log.clone()
    };
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
    let subscriber = subscriber.with_writer(writer).finish();
    let seen = AtomicBool::new(false);
    let hidden = |shown: &dyn fmt::Debug| {
        seen.store(true, Ordering::Relaxed);
        let shown = format!("{shown:?} {shown:#?}");
        assert!(!shown.contains("horse"), "{shown}");
    };
    tracing::subscriber::with_default(subscriber, || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let url = server.url().replace("//", &format!("//:{PASSWORD}@"));
        let builder = RedisLimiter::builder(&url).unwrap().max_failures(1);
        hidden(&builder);
        let limiter = runtime.block_on(builder.connect()).unwrap();
        hidden(&limiter);
        let wrong = url.replace("correct", "wrong");
        let error = runtime
            .block_on(RedisLimiter::builder(&wrong).unwrap().connect())
            .unwrap_err();
        assert_eq!(error.kind(), RedisErrorKind::Unavailable);
        hidden(&error);
        let malformed = format!("redis://:{PASSWORD}@127.0.0.1:port");
        let error = RedisLimiter::builder(&malformed).unwrap_err();
        assert_eq!(error.kind(), RedisErrorKind::Url);
        hidden(&error);
        server.kill();
        let service = Service::new("1/1;1");
        let gate = service.gate(&limiter);
        let pending = match gate.check(
            &TestRequest::get().key(service.key.expose_secret()),
            &Arc::default(),
            None,
        ) {
            Decision::Pending(pending) => pending,
            Decision::Ready(verdict) => panic!("{verdict:?}"),
        };
        let verdict = runtime.block_on(pending.with_timer(tokio::time::sleep));
        assert_eq!(status(&verdict), 503);
        // The task that connects logs too.
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(300)).await });
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("Redis does not answer"), "{log}");
    assert!(log.contains("failed to connect to Redis"), "{log}");
    assert!(!log.contains("horse"), "{log}");
    assert!(seen.into_inner());
}

#[test]
fn a_limiter_needs_a_runtime_with_a_timer() {
    let builder = || RedisLimiter::builder("redis://127.0.0.1:1").unwrap();
    let kind = builder().connect_lazily().unwrap_err().kind();
    assert_eq!(kind, RedisErrorKind::Runtime);
    let error = block_on(builder().connect()).unwrap_err();
    assert_eq!(error.kind(), RedisErrorKind::Runtime);
    let error = runtime().block_on(builder().connect()).unwrap_err();
    assert_eq!(error.kind(), RedisErrorKind::Unavailable);
}

#[test]
fn without_its_runtime_a_limiter_falls_back() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = runtime();
    let service = Service::new("10/86400;10");
    let limiter = builder(&server).fallback(Fallback::share(5));
    let limiter = runtime.block_on(limiter.connect()).unwrap();
    let gate = service.gate(&limiter);
    assert_eq!(service.status(&gate), 200);
    drop(runtime);
    assert_eq!(service.passing(&gate), 1, "the rest of a fifth");
    assert!(!limiter.is_connected());
}
