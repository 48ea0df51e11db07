//! A file whose rows hold anything: it is read, no other key suffers, and no key works that should not.
//!
//! One store is open all the time, and the rows are made anew by another connection, as another process
//! would: to open the file for every input costs more than all that is tested.
//!
//! Each line is a column of the key's row, as `name=` and a value, or, as `account.name=`, of its
//! account's. A value is `n`, `i` and a number, `r` and a number, `t` and a text, or `b` and
//! hexadecimal digits.

#![no_main]

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyward::testing::{block_on, decided};
use keyward::{AccountId, Actor, Environment, Gate, KeyAdmin, Requirement, Store};
use keyward::admin::KeyFilter;
use keyward::clock::ManualClock;
use keyward::key::DigestScheme;
use keyward::record::{Account, KeyRecord};
use keyward::store::{Commit, KeyQuery};
use keyward_fuzz::{Head, LIVE, NOW, REVOKED, denial, digest, scheme, record};
use keyward_sqlite::{SqliteOptions, SqliteStore};
use libfuzzer_sys::fuzz_target;
use rusqlite::types::Value;
use rusqlite::{Connection, params};
use tempfile::TempDir;

/// The key of another account, which is good; and the one whose row is changed.
const OTHER: &str = LIVE;
const OWN: &str = REVOKED;

struct World {
    _folder: TempDir,
    /// With both keys, each good.
    store: Arc<SqliteStore>,
    gate: Gate,
    /// What writes past the store.
    file: Connection,
    own: KeyRecord,
}

impl World {
    fn new() -> Self {
        // In memory, where there is such a folder.
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() {
            memory
        } else {
            std::env::temp_dir()
        };
        let folder = tempfile::tempdir_in(folder).unwrap();
        let path = folder.path().join("keys.db");
        let mut other = record(OTHER, Environment::LIVE, "aa");
        other.account = AccountId::parse("other").unwrap();
        let own = record(OWN, Environment::LIVE, "bb");
        let options = SqliteOptions::new()
            .clock(Arc::new(ManualClock::at(NOW)))
            .poll_interval(Duration::MAX)
            .flush_interval(Duration::MAX);
        let store = Arc::new(options.open(&path).unwrap());
        let commit = Commit {
            accounts: vec![
                Account::new(own.account.clone()),
                Account::new(other.account.clone()),
            ],
            keys: vec![own.clone(), other],
            ..Commit::default()
        };
        block_on(store.commit(commit)).unwrap();
        let file = Connection::open(path).unwrap();
        file.set_prepared_statement_cache_capacity(128);
        // What a program may do that sets its mind to it. The last trigger is in the way of forgetting.
        let lax = "PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF; \
                   PRAGMA ignore_check_constraints = ON; \
                   CREATE TEMP TABLE account AS SELECT * FROM keyward_account; \
                   CREATE TEMP TABLE key AS SELECT * FROM keyward_key; \
                   DROP TRIGGER keyward_key_renamed; DROP TRIGGER keyward_key_redigested; \
                   DROP TRIGGER keyward_audit_deleted";
        file.execute_batch(lax).unwrap();
        let gate = Gate::builder(&store, &scheme())
            .max_staleness(Duration::MAX);
        Self {
            _folder: folder,
            gate: gate.build().unwrap(),
            store,
            file,
            own,
        }
    }

    fn run(&self, sql: &str) {
        self.file.prepare_cached(sql).unwrap().execute([]).unwrap();
    }

    /// Lets the store see what is in the file.
    fn poll(&self) {
        block_on(self.store.commit(Commit::default()))
            .expect("a row keeps nothing from being read");
    }

    /// The file and the store as they were at first, with nothing left of what came before.
    fn renew(&self) {
        self.run("BEGIN IMMEDIATE");
        for table in ["key", "account", "audit"] {
            self.run(&format!("DELETE FROM keyward_{table}"));
        }
        self.run("COMMIT");
        self.poll();
        self.run("BEGIN IMMEDIATE");
        for table in ["account", "key"] {
            self.run(&format!(
                "INSERT INTO keyward_{table} SELECT * FROM temp.{table}"
            ));
        }
        self.run("COMMIT");
    }

    /// Writes the values past all that the tables check; `false` where SQLite itself does not take them.
    fn force(&self, values: &[(&str, &str, Value)]) -> bool {
        self.run("BEGIN IMMEDIATE");
        let mut id = Value::Text(self.own.id.to_string());
        for (table, name, value) in values {
            let sql = format!("UPDATE {table} SET {name} = ?1 WHERE id = ?2");
            let which = if *table == "keyward_key" {
                id.clone()
            } else {
                Value::Text("acme".to_owned())
            };
            let mut update = self.file.prepare_cached(&sql).unwrap();
            if update.execute(params![value, which]).is_err() {
                drop(update);
                if !self.file.is_autocommit() {
                    self.run("ROLLBACK");
                }
                return false;
            }
            if *name == "id" {
                id = value.clone();
            }
        }
        self.run("COMMIT");
        true
    }

    fn works(&self, key: &str) -> bool {
        let head = Head {
            method: "GET".to_owned(),
            peer: None,
            fields: vec![("x-api-key".to_owned(), key.into())],
        };
        let explained = self.gate.explain(&head, &Requirement::new()).denial();
        let decided = match self.gate.check(&head, &Arc::default(), None) {
            // Credits, which the store is asked for.
            pending @ keyward::gate::Decision::Pending(_) => {
                drop(decided(pending));
                explained
            }
            ready => denial(&ready),
        };
        assert_eq!(decided, explained);
        decided.is_none()
    }
}

