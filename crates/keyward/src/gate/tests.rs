//! Tests of the gate, on bytes.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll as TaskPoll, Waker};
use std::thread;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::address::AddressPolicy;
use crate::clock::{Clock, ManualClock};
use crate::denial::DenialKind;
use crate::environment::Environment;
use crate::gate::{
    Access, Admitted, Check, Decision, Gate, GateBuilder, KeyHeaderAction, Principal, Requirement,
    Verdict,
};
use crate::ids::{AccountId, KeyId};
use crate::key::{
    ApiKey, DigestScheme, ForeignFormat, KeyDigest, KeyFormat, KeyKind, Pepper, Peppers,
};
use crate::limit::RateLimit;
use crate::origin::OriginPolicy;
use crate::record::{Account, AccountStatus, KeyRecord, KeyStatus};
use crate::replica::poll::tests::{searches, set_moves};
use crate::replica::{Replica, Revision};
use crate::reply::Replies;
use crate::request::{KeyLocation, RequestHead};
use crate::scheme::KeyScheme;
use crate::scope::{ScopeCatalog, Scopes};
use crate::testing::decided;
use crate::throttle::AuthFailureLimiter;

const NOW: Duration = Duration::from_secs(1_700_000_000);

/// A service with one account, one key and one route, which each test changes.
pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) replica: Replica,
    pub(crate) account: Account,
    pub(crate) key: ApiKey,
    pub(crate) record: KeyRecord,
    pub(crate) requirement: Requirement,
    pub(crate) fields: Vec<(&'static str, Vec<u8>)>,
    pub(crate) method: &'static str,
    pub(crate) peer: Option<IpAddr>,
    /// Makes one failure too many, and lets a request from this address fail.
    pub(crate) throttled: bool,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::at(NOW));
        let replica = Replica::with(Arc::<ManualClock>::clone(&clock), 10_000);
        let account = Account::new(AccountId::parse("acme").unwrap());
        let key = format().generate(Environment::LIVE).unwrap();
        let record = KeyRecord::new(
            KeyId::random().unwrap(),
            Peppers::none().digest(&key),
            key.hint().clone(),
            account.id.clone(),
            Environment::LIVE,
            SystemTime::UNIX_EPOCH + NOW,
        );
        let fields = vec![("x-api-key", key.expose_secret().into())];
        let requirement = Requirement::new();
        let method = "GET";
        let peer = Some(IpAddr::from([192, 0, 2, 1]));
        Self {
            clock,
            replica,
            account,
            key,
            record,
            requirement,
            fields,
            method,
            peer,
            throttled: false,
        }
    }

    /// Runs one poll of the feed.
    pub(crate) fn feed(&self) {
        let mut poll = self.replica.poll();
        let number = poll.since().map_or(1, |revision| revision.number + 1);
        poll.account(self.account.clone());
        poll.key(&self.record);
        poll.finish(Revision { number, nonce: 0 }).unwrap();
    }

    pub(crate) fn builder(&self) -> GateBuilder {
        self.builder_with(&scheme())
    }

    pub(crate) fn builder_with(&self, scheme: &KeyScheme) -> GateBuilder {
        Gate::builder_from_replica(&self.replica, scheme)
            .location(KeyLocation::x_api_key())
            .location(KeyLocation::bearer())
            .location(KeyLocation::x_client_key())
    }

    pub(crate) fn check(&self, gate: &Gate, outer: Option<&Principal>) -> Decision {
        gate.check(self, &Arc::new(self.requirement.clone()), outer)
    }

    pub(crate) fn verdict(&self, gate: &Gate) -> Verdict {
        match self.check(gate, None) {
            Decision::Ready(verdict) => verdict,
            Decision::Pending(_) => panic!("not decided at once"),
        }
    }

    /// Returns the decision of a gate with default settings.
    fn ask(&self) -> Result<(), DenialKind> {
        reason(self.verdict(&self.gate()))
    }

    /// Creates a gate with default settings, or one that throttles this address.
    fn gate(&self) -> Gate {
        if !self.throttled {
            return self.builder().build().unwrap();
        }
        let throttle = AuthFailureLimiter::new(RateLimit::parse("1/60;1").unwrap());
        let gate = self.builder().failure_throttle(throttle).build().unwrap();
        let failing = Self {
            fields: vec![("x-api-key", b"malformed".into())],
            ..Self::new()
        };
        assert_eq!(reason(failing.verdict(&gate)), Err(DenialKind::Malformed));
        gate
    }
}

impl RequestHead for World {
    fn method(&self) -> &str {
        self.method
    }

    fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.fields.iter().filter(move |(name, _)| *name == field);
        lines.map(|(_, value)| &value[..])
    }
}

pub(crate) fn format() -> KeyFormat {
    KeyFormat::new("vhk_{env}_").unwrap()
}

pub(crate) fn scheme() -> KeyScheme {
    KeyScheme::new(format())
}

pub(crate) fn reason(verdict: Verdict) -> Result<(), DenialKind> {
    match verdict {
        Verdict::Admit(_) => Ok(()),
        Verdict::Refuse(refusal) => Err(refusal.denial.unwrap().kind()),
    }
}

