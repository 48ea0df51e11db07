//! Tests of a process that is killed while it writes.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, io, thread};

use keyward::admin::{AccountChange, KeyFilter, Retention};
use keyward::credits::{CreditOwner, Credits};
use keyward::denial::DenialKind;
use keyward::gate::Finish;
use keyward::import::{
    ImportOutcome, ImportReport, ImportRow, ImportSource, ImportTotals, Importer, Skipped,
};
use keyward::key::DigestScheme;
use keyward::record::{AccountStatus, AuditAction, AuditEntry, KeyStatus};
use keyward::store::{AuditQuery, Commit};
use keyward::testing::block_on;
use keyward::{AccountId, Actor, Environment, Gate, Grace, KeyAdmin, KeyId, NewKey, Store};
use keyward_webhooks::sealing::{SealingKey, SealingKeys};
use keyward_webhooks::send::{AttemptOutcome, EndpointUrl, RetrySchedule};
use keyward_webhooks::signature::WebhookId;
use keyward_webhooks::store::{DeliveryClaim, WebhookCommit};
use keyward_webhooks::{WebhookAdmin, WebhookMessage, WebhookStore};
use rusqlite::Connection;

use crate::fixture::{Fixture, add, ask, paid, scheme, stored};
use crate::{SqliteStore, credit};

/// The variable that tells the child which file to write.
const FILE: &str = "KEYWARD_SQLITE_KILL_FILE";

/// The time after which a child ends even if it is not killed.
const LIFETIME: Duration = Duration::from_secs(20);

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let fixture = Fixture::new();
    let mut lines = HashSet::new();
    let kinds = |lines: &HashSet<String>| {
        ["create", "revoke", "note"]
            .map(|kind| lines.iter().filter(|line| line.starts_with(kind)).count())
    };
    for round in 0..500 {
        // On a busy machine, a child makes less progress.
        if round >= 50 && kinds(&lines).iter().all(|count| *count > 50) {
            break;
        }
        // Some are killed while they open the file.
        let child = "kill::writes_until_it_is_killed";
        let told = run_and_kill(&fixture.path(), child, round % 5 > 0);
        check(&fixture.path(), &told, &mut lines);
    }
    let kinds = kinds(&lines);
    assert!(kinds.iter().all(|count| *count > 50), "{kinds:?}");
}

/// Not a test of its own: the code of the child.
#[test]
fn writes_until_it_is_killed() {
    let Some(file) = env::var_os(FILE) else {
        return;
    };
    // Once its output is closed, it has nothing to report to.
    drop(block_on(write_on(Path::new(&file))));
}

#[test]
fn a_process_that_is_killed_while_it_spends_loses_a_second_of_it_and_a_hundredth_at_most() {
    for much in [10_000_000, 30_000] {
        let fixture = Fixture::new();
        let owner = open_balance(&fixture, much);
        let mut left = much;
        let mut spent = 0;
        for _ in 0..20 {
            let told = run_and_kill(&fixture.path(), "kill::spends_until_it_is_killed", true);
            let told = told.iter().filter(|line| *line == "spent").count() as u64;
            // The child's report is old when it no longer counts.
            let now = in_file(&fixture, &owner);
            // Every reported one is paid for. One more may have been spent without being reported,
            // and the line of one may be incomplete.
            assert!(
                now <= left - told,
                "{told} of {left} were spent, {now} are left"
            );
            let lost = (told + 2).min(left / 100) + 2;
            assert!(
                now >= left - told - lost,
                "{told} of {left} were spent, {now} are left"
            );
            (left, spent) = (now, spent + told);
            if left < much / 2 {
                break;
            }
        }
        assert!(spent > 200, "{spent}");
    }
}

#[test]
fn a_process_that_is_killed_after_each_request_loses_nothing() {
    let fixture = Fixture::new();
    let owner = open_balance(&fixture, 1000);
    for killed in 1..=3 {
        let child = "kill::spends_one_and_waits_to_be_killed";
        let told = run_and_kill(&fixture.path(), child, true);
        assert!(told.is_empty(), "{told:?}");
        let store = SqliteStore::open(fixture.path()).unwrap();
        let shown = block_on(store.credits(owner.clone())).unwrap().unwrap();
        assert_eq!(shown.left, 1000 - killed);
    }
    assert_eq!(in_file(&fixture, &owner), 997);
}

