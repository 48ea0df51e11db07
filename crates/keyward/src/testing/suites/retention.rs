//! The promises of every store about retention: pruned keys, merged usage, the cut audit log, erasure.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::admin::retention::hex;
use crate::admin::{Actor, Grace, KeyAdmin, NewKey, Retention, UsageFilter};
use crate::clock::{Clock, ManualClock};
use crate::credits::{CreditOwner, Credits};
use crate::denial::DenialKind;
use crate::environment::Environment;
use crate::gate::{Gate, Requirement, Verdict};
use crate::ids::{AccountId, KeyId};
use crate::key::{ApiKey, KeyFormat};
use crate::record::{AdminErrorKind, AuditAction, DeathCause, KeyRecord};
use crate::scheme::KeyScheme;
use crate::scope::Permission;
use crate::store::{Store, TombstoneQuery};
use crate::testing::suites::Open;
use crate::testing::{TestRequest, TestResponse, block_on, decided};
use crate::usage::{RequestCounts, UsageSum};

/// Tests what a store deletes and merges: dead keys, old usage, the audit log, accounts.
///
/// A store without [`Store::maintain`] does not pass.
///
/// ```
/// use keyward::{MemoryStore, testing};
///
/// testing::suites::retention(MemoryStore::with_clock);
/// ```
///
/// # Panics
/// If the store breaks a promise.
pub fn retention<S: Store>(open: impl Fn(Arc<dyn Clock>) -> S) {
    let open: Open<'_> = &|clock| Arc::new(open(clock));
    crate::__retention_promises!(__run_promises open);
}

#[doc(hidden)]
#[macro_export]
macro_rules! __retention_promises {
    ($then:ident $($with:tt)*) => {
        $crate::$then! { [$($with)*] retention
            nothing_is_deleted_by_default
            a_dead_key_is_pruned_and_leaves_a_tombstone
            a_pruned_key_never_works_again
            a_pruned_create_token_creates_no_other_key
            a_chain_keeps_what_is_its_own_when_its_first_key_is_pruned
            keys_are_pruned_while_others_are_used_and_created
            rolled_up_usage_keeps_its_sums
            the_audit_log_is_cut_as_far_as_it_was_exported
            an_erased_account_leaves_a_pseudonym
            retention_is_for_operators
        }
    };
}

/// The promises, one by one.
pub mod promises {
    crate::__retention_promises!(__publish_promises);
}

const START: Duration = Duration::from_secs(1_800_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);

struct World {
    store: Arc<dyn Store>,
    admin: KeyAdmin,
    gate: Gate,
    clock: Arc<ManualClock>,
    acme: AccountId,
}

impl World {
    fn new(open: Open<'_>) -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let store = open(Arc::<ManualClock>::clone(&clock));
        let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
        let world = Self {
            admin: KeyAdmin::new(&store, &scheme).max_active_keys(10_000),
            gate: Gate::new(&store, &scheme).unwrap(),
            store,
            clock,
            acme: AccountId::parse("acme").unwrap(),
        };
        block_on(world.admin.open_account(&operator(), &world.acme)).unwrap();
        world
    }

    fn new_key(&self) -> NewKey {
        NewKey::new(self.acme.clone(), Environment::LIVE, "key")
    }

    fn create(&self, new: NewKey) -> (ApiKey, KeyRecord) {
        let created = block_on(self.admin.create(&operator(), new)).unwrap();
        (created.key.unwrap(), created.record)
    }

    fn ask(&self, key: &ApiKey) -> Result<(), DenialKind> {
        let request = TestRequest::get().key(key.expose_secret());
        let requirement = Arc::new(Requirement::new().label("api"));
        match decided(self.gate.check(&request, &requirement, None)) {
            Verdict::Admit(mut admitted) => {
                admitted.finish.apply(&mut TestResponse::new(200));
                Ok(())
            }
            Verdict::Refuse(refusal) => Err(refusal.denial.unwrap().kind()),
        }
    }

    fn revoke(&self, record: &KeyRecord) {
        block_on(self.admin.revoke(&operator(), record.id, "lost")).unwrap();
    }