pub(crate) fn principal(verdict: Verdict) -> Principal {
    match verdict {
        Verdict::Admit(Admitted {
            access: Some(Access::Principal(principal)),
            ..
        }) => principal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_check_that_fails_answers() {
    use DenialKind as Kind;
    type Break = fn(&mut World);
    // In the order of the checks; each breaks something that no other one mends.
    let rows: [(Kind, Break); 12] = [
        (Kind::Throttled, |world| world.throttled = true),
        (Kind::Unavailable, |world| {
            world.clock.advance(Duration::from_secs(31));
        }),
        (Kind::ForeignAccount, |world| {
            let other = AccountId::parse("other").unwrap();
            world.requirement = world.requirement.clone().account(other);
        }),
        (Kind::Revoked, |world| {
            world.record.status = KeyStatus::Revoked;
        }),
        (Kind::AccountInactive, |world| {
            world.account.status = AccountStatus::Suspended;
        }),
        (Kind::EnvironmentMismatch, |world| {
            world.requirement = world.requirement.clone().environment(Environment::TEST);
        }),
        (Kind::SecretExposed, |world| {
            world.fields[0].0 = "x-client-key";
        }),
        (Kind::NoApiAccess, |world| world.account.api_access = false),
        (Kind::OriginNotAllowed, |world| {
            world.record.origins = OriginPolicy::listed(["shop.example"]).unwrap();
            world
                .fields
                .push(("origin", b"https://evil.example".into()));
        }),
        (Kind::AddressNotAllowed, |world| {
            world.record.addresses = AddressPolicy::listed(["198.51.100.0/24"]).unwrap();
        }),
        (Kind::ScopeMissing, |world| {
            world.requirement = world.requirement.clone().scope("kyc");
        }),
        (Kind::CostTooHigh, |world| {
            world.record.rate_limits = RateLimit::per_day(1).into();
            world.requirement = world.requirement.clone().cost(2);
        }),
    ];
    for subset in 0..1_u32 << rows.len() {
        let broken = || {
            rows.iter()
                .enumerate()
                .filter(|(at, _)| subset >> at & 1 == 1)
        };
        let mut world = World::new();
        // Time passes after the feed; everything else changes before it.
        let (late, early): (Vec<_>, Vec<_>) =
            broken().partition(|(_, (kind, _))| *kind == Kind::Unavailable);
        for (_, (_, change)) in early {
            change(&mut world);
        }
        world.feed();
        for (_, (_, change)) in late {
            change(&mut world);
        }
        let lowest = broken().next().map_or(Ok(()), |(_, (kind, _))| Err(*kind));
        assert_eq!(world.ask(), lowest, "{subset:b}");
        // The explanation lists everything that is wrong, in the same order.
        let explained = world.gate().explain(&world, &world.requirement);
        assert_eq!(explained.denial(), lowest.err(), "{subset:b}");
        let wrong = explained.checks().filter_map(|(_, denial)| denial);
        assert!(
            wrong.eq(broken().map(|(_, (kind, _))| *kind)),
            "{explained}"
        );
        assert!(explained.checks().map(|(check, _)| check).is_sorted());

        // The checks before them need no look-up.
        world.fields[0].1[12] ^= 1;
        assert_eq!(world.ask(), Err(Kind::Malformed), "{subset:b}");
        world.fields.push(("authorization", b"Bearer x".into()));
        assert_eq!(world.ask(), Err(Kind::MultipleKeys), "{subset:b}");
        world.fields.retain(|(name, _)| *name == "origin");
        assert_eq!(world.ask(), Err(Kind::Missing), "{subset:b}");
    }
}

#[test]
fn a_preflight_is_answered_before_anything_is_looked_at() {
    let mut world = World::new();
    world.method = "OPTIONS";
    world.fields = vec![
        ("origin", b"null".into()),
        ("access-control-request-method", b"PUT".into()),
    ];
    let gate = world.builder().build().unwrap();
    let Verdict::Refuse(refusal) = world.verdict(&gate) else {
        panic!()
    };
    assert_eq!(refusal.reply.status(), 204);
    assert!(refusal.denial.is_none());
    world.fields.pop();
    assert_eq!(
        world.ask(),
        Err(DenialKind::Missing),
        "any other OPTIONS needs a key"
    );
}

#[test]
fn a_key_is_dead_from_the_second_of_its_expiry() {
    let mut world = World::new();
    world.record.expires_at = Some(SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(10));
    world.feed();
    world.clock.advance(Duration::from_millis(9_999));
    assert_eq!(world.ask(), Ok(()));
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.ask(), Err(DenialKind::Expired));
}

#[test]
fn a_revoked_key_is_not_told_from_an_unknown_one_unless_asked_for() {
    let mut world = World::new();
    let reply = |world: &World, replies| {
        let gate = world.builder().replies(replies).build().unwrap();
        let Verdict::Refuse(refusal) = world.verdict(&gate) else {
            panic!()
        };
        refusal.reply
    };
    let unknown = reply(&world, Replies::default()); // nothing was fed yet: 503
    assert_eq!(unknown.status(), 503);
    world
        .replica
        .poll()
        .finish(Revision {
            number: 1,
            nonce: 0,
        })
        .unwrap();
    let unknown = reply(&world, Replies::default());
    for status in [KeyStatus::Revoked, KeyStatus::Disabled] {
        world.record.status = status;
        world.feed();
        assert_eq!(reply(&world, Replies::default()), unknown);
        let apart = reply(&world, Replies::default().tell_dead_keys_apart());
        let body = String::from_utf8(apart.body().to_vec()).unwrap();
        assert!(body.contains(status.as_str()), "{body}");
    }
}

#[test]
fn memory_that_is_too_old_answers_503_and_never_401() {
    let mut world = World::new();
    assert_eq!(
        world.ask(),
        Err(DenialKind::Unavailable),
        "before the first poll"
    );
    world.feed();
    world.clock.advance(Duration::from_secs(30));
    assert_eq!(world.ask(), Ok(()));
    world.clock.advance(Duration::from_nanos(1));
    assert_eq!(world.ask(), Err(DenialKind::Unavailable));
    world.fields[0].1 = format()
        .generate(Environment::LIVE)
        .unwrap()
        .expose_secret()
        .into();
    assert_eq!(
        world.ask(),
        Err(DenialKind::Unavailable),
        "an unknown key may be a new one"
    );
}

#[test]
fn a_time_of_day_that_jumps_ahead_counts_as_age() {
    let world = World::new();
    world.feed();
    world.clock.set_unix(NOW + Duration::from_secs(31));
    assert_eq!(world.ask(), Ok(()));
    world.clock.set_unix(NOW + Duration::from_secs(32));
    assert_eq!(world.ask(), Err(DenialKind::Unavailable));
    world.clock.set_unix(Duration::ZERO);
    assert_eq!(world.ask(), Ok(()), "backwards it says nothing");
}

#[test]
fn a_poll_that_began_before_the_outage_does_not_look_fresh_after_it() {
    let world = World::new();
    world.feed();
    let poll = world.replica.poll();
    world.clock.advance(Duration::from_secs(60));
    poll.finish(Revision {
        number: 2,
        nonce: 0,
    })
    .unwrap();
    assert_eq!(world.ask(), Err(DenialKind::Unavailable));
}

#[test]
fn a_gate_that_trusts_no_memory_waits_for_the_store() {
    let mut world = World::new();
    world.feed();
    world.clock.advance(Duration::from_millis(1));
    let (ask, asked) = std::sync::mpsc::channel();
    world.replica.on_demand(move |_| ask.send(()).is_ok());
    let gate = world
        .builder()
        .max_staleness(Duration::ZERO)
        .build()
        .unwrap();
    let requirement = Arc::new(world.requirement.clone());
    let pending = |world: &World| match gate.check(world, &requirement, None) {
        pending @ Decision::Pending(_) => pending,
        Decision::Ready(verdict) => panic!("{verdict:?}"),
    };

    let answer = pending(&world);
    world.record.status = KeyStatus::Revoked;
    let answer = thread::scope(|threads| {
        let answer = threads.spawn(|| reason(decided(answer)));
        asked.recv().unwrap();
        world.feed();
        answer.join().unwrap()
    });
    assert_eq!(
        answer,
        Err(DenialKind::Revoked),
        "the news came before the answer"
    );

    world.clock.advance(Duration::from_millis(1));
    let answer = pending(&world);
    let answer = thread::scope(|threads| {
        let answer = threads.spawn(|| reason(decided(answer)));
        asked.recv().unwrap();
        drop(world.replica.poll()); // the store failed
        answer.join().unwrap()
    });
    assert_eq!(answer, Err(DenialKind::Unavailable));
    let at_once = |world: &World| match gate.check(world, &requirement, None) {
        Decision::Ready(verdict) => reason(verdict),
        pending @ Decision::Pending(_) => panic!("{pending:?}"),
    };
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(
        at_once(&world),
        Err(DenialKind::Unavailable),
        "until a poll succeeds"
    );

    world.feed();
    drop(asked); // the feed is gone
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(at_once(&world), Err(DenialKind::Unavailable));
}

#[test]
fn a_poll_that_began_before_a_request_does_not_answer_it() {
    let world = World::new();
    world.feed();
    world.replica.on_demand(|_| true);
    let gate = world
        .builder()
        .max_staleness(Duration::ZERO)
        .build()
        .unwrap();
    let early = world.replica.poll();
    world.clock.advance(Duration::from_millis(1));
    let Decision::Pending(pending) = world.check(&gate, None) else {
        panic!()
    };
    let mut verdict = pending.with_timer(|_| never());
    let mut context = Context::from_waker(Waker::noop());
    early
        .finish(Revision {
            number: 2,
            nonce: 0,
        })
        .unwrap();
    assert!(verdict.as_mut().poll(&mut context).is_pending());
    world.feed();
    let TaskPoll::Ready(verdict) = verdict.as_mut().poll(&mut context) else {
        panic!()
    };
    assert_eq!(reason(verdict), Ok(()));
}

#[test]
fn a_request_that_waits_is_judged_by_its_origin() {
    let mut world = World::new();
    world.record.origins = OriginPolicy::listed(["shop.example"]).unwrap();
    world.feed();
    world.replica.on_demand(|_| true);
    let gate = world.builder().max_staleness(Duration::ZERO);
    let gate = gate.build().unwrap();
    let key = world.fields.remove(0);
    for (origin, answer) in [
        (None, Err(DenialKind::OriginMissing)),
        (Some("https://shop.example"), Ok(())),
        (
            Some("https://evil.example"),
            Err(DenialKind::OriginNotAllowed),
        ),
    ] {
        let origin = origin.map(|origin| ("origin", origin.into()));
        world.fields = [key.clone()].into_iter().chain(origin).collect();
        world.clock.advance(Duration::from_millis(1));
        let pending = world.check(&gate, None);
        world.feed();
        assert_eq!(reason(decided(pending)), answer);
    }
}

#[test]
fn a_request_that_finds_memory_too_old_waits_for_one_poll_with_all_others() {
    let world = World::new();
    world.feed();
    let polls = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&polls);
    world.replica.on_demand(move |_| {
        asked.fetch_add(1, Ordering::Relaxed);
        true
    });
    let gate = world.builder().build().unwrap();
    world.clock.advance(Duration::from_secs(31)); // frozen
    let mut waiting: Vec<_> = (0..100).map(|_| pending(&world, &gate, never)).collect();
    for one in &mut waiting {
        assert!(look(one).is_none());
    }
    assert_eq!(polls.load(Ordering::Relaxed), 1, "for all of them");
    world.feed();
    for one in &mut waiting {
        assert_eq!(look(one), Some(Ok(())));
    }
    assert_eq!(polls.load(Ordering::Relaxed), 1);
}

