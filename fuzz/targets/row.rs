//! A file whose rows hold anything: it opens, no other key suffers, and no key works that should not.
//!
//! Each line is a column of the key's row, as `name=` and a value, or, as `account.name=`, of its
//! account's. A value is `n`, `i` and a number, `r` and a number, `t` and a text, or `b` and
//! hexadecimal digits.

#![no_main]

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use keyward::conformance::block_on;
use keyward::{
    Account, AccountId, Actor, Commit, DigestScheme, Environment, Gate, KeyAdmin, KeyFilter,
    KeyQuery, KeyRecord, ManualClock, Requirement, Store,
};
use keyward_fuzz::{Head, LIVE, NOW, REVOKED, denial, digest, format, record};
use keyward_sqlite::SqliteOptions;
use libfuzzer_sys::fuzz_target;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use tempfile::TempDir;

/// The key of another account, which is good; and the one whose row is changed.
const OTHER: &str = LIVE;
const OWN: &str = REVOKED;

struct World {
    folder: TempDir,
    /// A file with both keys, each good.
    template: Vec<u8>,
    own: KeyRecord,
}

impl World {
    fn path(&self) -> PathBuf {
        self.folder.path().join("keys.db")
    }

    /// The file as it was, with nothing beside it.
    fn renew(&self) {
        for beside in ["-wal", "-shm", "-journal"] {
            let mut path = self.path().into_os_string();
            path.push(beside);
            drop(fs::remove_file(path));
        }
        fs::write(self.path(), &self.template).unwrap();
    }
}

fn options() -> SqliteOptions {
    SqliteOptions::new()
        .clock(Arc::new(ManualClock::at(NOW)))
        .poll_interval(Duration::MAX)
        .flush_interval(Duration::MAX)
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    // In memory, where there is such a folder.
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    let folder = tempfile::tempdir_in(folder).unwrap();
    let path = folder.path().join("template.db");
    let mut other = record(OTHER, Environment::LIVE, "aa");
    other.account = AccountId::parse("other").unwrap();
    let own = record(OWN, Environment::LIVE, "bb");
    let store = options().open(&path).unwrap();
    let commit = Commit {
        accounts: vec![
            Account::new(own.account.clone()),
            Account::new(other.account.clone()),
        ],
        keys: vec![own.clone(), other],
        ..Commit::default()
    };
    block_on(store.commit(commit)).unwrap();
    drop(store);
    let connection = Connection::open(&path).unwrap();
    let whole = "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE";
    connection.execute_batch(whole).unwrap();
    drop(connection);
    let template = fs::read(&path).unwrap();
    World {
        folder,
        template,
        own,
    }
});

const KEY: [&str; 25] = [
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

/// Writes the values past all that the tables check; `false` where SQLite itself does not take them.
fn force(world: &World, values: &[(&str, &str, Value)]) -> bool {
    let connection = Connection::open(world.path()).unwrap();
    let lax = "PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF; \
               PRAGMA ignore_check_constraints = ON; BEGIN";
    connection.execute_batch(lax).unwrap();
    // A row that is renamed or whose digests are miscounted is not typed in but written from outside.
    let triggers = "SELECT 'DROP TRIGGER ' || name FROM sqlite_schema WHERE type = 'trigger' AND \
                    name IN ('keyward_key_renamed', 'keyward_key_redigested')";
    let mut triggers = connection.prepare(triggers).unwrap();
    let drops: Vec<String> = triggers
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    drops
        .iter()
        .for_each(|drop| connection.execute_batch(drop).unwrap());
    drop(triggers);
    let own = world.own.id.to_string();
    let mut id = Value::Text(own);
    for (table, name, value) in values {
        let sql = format!("UPDATE {table} SET {name} = ?1 WHERE id = ?2");
        let which = if *table == "keyward_key" {
            id.clone()
        } else {
            Value::Text("acme".to_owned())
        };
        let done = connection.execute(&sql, params_from_iter([value.clone(), which]));
        if done.is_err() {
            return false;
        }
        if *name == "id" {
            id = value.clone();
        }
    }
    connection.execute_batch("COMMIT").is_ok()
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
        && key("expires_at", &|value| match value {
            Value::Null => true,
            value => number(value).is_some_and(|at| at > NOW.as_secs_f64() * 1000.0),
        })
        && account("status", &|value| is(value, "active"))
        && account("api_access", &|value| number(value) == Some(1.0))
}

fuzz_target!(|text: &[u8]| {
    let world = &*WORLD;
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    let values: Vec<_> = text.lines().filter_map(read).collect();
    world.renew();
    if !force(world, &values) {
        return;
    }
    let store = Arc::new(
        options()
            .open(world.path())
            .expect("a row keeps nothing else from opening"),
    );
    let gate = Gate::builder(store.replica())
        .format(format())
        .max_staleness(Duration::MAX)
        .build()
        .unwrap();
    let works = |key: &str| {
        let head = Head {
            method: "GET".to_owned(),
            peer: None,
            fields: vec![("x-api-key".to_owned(), key.into())],
        };
        let explained = gate.explain(&head, &Requirement::new()).denial();
        let decided = match gate.check(&head, &Arc::default(), None) {
            // Credits, which the store is asked for.
            keyward::Decision::Pending(verdict) => {
                drop(block_on(verdict));
                explained
            }
            ready => denial(&ready),
        };
        assert_eq!(decided, explained);
        decided.is_none()
    };
    if works(OWN) {
        assert!(may_work(&values), "a key works that should not");
    }
    assert!(works(OTHER), "another key suffers");

    let query = KeyQuery {
        account: world.own.account.clone(),
        environment: None,
        state: None,
        after: None,
        limit: 10,
        now: SystemTime::UNIX_EPOCH + NOW,
    };
    let now = SystemTime::UNIX_EPOCH + NOW;
    drop(block_on(store.keys(query)));
    drop(block_on(store.account(world.own.account.clone())));
    drop(block_on(store.schemes(now)));
    let (operator, id) = (Actor::operator("fuzz"), world.own.id);
    let admin = KeyAdmin::new(store, format());
    drop(block_on(admin.keys(
        &operator,
        &world.own.account,
        KeyFilter::new(),
    )));
    if block_on(admin.revoke(&operator, id, "fuzz")).is_ok() {
        assert!(!works(OWN), "a key works that was revoked");
    }
});