    /// Prunes keys that have been dead for 30 days.
    fn prune(&self) -> u64 {
        let retention = Retention::new().dead_keys(30 * DAY);
        let report = block_on(self.admin.maintain(&operator(), &retention)).unwrap();
        report.pruned_keys
    }

    fn is_stored(&self, record: &KeyRecord) -> bool {
        block_on(self.store.key(record.id)).unwrap().is_some()
    }

    fn tombstones(&self, query: impl FnOnce(&mut TombstoneQuery)) -> Vec<KeyId> {
        let mut all = TombstoneQuery {
            account: None,
            id: None,
            hint: None,
            after: None,
            limit: usize::MAX,
        };
        query(&mut all);
        let found = block_on(self.admin.tombstones(&operator(), all)).unwrap();
        found.into_iter().map(|tombstone| tombstone.id).collect()
    }

    fn sums(&self) -> Vec<UsageSum> {
        let ever = SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH + 10 * START;
        block_on(self.admin.usage_sums(&operator(), None, ever)).unwrap()
    }

    fn lines(&self) -> Vec<crate::record::AuditEntry> {
        let all = crate::store::AuditQuery::newest(usize::MAX);
        block_on(self.store.audit(all)).unwrap()
    }
}

fn operator() -> Actor {
    Actor::operator("suite")
}

fn nothing_is_deleted_by_default(open: Open<'_>) {
    let world = World::new(open);
    let (key, record) = world.create(world.new_key());
    world.ask(&key).unwrap();
    block_on(world.store.flush()).unwrap();
    world.revoke(&record);
    world.clock.advance(4000 * DAY);
    let (lines, sums) = (world.lines().len(), world.sums());
    let report = block_on(world.admin.maintain(&operator(), &Retention::new())).unwrap();
    assert_eq!((report.pruned_keys, report.merged_usage), (0, 0));
    assert!(world.is_stored(&record));
    assert_eq!(world.sums(), sums);
    assert_eq!(world.lines().len(), lines);
}

fn a_dead_key_is_pruned_and_leaves_a_tombstone(open: Open<'_>) {
    let world = World::new(open);
    let (used, revoked) = world.create(world.new_key());
    world.ask(&used).unwrap();
    let used_at = SystemTime::UNIX_EPOCH + world.clock.unix();
    world.clock.advance(DAY);
    world.revoke(&revoked);
    let died_at = world.admin.now();
    let until = world.admin.now() + DAY;
    let (_, expired) = world.create(world.new_key().expires_at(until));
    let (alive, living) = world.create(world.new_key());
    let (_, disabled) = world.create(world.new_key());
    block_on(world.admin.disable(&operator(), disabled.id)).unwrap();
    let before = world.sums();
    for (days, pruned) in [(29, 0), (1, 1), (1, 1), (1, 0), (400, 0)] {
        world.clock.advance(u32::try_from(days).unwrap() * DAY);
        assert_eq!(world.prune(), pruned, "{days}");
    }
    assert!(!world.is_stored(&revoked) && !world.is_stored(&expired));
    assert!(world.is_stored(&living) && world.is_stored(&disabled));
    assert_eq!(world.ask(&alive), Ok(()));
    let now = world.admin.now();
    assert_eq!(
        world.sums()[0].counts.admitted,
        before[0].counts.admitted + 1
    );

    let tombstone = |id| block_on(world.admin.tombstone(&operator(), id)).unwrap();
    let found = tombstone(revoked.id).unwrap();
    assert_eq!(found.hint, revoked.hint);
    assert_eq!(
        (&found.account, found.environment),
        (&world.acme, Environment::LIVE)
    );
    assert_eq!(
        (found.cause, &*found.revoked_for),
        (DeathCause::Revoked, "lost")
    );
    assert_eq!(
        (found.died_at, found.last_used_at),
        (died_at, Some(used_at))
    );
    assert!(found.died_at + 30 * DAY <= found.pruned_at && found.pruned_at < now);
    let found = tombstone(expired.id).unwrap();
    assert_eq!((found.cause, found.died_at), (DeathCause::Expired, until));
    assert_eq!(found.last_used_at, None);
    assert_eq!(tombstone(living.id), None);

    let both = BTreeSet::from([revoked.id, expired.id]);
    let all: BTreeSet<_> = world.tombstones(|_| ()).into_iter().collect();
    assert_eq!(all, both);
    let by_hint = world.tombstones(|query| query.hint = Some(revoked.hint.to_string()));
    assert_eq!(by_hint, [revoked.id]);
    let other = AccountId::parse("other").unwrap();
    assert!(
        world
            .tombstones(|query| query.account = Some(other))
            .is_empty()
    );
    let own = world.tombstones(|query| query.account = Some(world.acme.clone()));
    assert_eq!(own.len(), 2);
    let first = world.tombstones(|query| query.limit = 1);
    let rest = world.tombstones(|query| query.after = first.first().copied());
    assert_eq!([first, rest].concat(), own);
    let lines = world.lines();
    let pruned: Vec<_> = lines
        .iter()
        .filter(|line| line.action == AuditAction::Prune)
        .collect();
    assert_eq!((pruned.len(), &*pruned[0].detail), (2, "count=1"));
}