#[test]
fn a_request_waits_until_its_time_is_over_and_is_judged_again() {
    let world = World::new();
    world.feed();
    world.replica.on_demand(|_| true);
    let wait = Duration::from_secs(2);
    let gate = world.builder().refresh_wait(wait).build().unwrap();
    let slow = world.replica.poll();
    world.clock.advance(Duration::from_secs(31));
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let (given, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(ended)));
    let (seen, is_over) = (Arc::clone(&given), Arc::clone(&is_over));
    let Decision::Pending(waits) = world.check(&gate, None) else {
        panic!()
    };
    let mut waits = waits.with_timer(|wait| {
        seen.store(wait.as_secs(), Ordering::Relaxed);
        poll_fn(move |_| match is_over.lock().unwrap().try_recv() {
            Ok(()) => TaskPoll::Ready(()),
            Err(_) => TaskPoll::Pending,
        })
    });
    assert!(look(&mut waits).is_none());
    assert_eq!(given.load(Ordering::Relaxed), wait.as_secs());
    // A poll that began before the process was frozen proves nothing.
    let number = 2;
    slow.finish(Revision { number, nonce: 0 }).unwrap();
    assert!(look(&mut waits).is_none());
    end.send(()).unwrap();
    assert_eq!(look(&mut waits), Some(Err(DenialKind::Unavailable)));
}