#[test]
fn a_process_that_is_killed_after_refunds_loses_a_hundredth_at_most() {
    let fixture = Fixture::new();
    let owner = open_balance(&fixture, 10_000);
    let mut left = 10_000;
    for _ in 0..3 {
        let child = "kill::refunds_many_and_waits_to_be_killed";
        let told = run_and_kill(&fixture.path(), child, true);
        assert!(told.is_empty(), "{told:?}");
        let now = in_file(&fixture, &owner);
        assert!(now <= left, "none is made");
        assert!(now >= left - left / 100, "{now} of {left} are left");
        left = now;
    }
}

/// The time after which the keys of the next test may be pruned.
const KEPT: Duration = Duration::from_secs(24 * 3600);

#[test]
fn a_process_that_is_killed_while_it_prunes_goes_on_where_it_was() {
    let fixture = Fixture::new();
    let store = fixture.open_slow();
    let (living, _) = add(&store, "acme");
    let mut ids = Vec::new();
    for _ in 0..8 {
        let keys = (0..500).map(|_| {
            let (_, mut record) = crate::fixture::key("acme");
            record.status = KeyStatus::Revoked;
            record.revoked_at = Some(SystemTime::now() - 2 * KEPT);
            ids.push(record.id);
            record
        });
        crate::fixture::commit(&store, vec![], keys.collect()).unwrap();
    }
    drop(store);
    let count = |sql: &str| {
        let file = Connection::open(fixture.path()).unwrap();
        file.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let mut rounds = 0;
    let mut left = 4000;
    while left > 0 && rounds < 100 {
        let child = "kill::prunes_until_it_is_killed";
        let told = run_and_kill(&fixture.path(), child, true);
        rounds += 1;
        let buried = count("SELECT count(*) FROM keyward_tombstone");
        left = count("SELECT count(*) FROM keyward_key WHERE status = 'revoked'");
        assert_eq!(left + buried, 4000, "each key is there, or its tombstone");
        let barred = "SELECT count(*) FROM keyward_revoked_digest";
        assert_eq!(count(barred), buried);
        assert!(told.is_empty() || left == 0, "{told:?}");
        // A child that was killed at once makes no progress; this one does a step.
        if rounds > 50 {
            let store = Arc::new(fixture.open_slow());
            let admin = KeyAdmin::new(&store, &scheme());
            let retention = Retention::new().dead_keys(KEPT);
            block_on(admin.maintain(&Actor::operator("test"), &retention)).unwrap();
        }
    }
    assert_eq!(left, 0);
    let lines = "SELECT sum(CAST(substr(detail, 7) AS INTEGER)) FROM keyward_audit \
         WHERE action = 'prune'";
    assert_eq!(count(lines), 4000, "every step is in the audit log");
    let store = fixture.open_slow();
    assert_eq!(ask(&store, &living), Ok(()));
    for id in ids.iter().step_by(100) {
        assert!(block_on(store.key(*id)).unwrap().is_none());
    }
    let whole = Connection::open(fixture.path()).unwrap();
    let whole = whole.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
    assert_eq!(whole.unwrap(), "ok");
}

/// Not a test of its own: the code of the child.
#[test]
fn prunes_until_it_is_killed() {
    let Some(file) = env::var_os(FILE) else {
        return;
    };
    let store = Arc::new(SqliteStore::open(file).unwrap());
    let admin = KeyAdmin::new(&store, &scheme());
    let retention = Retention::new().dead_keys(KEPT);
    tell("ready").unwrap();
    let operator = Actor::operator("child");
    if block_on(admin.maintain(&operator, &retention)).is_ok() {
        drop(tell("pruned"));
    }
    thread::sleep(LIFETIME);
}

/// The changes that take power away, by account, and how its key is refused afterwards.
const TAKEN: [(&str, DenialKind); 4] = [
    ("revoke", DenialKind::Revoked),
    ("revoke-all", DenialKind::Revoked),
    ("suspend", DenialKind::AccountInactive),
    ("rotate", DenialKind::Revoked),
];

#[test]
fn what_takes_power_away_survives_a_kill_and_the_loss_of_the_log() {
    for (way, answer) in TAKEN {
        let fixture = Fixture::new();
        let (key, _) = add(&fixture.open_slow(), way);
        let child = "kill::takes_power_away_and_waits_to_be_killed";
        let told = run_and_kill(&fixture.path(), child, true);
        assert!(told.is_empty(), "{told:?}");
        for lost in ["keys.db-wal", "keys.db-shm"] {
            fs::remove_file(fixture.at(lost)).unwrap();
        }
        assert_eq!(ask(&fixture.open_slow(), &key), Err(answer), "{way}");
    }
}

/// The number of lines of an export that is imported by children that are killed.
const LINES: usize = 600;

/// An export of a table with keys of four accounts.
fn export() -> String {
    let line = |number: usize| {
        let digest = format!("{number:064x}");
        let account = number % 4;
        format!(r#"{{"digest":"{digest}","owner":"customer-{account}","name":"key {number}"}}"#)
    };
    (0..LINES).map(line).collect::<Vec<_>>().join("\n")
}

/// Imports the export, and reports each key.
fn import(store: &SqliteStore, mut report: impl FnMut(ImportReport)) -> ImportTotals {
    let admin = KeyAdmin::new(store, &scheme()).max_active_keys(1_000_000);
    let (operator, source) = (
        Actor::operator("import"),
        ImportSource::table(DigestScheme::Sha256),
    );
    let importer = Importer::new(&admin, &operator, source).opening_accounts();
    let map = |row: &mut ImportRow| {
        let owner = row.owner.as_deref().ok_or(Skipped::OwnerMissing)?;
        row.new_key(AccountId::parse(owner)?, Environment::LIVE)
    };
    block_on(importer.run(export().as_bytes(), map, &mut report)).unwrap()
}

#[test]
fn an_import_that_is_killed_is_completed_by_the_next_one_without_duplicates() {
    let fixture = Fixture::new();
    let mut told = HashSet::new();
    for _ in 0..100 {
        let child = "kill::imports_until_it_is_killed";
        told.extend(run_and_kill(&fixture.path(), child, true));
        if told.len() > LINES / 3 {
            break;
        }
    }
    assert!(!told.is_empty(), "no child has imported anything");
    let store = SqliteStore::open(fixture.path()).unwrap();
    let left = store.replica().len();
    let mut ids = HashSet::new();
    let totals = import(&store, |report| match report.outcome {
        ImportOutcome::Imported(id) | ImportOutcome::AlreadyImported(id) => {
            assert!(ids.insert(id.to_string()), "{report}");
        }
        other => panic!("{other}"),
    });
    assert_eq!(
        (totals.already_imported, totals.imported),
        (left as u64, (LINES - left) as u64)
    );
    assert_eq!(store.replica().len(), LINES);
    assert!(told.is_subset(&ids), "what was reported is there");
    let rows = |table: &str| -> usize {
        let file = Connection::open(fixture.path()).unwrap();
        let count = format!("SELECT count(*) FROM {table}");
        let count: i64 = file.query_row(&count, [], |row| row.get(0)).unwrap();
        usize::try_from(count).unwrap()
    };
    assert_eq!((rows("keyward_key"), rows("keyward_token")), (LINES, LINES));
}

/// Not a test of its own: the code of the child.
#[test]
fn imports_until_it_is_killed() {
    let Some(file) = env::var_os(FILE) else {
        return;
    };
    let store = SqliteStore::open(file).unwrap();
    tell("ready").unwrap();
    import(&store, |report| match report.outcome {
        ImportOutcome::Imported(id) | ImportOutcome::AlreadyImported(id) => {
            drop(tell(&id.to_string()));
        }
        other => panic!("{other}"),
    });
}

/// Not a test of its own: the code of the child.
#[test]
fn takes_power_away_and_waits_to_be_killed() {
    let Some(file) = env::var_os(FILE) else {
        return;
    };
    let store = SqliteStore::open(file).unwrap();
    let admin = KeyAdmin::new(&store, &scheme());
    let actor = Actor::operator("child");
    block_on(async {
        for (way, _) in TAKEN {
            let account = AccountId::parse(way).unwrap();
            // Each file has one of them.
            let Ok(page) = admin.keys(&actor, &account, KeyFilter::new()).await else {
                continue;
            };
            let id = page.keys[0].record.id;
            match way {
                "revoke" => drop(admin.revoke(&actor, id, "").await.unwrap()),
                "revoke-all" => {
                    let all = admin.revoke_all(&actor, &account, None, "");
                    all.await.unwrap();
                }
                "suspend" => {
                    let change = AccountChange::new().status(AccountStatus::Suspended);
                    let update = admin.update_account(&actor, &account, change);
                    drop(update.await.unwrap());
                }
                _ => drop(admin.rotate(&actor, id, Grace::None).await.unwrap()),
            }
        }
    });
    drop(tell("ready"));
    thread::sleep(LIFETIME);
}

/// Opens an account with this many credits.
fn open_balance(fixture: &Fixture, credits: u64) -> CreditOwner {
    let store = fixture.open_slow();
    let acme = AccountId::parse("acme").unwrap();
    let admin = KeyAdmin::new(&store, &scheme());
    let actor = Actor::operator("test");
    block_on(admin.open_account(&actor, &acme)).unwrap();
    let credits = Some(Credits::new(credits));
    block_on(admin.set_credits(&actor, acme.clone(), credits)).unwrap();
    CreditOwner::Account(acme)
}

/// Returns the credits that are left in the file and not held by a process.
fn in_file(fixture: &Fixture, owner: &CreditOwner) -> u64 {
    let file = Connection::open(fixture.path()).unwrap();
    credit::stored(&file, owner).unwrap().unwrap().left
}

/// Not a test of its own: the code of the child.
#[test]
fn spends_until_it_is_killed() {
    spend(|_, spend_one| {
        let since = Instant::now();
        let mut out = tell("ready");
        // Once its output is closed, it has nothing to report to.
        while out.is_ok() && since.elapsed() < LIFETIME {
            drop(spend_one());
            out = tell("spent");
        }
    });
}

/// Not a test of its own: the code of the child.
#[test]
fn spends_one_and_waits_to_be_killed() {
    spend(|_, spend_one| {
        drop(spend_one());
        drop(tell("ready"));
        thread::sleep(LIFETIME);
    });
}

/// Not a test of its own: the code of the child.
#[test]
fn refunds_many_and_waits_to_be_killed() {
    spend(|store, spend_one| {
        let under_way: Vec<_> = (0..2000).map(|_| spend_one()).collect();
        under_way.into_iter().for_each(Finish::give_back);
        // The store answers this after what it was asked before.
        let acme = AccountId::parse("acme").unwrap();
        block_on(store.credits(acme.into())).unwrap();
        drop(tell("ready"));
        thread::sleep(LIFETIME);
    });
}

/// Spends credits in a child.
fn spend(spend: impl FnOnce(&SqliteStore, &dyn Fn() -> Finish)) {
    let Some(file) = env::var_os(FILE) else {
        return;
    };
    let store = SqliteStore::open(file).unwrap();
    let new = NewKey::new(AccountId::parse("acme").unwrap(), Environment::LIVE, "key");
    let store = Arc::new(store);
    let admin = KeyAdmin::new(&store, &scheme()).max_active_keys(u32::MAX);
    let key = block_on(admin.create(&Actor::operator("child"), new)).unwrap();
    let key = key.key.unwrap();
    let gate = Gate::new(&store, &scheme()).unwrap();
    spend(&store, &|| paid(&gate, &key));
}

#[test]
fn what_was_accepted_and_concluded_together_survives_a_kill() {
    let fixture = Fixture::new();
    let store = Arc::new(fixture.open_slow());
    let acme = AccountId::parse("acme").unwrap();
    let keys = KeyAdmin::new(&store, &scheme());
    let sealing = SealingKeys::new(SealingKey::new("test", &[7; 32]).unwrap());
    let webhooks = WebhookAdmin::new(Arc::clone(&store) as _, &scheme(), sealing);
    let actor = Actor::operator("test");
    block_on(keys.open_account(&actor, &acme)).unwrap();
    let url = EndpointUrl::parse("https://acme.example/hook").unwrap();
    block_on(webhooks.create_endpoint(&actor, &acme, Environment::LIVE, url)).unwrap();
    drop((keys, webhooks, store));

    let mut told = [0; 2];
    for round in 0..500 {
        // On a busy machine, a child makes less progress.
        if round >= 30 && told.iter().all(|count| *count > 30) {
            break;
        }
        let child = "kill::publishes_until_it_is_killed";
        let lines = run_and_kill(&fixture.path(), child, true);
        // The next process that opens it finds it complete.
        drop(fixture.open());
        let file = Connection::open(fixture.path()).unwrap();
        let count = |sql: &str, id: &str| {
            file.query_row(sql, [id], |row| row.get::<_, u32>(0))
                .unwrap()
        };
        for line in &lines {
            let delivery = "SELECT count(*) FROM keyward_delivery JOIN keyward_message \
                 ON message = id WHERE message = ?1";
            match line.split_once(' ') {
                Some(("accepted", id)) => {
                    told[0] += 1;
                    assert_eq!(count(delivery, id), 1, "{line}");
                }
                Some(("arrived", id)) => {
                    told[1] += 1;
                    let kept = format!("{delivery} AND status = 'delivered'");
                    assert_eq!(count(&kept, id), 1, "{line}");
                    let attempt = "SELECT count(*) FROM keyward_attempt WHERE message = ?1";
                    assert!(count(attempt, id) > 0, "{line}");
                }
                _ => {}
            }
        }
        for nothing in [
            "SELECT count(*) FROM keyward_message WHERE ?1 = '' \
             AND id NOT IN (SELECT message FROM keyward_delivery)",
            "SELECT count(*) FROM keyward_delivery WHERE ?1 = '' AND status = 'delivered' \
             AND message NOT IN (SELECT message FROM keyward_attempt)",
            "SELECT count(*) FROM pragma_foreign_key_check WHERE ?1 = ''",
        ] {
            assert_eq!(count(nothing, ""), 0, "{nothing}");
        }
        let whole = file.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
        assert_eq!(whole.unwrap(), "ok");
    }
    assert!(told.iter().all(|count| *count > 30), "{told:?}");
}

/// Not a test of its own: the code of the child.
#[test]
fn publishes_until_it_is_killed() {
    let Some(file) = env::var_os(FILE) else {
        return;
    };
    let store = SqliteStore::open(file).unwrap();
    tell("ready").unwrap();
    let since = Instant::now();
    let publish = || {
        while since.elapsed() < LIFETIME {
            let (acme, id) = (
                AccountId::parse("acme").unwrap(),
                WebhookId::random().unwrap(),
            );
            let message = WebhookMessage::new(acme, Environment::LIVE, id.clone(), "{}").unwrap();
            let commit = WebhookCommit {
                message: Some(message.accepted_at(SystemTime::now())),
                ..WebhookCommit::default()
            };
            block_on(store.commit_webhooks(commit)).unwrap();
            if tell(&format!("accepted {id}")).is_err() {
                break;
            }
        }
    };
    let deliver = || {
        while since.elapsed() < LIFETIME {
            let now = SystemTime::now();
            let claim = DeliveryClaim {
                now,
                until: now + LIFETIME,
                limit: 1,
                each: 1,
                busy: vec![],
                proven: None,
            };
            for due in block_on(store.claim(claim)).unwrap() {
                let schedule = RetrySchedule::default();
                let arrived = AttemptOutcome::Delivered;
                let conclusion = due.conclude(arrived, Some(200), None, (now, now), &schedule);
                block_on(store.conclude(conclusion)).unwrap();
                if tell(&format!("arrived {}", due.message().id())).is_err() {
                    return;
                }
            }
        }
    };
    thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(publish);
            threads.spawn(deliver);
        }
    });
}

