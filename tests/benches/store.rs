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

use keyward::admin::{AccountFilter, BulkMode, KeyFilter};
use keyward::gate::Decision;
use keyward::record::{Account, KeyRecord};
use keyward::request::RequestHead;
use keyward::store::{Commit, KeySearch};
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
    let sizes = sizes.split(',').map(|size| size.parse().unwrap());
    let searches: Vec<_> = sizes.map(measure).collect();
    println!();
    println!(
        "| keys | by hint | by whole key | by id | by name | of an actor | newest of all | unused, none | page of accounts | dry run of 250 | revoke 250 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for row in searches {
        println!("{row}");
    }
}

/// Prints a row of the first table and returns one of the second.
fn measure(size: usize) -> String {
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
    search(&admin, &scheme, &keys, size)
}

/// Measures lists and searches over all accounts, and the revocation of 250 keys.
fn search(admin: &KeyAdmin, scheme: &KeyScheme, keys: &[ApiKey], size: usize) -> String {
    let operator = Actor::operator("bench");
    let list = |filter: KeyFilter| {
        let page = block_on(admin.keys(&operator, None, filter)).unwrap();
        page.keys.len()
    };
    let find = |search| list(KeyFilter::new().search(search));
    let ids: Vec<_> = keys
        .iter()
        .map(|key| {
            let search = KeyFilter::new().search(KeySearch::of_key(scheme, key.expose_secret()));
            let page = block_on(admin.keys(&operator, None, search)).unwrap();
            page.keys[0].record.id
        })
        .collect();
    let mut next = (0..keys.len()).cycle();
    let mut one = |search: &dyn Fn(usize) -> KeySearch| {
        time(RUNS, || assert!(find(search(next.next().unwrap())) > 0))
    };
    let hint = one(&|n| KeySearch::Hint(keys[n].hint().clone()));
    let whole = one(&|n| KeySearch::of_key(scheme, keys[n].expose_secret()));
    let id = one(&|n| KeySearch::Id(ids[n]));
    let name = one(&|n| KeySearch::Name(format!("KEY-{n}")));
    let mut accounts = (0..size / 250).cycle();
    let actor = time(RUNS, || {
        let actor = format!("user:{}", accounts.next().unwrap());
        assert_eq!(list(KeyFilter::new().created_by(&actor)), 50);
    });
    let newest = time(RUNS, || assert_eq!(list(KeyFilter::new()), 50));
    let long_ago = KeyFilter::new().unused_since(SystemTime::UNIX_EPOCH);
    let unused = time(3, || assert_eq!(list(long_ago.clone()), 0));
    let page = time(RUNS, || {
        let filter = AccountFilter::new().prefix("account-1");
        assert!(
            !block_on(admin.accounts(&operator, filter))
                .unwrap()
                .accounts
                .is_empty()
        );
    });
    let bulk = |own: usize, mode| {
        let filter = KeyFilter::new().created_by(&format!("user:{own}"));
        let done = admin.revoke_matching(&operator, None, filter, "bench", mode);
        assert_eq!(block_on(done).unwrap(), 250);
    };
    let dry = time(3, || bulk(3, BulkMode::DryRun));
    let mut actors = 0..;
    let revoked = time(3, || bulk(actors.next().unwrap(), BulkMode::Commit));
    format!(
        "| {size} | {hint:.2?} | {whole:.2?} | {id:.2?} | {name:.2?} | {actor:.2?} | {newest:.2?} | {unused:.1?} | {page:.2?} | {dry:.1?} | {revoked:.1?} |"
    )
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
            let mut record = KeyRecord::new(
                KeyId::random().unwrap(),
                Peppers::none().digest(&key),
                key.hint().clone(),
                account(n),
                Environment::LIVE,
                SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            );
            record.name = format!("key-{n}");
            record.created_by = Some(format!("user:{}", n / 250));
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