#[test]
fn no_more_than_ten_thousand_requests_wait() {
    let world = World::new();
    world.feed();
    world.replica.on_demand(|_| true);
    let gate = world.builder().build().unwrap();
    world.clock.advance(Duration::from_secs(31));
    let mut waiting: Vec<_> = (0..10_000).map(|_| pending(&world, &gate, never)).collect();
    assert_eq!(
        reason(world.verdict(&gate)),
        Err(DenialKind::Unavailable),
        "at once"
    );
    waiting.pop();
    waiting.push(pending(&world, &gate, never));
    world.feed();
    for one in &mut waiting {
        assert_eq!(look(one), Some(Ok(())));
    }
}

type Waiting = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// Creates a timer that never ends.
fn never() -> std::future::Pending<()> {
    std::future::pending()
}

/// Creates a request that has to wait.
fn pending<T>(world: &World, gate: &Gate, timer: impl FnOnce() -> T) -> Waiting
where
    T: Future<Output = ()> + Send + 'static,
{
    match world.check(gate, None) {
        Decision::Pending(pending) => pending.with_timer(|_| timer()),
        Decision::Ready(verdict) => panic!("{verdict:?}"),
    }
}

/// Returns the answer, if it is ready.
fn look(waiting: &mut Waiting) -> Option<Result<(), DenialKind>> {
    let mut context = Context::from_waker(Waker::noop());
    match waiting.as_mut().poll(&mut context) {
        TaskPoll::Ready(verdict) => Some(reason(verdict)),
        TaskPoll::Pending => None,
    }
}

#[test]
fn an_inner_layer_of_the_same_gate_needs_no_key_and_adds_its_requirement() {
    let mut world = World::new();
    world.record.scopes = Scopes::parse(["kyc"]).unwrap();
    world.feed();
    let gate = world.builder().build().unwrap();
    let outer = principal(world.verdict(&gate));
    world.fields.clear(); // as the outer layer left it
    let ask = |requirement: Requirement, gate: &Gate| match gate.check(
        &world,
        &Arc::new(requirement),
        Some(&outer),
    ) {
        Decision::Ready(verdict) => reason(verdict),
        Decision::Pending(_) => panic!("not decided at once"),
    };
    assert_eq!(ask(Requirement::new().scope("kyc"), &gate), Ok(()));
    assert_eq!(
        ask(Requirement::new().scope("other"), &gate),
        Err(DenialKind::ScopeMissing)
    );
    let test = Requirement::new().environment(Environment::TEST);
    assert_eq!(ask(test, &gate), Err(DenialKind::EnvironmentMismatch));
    let other = Requirement::new().account(AccountId::parse("other").unwrap());
    assert_eq!(ask(other, &gate), Err(DenialKind::ForeignAccount));
    let another_gate = world.builder().build().unwrap();
    assert_eq!(
        ask(Requirement::new(), &another_gate),
        Err(DenialKind::Missing)
    );
}