fn a_pruned_key_never_works_again(open: Open<'_>) {
    let world = World::new(open);
    let until = world.admin.now() + DAY;
    let (_, with_all) = world.create(world.new_key());
    block_on(world.admin.revoke_all(&operator(), &world.acme, None, "")).unwrap();
    let keys = [
        world.create(world.new_key()),
        world.create(world.new_key().expires_at(until)),
    ];
    world.revoke(&keys[0].1);
    world.clock.advance(32 * DAY);
    // When it was revoked is known since the first time it was seen.
    assert_eq!(world.prune(), 2);
    assert!(world.is_stored(&with_all));
    world.clock.advance(30 * DAY);
    assert_eq!(world.prune(), 1);
    assert!(!world.is_stored(&with_all));
    for (secret, record) in &keys {
        assert!(world.ask(secret).is_err());
        let digest = record.digest.clone();
        let operator = operator();
        let import = world.admin.import(&operator, world.new_key(), digest, None);
        assert!(block_on(import).is_err(), "its secret is not a new one");
        assert!(world.ask(secret).is_err());
    }
    world.clock.set_unix(START);
    assert!(world.ask(&keys[0].0).is_err());
}

fn a_pruned_create_token_creates_no_other_key(open: Open<'_>) {
    let world = World::new(open);
    let new = || world.new_key().token("first");
    let (_, record) = world.create(new());
    world.revoke(&record);
    world.clock.advance(31 * DAY);
    assert_eq!(world.prune(), 1);
    for _ in 0..2 {
        let error = block_on(world.admin.create(&operator(), new())).unwrap_err();
        assert_eq!(error.kind(), AdminErrorKind::Pruned);
        assert_eq!(error.http_status(), 409);
    }
    world.create(world.new_key().token("second"));
}

fn a_chain_keeps_what_is_its_own_when_its_first_key_is_pruned(open: Open<'_>) {
    let world = World::new(open);
    let (_, first) = world.create(world.new_key().credits(Credits::new(100)));
    let rotated = block_on(world.admin.rotate(&operator(), first.id, Grace::None)).unwrap();
    let (second, record) = (rotated.key.unwrap(), rotated.record);
    for _ in 0..10 {
        world.ask(&second).unwrap();
    }
    world.clock.advance(31 * DAY);
    assert_eq!(world.prune(), 1);
    let owner = CreditOwner::Key(first.id);
    let left = || {
        let credits = block_on(world.store.credits(owner.clone())).unwrap();
        credits.map(|credits| credits.left)
    };
    assert_eq!(left(), Some(90));
    assert_eq!(world.ask(&second), Ok(()));
    block_on(world.store.flush()).unwrap();
    assert_eq!(left(), Some(89));
    let view = block_on(world.admin.key(&operator(), record.id)).unwrap();
    assert_eq!(view.record.predecessor, Some(first.id));
    assert_eq!(view.record.lineage, first.id);
    let third = block_on(world.admin.rotate(&operator(), record.id, Grace::None)).unwrap();
    world.revoke(&third.record);
    world.clock.advance(31 * DAY);
    assert_eq!(world.prune(), 2);
    assert_eq!(left(), None, "the balance went with the last key");
}

