//! What holds when the server, or the way to it, fails.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use keyward::denial::DenialKind;
use keyward::record::KeyStatus;
use keyward::store::StoreErrorKind;
use keyward::testing::block_on;
use keyward::{ApiKey, Store};

use crate::fixture::{
    Fixture, Server, add, ask, ask_gate, ask_strictly, commit, eventually, key, left, rich, stored,
    used,
};
use crate::{PostgresOptions, PostgresStore};

const PASS: u8 = 0;
/// Nothing passes, and no connection ends: as when a cable is pulled.
const HOLE: u8 = 1;
/// The next commit reaches the server, and its answer is lost.
const LOSE: u8 = 2;

/// The network between a store and its server.
#[derive(Clone)]
struct Network {
    port: u16,
    target: Arc<Mutex<String>>,
    mode: Arc<AtomicU8>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Network {
    fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let network = Self {
            port: listener.local_addr().unwrap().port(),
            target: Arc::new(Mutex::new(address(url))),
            mode: Arc::default(),
            streams: Arc::default(),
        };
        let new = network.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let target = new.target.lock().unwrap().clone();
                let Ok(server) = TcpStream::connect(target) else {
                    continue;
                };
                new.connect(&client.unwrap(), &server);
            }
        });
        network
    }

    /// Returns the URL of a database through this network.
    fn url(&self, url: &str) -> String {
        url.replace(&address(url), &format!("127.0.0.1:{}", self.port))
    }

    fn connect(&self, client: &TcpStream, server: &TcpStream) {
        let both = [client.try_clone().unwrap(), server.try_clone().unwrap()];
        self.streams.lock().unwrap().extend(both);
        let is_lost = Arc::new(AtomicU8::new(PASS));
        for (mut from, mut to, is_request) in [
            (
                client.try_clone().unwrap(),
                server.try_clone().unwrap(),
                true,
            ),
            (
                server.try_clone().unwrap(),
                client.try_clone().unwrap(),
                false,
            ),
        ] {
            let (mode, is_lost) = (Arc::clone(&self.mode), Arc::clone(&is_lost));
            thread::spawn(move || {
                let mut bytes = [0; 8192];
                while let Ok(count @ 1..) = from.read(&mut bytes) {
                    let bytes = &bytes[..count];
                    while mode.load(Ordering::Acquire) == HOLE {
                        thread::sleep(Duration::from_millis(5));
                    }
                    let is_commit = || bytes.windows(7).any(|some| some == b"COMMIT\0");
                    if is_request && mode.load(Ordering::Acquire) == LOSE && is_commit() {
                        mode.store(PASS, Ordering::Release);
                        is_lost.store(LOSE, Ordering::Release);
                    } else if !is_request && is_lost.load(Ordering::Acquire) == LOSE {
                        break;
                    }
                    if to.write_all(bytes).is_err() {
                        break;
                    }
                }
                drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
            });
        }
    }

    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::Release);
    }

    /// Ends all connections, and leads new ones to another server.
    fn lead_to(&self, url: &str) {
        *self.target.lock().unwrap() = address(url);
        for stream in self.streams.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

/// Returns host and port of a URL.
fn address(url: &str) -> String {
    let (_, rest) = url.split_once('@').unwrap();
    rest.split_once('/').unwrap().0.to_owned()
}

fn quick() -> PostgresOptions {
    PostgresOptions::new().deadline(Duration::from_secs(2))
}

/// Returns how long a gate lets a key pass that is not known to be revoked.
fn passes_for(store: &PostgresStore, key: &ApiKey, max_staleness: Duration) -> Duration {
    let since = Instant::now();
    let mut passed = Duration::ZERO;
    // What waits for a poll is refused later.
    while ask_gate(store.replica(), max_staleness, key) == Ok(()) {
        passed = since.elapsed();
        assert!(passed < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(5));
    }
    assert!(since.elapsed() < Duration::from_secs(10));
    passed
}

#[test]
fn a_server_that_freezes_lets_no_key_pass_beyond_the_staleness_and_fails_calls_in_time() {
    let server = Server::start();
    let fixture = Fixture::on(&server);
    let store = fixture.open_with(&quick());
    let (secret, mut record) = add(&store, "acme");
    let staleness = Duration::from_secs(1);
    server.signal("STOP");
    let passed = passes_for(&store, &secret, staleness);
    assert!(passed < staleness + Duration::from_secs(1), "{passed:?}");
    assert_eq!(
        ask_gate(store.replica(), staleness, &secret),
        Err(DenialKind::Unavailable)
    );
    let since = Instant::now();
    record.status = KeyStatus::Revoked;
    let revoked = commit(&store, vec![], vec![record.clone()]);
    assert_eq!(revoked, Err(StoreErrorKind::Unavailable));
    let read = block_on(store.key(record.id)).unwrap_err();
    assert_eq!(read.kind(), StoreErrorKind::Unavailable);
    assert!(since.elapsed() < Duration::from_secs(15), "{since:?}");
    server.signal("CONT");
    eventually(|| ask_gate(store.replica(), staleness, &secret) != Err(DenialKind::Unavailable));
    // It is not known whether it was written.
    commit(&store, vec![], vec![stored_revoked(&store, &record)]).unwrap_or_default();
    assert_eq!(ask_strictly(&store, &secret), Err(DenialKind::Revoked));
}

fn stored_revoked(
    store: &PostgresStore,
    record: &keyward::record::KeyRecord,
) -> keyward::record::KeyRecord {
    let mut record = stored(store, record.id);
    record.status = KeyStatus::Revoked;
    record
}

#[test]
fn a_server_that_is_killed_and_starts_again_is_followed_on() {
    let mut server = Server::start();
    let fixture = Fixture::on(&server);
    let store = fixture.open_with(&quick());
    let (secret, record) = add(&store, "acme");
    (0..3).for_each(|_| assert_eq!(ask(&store, &secret), Ok(())));
    server.signal("KILL");
    eventually(|| ask_strictly(&store, &secret) == Err(DenialKind::Unavailable));
    assert_eq!(ask(&store, &secret), Ok(()), "memory is fresh enough");
    block_on(store.flush()).unwrap_err();
    server.start_again();
    eventually(|| ask_strictly(&store, &secret) == Ok(()));
    let revoked = commit(&store, vec![], vec![stored_revoked(&store, &record)]);
    assert_eq!(revoked, Ok(()));
    assert_eq!(ask(&store, &secret), Err(DenialKind::Revoked));
    block_on(store.flush()).unwrap();
    let (admitted, _) = used(&store, "acme");
    assert!(admitted >= 5, "{admitted}");
}

#[test]
fn connections_that_the_server_ends_are_replaced() {
    let fixture = Fixture::new();
    let store = fixture.open();
    let (secret, _) = add(&store, "acme");
    for _ in 0..5 {
        fixture
            .type_in(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .unwrap();
        eventually(|| ask_strictly(&store, &secret) == Ok(()));
        eventually(|| block_on(store.flush()).is_ok());
        let (_, record) = key("acme");
        eventually(|| {
            let written = commit(&store, vec![], vec![record.clone()]);
            // One that was written before its answer was lost.
            matches!(written, Ok(()) | Err(StoreErrorKind::Conflict))
        });
    }
}

#[test]
fn a_network_that_goes_silent_lets_no_key_pass_beyond_the_staleness_and_heals() {
    let fixture = Fixture::new();
    let network = Network::to(&fixture.url);
    let url = network.url(&fixture.url);
    let store = block_on(quick().connect(&url)).unwrap();
    let (secret, _) = add(&store, "acme");
    let staleness = Duration::from_secs(1);
    network.set(HOLE);
    fixture
        .type_in("UPDATE keyward.key SET status = 'revoked'")
        .unwrap();
    let passed = passes_for(&store, &secret, staleness);
    assert!(passed < staleness + Duration::from_secs(1), "{passed:?}");
    assert_eq!(
        ask_gate(store.replica(), staleness, &secret),
        Err(DenialKind::Unavailable)
    );
    network.set(PASS);
    eventually(|| ask(&store, &secret) == Err(DenialKind::Revoked));
}

#[test]
fn a_server_that_lost_its_latest_changes_is_read_anew() {
    let server = Server::start();
    let fixture = Fixture::on(&server);
    let network = Network::to(&fixture.url);
    let store = block_on(quick().connect(&network.url(&fixture.url))).unwrap();
    let (first, one) = add(&store, "acme");
    let (second, two) = add(&store, "other");
    // The copy knows nothing of what follows.
    let old = server.copy_of(false);
    let revoked = commit(&store, vec![], vec![stored_revoked(&store, &one)]);
    assert_eq!(revoked, Ok(()));
    assert_eq!(ask(&store, &first), Err(DenialKind::Revoked));
    network.lead_to(&old.url);
    // Before the store has looked, the copy gives the same number to another change.
    let typed = format!(
        "UPDATE keyward.key SET status = 'revoked' WHERE id = '{}'",
        two.id
    );
    let mut psql = crate::fixture::connect(&fixture.url_on(&old)).unwrap();
    psql.execute(&typed).unwrap();
    eventually(|| ask(&store, &second) == Err(DenialKind::Revoked));
    // The truth is what the server says, and the log tells of it.
    eventually(|| ask_strictly(&store, &first) == Ok(()));
    assert_eq!(ask(&store, &second), Err(DenialKind::Revoked));
}

#[test]
fn a_batch_whose_commit_was_not_answered_is_counted_once() {
    let fixture = Fixture::new();
    let network = Network::to(&fixture.url);
    let store = block_on(quick().connect(&network.url(&fixture.url))).unwrap();
    let (secret, record) = add(&store, "acme");
    let mut asked = 0;
    for _ in 0..4 {
        for _ in 0..5 {
            assert_eq!(ask(&store, &secret), Ok(()));
            asked += 1;
        }
        network.set(LOSE);
        let error = block_on(store.flush()).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert_eq!(used(&store, "acme"), (asked, 0), "it was written");
        assert_eq!(ask(&store, &secret), Ok(()));
        asked += 1;
        block_on(store.flush()).unwrap();
        assert_eq!(used(&store, "acme"), (asked, 0));
    }
    assert!(stored(&store, record.id).last_used_at.is_some());
}

#[test]
fn a_change_whose_commit_was_not_answered_is_in_force_all_the_same() {
    let fixture = Fixture::new();
    let network = Network::to(&fixture.url);
    let store = block_on(quick().connect(&network.url(&fixture.url))).unwrap();
    let (secret, record) = add(&store, "acme");
    let record = stored_revoked(&store, &record);
    network.set(LOSE);
    let revoked = commit(&store, vec![], vec![record.clone()]);
    assert_eq!(revoked, Err(StoreErrorKind::Unavailable));
    eventually(|| ask(&store, &secret) == Err(DenialKind::Revoked));
    let again = commit(&store, vec![], vec![record]);
    assert_eq!(again, Err(StoreErrorKind::Conflict));
}

#[test]
fn credits_whose_return_was_not_answered_are_shown_and_returned_once() {
    let fixture = Fixture::new();
    let network = Network::to(&fixture.url);
    let options = quick().flush_interval(Duration::from_secs(3600));
    let store = Arc::new(block_on(options.connect(&network.url(&fixture.url))).unwrap());
    let (owner, secret) = rich(&store, 10_000);
    let left = || left(&store, &owner);
    let held = || {
        store
            .replica()
            .held_of(&owner)
            .map_or(0, |held| held.amount)
    };
    let mut spent = 0;
    while spent < 200 || held() < 20 {
        assert_eq!(ask(&store, &secret), Ok(()));
        spent += 1;
    }
    // What is not needed any more goes back after a second, and the answer to that is lost.
    network.set(LOSE);
    let since = Instant::now();
    while held() > 0 {
        assert_eq!(left(), 10_000 - spent);
        assert!(since.elapsed() < Duration::from_secs(20));
    }
    for _ in 0..200 {
        assert_eq!(left(), 10_000 - spent);
        thread::sleep(Duration::from_millis(10));
    }
    let stored = "SELECT remaining FROM keyward.credit";
    let stored: u64 = fixture.psql().value(stored).parse().unwrap();
    assert_eq!(stored, 10_000 - spent);
}