#[test]
fn where_a_key_is_optional_only_its_absence_passes() {
    let mut world = World::new();
    world.requirement = world.requirement.clone().optional();
    world.feed();
    let gate = world.builder().build().unwrap();
    principal(world.verdict(&gate));
    for fields in [vec![], vec![("authorization", &b"Basic dTpw"[..])]] {
        world.fields = fields
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        let Verdict::Admit(admitted) = world.verdict(&gate) else {
            panic!()
        };
        assert!(matches!(admitted.access, Some(Access::Anonymous(_))));
    }
    for (value, kind) in [
        (&b""[..], DenialKind::Missing),
        (b"vhk_live_wrong", DenialKind::Malformed),
        (b"a,b", DenialKind::MultipleKeys),
    ] {
        world.fields = vec![("x-api-key", value.into())];
        assert_eq!(world.ask(), Err(kind));
    }
}

#[test]
fn the_environment_in_the_text_must_be_that_of_the_record() {
    let mut world = World::new();
    world.record.environment = Environment::TEST;
    world.requirement = world.requirement.clone().any_environment();
    world.feed();
    assert_eq!(world.ask(), Err(DenialKind::EnvironmentMismatch));
}

#[test]
fn the_field_to_remove_is_named_by_its_place_among_the_locations() {
    let mut world = World::new();
    world.fields[0] = (
        "authorization",
        format!("Bearer {}", world.key.expose_secret()).into(),
    );
    world.feed();
    let gate = world.builder().build().unwrap();
    let Verdict::Admit(admitted) = world.verdict(&gate) else {
        panic!()
    };
    assert_eq!(admitted.key_header, KeyHeaderAction::Remove(1));
    assert_eq!(gate.locations().get(1), Some(&KeyLocation::bearer()));
}

#[test]
fn a_publishable_key_passes_only_where_both_route_and_place_are_meant_for_it() {
    let mut world = World::new();
    world.record.kind = KeyKind::Publishable;
    world.feed();
    assert_eq!(world.ask(), Err(DenialKind::KindMisplaced));
    world.fields[0].0 = "x-client-key";
    assert_eq!(world.ask(), Err(DenialKind::KindNotAccepted));
    world.requirement = Requirement::new().kinds([KeyKind::Publishable]);
    assert_eq!(world.ask(), Ok(()));
}

#[test]
fn finds_keys_under_the_current_and_the_retired_peppers() {
    let pepper = |id| Pepper::new(id, format!("sixteen bytes or {id}").as_bytes()).unwrap();
    let peppers = Peppers::new(pepper("new"))
        .retired(pepper("old"))
        .unwrap()
        .accepting(DigestScheme::Sha256)
        .unwrap();
    for (way, found) in [
        (Peppers::new(pepper("new")), true),
        (Peppers::new(pepper("old")), true),
        (Peppers::none(), true),
        (Peppers::new(pepper("lost")), false),
    ] {
        let mut world = World::new();
        world.record.digest = way.digest(&world.key);
        world.feed();
        let gate = world
            .builder_with(&scheme().peppers(peppers.clone()))
            .build()
            .unwrap();
        assert_eq!(reason(world.verdict(&gate)).is_ok(), found, "{way:?}");
    }
}

#[test]
fn a_pepper_with_an_end_is_accepted_until_then() {
    let pepper = |id| Pepper::new(id, format!("sixteen bytes or {id}").as_bytes()).unwrap();
    let end = SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(10);
    let peppers = Peppers::new(pepper("new"))
        .retired_until(pepper("old"), end)
        .unwrap();
    let mut world = World::new();
    world.record.digest = Peppers::new(pepper("old")).digest(&world.key);
    world.feed();
    let gate = world
        .builder_with(&scheme().peppers(peppers))
        .build()
        .unwrap();
    world.clock.advance(Duration::from_millis(9_999));
    assert_eq!(reason(world.verdict(&gate)), Ok(()));
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(reason(world.verdict(&gate)), Err(DenialKind::Unknown));
}

#[test]
fn an_upcoming_pepper_is_accepted_and_keys_stay_under_it() {
    let pepper = |id| Pepper::new(id, format!("sixteen bytes or {id}").as_bytes()).unwrap();
    let upcoming = Peppers::new(pepper("old")).upcoming(pepper("new")).unwrap();
    let mut world = World::new();
    world.record.digest = Peppers::new(pepper("new")).digest(&world.key);
    world.feed();
    let gate = world
        .builder_with(&scheme().peppers(upcoming))
        .build()
        .unwrap();
    assert_eq!(reason(world.verdict(&gate)), Ok(()));
    assert_eq!(world.replica.take_rehashes(), []);
}

#[test]
#[should_panic(expected = "the catalog has no scope Scope(kcy)")]
fn a_scope_that_the_catalog_does_not_know_is_a_mistake_of_the_program() {
    let world = World::new();
    let catalog = ScopeCatalog::new(["kyc"]).unwrap();
    let gate = world
        .builder_with(&scheme().catalog(catalog))
        .build()
        .unwrap();
    gate.assert_meetable(&Requirement::new().scope("kyc"));
    gate.assert_meetable(&Requirement::new().scope("kcy"));
}

#[test]
fn last_used_is_noted_when_a_request_passes_and_survives_a_change_of_the_record() {
    let mut world = World::new();
    world.feed();
    assert_eq!(world.replica.last_used(&world.record), None);
    world.clock.advance(Duration::from_secs(5));
    world.ask().unwrap();
    let used = SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(5);
    assert_eq!(world.replica.last_used(&world.record), Some(used));
    world.record.status = KeyStatus::Disabled;
    world.feed();
    world.clock.advance(Duration::from_secs(5));
    world.ask().unwrap_err();
    assert_eq!(world.replica.last_used(&world.record), Some(used));
}

