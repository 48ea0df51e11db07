//! A year of ordinary rotation takes no more memory than its first weeks.
//!
//! Only a part of the year is run, unless it is asked for:
//!
//! ```text
//! YEARS=1 cargo test --release -p tests --test years -- --nocapture
//! ```
//!
//! This program has no other tests, so that all it allocates is theirs, on whichever thread.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs};

use keyward::clock::{Clock, ManualClock};
use keyward::credits::Credits;
use keyward::denial::DenialKind;
use keyward::gate::Verdict;
use keyward::record::{Account, KeyRecord, KeyStatus};
use keyward::replica::{Replica, Revision};
use keyward::request::RequestHead;
use keyward::testing::{block_on, decided};
use keyward::{
    AccountId, Actor, ApiKey, Environment, Gate, Grace, KeyAdmin, KeyFormat, KeyId, KeyScheme,
    NewKey, Peppers, RateLimit, RateLimits, Requirement, Store,
};
use keyward_sqlite::{SqliteOptions, SqliteStore};
use peak_alloc::PeakAlloc;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, params};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How much is done: all of it only where that is asked for.
fn scaled(whole: u32, part: u32) -> u32 {
    if env::var_os("YEARS").is_some() {
        whole
    } else {
        part
    }
}

/// The tests take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The memory of the process that is no file, as Linux sees it: also what `SQLite` allocates.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.map_or("0", |line| line.trim().trim_end_matches(" kB"));
    1024 * kilobytes.parse::<usize>().unwrap()
}

fn format() -> KeyFormat {
    KeyFormat::new("year_{env}_").unwrap()
}

fn scheme() -> KeyScheme {
    KeyScheme::new(format())
}

fn acme() -> AccountId {
    AccountId::parse("acme").unwrap()
}

fn ask(gate: &Gate, key: &ApiKey) -> Result<(), DenialKind> {
    match decided(gate.check(&Get(key), &Arc::<Requirement>::default(), None)) {
        Verdict::Admit(_) => Ok(()),
        Verdict::Refuse(refusal) => Err(refusal.denial.unwrap().kind()),
    }
}

/// A service whose keys live for a minute each.
struct Service {
    clock: Arc<ManualClock>,
    replica: Replica,
    gate: Gate,
    number: u64,
    used: u64,
    counted: u64,
}

impl Service {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(Duration::from_secs(1_700_000_000)));
        // It remembers a hundred dead keys.
        let replica = Replica::with(Arc::<ManualClock>::clone(&clock), 1000);
        let gate = Gate::builder_from_replica(&replica, &scheme());
        let gate = gate.build().unwrap();
        let mut service = Self {
            clock,
            replica,
            gate,
            number: 0,
            used: 0,
            counted: 0,
        };
        service.feed(&[]);
        service
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.clock.unix()
    }

    fn feed(&mut self, records: &[&KeyRecord]) {
        let mut poll = self.replica.poll();
        if self.number == 0 {
            poll.account(Account::new(acme()));
        }
        for record in records {
            poll.key(record);
        }
        self.number += 1;
        let number = self.number;
        poll.finish(Revision { number, nonce: 0 }).unwrap();
    }

    /// A new key, each with a limit of its own.
    fn key(&self, per_minute: u32) -> (ApiKey, KeyRecord) {
        let key = format().generate(Environment::LIVE).unwrap();
        let mut record = KeyRecord::new(
            KeyId::random().unwrap(),
            Peppers::none().digest(&key),
            key.hint().clone(),
            acme(),
            Environment::LIVE,
            self.now(),
        );
        record.rate_limits = RateLimits::from(RateLimit::per_minute(per_minute));
        (key, record)
    }

    fn ask(&mut self, key: &ApiKey) {
        assert_eq!(ask(&self.gate, key), Ok(()));
        self.used += 1;
    }

    /// Creates, rotates and revokes.
    fn cycle(&mut self, number: u32) {
        let (old, mut first) = self.key(number + 2);
        self.feed(&[&first]);
        self.ask(&old);
        let (new, mut second) = self.key(number + 2);
        (first.successor, second.lineage) = (Some(second.id), first.id);
        second.predecessor = Some(first.id);
        self.feed(&[&first, &second]);
        self.ask(&new);
        self.clock.advance(Duration::from_secs(60));
        for record in [&mut first, &mut second] {
            record.status = KeyStatus::Revoked;
            record.revoked_at = Some(self.now());
        }
        self.feed(&[&first, &second]);
        if number % 100 == 99 {
            let counts = self.replica.take_usage();
            self.counted += counts
                .iter()
                .map(|count| count.counts.admitted)
                .sum::<u64>();
        }
    }
}

struct Get<'a>(&'a ApiKey);

