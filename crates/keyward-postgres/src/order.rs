//! The order of changes: a reader that asks for all above the last revision it has seen misses none.
//!
//! Writers in every isolation level change keys at once, alone, in bulk and within savepoints, while a
//! poller reads. The same harness must see changes missed where a revision is given when a row is
//! written, or it could see nothing. `KEYWARD_ORDER_CHANGES` sets the number of changes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::fixture::{Fixture, Psql};

const WRITERS: u64 = 32;

/// The number of keys that each writer changes.
const OWN: u64 = 20;

/// How the history is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum History {
    /// The revision of the commit, as the store reads it.
    AtCommit,
    /// A serial number of the row, as it is often done.
    AtWrite,
}

/// The history of a naive store: each change of a row has the next serial number.
const NAIVE: &str = "CREATE TABLE public.naive (rev bigserial PRIMARY KEY, id text NOT NULL); \
     CREATE FUNCTION public.naive() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
     INSERT INTO public.naive (id) VALUES (NEW.id); RETURN NULL; END $$; \
     CREATE TRIGGER naive AFTER INSERT OR UPDATE ON keyward.key \
     FOR EACH ROW EXECUTE FUNCTION public.naive()";

/// Creates the keys of all writers.
fn prepare(fixture: &Fixture) {
    let mut psql = fixture.psql();
    psql.execute(NAIVE).unwrap();
    psql.execute("INSERT INTO keyward.account (id) VALUES ('acme')")
        .unwrap();
    let keys = WRITERS * OWN;
    let insert = format!(
        "INSERT INTO keyward.key (id, digest_scheme, digest, hint, account, environment, lineage, name) \
         SELECT 'key_' || lpad(i::text, 12, '0'), 'sha256', sha256(i::text::bytea), 'x_…0000', \
         'acme', 'live', 'key_' || lpad(i::text, 12, '0'), '0' FROM generate_series(0, {keys} - 1) AS i"
    );
    psql.execute(&insert).unwrap();
}

/// Makes changes until there are enough, each to a value of its own.
fn write(psql: &mut Psql, writer: u64, changes: &AtomicU64, most: u64) {
    let id = |n: u64| format!("key_{:012}", writer * OWN + n % OWN);
    let levels = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
    let level = levels[usize::try_from(writer % 3).unwrap()];
    let mut round = 0;
    while changes.load(Ordering::Relaxed) < most {
        round += 1;
        let set = |n: u64| {
            let id = id(n);
            format!("UPDATE keyward.key SET name = (name::bigint + 1)::text WHERE id = '{id}'; ")
        };
        let (made, sql) = match (round + writer) % 5 {
            // Typed, without a transaction of its own.
            0 => (1, set(round)),
            // In bulk.
            1 => {
                let (from, to) = (id(0), id(OWN - 1));
                let bulk = format!(
                    "BEGIN ISOLATION LEVEL {level}; UPDATE keyward.key \
                     SET name = (name::bigint + 1)::text WHERE id BETWEEN '{from}' AND '{to}'; COMMIT"
                );
                (OWN, bulk)
            }
            // Partly rolled back, as by a function that catches an error.
            2 => {
                let (kept, lost) = (set(round), set(round + 1));
                let sql = format!(
                    "BEGIN ISOLATION LEVEL {level}; SAVEPOINT a; {lost} ROLLBACK TO a; \
                     SAVEPOINT b; {kept} RELEASE b; COMMIT"
                );
                (1, sql)
            }
            // With work of the application between the write and the commit.
            3 => {
                let sql = format!(
                    "BEGIN ISOLATION LEVEL {level}; {} SELECT pg_sleep(0.003); COMMIT",
                    set(round)
                );
                (1, sql)
            }
            // Checked at once, as some tools do.
            _ => {
                let sql = format!(
                    "BEGIN ISOLATION LEVEL {level}; SET CONSTRAINTS ALL IMMEDIATE; {} COMMIT",
                    set(round)
                );
                (1, sql)
            }
        };
        match psql.execute(&sql) {
            Ok(()) => {
                changes.fetch_add(made, Ordering::Relaxed);
            }
            // A serialization failure changes nothing.
            Err(_) => drop(psql.execute("ROLLBACK")),
        }
    }
}

/// Reads all changes above the last revision that was seen, again and again.
struct Poller {
    psql: Psql,
    history: History,
    last: u64,
    seen: HashSet<(u64, String)>,
}

impl Poller {
    fn poll(&mut self) {
        for (rev, id) in self.above(self.last) {
            self.last = self.last.max(rev);
            self.seen.insert((rev, id));
        }
    }

    fn above(&mut self, last: u64) -> Vec<(u64, String)> {
        let history = match self.history {
            History::AtCommit => "keyward.change",
            History::AtWrite => "public.naive",
        };
        let rows = self
            .psql
            .rows(&format!("SELECT rev, id FROM {history} WHERE rev > {last}"));
        let rows = rows.into_iter().map(|row| match &*row {
            [rev, id] => (rev.parse().unwrap(), id.clone()),
            other => panic!("{other:?}"),
        });
        rows.collect()
    }
}

/// Returns the number of changes in the history, and of those that the poller missed.
fn missed(history: History, most: u64) -> (usize, usize) {
    let fixture = Fixture::new();
    prepare(&fixture);
    let (changes, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut poller = Poller {
        psql: fixture.psql(),
        history,
        last: 0,
        seen: HashSet::new(),
    };
    let mut poller = thread::scope(|threads| {
        let (changes, is_over, fixture) = (&changes, &is_over, &fixture);
        let polling = threads.spawn(move || {
            while !is_over.load(Ordering::Acquire) {
                poller.poll();
                thread::sleep(Duration::from_millis(3));
            }
            poller.poll();
            poller
        });
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| threads.spawn(move || write(&mut fixture.psql(), writer, changes, most)))
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        is_over.store(true, Ordering::Release);
        polling.join().unwrap()
    });
    let all = poller.above(0);
    let missed = all.iter().filter(|change| !poller.seen.contains(change));
    let missed = missed.count();
    println!("{missed} missed of {} changes", all.len());
    assert!(all.len() as u64 >= most);
    (all.len(), missed)
}

fn most() -> u64 {
    let most = std::env::var("KEYWARD_ORDER_CHANGES");
    most.map_or(4000, |most| most.parse().unwrap())
}

#[test]
fn a_reader_of_revisions_misses_no_change_whatever_the_writers_do() {
    let (changes, missed) = missed(History::AtCommit, most());
    assert_eq!(missed, 0, "of {changes} changes");
}

#[test]
fn a_revision_that_is_given_when_a_row_is_written_would_miss_changes() {
    let missed = (0..10).map(|_| missed(History::AtWrite, most()).1);
    assert!(missed.into_iter().any(|missed| missed > 0));
}