async fn write_on(file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let store = Arc::new(SqliteStore::open(file)?);
    // A child that is killed before it revokes leaves an active key.
    let admin = KeyAdmin::new(&store, &scheme()).max_active_keys(u32::MAX);
    let (actor, acme) = (Actor::operator("child"), AccountId::parse("acme")?);
    admin.open_account(&actor, &acme).await?;
    tell("ready")?;
    let since = Instant::now();
    while since.elapsed() < LIFETIME {
        let token = KeyId::random()?.to_string();
        let new = NewKey::new(acme.clone(), Environment::LIVE, "key").token(&token);
        let id = admin.create(&actor, new).await?.record.id;
        tell(&format!("create {id} {token}"))?;
        admin.revoke(&actor, id, "its time had come").await?;
        tell(&format!("revoke {id}"))?;
        let mut note = AuditEntry::new(SystemTime::now(), "child", AuditAction::Read);
        note.reason = KeyId::random()?.to_string();
        tell_after(&store, note).await?;
    }
    Ok(())
}

async fn tell_after(
    store: &SqliteStore,
    note: AuditEntry,
) -> Result<(), Box<dyn std::error::Error>> {
    let line = format!("note {}", note.reason);
    let commit = Commit {
        audit: vec![note],
        ..Commit::default()
    };
    store.commit(commit).await?;
    Ok(tell(&line)?)
}