/// A clock that runs a hook while a request reads it.
#[derive(Default)]
struct Interruption(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl std::fmt::Debug for Interruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interruption")
    }
}

impl Clock for Interruption {
    fn unix(&self) -> Duration {
        let interruption = self.0.lock().unwrap().take();
        if let Some(happen) = interruption {
            happen();
        }
        NOW
    }

    fn boot(&self) -> Duration {
        NOW
    }
}

#[test]
fn a_key_that_changes_while_it_is_judged_is_judged_again() {
    let clock = Arc::new(Interruption::default());
    let mut world = World::new();
    world.replica = Replica::with(Arc::<Interruption>::clone(&clock), 10);
    world.account.status = AccountStatus::Suspended;
    world.feed();
    let gate = world.builder().build().unwrap();

    // The request has found the key active, and has not looked at the account yet.
    let mut later = World {
        replica: world.replica.clone(),
        ..World::new()
    };
    later.account.status = AccountStatus::Active;
    later.record = world.record.clone();
    later.record.status = KeyStatus::Revoked;
    *clock.0.lock().unwrap() = Some(Box::new(move || later.feed()));
    assert_eq!(reason(world.verdict(&gate)), Err(DenialKind::Revoked));
}

#[test]
fn a_key_that_moves_between_the_looks_at_both_its_places_is_found() {
    let pepper = |id| Pepper::new(id, format!("the long secret of {id}").as_bytes()).unwrap();
    // The move begins and ends between the looks, or began before them and ends after.
    for midst in [false, true] {
        let clock = Arc::new(Interruption::default());
        let mut world = World::new();
        world.replica = Replica::with(Arc::<Interruption>::clone(&clock), 10);
        world.record.digest = Peppers::new(pepper("old")).digest(&world.key);
        world.feed();
        let end = SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(10);
        let both = Peppers::new(pepper("new")).retired_until(pepper("old"), end);
        let gate = world
            .builder_with(&scheme().peppers(both.unwrap()))
            .build()
            .unwrap();

        // It is not in its new place yet, and the clock tells whether the old one is read.
        let mut later = World {
            replica: world.replica.clone(),
            ..World::new()
        };
        later.record = world.record.clone();
        later.record.digest = Peppers::new(pepper("new")).digest(&world.key);
        later.record.redigested = 1;
        let moving = move |replica: &Replica| {
            if midst {
                set_moves(replica, 1);
            }
        };
        moving(&world.replica);
        *clock.0.lock().unwrap() = Some(Box::new(move || {
            later.feed();
            moving(&later.replica);
        }));
        assert_eq!(reason(world.verdict(&gate)), Ok(()));
    }
}

#[test]
fn no_request_sees_a_state_that_never_was() {
    let mut world = World::new();
    let gate = world.builder().build().unwrap();
    let head = World {
        fields: world.fields.clone(),
        ..World::new()
    };
    let requirement = Arc::new(Requirement::new());
    let ask = || match gate.check(&head, &requirement, None) {
        Decision::Ready(verdict) => reason(verdict),
        Decision::Pending(_) => panic!("not decided at once"),
    };
    // Enough other keys that changing all of them takes a while.
    let others: Vec<_> = (0..3000)
        .map(|_| {
            let key = format().generate(Environment::LIVE).unwrap();
            let mut other = world.record.clone();
            other.id = KeyId::random().unwrap();
            other.digest = Peppers::none().digest(&key);
            other
        })
        .collect();
    // Either the account is suspended or the key is revoked, and one poll brings both changes.
    let mut feed = |even: bool| {
        let suspended = (AccountStatus::Suspended, KeyStatus::Active);
        let revoked = (AccountStatus::Active, KeyStatus::Revoked);
        (world.account.status, world.record.status) = if even { suspended } else { revoked };
        let mut poll = world.replica.poll();
        let number = poll.since().map_or(1, |revision| revision.number + 1);
        poll.account(world.account.clone());
        poll.key(&world.record);
        for other in &others {
            poll.key(other);
        }
        poll.finish(Revision { number, nonce: 0 }).unwrap();
    };
    feed(true);
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|threads| {
        let asker = threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                ask().unwrap_err();
            }
        });
        (0..100).for_each(|round| feed(round % 2 == 1));
        done.store(true, Ordering::Relaxed);
        asker.join().unwrap();
    });
}

#[test]
fn a_key_that_moves_to_another_digest_is_never_missed() {
    let pepper = |id| Pepper::new(id, format!("the long secret of {id}").as_bytes()).unwrap();
    let mut world = World::new();
    let ways = [pepper("a"), pepper("b")].map(Peppers::new);
    let digests = ways.map(|way| way.digest(&world.key));
    world.record.digest = digests[0].clone();
    world.feed();
    let both = Peppers::new(pepper("a")).retired(pepper("b")).unwrap();
    let gate = world.builder_with(&scheme().peppers(both)).build().unwrap();
    let head = World {
        fields: world.fields.clone(),
        ..World::new()
    };
    let requirement = Arc::new(Requirement::new());
    let ask = || match gate.check(&head, &requirement, None) {
        Decision::Ready(verdict) => reason(verdict),
        Decision::Pending(_) => panic!("not decided at once"),
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|threads| {
        let asker = threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                ask().unwrap();
            }
        });
        for round in 1..20_000 {
            world.record.redigested = round;
            world.record.digest = digests[round as usize % 2].clone();
            world.feed();
        }
        done.store(true, Ordering::Relaxed);
        asker.join().unwrap();
    });
    assert_eq!(world.replica.len(), 1);
}