impl RequestHead for Get<'_> {
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

#[test]
fn keys_that_come_and_go_leave_nothing_in_memory() {
    let _turn = alone();
    let cycles = scaled(100_000, 10_000);
    let before = HEAP.current_usage();
    let mut service = Service::new();
    let mut number = 0;
    // The most that is held at the end of any hundred cycles.
    let mut most = |service: &mut Service, until: u32| {
        let mut most = 0;
        while number < until {
            (number..number + 100).for_each(|number| service.cycle(number));
            number += 100;
            most = most.max(HEAP.current_usage() - before);
        }
        most
    };
    let first = most(&mut service, cycles / 10);
    let rest = most(&mut service, cycles);
    println!("{cycles} cycles in memory: {first} bytes in the first tenth, {rest} bytes after it");
    assert!(rest <= first + first / 5, "{first} bytes, then {rest}");
    assert_eq!(service.replica.living(), 0);
    assert_eq!(service.replica.len(), 100);
    assert_eq!(service.counted, service.used, "no use is lost");
}

const KIB: usize = 1024;

/// The cycles over which the memory of a process is averaged: a tenth of the whole, and long enough for what
/// is cleared when it has doubled.
const TENTH: u32 = 200;

/// The memory that a process holds on average, and the most that its log had.
#[derive(Debug)]
struct Held {
    heap: usize,
    resident: usize,
    log: u64,
}

#[test]
fn keys_that_come_and_go_in_a_file_leave_nothing_in_the_process() {
    let _turn = alone();
    let cycles = scaled(10 * TENTH, 4 * TENTH);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.db");
    // It remembers ten dead keys.
    let options = SqliteOptions::new().ceiling(100);
    let store = Arc::new(options.open(&path).unwrap());
    let gate = Gate::builder(&store, &scheme());
    let gate = gate.build().unwrap();
    let admin = KeyAdmin::new(&store, &scheme());
    let operator = Actor::operator("test");
    block_on(admin.open_account(&operator, &acme())).unwrap();

    let cycle = |number: u32| {
        let new = NewKey::new(acme(), Environment::LIVE, "key")
            .rate_limits(RateLimit::per_minute(number + 10))
            .credits(Credits::new(1000));
        let first = block_on(admin.create(&operator, new)).unwrap();
        let grace = Grace::For(Duration::from_secs(60));
        let second = block_on(admin.rotate(&operator, first.record.id, grace)).unwrap();
        for made in [first, second] {
            let key = made.key.unwrap();
            assert_eq!(ask(&gate, &key), Ok(()));
            block_on(admin.revoke(&operator, made.record.id, "test")).unwrap();
            // Unknown where more than ten have died in this second.
            assert!(ask(&gate, &key).is_err());
        }
    };
    let mut number = 0;
    let mut average = || {
        let (mut heap, mut resident_sum, mut log) = (0, 0, 0);
        for _ in 0..TENTH / 10 {
            (number..number + 10).for_each(&cycle);
            number += 10;
            block_on(store.flush()).unwrap();
            heap += HEAP.current_usage();
            resident_sum += resident();
            let now = fs::metadata(dir.path().join("keys.db-wal")).unwrap();
            log = log.max(now.len());
        }
        let times = usize::try_from(TENTH / 10).unwrap();
        let (heap, resident) = (heap / times, resident_sum / times);
        Held {
            heap,
            resident,
            log,
        }
    };
    let tenths: Vec<_> = (0..cycles / TENTH).map(|_| average()).collect();
    for tenth in &tenths {
        println!("{TENTH} cycles in a file: {tenth:?}");
    }
    // The first fills what is then cleared again and again.
    let (first, last) = (&tenths[1], &tenths[tenths.len() - 1]);
    // It would be more by far if each key left 300 bytes.
    assert!(last.heap <= first.heap + 128 * KIB);
    // Of the file, SQLite keeps two megabytes for each of the store's three connections.
    assert!(last.resident <= first.resident + 4096 * KIB);
    // It writes anew from the beginning of the log at a thousand pages, if not earlier.
    assert!(last.log <= 4096 * 1024);
    assert_eq!(store.replica().len(), 10);
}

/// A key of a file, and how long it has been dead.
type Known = (ApiKey, Option<Duration>);

