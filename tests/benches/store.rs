//! What the life of keys costs on a `SQLite` file, with a thousand and with a million keys in it.
//!
//! ```text
//! cargo bench -p tests --bench store
//! ```
//!
//! The keys belong to accounts of 50 each; what is created, revoked and listed belongs to one more.
//! Each figure is the median of its runs. `KEYS` sets other sizes, as `KEYS=1000,100000`.

use std::env;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use keyward::admin::KeyFilter;
use keyward::gate::Decision;
use keyward::record::{Account, KeyRecord};
use keyward::request::RequestHead;
use keyward::store::Commit;
use keyward::testing::block_on;
use keyward::{
    AccountId, Actor, ApiKey, Environment, Gate, KeyAdmin, KeyFormat, KeyId, KeyScheme, NewKey,
    Peppers, RateLimit, RateLimits, Requirement, Store,
};
use keyward_sqlite::SqliteStore;

const RUNS: usize = 201;

fn main() {
    // `cargo test --benches` runs it once, to see that it works.
    let sizes = if env::args().any(|arg| arg == "--bench") {
        env::var("KEYS").unwrap_or("1000,1000000".into())
    } else {
        "1000".into()
    };
    println!(
        "| keys | open | create | revoke | list page of 50 | verify, hit | verify, hit, two limits | verify, miss | flush of 1,000 used keys |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for size in sizes.split(',').map(|size| size.parse().unwrap()) {
        measure(size);
    }
}

fn measure(size: usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let format = KeyFormat::new("bench_{env}_").unwrap();
    let scheme = KeyScheme::new(format.clone());
    let acme = AccountId::parse("acme").unwrap();
    let operator = Actor::operator("bench");
    let store = SqliteStore::open(&path).unwrap();
    let admin = KeyAdmin::new(&store, &scheme);
    block_on(admin.open_account(&operator, &acme)).unwrap();
    drop((admin, store));
    let keys = fill(&path, &format, size);

    let open = time(3, || drop(black_box(SqliteStore::open(&path).unwrap())));
    let store = Arc::new(SqliteStore::open(&path).unwrap());
    let gate = Gate::new(&store, &scheme).unwrap();
    let admin = KeyAdmin::new(&store, &scheme);
    let admin = admin.max_active_keys(u32::MAX);

    let mut made = Vec::new();
    let create = time(RUNS, || {
        let new = NewKey::new(acme.clone(), Environment::LIVE, "bench");
        made.push(block_on(admin.create(&operator, new)).unwrap().record.id);
    });
    let mut left = made.into_iter();
    let revoke = time(RUNS, || {
        block_on(admin.revoke(&operator, left.next().unwrap(), "bench")).unwrap();
    });
    let list = time(RUNS, || {
        black_box(block_on(admin.keys(&operator, &acme, KeyFilter::new())).unwrap());
    });
    let requirement = Arc::new(Requirement::new());
    let check = |key: &ApiKey| black_box(gate.check(&Head(key), &requirement, None));
    let mut hits = keys.iter().cycle();
    let hit = time(RUNS, || {
        (0..100).for_each(|_| drop(check(hits.next().unwrap())));
    }) / 100;
    let limits = RateLimits::new([
        RateLimit::per_second(1_000_000),
        RateLimit::per_day(u32::MAX),
    ]);
    let limited = Gate::builder(&store, &scheme)
        .rate_limits(Environment::LIVE, limits.unwrap())
        .build()
        .unwrap();
    let check_limited = |key: &ApiKey| black_box(limited.check(&Head(key), &requirement, None));
    let limited_hit = time(RUNS, || {
        (0..100).for_each(|_| drop(check_limited(hits.next().unwrap())));
    }) / 100;
    let strangers: Vec<_> = (0..100)
        .map(|_| format.generate(Environment::LIVE).unwrap())
        .collect();
    let miss = time(RUNS, || strangers.iter().for_each(|key| drop(check(key)))) / 100;
    let flush = time(11, || {
        for key in keys.iter().take(1000) {
            assert!(matches!(check(key), Decision::Ready(_)));
        }
        block_on(store.flush()).unwrap();
    });
    println!(
        "| {size} | {open:.1?} | {create:.1?} | {revoke:.1?} | {list:.1?} | {hit:.0?} | {limited_hit:.0?} | {miss:.0?} | {flush:.1?} |"
    );
}

/// Puts keys into the file, 50 an account and ten thousand a commit; gives up to 1,000 of them.
fn fill(path: &std::path::Path, format: &KeyFormat, size: usize) -> Vec<ApiKey> {
    let store = SqliteStore::open(path).unwrap();
    let account = |n: usize| AccountId::parse(&format!("account-{}", n / 50)).unwrap();
    let mut some = Vec::new();
    for first in (0..size).step_by(10_000) {
        let commit = first..size.min(first + 10_000);
        let accounts = commit.clone().step_by(50).map(|n| Account::new(account(n)));
        let record = |n| {
            let key = format.generate(Environment::LIVE).unwrap();
            let record = KeyRecord::new(
                KeyId::random().unwrap(),
                Peppers::none().digest(&key),
                key.hint().clone(),
                account(n),
                Environment::LIVE,
                SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            );
            if some.len() < 1000 {
                some.push(key);
            }
            record
        };
        let (accounts, keys) = (accounts.collect(), commit.clone().map(record).collect());
        let commit = Commit {
            accounts,
            keys,
            ..Commit::default()
        };
        block_on(store.commit(commit)).unwrap();
    }
    some
}

/// The median time of a run.
fn time(runs: usize, mut run: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..runs)
        .map(|_| {
            let began = Instant::now();
            run();
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[runs / 2]
}

struct Head<'a>(&'a ApiKey);

impl RequestHead for Head<'_> {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn peer(&self) -> Option<IpAddr> {
        None
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let key = self.0.expose_secret().as_bytes();
        (field == "x-api-key").then_some(key).into_iter()
    }
}