#[test]
fn a_key_that_this_process_has_rehashed_is_found_without_a_search() {
    let pepper = |id| Pepper::new(id, format!("the long secret of {id}").as_bytes()).unwrap();
    let mut world = World::new();
    world.record.digest = Peppers::new(pepper("old")).digest(&world.key);
    world.feed();
    let both = Peppers::new(pepper("new")).retired(pepper("old")).unwrap();
    let gate = world.builder_with(&scheme().peppers(both)).build().unwrap();
    assert_eq!(reason(world.verdict(&gate)), Ok(()));
    let rehashes = world.replica.take_rehashes();
    world.record.digest = rehashes[0].to.clone();
    world.record.redigested = 1;
    world.feed();
    assert_eq!((world.replica.len(), searches(&world.replica)), (1, 0));

    // One that another process has rehashed is not.
    world.record.digest = Peppers::none().digest(&world.key);
    world.record.redigested = 2;
    world.feed();
    assert_eq!((world.replica.len(), searches(&world.replica)), (1, 1));
}

#[test]
fn what_is_only_reported_passes_and_is_counted() {
    use DenialKind as Kind;
    let mut world = World::new();
    world.record.scopes = Scopes::parse(["kyc"]).unwrap();
    world.feed();
    let gate = world.builder().build().unwrap();
    let reported = |gate: &Gate| {
        let kinds = [
            Kind::EnvironmentMismatch,
            Kind::KindNotAccepted,
            Kind::ScopeMissing,
        ];
        kinds.map(|kind| gate.reported(kind))
    };
    let demands = || Requirement::new().report_only();
    // An outer layer reports, and an inner one reports for itself.
    for (demand, counted) in [
        (demands().scope("kyc"), [0, 0, 0]),
        (demands().scope("age"), [0, 0, 2]),
        (
            demands().scope("age").environment(Environment::TEST),
            [2, 0, 2],
        ),
        (demands().kinds([KeyKind::Publishable]), [2, 2, 2]),
    ] {
        world.requirement = demand;
        let outer = principal(world.verdict(&gate));
        let again = world.check(&gate, Some(&outer));
        assert!(matches!(again, Decision::Ready(Verdict::Admit(_))));
        assert_eq!(reported(&gate), counted);
        let explained = gate.explain(&world, &world.requirement);
        assert_eq!(explained.denial(), None);
    }
}

#[test]
fn only_the_secret_of_an_imported_key_counts_and_512_bytes_at_most() {
    let separated = ForeignFormat::new("").unwrap().secret_after('|');
    let long = ForeignFormat::new("").unwrap().lengths(20..=1000);
    for (number, secret, passes) in [
        ("1|", 40, Ok(())),
        ("42|", 40, Ok(())),
        ("", 512, Ok(())),
        ("", 513, Err(DenialKind::Malformed)),
    ] {
        let mut world = World::new();
        let secret = "s".repeat(secret);
        let digest = Sha256::digest(&secret).into();
        world.record.digest = KeyDigest::new(DigestScheme::Sha256, digest);
        world.fields[0].1 = format!("{number}{secret}").into();
        world.feed();
        let gate = world.builder().foreign_format(separated.clone());
        let gate = gate.foreign_format(long.clone()).build().unwrap();
        assert_eq!(reason(world.verdict(&gate)), passes, "{number}{secret}");
    }
}

#[test]
fn a_key_that_has_several_foreign_formats_is_found_by_its_own() {
    let formats = || {
        let format = |prefix| ForeignFormat::new(prefix).unwrap();
        [
            format("re_").secret_after('_'),
            format("").secret_after('_'),
            format(""),
            format("re_"),
        ]
    };
    let text = "re_BRTRKFsL_51FwqftsmMDHHbJAMEXXHCgG";
    let schemes = [DigestScheme::Sha256OfSecret, DigestScheme::Sha512];
    let peppers = Peppers::new(Pepper::new("2026", b"sixteen bytes or more").unwrap());
    let peppers = schemes.into_iter().try_fold(peppers, Peppers::accepting);
    // What counts as the key, and how the other system has digested it.
    for (key, digest) in [
        (
            text,
            KeyDigest::new(DigestScheme::Sha256, Sha256::digest(text).into()),
        ),
        (
            text,
            KeyDigest::new(
                DigestScheme::Sha512,
                Sha256::digest(sha2::Sha512::digest(text)).into(),
            ),
        ),
        (
            "51FwqftsmMDHHbJAMEXXHCgG",
            KeyDigest::new(
                DigestScheme::Sha256OfSecret,
                Sha256::digest("51FwqftsmMDHHbJAMEXXHCgG").into(),
            ),
        ),
    ] {
        for turn in 0..formats().len() {
            let mut world = World::new();
            let scheme = scheme().peppers(peppers.clone().unwrap());
            world.record.digest = digest.clone();
            world.fields[0].1 = text.into();
            world.feed();
            let mut formats = formats();
            formats.rotate_left(turn);
            let gate = formats
                .into_iter()
                .fold(world.builder_with(&scheme), GateBuilder::foreign_format);
            let gate = gate.build().unwrap();
            assert_eq!(reason(world.verdict(&gate)), Ok(()), "{key} {digest:?}");
            // The new digest is of the part that counts.
            let rehashes = world.replica.take_rehashes();
            let expected = scheme.peppers.digest_text(key.as_bytes());
            assert_eq!(
                rehashes.into_iter().map(|one| one.to).collect::<Vec<_>>(),
                [expected]
            );
            world.fields[0].1 = text.replace("CgG", "CgH").into();
            assert_eq!(reason(world.verdict(&gate)), Err(DenialKind::Unknown));
        }
    }
}