fn keys_are_pruned_while_others_are_used_and_created(open: Open<'_>) {
    let world = World::new(open);
    let (living, _) = world.create(world.new_key());
    let dead: Vec<_> = (0..300).map(|_| world.create(world.new_key()).1).collect();
    for record in &dead {
        world.revoke(record);
    }
    world.clock.advance(31 * DAY);
    let (pruned, created) = thread::scope(|threads| {
        let both: Vec<_> = (0..2).map(|_| threads.spawn(|| world.prune())).collect();
        let create = threads.spawn(|| {
            let keys = (0..50).map(|number| {
                let (key, record) = world.create(world.new_key().token(&number.to_string()));
                assert_eq!(world.ask(&key), Ok(()));
                if number % 2 == 0 {
                    world.revoke(&record);
                }
                record
            });
            keys.collect::<Vec<_>>()
        });
        for _ in 0..100 {
            assert_eq!(world.ask(&living), Ok(()));
        }
        let pruned = both.into_iter().map(|prune| prune.join().unwrap());
        (pruned.sum::<u64>(), create.join().unwrap())
    });
    assert_eq!(pruned, 300, "each key was pruned once");
    assert_eq!(world.tombstones(|_| ()).len(), 300);
    assert!(dead.iter().all(|record| !world.is_stored(record)));
    assert!(created.iter().all(|record| world.is_stored(record)));
    let sums = world.sums();
    assert_eq!(sums[0].counts.admitted, 150);
}

/// The sums of usage by account, environment and label.
fn by_line(world: &World) -> BTreeMap<(String, String), RequestCounts> {
    let sums = world.sums().into_iter().map(|sum| {
        let label = sum.label.map(|label| label.to_string()).unwrap_or_default();
        (
            (format!("{}/{}", sum.account, sum.environment), label),
            sum.counts,
        )
    });
    sums.collect()
}

fn rolled_up_usage_keeps_its_sums(open: Open<'_>) {
    let world = World::new(open);
    let keys: Vec<_> = (0..3).map(|_| world.create(world.new_key())).collect();
    let mut random = 11_u32;
    let (mut hours, mut counted) = (BTreeSet::new(), 0);
    let retention = Retention::new().usage_hours(10 * DAY).usage_days(60 * DAY);
    let maintain = || block_on(world.admin.maintain(&operator(), &retention)).unwrap();
    for round in 0..200 {
        random = random.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let number = random / 65_536;
        let (key, _) = &keys[number as usize % 3];
        // Under a key that is revoked meanwhile, it counts as refused.
        // A clock that jumps may make memory too old for an answer, or a revoked key unknown.
        let answer = world.ask(key);
        let uncounted = [DenialKind::Unavailable, DenialKind::Unknown];
        counted += u64::from(!uncounted.map(Err).contains(&answer));
        hours.insert(world.clock.unix().as_secs() / 3600);
        if number.is_multiple_of(4) {
            block_on(world.store.flush()).unwrap();
        }
        if number.is_multiple_of(16) {
            let before = by_line(&world);
            maintain();
            assert_eq!(by_line(&world), before, "in round {round}");
        }
        if round == 150 {
            world.revoke(&keys[0].1);
        }
        let now = world.clock.unix();
        let by = number % 40 * Duration::from_secs(3600);
        // Now and then the clock is set back by days.
        let back = number.is_multiple_of(10);
        world.clock.set_unix(if back {
            now.saturating_sub(3 * by)
        } else {
            now + by
        });
    }
    let before = by_line(&world);
    let all = before[&("acme/live".into(), String::new())];
    assert_eq!(all.admitted + all.refused, counted);
    assert!(counted > 150, "{counted}");
    world.clock.advance(30 * DAY);
    assert!(maintain().merged_usage > 0);
    assert_eq!(maintain().merged_usage, 0, "nothing is left to merge");
    assert_eq!(by_line(&world), before);
    let ever = SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH + 10 * START;
    let rows = |filter| {
        block_on(world.admin.usage_page(&operator(), filter))
            .unwrap()
            .rows
    };
    let all = UsageFilter::new(ever).limit(10_000);
    let mut lengths = BTreeSet::new();
    for rows in [rows(all.clone()), rows(all.by_label())] {
        assert!(
            rows.len() < hours.len(),
            "{} of {}",
            rows.len(),
            hours.len()
        );
        for row in rows {
            let class = match row.hours {
                1 => "hour",
                24 => "day",
                672..=744 => "month",
                _ => "other",
            };
            assert!(class == "hour" || row.hour % 24 == 0);
            lengths.insert(class);
        }
    }
    assert_eq!(lengths, BTreeSet::from(["day", "month"]), "{hours:?}");
    // A later pruning keeps the usage too.
    world.clock.advance(60 * DAY);
    assert_eq!(world.prune(), 1);
    maintain();
    assert_eq!(by_line(&world), before);
}