#[test]
fn a_file_in_which_most_keys_are_dead_opens_and_serves_the_living() {
    let _turn = alone();
    let (living, dead) = (scaled(50_000, 1_000), scaled(1_150_000, 23_000));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.db");
    // It remembers those that died in the last ten days.
    let remembered = dead / 115 * 10;
    let options = SqliteOptions::new().ceiling(usize::try_from(remembered).unwrap() * 10);
    let began = Instant::now();
    let keys = fill(&path, living, dead);
    println!(
        "{living} living and {dead} dead keys written in {:.1?}",
        began.elapsed()
    );

    let (before, began) = (HEAP.current_usage(), Instant::now());
    HEAP.reset_peak_usage();
    let store = Arc::new(options.open(&path).unwrap());
    let took = began.elapsed();
    let (held, most) = (HEAP.current_usage() - before, HEAP.peak_usage() - before);
    println!("opened in {took:.1?}, holds {held} bytes, held {most} meanwhile");
    // With what they share: more than the 130 bytes of a living key, as the dead are also kept by age.
    let bound = usize::try_from(living + remembered).unwrap() * 250 + 256 * KIB;
    assert!(held <= bound && most <= 2 * bound, "{bound}");
    let size = fs::metadata(&path).unwrap().len();
    println!("the file has {size} bytes, the process {}", resident());
    assert_eq!(store.replica().living(), usize::try_from(living).unwrap());
    assert_eq!(
        store.replica().len(),
        usize::try_from(living + remembered).unwrap()
    );

    let gate = Gate::builder(&store, &scheme());
    let gate = gate.build().unwrap();
    let mut answers = BTreeMap::new();
    for (key, died) in &keys {
        let answer = ask(&gate, key);
        match died.map(|died| died < 10 * DAY) {
            None => assert_eq!(answer, Ok(())),
            Some(true) => assert!(
                matches!(answer, Err(DenialKind::Revoked | DenialKind::Expired)),
                "{died:?}: {answer:?}"
            ),
            Some(false) => assert_eq!(answer, Err(DenialKind::Unknown), "{died:?}"),
        }
        *answers.entry(format!("{answer:?}")).or_insert(0) += 1;
    }
    println!("{answers:?}");

    let admin = KeyAdmin::new(&store, &scheme());
    let admin = admin.max_active_keys(u32::MAX);
    let operator = Actor::operator("test");
    let new = NewKey::new(acme(), Environment::LIVE, "key");
    let made = block_on(admin.create(&operator, new)).unwrap();
    let key = made.key.unwrap();
    assert_eq!(ask(&gate, &key), Ok(()));
    block_on(admin.revoke(&operator, made.record.id, "test")).unwrap();
    assert_eq!(ask(&gate, &key), Err(DenialKind::Revoked));
}

/// Writes living keys, and dead ones of which as many have died on each of 115 days; gives the living,
/// and some of the dead.
fn fill(path: &Path, living: u32, dead: u32) -> Vec<Known> {
    let store = SqliteStore::open(path).unwrap();
    let admin = KeyAdmin::new(&store, &scheme());
    block_on(admin.open_account(&Actor::operator("test"), &acme())).unwrap();
    drop((admin, store));
    let now = SystemTime::now();
    let between = 115 * DAY / dead;
    let mut known = Vec::new();
    let mut file = Connection::open(path).unwrap();
    // As the store and the triggers write it, it would take many minutes.
    let triggers = DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
    file.set_db_config(triggers, false).unwrap();
    let fast = "PRAGMA cache_size = -2000000; PRAGMA synchronous = OFF";
    file.execute_batch(fast).unwrap();
    let insertion = file.transaction().unwrap();
    let mut insert = insertion
        .prepare(
            "INSERT INTO keyward_key (id, digest_scheme, digest, hint, account, environment, \
             created_at, lineage, revision, status, revoked_at, expires_at) \
             VALUES (?1, ?2, ?3, ?4, 'acme', 'live', 0, ?1, 1, ?5, ?6, ?7)",
        )
        .unwrap();
    for number in 0..living + dead {
        let key = format().generate(Environment::LIVE).unwrap();
        let digest = Peppers::none().digest(&key);
        // In the middle, so that none dies at a bound of days.
        let died = number.checked_sub(living);
        let died = died.map(|nth| between * nth + between / 2);
        let at = died.map(|ago| (now - ago).duration_since(SystemTime::UNIX_EPOCH).unwrap());
        let at = at.map(|at| i64::try_from(at.as_millis()).unwrap());
        let (status, revoked_at, expires_at) = if number.is_multiple_of(2) || at.is_none() {
            ("active", None, at)
        } else {
            ("revoked", at, None)
        };
        let row = params![
            KeyId::random().unwrap().to_string(),
            digest.scheme().to_string(),
            digest.expose_bytes(),
            key.hint().to_string(),
            status,
            revoked_at,
            expires_at,
        ];
        insert.execute(row).unwrap();
        if died.is_none() || number.is_multiple_of(101) {
            known.push((key, died));
        }
    }
    drop(insert);
    insertion.commit().unwrap();
    known
}