#[test]
fn a_missing_scope_is_told_with_those_of_the_route() {
    let mut world = World::new();
    world.requirement = Requirement::new().scope("kyc").any_scope(["age", "name"]);
    world.feed();
    let gate = world.builder().build().unwrap();
    let Verdict::Refuse(refusal) = world.verdict(&gate) else {
        panic!()
    };
    let challenge = r#"ApiKey realm="api", error="insufficient_scope", scope="kyc age name""#;
    let mut fields = refusal.reply.headers();
    assert!(fields.any(|field| field == ("www-authenticate", challenge)));
    for (requirement, denial, verdict) in [
        (
            world.requirement.clone(),
            Some(DenialKind::ScopeMissing),
            "refuses",
        ),
        (world.requirement.clone().report_only(), None, "reports"),
    ] {
        let explained = gate.explain(&world, &requirement);
        assert_eq!(explained.denial(), denial);
        let told = format!("  {verdict}  the scopes of the route: ");
        assert!(explained.to_string().contains(&told), "{explained}");
    }
}

#[test]
fn what_the_key_itself_lacks_is_enforced_also_where_demands_are_reported() {
    use DenialKind as Kind;
    type Break = fn(&mut World);
    let breaks: [(Kind, Break); 6] = [
        (Kind::Revoked, |world| {
            world.record.status = KeyStatus::Revoked;
        }),
        (Kind::ForeignAccount, |world| {
            let other = AccountId::parse("other").unwrap();
            world.requirement = world.requirement.clone().account(other);
        }),
        (Kind::SecretExposed, |world| {
            world.fields[0].0 = "x-client-key";
        }),
        (Kind::NoApiAccess, |world| world.account.api_access = false),
        (Kind::OriginMissing, |world| {
            world.record.origins = OriginPolicy::listed(["shop.example"]).unwrap();
        }),
        (Kind::AddressUnknown, |world| {
            world.record.addresses = AddressPolicy::listed(["192.0.2.1"]).unwrap();
            world.peer = None;
        }),
    ];
    for (kind, change) in breaks {
        let mut world = World::new();
        world.requirement = Requirement::new().scope("lacking").report_only();
        change(&mut world);
        world.feed();
        let gate = world.builder().build().unwrap();
        assert_eq!(reason(world.verdict(&gate)), Err(kind));
        assert_eq!(gate.reported(Kind::ScopeMissing), 0, "it was refused");
    }
}

#[test]
fn an_explanation_changes_nothing() {
    let mut world = World::new();
    world.record.rate_limits = RateLimit::per_day(1).into();
    world.feed();
    let gate = world.builder().build().unwrap();
    for _ in 0..5 {
        assert_eq!(gate.explain(&world, &world.requirement).denial(), None);
    }
    assert!(world.replica.take_usage().is_empty());
    assert_eq!(reason(world.verdict(&gate)), Ok(()));
    let explained = gate.explain(&world, &world.requirement);
    assert_eq!(explained.denial(), Some(DenialKind::RateLimited));
    let told = explained.to_string();
    assert!(
        told.contains("refuses  the rate limits: rate limit used up (rate_limited)"),
        "{told}"
    );
    assert!(!told.contains(world.key.expose_secret()));
    assert_eq!(explained.key_id(), Some(world.record.id));
    world.fields.clear();
    let explained = gate.explain(&world, &world.requirement);
    assert!(
        explained
            .checks()
            .eq([(Check::Credential, Some(DenialKind::Missing))])
    );
}

#[test]
#[should_panic(expected = "a cost of 11 can never pass the limit 10/60;10")]
fn panics_if_a_route_costs_more_than_the_burst() {
    let gate = World::new()
        .builder()
        .rate_limits(Environment::LIVE, RateLimit::per_minute(10))
        .build()
        .unwrap();
    gate.assert_meetable(&Requirement::new().environment(Environment::TEST).cost(11));
    gate.assert_meetable(&Requirement::new().cost(11));
}

#[test]
fn an_imported_key_is_found_if_it_looks_like_an_own_one_without_a_checksum() {
    let own = format().without_checksum();
    let mut world = World::new();
    world.key = own.generate(Environment::LIVE).unwrap();
    world.record.digest = Peppers::none().digest(&world.key);
    world.fields = vec![("x-api-key", world.key.expose_secret().into())];
    world.feed();
    let pepper = Pepper::new("2026", &[7; 32]).unwrap();
    let scheme = scheme().retired_format(own).unwrap();
    let scheme = scheme.peppers(Peppers::new(pepper));
    for (foreign, expected) in [
        (None, Err(DenialKind::Unknown)),
        (Some("re_"), Err(DenialKind::Unknown)),
        (Some("vhk_"), Ok(())),
    ] {
        let mut gate = world.builder_with(&scheme);
        if let Some(prefix) = foreign {
            gate = gate.foreign_format(ForeignFormat::new(prefix).unwrap());
        }
        assert_eq!(reason(world.verdict(&gate.build().unwrap())), expected);
    }
}