fn tell(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    // A line of its own: the harness has begun one.
    write!(out, "\n{line}.\n")?;
    out.flush()
}

/// Returns what the child has reported before it was killed.
fn run_and_kill(file: &Path, child: &str, when_ready: bool) -> Vec<String> {
    let mut child = Killed(
        Command::new(env::current_exe().unwrap())
            .args(["--exact", child, "--nocapture"])
            .env(FILE, file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut out = BufReader::new(child.0.stdout.take().unwrap()).lines();
    if when_ready {
        assert!(out.any(|line| line.unwrap() == "ready."), "it cannot write");
    }
    // The child never waits for a reader.
    let told = thread::spawn(move || out.map_while(Result::ok).collect::<Vec<_>>());
    let random = RandomState::new().hash_one(0);
    thread::sleep(Duration::from_millis(1 + random % 60));
    drop(child);
    let told = told.join().unwrap();
    let whole = told.iter().filter_map(|line| line.strip_suffix('.'));
    whole.map(str::to_owned).collect()
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Checks that everything reported since the first round is there, and nothing is incomplete.
fn check(file: &Path, told: &[String], lines: &mut HashSet<String>) {
    lines.extend(told.iter().cloned());
    let store = SqliteStore::open(file).unwrap();
    let acme = AccountId::parse("acme").unwrap();
    for line in told {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["create", id, token] => {
                let id = KeyId::parse(id).unwrap();
                assert_eq!(stored(&store, id).name, "key");
                let found = block_on(store.created_with(acme.clone(), token.to_owned()));
                assert_eq!(found.unwrap(), Some(id));
            }
            ["revoke", id] => {
                let record = stored(&store, KeyId::parse(id).unwrap());
                assert_eq!(record.status, KeyStatus::Revoked);
                assert_eq!(record.revoked_for, "its time had come");
            }
            _ => {}
        }
    }
    let trail = block_on(store.audit(AuditQuery::newest(usize::MAX))).unwrap();
    let mut kept = HashSet::new();
    for line in trail {
        assert_eq!(line.refused, None);
        kept.extend(match (line.action, line.key) {
            (AuditAction::Create, Some(id)) => Some(format!("create {id}")),
            (AuditAction::Revoke, Some(id)) => Some(format!("revoke {id}")),
            (AuditAction::Read, None) => Some(format!("note {}", line.reason)),
            _ => None,
        });
    }
    let first_two = |line: &String| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let missing = lines
        .iter()
        .map(first_two)
        .find(|line| !kept.contains(line));
    assert_eq!(missing.filter(|line| line != "ready"), None);
    drop(store);

    let file = Connection::open(file).unwrap();
    let count = |sql: &str| file.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    for nothing in [
        "SELECT count(*) FROM keyward_key WHERE id NOT IN (SELECT key FROM keyward_token) \
         OR id NOT IN (SELECT key FROM keyward_audit WHERE action = 'create') \
         OR (status = 'revoked') <> (id IN (SELECT key FROM keyward_audit WHERE action = 'revoke')) \
         OR (status = 'revoked') <> (revoked_at IS NOT NULL)",
        "SELECT count(*) FROM keyward_token WHERE key NOT IN (SELECT id FROM keyward_key)",
        "SELECT count(*) FROM keyward_audit WHERE action IN ('create', 'revoke') \
         AND key NOT IN (SELECT id FROM keyward_key)",
        "SELECT count(*) FROM keyward_key WHERE revision NOT IN (SELECT number FROM keyward_revision)",
        "SELECT count(*) FROM pragma_foreign_key_check",
    ] {
        assert_eq!(count(nothing), 0, "{nothing}");
    }
    let whole = file.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
    assert_eq!(whole.unwrap(), "ok");
}