/// A disk without space.
struct Full;

impl io::Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn the_audit_log_is_cut_as_far_as_it_was_exported(open: Open<'_>) {
    let world = World::new(open);
    for _ in 0..700 {
        world.create(world.new_key());
    }
    let middle = world.admin.now() + DAY;
    world.clock.advance(2 * DAY);
    let (_, kept) = world.create(world.new_key());
    let before = world.lines();
    let mut out = Vec::new();
    let export =
        |out: &mut Vec<u8>| block_on(world.admin.export_audit(&operator(), middle, out)).unwrap();
    drop(export(&mut out).unwrap());
    assert_eq!(world.lines(), before, "the export was not handed back");
    out.clear();
    let exported = export(&mut out).unwrap();
    assert_eq!(exported.lines(), 701, "the account and its keys");
    let (sha256, lines) = (exported.sha256(), String::from_utf8(out).unwrap());
    let numbers: Vec<_> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].as_u64())
        .collect();
    let wanted: Vec<_> = before
        .iter()
        .skip(1)
        .map(|line| Some(line.number))
        .collect();
    assert_eq!(numbers, wanted);
    block_on(world.admin.cut_audit(&operator(), exported)).unwrap();
    let left = world.lines();
    assert_eq!(left.len(), 2);
    assert_eq!(
        (left[1].action, left[1].key),
        (AuditAction::Create, Some(kept.id))
    );
    assert_eq!(left[0].action, AuditAction::CutAudit);
    assert!(left[0].number > left[1].number);
    let hex = hex(&sha256);
    let digest: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(lines.as_bytes()).into();
    assert_eq!(sha256, digest);
    assert_eq!(
        left[0].detail,
        format!("from=1 through=701 sha256={hex} count=701")
    );
    assert!(export(&mut Vec::new()).is_none(), "nothing older is left");

    let later = world.admin.now() + DAY;
    let failed = block_on(world.admin.export_audit(&operator(), later, &mut Full));
    assert!(failed.is_err());
    assert_eq!(world.lines(), left);
}