/// Whether a store that is open sees them: of a row whose name, digest or revision is forged, only one
/// that reads everything can tell what it was.
fn is_seen(values: &[(&str, &str, Value)]) -> bool {
    let forged = ["id", "digest", "digest_scheme", "redigested", "revision"];
    values.iter().all(|(_, name, _)| !forged.contains(name))
}

const KEY: [&str; 26] = [
    "id",
    "digest_scheme",
    "digest",
    "hint",
    "account",
    "environment",
    "created_at",
    "revision",
    "name",
    "kind",
    "scopes",
    "no_origin",
    "origins",
    "rate_limits",
    "credits",
    "metadata",
    "epoch",
    "status",
    "expires_at",
    "revoked_at",
    "revoked_for",
    "predecessor",
    "successor",
    "redigested",
    "lineage",
    "addresses",
];

const ACCOUNT: [&str; 8] = [
    "revision",
    "status",
    "api_access",
    "max_active_keys",
    "revoked_all",
    "rate_limits",
    "shared_rate_limits",
    "credits",
];

fn read(line: &str) -> Option<(&str, &'static str, Value)> {
    let (name, value) = line.split_once('=')?;
    let (table, known, name) = match name.strip_prefix("account.") {
        Some(name) => ("keyward_account", &ACCOUNT[..], name),
        None => ("keyward_key", &KEY[..], name),
    };
    let name = known.iter().find(|known| **known == name)?;
    let value = match value.split_at_checked(1)? {
        ("n", "") => Value::Null,
        ("i", number) => Value::Integer(number.parse().ok()?),
        ("r", number) => Value::Real(number.parse().ok()?),
        ("t", text) => Value::Text(text.to_owned()),
        ("b", digits) if digits.is_ascii() => {
            let bytes = digits
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
            Value::Blob(bytes.collect::<Option<_>>()?)
        }
        _ => return None,
    };
    Some((table, name, value))
}

fn is(value: &Value, text: &str) -> bool {
    *value == Value::Text(text.to_owned())
}

/// Whether the key may work, as the row's own text has it.
fn may_work(values: &[(&str, &str, Value)]) -> bool {
    let mut last = HashMap::new();
    for (table, name, value) in values {
        last.insert((*table, *name), value);
    }
    let key = |name, good: &dyn Fn(&Value) -> bool| {
        last.get(&("keyward_key", name))
            .is_none_or(|value| good(value))
    };
    let account = |name, good: &dyn Fn(&Value) -> bool| {
        last.get(&("keyward_account", name))
            .is_none_or(|value| good(value))
    };
    let number = |value: &Value| match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Real(number) => Some(*number),
        Value::Text(text) => text.trim().parse().ok(),
        _ => None,
    };
    let epoch = last
        .get(&("keyward_key", "epoch"))
        .map_or(Some(0.0), |value| number(value));
    let past = last
        .get(&("keyward_account", "revoked_all"))
        .map_or(Some(0.0), |value| number(value));
    let (Some(epoch), Some(past)) = (epoch, past) else {
        return false;
    };
    let own = digest(OWN);
    epoch >= past
        && key("status", &|value| is(value, "active"))
        // Which scheme it says matters where it is digested anew, not where it is found.
        && key("digest_scheme", &|value| match value {
            Value::Text(text) => DigestScheme::parse(text).is_ok(),
            _ => false,
        })
        && key("digest", &|value| {
            *value == Value::Blob(own.expose_bytes().to_vec())
        })
        && key("environment", &|value| is(value, "live"))
        && key("kind", &|value| is(value, "secret"))
        && key("account", &|value| is(value, "acme") || is(value, "other"))
        && key("origins", &|value| match value {
            Value::Null => true,
            _ => matches!(
                last.get(&("keyward_key", "no_origin")).copied().and_then(number),
                Some(1.0)
            ),
        })
        // The requests come from an unknown address.
        && key("addresses", &|value| *value == Value::Null)
        && key("expires_at", &|value| match value {
            Value::Null => true,
            value => number(value).is_some_and(|at| at > NOW.as_secs_f64() * 1000.0),
        })
        && account("status", &|value| is(value, "active"))
        && account("api_access", &|value| number(value) == Some(1.0))
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fuzz_target!(|text: &[u8]| {
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    let values: Vec<_> = text.lines().filter_map(read).collect();
    WORLD.with_borrow_mut(|world| check(world.get_or_insert_with(World::new), &values));
});

fn check(world: &World, values: &[(&str, &str, Value)]) {
    world.renew();
    if is_seen(values) {
        world.poll();
        assert!(world.works(OWN) && world.works(OTHER), "the rows are good");
    }
    if !world.force(values) {
        return;
    }
    world.poll();
    if world.works(OWN) {
        assert!(may_work(values), "a key works that should not");
    }
    assert!(world.works(OTHER), "another key suffers");

    let now = SystemTime::UNIX_EPOCH + NOW;
    let query = KeyQuery {
        account: Some(world.own.account.clone()),
        ..KeyQuery::newest(now, 10)
    };
    drop(block_on(world.store.keys(query)));
    drop(block_on(world.store.account(world.own.account.clone())));
    drop(block_on(world.store.schemes(now)));
    let (operator, id) = (Actor::operator("fuzz"), world.own.id);
    let admin = KeyAdmin::new(&world.store, &scheme());
    drop(block_on(admin.keys(
        &operator,
        &world.own.account,
        KeyFilter::new(),
    )));
    if block_on(admin.revoke(&operator, id, "fuzz")).is_ok() {
        assert!(!world.works(OWN), "a key works that was revoked");
    }
}