fn an_erased_account_leaves_a_pseudonym(open: Open<'_>) {
    let world = World::new(open);
    let other = AccountId::parse("other").unwrap();
    block_on(world.admin.open_account(&operator(), &other)).unwrap();
    let (others, _) = world.create(NewKey::new(other.clone(), Environment::LIVE, "key"));
    let ann = Actor::user("ann@acme.example", world.acme.clone(), Permission::ALL);
    let new = || world.new_key().token("first");
    let created = block_on(world.admin.create(&ann, new())).unwrap();
    let (key, record) = (created.key.unwrap(), created.record);
    let (_, dead) = world.create(world.new_key());
    block_on(world.admin.revoke(&ann, dead.id, "Ann has lost it")).unwrap();
    world.clock.advance(31 * DAY);
    assert_eq!(world.prune(), 1);
    world.ask(&key).unwrap();
    block_on(world.store.flush()).unwrap();
    let before = world.sums();
    let others_lines = || {
        let lines = world.lines().into_iter();
        lines
            .filter(|line| line.account.as_ref() == Some(&other))
            .collect::<Vec<_>>()
    };
    let kept = others_lines();

    let pseudonym = block_on(world.admin.erase_account(&operator(), &world.acme)).unwrap();
    assert!(pseudonym.as_str().starts_with("erased-"), "{pseudonym}");
    assert!(world.ask(&key).is_err());
    assert_eq!(world.ask(&others), Ok(()));
    assert_eq!(
        block_on(world.store.account(world.acme.clone())).unwrap(),
        None
    );
    assert!(!world.is_stored(&record));
    assert_eq!(others_lines(), kept);
    let everything = format!("{:?}", world.lines());
    for personal in ["acme", "ann", "Ann"] {
        assert!(!everything.contains(personal), "{personal}: {everything}");
    }
    let own = world.lines().into_iter();
    let own: Vec<_> = own
        .filter(|line| line.account.as_ref() == Some(&pseudonym))
        .collect();
    assert!(
        own.iter()
            .any(|line| line.action == AuditAction::Create && line.key == Some(record.id))
    );
    assert_eq!(own[0].action, AuditAction::EraseAccount);
    let stones = world.tombstones(|query| query.account = Some(pseudonym.clone()));
    assert_eq!(
        BTreeSet::from_iter(stones),
        BTreeSet::from([record.id, dead.id])
    );
    let found = block_on(world.admin.tombstone(&operator(), dead.id))
        .unwrap()
        .unwrap();
    assert_eq!(found.revoked_for, "");
    // Bills stay as they were.
    let counts = |sums: &[UsageSum]| {
        let mut counts: Vec<_> = sums.iter().map(|sum| sum.counts.admitted).collect();
        counts.sort_unstable();
        counts
    };
    let after = world.sums();
    assert_eq!(counts(&after), {
        let mut wanted = counts(&before);
        wanted.extend([1, 1]); // what was asked meanwhile, of all requests and under a label
        wanted.sort_unstable();
        wanted
    });
    assert!(after.iter().all(|sum| sum.account != world.acme));

    // A new account of the same name has nothing of the old one.
    block_on(world.admin.open_account(&operator(), &world.acme)).unwrap();
    assert!(world.ask(&key).is_err());
    let operator = operator();
    let import = world
        .admin
        .import(&operator, world.new_key(), record.digest.clone(), None);
    assert!(block_on(import).is_err());
    let (new, _) = world.create(new());
    // A store that reads all keys anew opens the account once it has read them.
    let began = Instant::now();
    while world.ask(&new).is_err() && began.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(world.ask(&new), Ok(()));
    assert!(world.ask(&key).is_err());
}

fn retention_is_for_operators(open: Open<'_>) {
    let world = World::new(open);
    let user = Actor::user("ann", world.acme.clone(), Permission::ALL);
    let everything = Retention::new()
        .dead_keys(DAY)
        .usage_hours(DAY)
        .usage_days(DAY);
    let query = TombstoneQuery {
        account: Some(world.acme.clone()),
        id: None,
        hint: None,
        after: None,
        limit: 1,
    };
    let now = world.admin.now() + DAY;
    let export = block_on(world.admin.export_audit(&operator(), now, &mut Vec::new())).unwrap();
    for refused in [
        block_on(world.admin.maintain(&user, &everything)).map(drop),
        block_on(world.admin.tombstone(&user, KeyId::random().unwrap())).map(drop),
        block_on(world.admin.tombstones(&user, query)).map(drop),
        block_on(world.admin.export_audit(&user, now, &mut Vec::new())).map(drop),
        block_on(world.admin.cut_audit(&user, export.unwrap())),
        block_on(world.admin.erase_account(&user, &world.acme)).map(drop),
    ] {
        assert_eq!(refused.unwrap_err().kind(), AdminErrorKind::NotPermitted);
    }
}
