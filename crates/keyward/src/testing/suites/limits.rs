//! The promises of rate limits and credits over any store.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use crate::admin::{AccountChange, Actor, AdminError, Grace, KeyAdmin, KeyChange, NewKey};
use crate::clock::{Clock, ManualClock};
use crate::credits::{CreditOwner, Credits, Refill, RefillSchedule};
use crate::denial::DenialKind;
use crate::environment::Environment;
use crate::gate::{
    Access, Admitted, Check, Decision, Finish, Gate, GateBuilder, Principal, Requirement, Verdict,
};
use crate::ids::{AccountId, KeyId};
use crate::key::{ApiKey, DigestScheme, KeyFormat, KeyKind, Pepper, Peppers};
use crate::limit::{Charge, LimitFuture, Limiter, LimiterError, RateLimit, RateLimits, ResetUnit};
use crate::record::{Account, AdminErrorKind, AuditAction, KeyRecord, Metadata};
use crate::replica::{Replica, Revision};
use crate::request::KeyLocation;
use crate::scheme::KeyScheme;
use crate::scope::{Permission, Scopes};
use crate::store::{AuditQuery, MemoryStore, Store};
use crate::testing::{TestRequest, TestResponse, block_on, decided, suites};

/// Tests rate limits, credits and metering over a store.
///
/// `open` opens a new, empty store on this clock, each time that it is called. The macro
/// [`suites!`](crate::testing::suites!) makes each promise a test of its own.
///
/// ```
/// use keyward::{MemoryStore, testing};
///
/// testing::suites::limits(MemoryStore::with_clock);
/// ```
///
/// # Panics
/// If the store breaks a promise.
pub fn limits<S: Store>(open: impl Fn(Arc<dyn Clock>) -> S) {
    let open: suites::Open<'_> = &|clock| Arc::new(open(clock));
    let open = Open::from(open);
    crate::__limits_promises!(__run_promises open);
}

/// Tests a limiter: rate limits hold as if each process counted for itself.
///
/// `make` makes a limiter that has counted nothing, each time that it is called. It has to count by
/// this clock, which stands still until the suite advances it.
///
/// ```
/// use std::time::Duration;
/// use keyward::limit::{Charge, LimitFuture, Limiter};
/// use keyward::testing;
///
/// #[derive(Debug)]
/// struct Here;
///
/// impl Limiter for Here {
///     fn take(&self, charge: Charge, now: Duration) -> LimitFuture {
///         LimitFuture::Ready(charge.take_here(now))
///     }
///
///     fn give_back(&self, charge: Charge) {
///         charge.give_back_here();
///     }
/// }
///
/// testing::suites::limiter(|_clock| Here);
/// ```
///
/// # Panics
/// If the limiter breaks a promise.
pub fn limiter<L: Limiter>(make: impl Fn(Arc<dyn Clock>) -> L) {
    let open = Open {
        store: &|clock| Arc::new(MemoryStore::with_clock(clock)),
        limiter: Some(&|clock| Arc::new(make(clock))),
    };
    crate::__limiter_promises!(__run_promises open);
}

/// Opens a new, empty store, and makes the limiter that is tested.
#[derive(Clone, Copy)]
struct Open<'a> {
    store: suites::Open<'a>,
    limiter: Option<MakeLimiter<'a>>,
}

type MakeLimiter<'a> = &'a dyn Fn(Arc<dyn Clock>) -> Arc<dyn Limiter>;

impl<'a> From<suites::Open<'a>> for Open<'a> {
    fn from(store: suites::Open<'a>) -> Self {
        let limiter = None;
        Self { store, limiter }
    }
}

#[doc(hidden)]
#[macro_export]
macro_rules! __limiter_promises {
    ($then:ident $($with:tt)*) => {
        $crate::$then! { [$($with)*] limits
            rate_limiting_is_off_by_default
            a_key_has_its_own_limit_or_its_plans_or_the_services
            a_ceiling_holds_beside_every_other_limit
            keys_of_an_account_share_a_limit_in_each_environment
            a_refusal_by_one_limit_takes_nothing_from_the_others
            concurrent_requests_pass_exactly_up_to_the_tightest_limit
            a_rotation_doubles_no_limit
            a_change_of_a_key_leaves_its_counters
            a_route_counts_by_its_cost_and_a_free_one_not_at_all
            layers_of_one_gate_charge_once_the_highest_cost
            a_request_that_is_refused_costs_nothing_in_the_end
            a_client_that_hangs_up_has_paid
            a_refusal_contains_the_time_to_retry
            the_most_restrictive_limit_is_described
            requests_that_wait_for_the_store_are_charged_too
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __limits_promises {
    ($then:ident $($with:tt)*) => {
        $crate::$then! { [$($with)*] limits
            rate_limiting_is_off_by_default
            a_key_has_its_own_limit_or_its_plans_or_the_services
            a_ceiling_holds_beside_every_other_limit
            keys_of_an_account_share_a_limit_in_each_environment
            a_refusal_by_one_limit_takes_nothing_from_the_others
            concurrent_requests_pass_exactly_up_to_the_tightest_limit
            a_rotation_doubles_no_limit
            rotating_a_key_that_was_just_rehashed_doubles_no_limit
            a_change_of_a_key_leaves_its_counters
            a_route_counts_by_its_cost_and_a_free_one_not_at_all
            layers_of_one_gate_charge_once_the_highest_cost
            a_request_that_is_refused_costs_nothing_in_the_end
            a_client_that_hangs_up_has_paid
            a_refusal_contains_the_time_to_retry
            the_most_restrictive_limit_is_described
            an_external_limiter_is_charged_and_refunded
            an_explanation_includes_credits_but_no_external_limits
            a_limiter_that_does_not_answer_is_a_503
            requests_that_wait_for_the_store_are_charged_too
            credits_are_spent_by_live_keys_down_to_nothing
            a_key_spends_its_own_credits_and_shares_them_with_its_successors
            credits_of_a_key_are_shared_by_the_live_keys_of_its_chain
            one_of_many_concurrent_requests_gets_the_last_credit
            concurrent_requests_pass_exactly_as_many_as_there_are_credits
            a_refill_replaces_the_balance_once_at_its_instant
            a_refill_between_two_milliseconds_delays_no_request
            a_quota_is_refilled_once_at_each_boundary_of_its_calendar
            what_rolls_over_is_added_for_every_boundary_up_to_the_cap
            a_clock_that_is_set_back_refills_nothing_twice
            a_soft_limit_is_told_before_the_quota_is_used_up
            only_quotas_of_secret_keys_are_told_in_headers
            layers_tell_a_limit_and_a_quota_together
            operators_see_and_set_the_schedule_of_a_balance
            a_handler_refunds_the_credits_of_its_request_once
            a_later_charge_takes_all_of_its_credits_or_none
            concurrent_later_charges_spend_no_credit_twice
            a_later_charge_works_on_routes_that_cost_nothing_and_for_old_entries
            server_errors_are_refunded_if_the_service_asks_for_it
            client_errors_are_refunded_if_the_service_asks_for_it
            refunded_credits_return_to_the_store_at_the_next_flush
            a_new_balance_voids_credits_of_the_old_one
            only_an_operator_gives_credits
            only_an_operator_gives_a_key_more_than_its_plan
            a_key_with_its_own_credits_cannot_create_a_key_without
            units_are_recorded_per_key_and_billed_for_live_keys
        }
    };
}

/// The promises, one by one.
pub mod promises {
    crate::__limits_promises!(__publish_promises);
}

const NOW: Duration = Duration::from_secs(1_700_000_000);

struct World {
    clock: Arc<ManualClock>,
    limiter: Option<Arc<dyn Limiter>>,
    store: Arc<dyn Store>,
    admin: KeyAdmin,
    acme: AccountId,
}

impl World {
    fn new(open: Open<'_>) -> Self {
        let clock = Arc::new(ManualClock::at(NOW));
        let store = (open.store)(Arc::<ManualClock>::clone(&clock));
        let limiter = open.limiter;
        let limiter = limiter.map(|make| make(Arc::<ManualClock>::clone(&clock)));
        let admin = KeyAdmin::new(&store, &scheme());
        let acme = AccountId::parse("acme").unwrap();
        block_on(admin.open_account(&operator(), &acme)).unwrap();
        Self {
            clock,
            limiter,
            store,
            admin,
            acme,
        }
    }

    fn key(
        &self,
        environment: Environment,
        change: impl FnOnce(NewKey) -> NewKey,
    ) -> (ApiKey, KeyId) {
        let new = change(NewKey::new(self.acme.clone(), environment, "key"));
        let created = block_on(self.admin.create(&operator(), new)).unwrap();
        (created.key.unwrap(), created.record.id)
    }

    fn live(&self, change: impl FnOnce(NewKey) -> NewKey) -> ApiKey {
        self.key(Environment::LIVE, change).0
    }

    fn change_account(&self, change: AccountChange) {
        block_on(self.admin.update_account(&operator(), &self.acme, change)).unwrap();
    }

    fn set_credits(&self, owner: impl Into<CreditOwner>, credits: u64) {
        let credits = Some(Credits::new(credits));
        block_on(self.admin.set_credits(&operator(), owner, credits)).unwrap();
    }

    fn left(&self, owner: impl Into<CreditOwner>) -> Option<u64> {
        let credits = block_on(self.admin.credits(&operator(), owner)).unwrap();
        credits.map(|credits| credits.left)
    }

    fn builder(&self) -> GateBuilder {
        let builder = Gate::builder(&self.store, &scheme()).max_staleness(Duration::MAX);
        match &self.limiter {
            Some(limiter) => builder.limiter(Arc::clone(limiter)),
            None => builder,
        }
    }

    fn gate(&self) -> Gate {
        self.builder().build().unwrap()
    }
}

fn operator() -> Actor {
    Actor::operator("ops")
}

fn format() -> KeyFormat {
    KeyFormat::new("vhk_{env}_").unwrap()
}

fn scheme() -> KeyScheme {
    KeyScheme::new(format())
}

fn minute(count: u32) -> RateLimit {
    RateLimit::per_minute(count)
}

fn any() -> Requirement {
    Requirement::new().any_environment()
}

/// A verdict of the gate, with everything it reports about it.
fn verdict(
    gate: &Gate,
    key: &ApiKey,
    requirement: Requirement,
    outer: Option<&Principal>,
) -> Verdict {
    gate.assert_meetable(&requirement);
    decided(gate.check(&request(key), &Arc::new(requirement), outer))
}

fn ask(gate: &Gate, key: &ApiKey) -> Result<(), DenialKind> {
    reason(&verdict(gate, key, any(), None))
}

fn reason(verdict: &Verdict) -> Result<(), DenialKind> {
    match verdict {
        Verdict::Admit(_) => Ok(()),
        Verdict::Refuse(refusal) => Err(refusal.denial.as_ref().unwrap().kind()),
    }
}

/// Returns how many requests pass at once.
fn passing(gate: &Gate, key: &ApiKey) -> usize {
    let asked = (0..1000).map(|_| ask(gate, key));
    asked.take_while(Result::is_ok).count()
}

fn admitted(verdict: Verdict) -> (Principal, Finish) {
    match verdict {
        Verdict::Admit(Admitted {
            access: Some(Access::Principal(principal)),
            finish,
            ..
        }) => (principal, finish),
        other => panic!("{other:?}"),
    }
}

fn finish_of(verdict: Verdict) -> Finish {
    match verdict {
        Verdict::Admit(admitted) => admitted.finish,
        Verdict::Refuse(refusal) => panic!("{refusal:?}"),
    }
}

fn request(key: &ApiKey) -> TestRequest {
    TestRequest::get().key(key.expose_secret())
}

fn finished(mut response: TestResponse, mut finish: Finish) -> Vec<String> {
    finish.apply(&mut response);
    response.lines()
}

fn rate_limiting_is_off_by_default(open: Open<'_>) {
    let world = World::new(open);
    let (gate, key) = (world.gate(), world.live(|new| new));
    assert_eq!(passing(&gate, &key), 1000);
    let (principal, finish) = admitted(verdict(&gate, &key, any(), None));
    assert_eq!(principal.quota(), None);
    assert_eq!(
        finished(TestResponse::new(200), finish),
        ["cache-control: private"]
    );
}

fn a_key_has_its_own_limit_or_its_plans_or_the_services(open: Open<'_>) {
    let world = World::new(open);
    let services = world
        .builder()
        .rate_limits(Environment::LIVE, minute(9))
        .rate_limits(Environment::TEST, minute(3))
        .build()
        .unwrap();
    let own = world.live(|new| new.rate_limits(minute(5)));
    assert_eq!(passing(&services, &own), 5);
    let without = world.live(|new| new);
    assert_eq!(passing(&services, &without), 9);
    let (test, _) = world.key(Environment::TEST, |new| new);
    assert_eq!(passing(&services, &test), 3);
    // A plan starts with a full bucket, however much of another limit was used.
    world.change_account(AccountChange::new().rate_limits(minute(7)));
    assert_eq!(passing(&services, &without), 7);
    assert_eq!(passing(&services, &test), 7);
    assert_eq!(passing(&services, &own), 0);
    world.change_account(AccountChange::new().rate_limits(RateLimits::none()));
    assert_eq!(
        passing(&services, &without),
        0,
        "and the old one was not forgotten"
    );
}

fn a_ceiling_holds_beside_every_other_limit(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.builder().rate_ceiling(Environment::TEST, minute(2));
    let gate = gate.build().unwrap();
    let (test, _) = world.key(Environment::TEST, |new| new.rate_limits(minute(50)));
    assert_eq!(passing(&gate, &test), 2);
    let (same, _) = world.key(Environment::TEST, |new| new.rate_limits(minute(2)));
    assert_eq!(
        passing(&gate, &same),
        2,
        "counted once where both are the same"
    );
    assert_eq!(
        passing(&gate, &world.live(|new| new.rate_limits(minute(50)))),
        50
    );
}

fn keys_of_an_account_share_a_limit_in_each_environment(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    world.change_account(AccountChange::new().shared_rate_limits(minute(5)));
    let keys = [
        world.live(|new| new),
        world.live(|new| new.rate_limits(minute(2))),
    ];
    assert_eq!(passing(&gate, &keys[1]), 2);
    assert_eq!(passing(&gate, &keys[0]), 3);
    let shut = verdict(&gate, &keys[0], any(), None);
    let Verdict::Refuse(refusal) = shut else {
        panic!()
    };
    let mut fields = refusal.reply.headers();
    assert!(fields.any(|field| field == ("ratelimit", r#""account-minute";r=0;t=12"#)));
    let (test, _) = world.key(Environment::TEST, |new| new);
    assert_eq!(passing(&gate, &test), 5);
}

fn a_refusal_by_one_limit_takes_nothing_from_the_others(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let limits = RateLimits::new([RateLimit::per_second(2), RateLimit::per_day(6)]).unwrap();
    let key = world.live(|new| new.rate_limits(limits));
    for _ in 0..3 {
        assert_eq!(passing(&gate, &key), 2);
        for _ in 0..100 {
            assert_eq!(ask(&gate, &key), Err(DenialKind::RateLimited));
        }
        world.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(passing(&gate, &key), 0, "the day is over");
    world.clock.advance(Duration::from_secs(86_400 / 6));
    assert_eq!(passing(&gate, &key), 1);
}

fn concurrent_requests_pass_exactly_up_to_the_tightest_limit(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let limits = RateLimits::new([RateLimit::per_hour(500), RateLimit::per_day(700)]).unwrap();
    world.change_account(AccountChange::new().shared_rate_limits(RateLimit::per_hour(600)));
    let key = world.live(|new| new.rate_limits(limits));
    let passed: usize = thread::scope(|threads| {
        let many = || (0..50).filter(|_| ask(&gate, &key).is_ok()).count();
        let all: Vec<_> = (0..64).map(|_| threads.spawn(many)).collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    // In a race, limits may briefly refuse what they would allow, but never the reverse.
    assert!(passed <= 500);
    assert_eq!(passed + passing(&gate, &key), 500);
}

fn a_rotation_doubles_no_limit(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let (mut key, mut id) = world.key(Environment::LIVE, |new| {
        new.rate_limits(RateLimit::per_day(10))
    });
    for grace in [
        Grace::For(Duration::from_secs(3600)),
        Grace::None,
        Grace::None,
    ] {
        assert_eq!(ask(&gate, &key), Ok(()));
        let rotated = block_on(world.admin.rotate(&operator(), id, grace)).unwrap();
        let successor = rotated.key.unwrap();
        assert_eq!(ask(&gate, &successor), Ok(()));
        let old = if grace == Grace::None {
            Err(DenialKind::Revoked)
        } else {
            Ok(())
        };
        assert_eq!(ask(&gate, &key), old);
        (key, id) = (successor, rotated.record.id);
    }
    assert_eq!(passing(&gate, &key), 3, "seven were used by four keys");
}

fn rotating_a_key_that_was_just_rehashed_doubles_no_limit(open: Open<'_>) {
    let (world, replica) = (World::new(open), Replica::new());
    let (old, id) = world.key(Environment::LIVE, |new| new.rate_limits(minute(5)));
    let peppers = Peppers::new(Pepper::new("new", &[7; 32]).unwrap());
    let accepting = peppers.clone().accepting(DigestScheme::Sha256).unwrap();
    let gate = Gate::builder_from_replica(&replica, &scheme().peppers(accepting));
    let gate = gate.build().unwrap();
    let feed = |keys: &[&KeyRecord], number| {
        let mut poll = replica.poll();
        poll.account(Account::new(world.acme.clone()));
        for key in keys {
            poll.key(key);
        }
        poll.finish(Revision { number, nonce: 0 }).unwrap();
    };
    let first = block_on(world.store.key(id)).unwrap().unwrap();
    feed(&[&first], 1);
    assert_eq!(passing(&gate, &old), 5);
    // Both in one poll: it is found in no place that is known, and has a chain from now on.
    let new = format().generate(Environment::LIVE).unwrap();
    let mut next = first.clone();
    (next.id, next.digest) = (KeyId::random().unwrap(), peppers.digest(&new));
    next.predecessor = Some(id);
    let mut moved = first.clone();
    (moved.digest, moved.redigested) = (peppers.digest(&old), 1);
    moved.successor = Some(next.id);
    feed(&[&moved, &next], 2);
    assert_eq!((passing(&gate, &old), passing(&gate, &new)), (0, 0));
    assert_eq!(replica.len(), 2, "nothing is left at the old place");
}

fn a_change_of_a_key_leaves_its_counters(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let (key, id) = world.key(Environment::LIVE, |new| {
        new.rate_limits(RateLimit::per_day(3))
    });
    assert_eq!(ask(&gate, &key), Ok(()));
    let change = KeyChange::new()
        .name("other")
        .metadata(Metadata::parse(r#"{"a":1}"#).unwrap());
    block_on(world.admin.update(&operator(), id, change)).unwrap();
    block_on(world.admin.disable(&operator(), id)).unwrap();
    block_on(world.admin.enable(&operator(), id)).unwrap();
    assert_eq!(passing(&gate, &key), 2);
}

fn a_route_counts_by_its_cost_and_a_free_one_not_at_all(open: Open<'_>) {
    let world = World::new(open);
    let gate = world
        .builder()
        .rate_limits(Environment::LIVE, minute(10))
        .build()
        .unwrap();
    let key = world.live(|new| new);
    let costs = |cost| reason(&verdict(&gate, &key, any().cost(cost), None));
    assert_eq!(costs(7), Ok(()));
    assert_eq!(costs(4), Err(DenialKind::RateLimited));
    assert_eq!(costs(3), Ok(()));
    assert_eq!(costs(1), Err(DenialKind::RateLimited));
    assert_eq!(costs(0), Ok(()));
    let narrow = world.live(|new| new.rate_limits(minute(2)));
    let dear = verdict(&gate, &narrow, any().cost(3), None);
    assert_eq!(
        reason(&dear),
        Err(DenialKind::CostTooHigh),
        "it would wait for ever"
    );
}

fn layers_of_one_gate_charge_once_the_highest_cost(open: Open<'_>) {
    let world = World::new(open);
    let gate = world
        .builder()
        .rate_limits(Environment::LIVE, RateLimit::per_day(20))
        .build()
        .unwrap();
    world.set_credits(world.acme.clone(), 20);
    let key = world.live(|new| new);
    let (outer, mut first) = admitted(verdict(&gate, &key, any(), None));
    assert_eq!(outer.quota().unwrap().remaining(), 19);
    // Inner layers without a cost, with a lower one, with a higher one, and one inside that.
    let silent = verdict(&gate, &key, any(), Some(&outer));
    let lower = verdict(&gate, &key, any().cost(1).credits(0), Some(&outer));
    let (inner, mut more) = admitted(verdict(&gate, &key, any().cost(5).credits(3), Some(&outer)));
    let innermost = verdict(&gate, &key, any().cost(5).credits(2), Some(&inner));
    assert_eq!(inner.quota().unwrap().remaining(), 15);
    let unchanged = |verdict: &_| matches!(verdict, Verdict::Admit(Admitted { access: None, .. }));
    assert!([&silent, &lower, &innermost].into_iter().all(unchanged));
    for finish in [silent, lower, innermost].map(finish_of) {
        assert_eq!(finished(TestResponse::new(200), finish), [""; 0]);
    }
    // Only the innermost layer that has charged sends the headers.
    let mut response = TestResponse::new(200);
    more.apply(&mut response);
    assert!(
        response
            .lines()
            .iter()
            .any(|line| line.starts_with("ratelimit: "))
    );
    let before = response.lines().len();
    first.apply(&mut response);
    assert_eq!(response.lines().len(), before + 1, "{:?}", response.lines());
    assert_eq!(world.left(world.acme.clone()), Some(17));
    // Inside a free layer, a layer without a cost charges nothing.
    let (free, _) = admitted(verdict(&gate, &key, any().cost(0).credits(0), None));
    let silent = finish_of(verdict(&gate, &key, any(), Some(&free)));
    assert_eq!(finished(TestResponse::new(200), silent), [""; 0]);
    assert_eq!(world.left(world.acme.clone()), Some(17));
    // A layer that sets only one of the two costs charges only that.
    let (dearer, _) = admitted(verdict(&gate, &key, any().cost(2), Some(&free)));
    assert_eq!(dearer.quota().unwrap().remaining(), 13);
    assert_eq!(world.left(world.acme.clone()), Some(17));
    let (_, paid) = admitted(verdict(&gate, &key, any().credits(2), Some(&free)));
    assert_eq!(finished(TestResponse::new(200), paid), [""; 0]);
    assert_eq!(world.left(world.acme.clone()), Some(15));
}

fn a_request_that_is_refused_costs_nothing_in_the_end(open: Open<'_>) {
    let world = World::new(open);
    let gate = world
        .builder()
        .rate_limits(Environment::LIVE, RateLimit::per_day(5))
        .build()
        .unwrap();
    world.set_credits(world.acme.clone(), 5);
    let key = world.live(|new| new);
    let lacking = || any().scope("lacking");
    for _ in 0..10 {
        let denied = verdict(&gate, &key, lacking(), None);
        assert_eq!(reason(&denied), Err(DenialKind::ScopeMissing));
        // By an inner layer, after an outer one has charged.
        let (outer, finish) = admitted(verdict(&gate, &key, any(), None));
        let denied = verdict(&gate, &key, lacking(), Some(&outer));
        assert_eq!(reason(&denied), Err(DenialKind::ScopeMissing));
        assert_eq!(
            finished(TestResponse::new(403).denied(), finish),
            ["cache-control: private"]
        );
        // By an adapter that cannot hand it on.
        admitted(verdict(&gate, &key, any(), None)).1.give_back();
        // By a third layer, after two have charged.
        let (outer, first) = admitted(verdict(&gate, &key, any(), None));
        let (_, second) = admitted(verdict(&gate, &key, any().cost(4).credits(4), Some(&outer)));
        finished(TestResponse::new(403).denied(), second);
        finished(TestResponse::new(403).denied(), first);
        // By the credits, after a limit has been charged.
        let denied = verdict(&gate, &key, any().credits(6), None);
        assert_eq!(reason(&denied), Err(DenialKind::CreditsExhausted));
        world.clock.advance(Duration::from_secs(2));
    }
    assert_eq!(world.left(world.acme.clone()), Some(5));
    assert_eq!(passing(&gate, &key), 5);
}

fn a_client_that_hangs_up_has_paid(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let key = world.live(|new| new.rate_limits(minute(2)));
    drop(verdict(&gate, &key, any(), None));
    assert_eq!(passing(&gate, &key), 1);
}

fn a_refusal_contains_the_time_to_retry(open: Open<'_>) {
    let world = World::new(open);
    let gate = world
        .builder()
        .legacy_rate_limit_headers(ResetUnit::UnixTime)
        .build()
        .unwrap();
    let key = world.live(|new| new.rate_limits(RateLimit::per_minute(4)));
    assert_eq!(passing(&gate, &key), 4);
    world.clock.advance(Duration::from_millis(14_001));
    let Verdict::Refuse(refusal) = verdict(&gate, &key, any(), None) else {
        panic!()
    };
    assert_eq!(refusal.reply.status(), 429);
    let fields: Vec<_> = refusal.reply.headers().collect();
    assert_eq!(
        fields,
        [
            ("cache-control", "no-store"),
            ("content-type", "application/problem+json"),
            ("retry-after", "1"),
            ("ratelimit-policy", r#""minute";q=4;w=60"#),
            ("ratelimit", r#""minute";r=0;t=1"#),
            ("x-ratelimit-limit", "4"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "1700000060"),
        ]
    );
    assert!(refusal.reply.body().ends_with(br#""code":"rate_limited"}"#));
    world.clock.advance(Duration::from_secs(1));
    let (principal, finish) = admitted(verdict(&gate, &key, any(), None));
    assert_eq!(principal.quota().unwrap().remaining(), 0);
    let lines = finished(TestResponse::new(200), finish);
    assert_eq!(lines[2], r#"ratelimit: "minute";r=0;t=15"#);
}

fn the_most_restrictive_limit_is_described(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let limits = RateLimits::new([RateLimit::per_second(3), RateLimit::per_day(4)]).unwrap();
    let key = world.live(|new| new.rate_limits(limits));
    let quota = || {
        admitted(verdict(&gate, &key, any(), None))
            .0
            .quota()
            .unwrap()
    };
    let first = quota();
    assert_eq!(
        (first.limit(), first.remaining()),
        (RateLimit::per_second(3), 2)
    );
    world.clock.advance(Duration::from_secs(1));
    quota();
    world.clock.advance(Duration::from_secs(1));
    let third = quota();
    assert_eq!(
        (third.limit(), third.remaining()),
        (RateLimit::per_day(4), 1)
    );
    // The per-second limit recovers at once; the per-day limit takes hours.
    quota();
    let Verdict::Refuse(refusal) = verdict(&gate, &key, any(), None) else {
        panic!()
    };
    let mut fields = refusal.reply.headers();
    assert!(fields.any(|field| field == ("retry-after", "21598")));
}

/// A limiter that asks a neighbour, which may not answer.
#[derive(Debug)]
struct Remote(bool);

impl Limiter for Remote {
    fn take(&self, charge: Charge, now: Duration) -> LimitFuture {
        let answers = self.0;
        assert_eq!(charge.buckets().count(), 1);
        LimitFuture::Pending(Box::pin(async move {
            if answers {
                Ok(charge.take_here(now))
            } else {
                Err(LimiterError::new("no route to host"))
            }
        }))
    }

    fn give_back(&self, charge: Charge) {
        charge.give_back_here();
    }
}

fn an_external_limiter_is_charged_and_refunded(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.builder().limiter(Remote(true)).build().unwrap();
    let key = world.live(|new| new.rate_limits(RateLimit::per_day(2)));
    for _ in 0..5 {
        let (outer, finish) = admitted(verdict(&gate, &key, any(), None));
        let denied = verdict(&gate, &key, any().scope("lacking"), Some(&outer));
        assert!(reason(&denied).is_err());
        finished(TestResponse::new(403).denied(), finish);
    }
    assert_eq!(passing(&gate, &key), 2);
    let unlimited = world.live(|new| new);
    let asked = gate.check(&request(&unlimited), &Arc::new(any()), None);
    assert!(
        matches!(asked, Decision::Ready(_)),
        "nobody is asked for nothing"
    );
}

fn an_explanation_includes_credits_but_no_external_limits(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.builder().limiter(Remote(true)).build().unwrap();
    let key = world.live(|new| new.rate_limits(minute(9)));
    let costs = |gate: &Gate, requirement: Requirement| {
        let explained = gate.explain(&request(&key), &requirement);
        let costs = |check: &Check| matches!(check, Check::RateLimit | Check::Credits);
        let checks = explained.checks().filter(|(check, _)| costs(check));
        checks.collect::<Vec<_>>()
    };
    assert_eq!(costs(&world.gate(), any()), [(Check::RateLimit, None)]);
    assert_eq!(costs(&gate, any()), []);
    world.set_credits(world.acme.clone(), 1);
    // A free route needs no credits, even if none have been drawn yet.
    let free = any().cost(0).credits(0);
    let asked = gate.check(&request(&key), &Arc::new(free.clone()), None);
    assert!(matches!(asked, Decision::Ready(Verdict::Admit(_))));
    assert_eq!(costs(&gate, any()), [(Check::Credits, None)]);
    assert_eq!(passing(&gate, &key), 1);
    let exhausted = Some(DenialKind::CreditsExhausted);
    assert_eq!(costs(&gate, any()), [(Check::Credits, exhausted)]);
    assert_eq!(costs(&gate, free), []);
    // The next request is the one that refills it.
    world.give(Credits::new(0).refill(monthly(5)));
    assert_eq!(passing(&gate, &key), 0);
    assert_eq!(costs(&gate, any()), [(Check::Credits, exhausted)]);
    world.clock.set_unix(DECEMBER);
    assert_eq!(costs(&gate, any()), [(Check::Credits, None)]);
}

fn a_limiter_that_does_not_answer_is_a_503(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.builder().limiter(Remote(false)).build().unwrap();
    let key = world.live(|new| new.rate_limits(minute(2)));
    let Verdict::Refuse(refusal) = verdict(&gate, &key, any(), None) else {
        panic!()
    };
    assert_eq!(refusal.reply.status(), 503);
    let mut fields = refusal.reply.headers();
    assert!(fields.any(|field| field == ("retry-after", "1")));
    assert!(
        refusal
            .reply
            .body()
            .ends_with(br#""code":"rate_limit_unavailable"}"#)
    );
}

fn requests_that_wait_for_the_store_are_charged_too(open: Open<'_>) {
    let world = World::new(open);
    let gate = world
        .builder()
        .max_staleness(Duration::ZERO)
        .build()
        .unwrap();
    let key = world.live(|new| new.rate_limits(minute(2)));
    assert_eq!(passing(&gate, &key), 2);
}

fn credits_are_spent_by_live_keys_down_to_nothing(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let (live, (test, _)) = (
        world.live(|new| new),
        world.key(Environment::TEST, |new| new),
    );
    world.set_credits(world.acme.clone(), 130);
    assert_eq!(passing(&gate, &test), 1000);
    assert_eq!(world.left(world.acme.clone()), Some(130));
    assert_eq!(passing(&gate, &live), 130);
    assert_eq!(ask(&gate, &live), Err(DenialKind::CreditsExhausted));
    assert_eq!(passing(&gate, &test), 1000);
    let Verdict::Refuse(refusal) = verdict(&gate, &live, any(), None) else {
        panic!()
    };
    assert_eq!(refusal.reply.status(), 429);
    assert!(
        refusal
            .reply
            .body()
            .ends_with(br#""code":"credits_exhausted"}"#)
    );
    assert_eq!(world.left(world.acme.clone()), Some(0));
    let free = verdict(&gate, &live, any().credits(0), None);
    assert_eq!(reason(&free), Ok(()));

    block_on(world.admin.add_credits(&operator(), world.acme.clone(), 7)).unwrap();
    assert_eq!(passing(&gate, &live), 7);
    block_on(
        world
            .admin
            .set_credits(&operator(), world.acme.clone(), None),
    )
    .unwrap();
    assert_eq!(passing(&gate, &live), 1000, "absent means unlimited");
    world.set_credits(world.acme.clone(), 0);
    assert_eq!(passing(&gate, &live), 0, "zero means spent");
}

fn a_key_spends_its_own_credits_and_shares_them_with_its_successors(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    world.set_credits(world.acme.clone(), 10);
    let (key, id) = world.key(Environment::LIVE, |new| new.credits(Credits::new(5)));
    assert_eq!(ask(&gate, &key), Ok(()));
    let grace = Grace::For(Duration::from_secs(60));
    let next = block_on(world.admin.rotate(&operator(), id, grace)).unwrap();
    let next_id = next.record.id;
    let next = next.key.unwrap();
    assert_eq!(ask(&gate, &next), Ok(()));
    assert_eq!(passing(&gate, &key), 3);
    assert_eq!(ask(&gate, &next), Err(DenialKind::CreditsExhausted));
    assert_eq!(world.left(next_id), Some(0));
    assert_eq!(world.left(world.acme.clone()), Some(10));
    // Whichever of them is named.
    world.set_credits(id, 4);
    assert_eq!((ask(&gate, &next), passing(&gate, &key)), (Ok(()), 3));
    block_on(world.admin.set_credits(&operator(), next_id, None)).unwrap();
    assert_eq!(passing(&gate, &key), 10, "those of the account again");
}

fn credits_of_a_key_are_shared_by_the_live_keys_of_its_chain(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let (first, id) = world.key(Environment::LIVE, |new| new);
    let rotate = |id, grace| block_on(world.admin.rotate(&operator(), id, grace)).unwrap();
    let day = Grace::For(Duration::from_secs(86_400));
    let second = rotate(id, day).record.id;
    let third = rotate(second, Grace::None).record.id;
    let fourth = rotate(third, day).record.id;
    for named in [id, third, fourth] {
        // The second key is revoked, and the first continues to work beside the third.
        world.set_credits(named, 3);
        assert_eq!(passing(&gate, &first), 3);
        block_on(world.admin.set_credits(&operator(), named, None)).unwrap();
        assert_eq!(passing(&gate, &first), 1000);
    }
}

fn one_of_many_concurrent_requests_gets_the_last_credit(open: Open<'_>) {
    for key_of_its_own in [false, true] {
        let world = World::new(open);
        let gate = world.gate();
        let (key, id) = world.key(Environment::LIVE, |new| new);
        if key_of_its_own {
            world.set_credits(id, 1);
        } else {
            world.set_credits(world.acme.clone(), 1);
        }
        let passed: usize = thread::scope(|threads| {
            let once = || usize::from(ask(&gate, &key).is_ok());
            let all: Vec<_> = (0..64).map(|_| threads.spawn(once)).collect();
            all.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert_eq!(passed, 1);
    }
}

fn concurrent_requests_pass_exactly_as_many_as_there_are_credits(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let key = world.live(|new| new);
    world.set_credits(world.acme.clone(), 1000);
    let passed: usize = thread::scope(|threads| {
        let many = || (0..50).filter(|_| ask(&gate, &key).is_ok()).count();
        let all: Vec<_> = (0..32).map(|_| threads.spawn(many)).collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert_eq!(passed, 1000);
    assert_eq!(world.left(world.acme.clone()), Some(0));
}

fn a_refill_replaces_the_balance_once_at_its_instant(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let key = world.live(|new| new);
    let at = SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(60);
    let credits = Credits::new(50).refill(Refill::once(at, 20));
    block_on(
        world
            .admin
            .set_credits(&operator(), world.acme.clone(), Some(credits)),
    )
    .unwrap();
    // Some are taken out of the store and not spent: they are void when it is refilled.
    assert_eq!(ask(&gate, &key), Ok(()));
    world.clock.advance(Duration::from_millis(59_999));
    assert_eq!(ask(&gate, &key), Ok(()));
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(passing(&gate, &key), 20);
    world.clock.advance(Duration::from_secs(3600));
    assert_eq!(passing(&gate, &key), 0, "once");
    assert_eq!(world.left(world.acme.clone()), Some(0));
}

fn a_refill_between_two_milliseconds_delays_no_request(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let key = world.live(|new| new);
    let minute = Duration::from_secs(60);
    let at = NOW + minute + Duration::from_micros(500);
    let refill = Refill::once(SystemTime::UNIX_EPOCH + at, 20);
    let (acme, credits) = (world.acme.clone(), Credits::new(800).refill(refill));
    block_on(world.admin.set_credits(&operator(), acme, Some(credits))).unwrap();
    assert_eq!(ask(&gate, &key), Ok(()));
    world.clock.advance(minute + Duration::from_micros(200));
    assert_eq!(ask(&gate, &key), Ok(()));
    world.clock.advance(Duration::from_micros(300));
    // A store may round the instant to milliseconds and so refill slightly earlier.
    let passed = passing(&gate, &key);
    assert!((19..=20).contains(&passed), "{passed}");
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// 2023-12-01T00:00+01:00, sixteen days after [`NOW`].
const DECEMBER: Duration = Duration::from_secs(1_701_385_200);
/// 2024-01-01T00:00+01:00.
const JANUARY: Duration = Duration::from_secs(1_704_063_600);

fn monthly(credits: u64) -> Refill {
    let month = RefillSchedule::monthly("Europe/Berlin").unwrap();
    Refill::every(month, credits)
}

impl World {
    fn give(&self, credits: Credits) {
        let owner = self.acme.clone();
        block_on(self.admin.set_credits(&operator(), owner, Some(credits))).unwrap();
    }

    fn balance(&self) -> Credits {
        let credits = block_on(self.admin.credits(&operator(), self.acme.clone()));
        credits.unwrap().unwrap()
    }
}

fn a_quota_is_refilled_once_at_each_boundary_of_its_calendar(open: Open<'_>) {
    let world = World::new(open);
    let (gate, key) = (world.gate(), world.live(|new| new));
    world.give(Credits::new(7).refill(monthly(20)));
    assert_eq!(passing(&gate, &key), 7, "the month is under way");
    world
        .clock
        .set_unix(DECEMBER.saturating_sub(Duration::from_millis(1)));
    assert_eq!(passing(&gate, &key), 0);
    world.clock.set_unix(DECEMBER);
    assert_eq!(world.balance().left, 20, "seen before it is drawn");
    assert_eq!(passing(&gate, &key), 20);
    world.clock.advance(2 * HOUR);
    assert_eq!(passing(&gate, &key), 0, "once");
    world.clock.set_unix(JANUARY);
    assert_eq!(passing(&gate, &key), 20);
    // Nobody came for three months.
    world.clock.set_unix(JANUARY + 95 * DAY);
    assert_eq!(world.balance().left, 20);
    assert_eq!(passing(&gate, &key), 20);
    world.clock.advance(2 * HOUR);
    assert_eq!(passing(&gate, &key), 0);
}

fn what_rolls_over_is_added_for_every_boundary_up_to_the_cap(open: Open<'_>) {
    let world = World::new(open);
    let (gate, key) = (world.gate(), world.live(|new| new));
    world.give(Credits::new(800).refill(monthly(1000).roll_over(4500)));
    for _ in 0..300 {
        assert_eq!(ask(&gate, &key), Ok(()));
    }
    let finish = finish_of(verdict(&gate, &key, any(), None));
    world.clock.set_unix(DECEMBER);
    assert_eq!(world.balance().left, 1499);
    finish.give_back(); // what was spent before the boundary rolls over too
    assert_eq!(ask(&gate, &key), Ok(()));
    assert_eq!(
        world.balance().left,
        1499,
        "nothing that was drawn ahead is void"
    );
    world.clock.set_unix(JANUARY + 40 * DAY);
    assert_eq!(world.balance().left, 3499, "January and February");
    world.clock.set_unix(JANUARY + 95 * DAY);
    assert_eq!(ask(&gate, &key), Ok(()));
    let left = world.balance().left;
    // What the process held does not count for the cap.
    assert!((4499..=4499 + 50).contains(&left), "{left}");
}

fn a_clock_that_is_set_back_refills_nothing_twice(open: Open<'_>) {
    let world = World::new(open);
    let (gate, key) = (world.gate(), world.live(|new| new));
    for refill in [monthly(20), monthly(20).roll_over(1000)] {
        world.clock.set_unix(NOW);
        world.give(Credits::new(0).refill(refill));
        world.clock.set_unix(DECEMBER);
        assert_eq!(passing(&gate, &key), 20);
        for back in [Duration::from_millis(1), HOUR, 20 * DAY] {
            world.clock.set_unix(DECEMBER.saturating_sub(back));
            world.clock.advance(Duration::from_secs(2).min(back));
            assert_eq!(passing(&gate, &key), 0);
            world.clock.set_unix(DECEMBER + HOUR);
            assert_eq!(passing(&gate, &key), 0);
        }
        world.clock.set_unix(JANUARY);
        assert_eq!(passing(&gate, &key), 20);
    }
}

/// Returns the lines of a response that describe limits.
fn told(lines: &[String]) -> Vec<&str> {
    let lines = lines.iter().map(String::as_str);
    lines.filter(|line| line.starts_with("ratelimit")).collect()
}

fn a_soft_limit_is_told_before_the_quota_is_used_up(open: Open<'_>) {
    let world = World::new(open);
    let (gate, key) = (world.gate(), world.live(|new| new));
    world.give(Credits::new(5).refill(monthly(5)).warn_below(2));
    world.clock.set_unix(DECEMBER.saturating_sub(DAY));
    let mut seen = Vec::new();
    for _ in 0..5 {
        let (principal, finish) = admitted(verdict(&gate, &key, any(), None));
        let credits = principal.credits().unwrap();
        assert_eq!(credits.refill_at, Some(SystemTime::UNIX_EPOCH + DECEMBER));
        let lines = finished(TestResponse::new(200), finish);
        seen.push((credits.left, credits.is_low, told(&lines).join(" | ")));
    }
    let policy = r#"ratelimit-policy: "credits";q=5;w=2592000, "credits-soft";q=3;w=2592000"#;
    let line = |left: u64, low: bool, soft: u64| {
        let told =
            format!(r#"ratelimit: "credits";r={left};t=86400, "credits-soft";r={soft};t=86400"#);
        (left, low, format!("{policy} | {told}"))
    };
    assert_eq!(
        seen,
        [
            line(4, false, 2),
            line(3, false, 1),
            line(2, false, 0),
            line(1, true, 0),
            line(0, true, 0),
        ]
    );
    let Verdict::Refuse(refusal) = verdict(&gate, &key, any(), None) else {
        panic!()
    };
    let headers: Vec<_> = refusal.reply.headers().collect();
    let value = |name| {
        headers
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, value)| *value)
    };
    assert_eq!(refusal.reply.status(), 429);
    assert_eq!(value("retry-after"), Some("86400"));
    let line = r#""credits";r=0;t=86400, "credits-soft";r=0;t=86400"#;
    assert_eq!(value("ratelimit"), Some(line));
    // A refill that comes once is the time to retry, too.
    let at = SystemTime::UNIX_EPOCH + DECEMBER;
    world.give(Credits::new(0).refill(Refill::once(at, 20)));
    let Verdict::Refuse(refusal) = verdict(&gate, &key, any(), None) else {
        panic!()
    };
    let mut headers = refusal.reply.headers();
    assert!(headers.any(|header| header == ("retry-after", "86400")));
    assert!(!refusal.reply.headers().any(|(name, _)| name == "ratelimit"));
}

fn only_quotas_of_secret_keys_are_told_in_headers(open: Open<'_>) {
    let world = World::new(open);
    let places = world.builder().location(KeyLocation::x_api_key());
    let gate = places
        .location(KeyLocation::x_client_key())
        .build()
        .unwrap();
    let (secret, page) = (
        world.live(|new| new),
        world.live(|new| new.kind(KeyKind::Publishable)),
    );
    let both = || any().kinds([KeyKind::Secret, KeyKind::Publishable]);
    let of_page = |requirement| {
        let request = TestRequest::get().header("x-client-key", page.expose_secret());
        decided(gate.check(&request, &Arc::new(requirement), None))
    };
    let lines = |verdict| told(&finished(TestResponse::new(200), finish_of(verdict))).len();
    let of_secret = |requirement| verdict(&gate, &secret, requirement, None);
    world.give(Credits::new(50).warn_below(40));
    assert_eq!(lines(of_secret(both())), 0, "prepaid");
    world.give(Credits::new(50).refill(monthly(50)));
    assert_eq!(lines(of_secret(both())), 2);
    assert_eq!(lines(of_page(both())), 0, "every visitor has this key");
    assert_eq!(lines(of_secret(both().credits(0))), 0, "nothing was spent");
    let (principal, _) = admitted(of_page(both()));
    assert_eq!(principal.credits().map(|credits| credits.left), Some(47));
}

fn layers_tell_a_limit_and_a_quota_together(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let key = world.live(|new| new.rate_limits(minute(9)));
    for (outer, inner, passed, left) in [
        (any(), any(), 8, 49),
        (any(), any().credits(3), 7, 46),
        (any(), any().cost(3), 4, 45),
        (any().credits(0), any().credits(2), 3, 43),
    ] {
        world.clock.set_unix(NOW);
        if passed == 8 {
            world.give(Credits::new(50).refill(monthly(50)));
        }
        let (principal, mut around) = admitted(verdict(&gate, &key, outer, None));
        let within = verdict(&gate, &key, inner, Some(&principal));
        let mut response = TestResponse::new(200);
        finish_of(within).apply(&mut response);
        around.apply(&mut response);
        let lines = response.lines();
        let minute = format!(r#"ratelimit: "minute";r={passed}, "credits";r={left};t="#);
        assert_eq!(told(&lines).len(), 2, "{lines:?}");
        assert!(told(&lines)[1].starts_with(&minute), "{lines:?}");
    }
}

fn operators_see_and_set_the_schedule_of_a_balance(open: Open<'_>) {
    let world = World::new(open);
    let credits = Credits::new(12_000)
        .refill(monthly(10_000).roll_over(30_000))
        .warn_below(2_000);
    let user = Actor::user("ann", world.acme.clone(), Permission::ALL);
    let refused = world
        .admin
        .set_credits(&user, world.acme.clone(), Some(credits.clone()));
    assert_eq!(
        block_on(refused).unwrap_err().kind(),
        AdminErrorKind::NotPermitted
    );
    world.give(credits.clone());
    let line = block_on(world.store.audit(AuditQuery::newest(1))).unwrap();
    assert_eq!(
        line[0].detail,
        "left=12000 refill=true schedule=\"month Europe/Berlin\" to=10000 roll_over=30000 \
         warn_below=2000"
    );
    let seen = block_on(world.admin.credits(&user, world.acme.clone())).unwrap();
    let seen = seen.unwrap();
    let begun = credits.at(SystemTime::UNIX_EPOCH + NOW);
    assert_eq!(
        begun.refill.as_ref().unwrap().at,
        SystemTime::UNIX_EPOCH + DECEMBER
    );
    let epoch = seen.epoch;
    assert_eq!(
        seen,
        Credits {
            epoch,
            ..begun.clone()
        }
    );
    // What was read can be written again, changed or not.
    world.give(Credits { left: 5, ..seen });
    let again = world.balance();
    assert_eq!((again.left, &again.refill), (5, &begun.refill));
    // A key's own, from its creation on.
    let (_, id) = world.key(Environment::LIVE, |new| {
        new.credits(Credits::new(1).refill(monthly(9)))
    });
    let own = block_on(world.admin.credits(&operator(), id))
        .unwrap()
        .unwrap();
    assert_eq!(own.refill.unwrap().at, SystemTime::UNIX_EPOCH + DECEMBER);
}

fn a_handler_refunds_the_credits_of_its_request_once(open: Open<'_>) {
    let world = World::new(open);
    let key = world.live(|new| new.rate_limits(minute(20)));
    world.set_credits(world.acme.clone(), 100);
    let gate = world.builder().refund_server_errors().build().unwrap();
    let request = || admitted(verdict(&gate, &key, any().credits(3), None));
    let refunded = |status| {
        let (principal, finish) = request();
        assert!(!principal.is_refunded());
        principal.clone().refund();
        principal.refund();
        assert!(principal.is_refunded());
        let lines = finished(TestResponse::new(status), finish);
        principal.refund(); // too late
        lines
    };
    for status in [200, 400, 500] {
        refunded(status);
        assert_eq!(world.left(world.acme.clone()), Some(100), "{status}");
    }
    // It was a request nevertheless.
    let lines = refunded(200);
    assert_eq!(told(&lines)[1], r#"ratelimit: "minute";r=16"#);

    // After the response, and for another request, it is without effect.
    let (late, mut finish) = request();
    finish.apply(&mut TestResponse::new(200));
    late.refund(); // an adapter may keep the rest a little longer
    drop(finish);
    let (_, finish) = request();
    finished(TestResponse::new(200), finish);
    assert_eq!(world.left(world.acme.clone()), Some(94));

    // The client may be gone before there is a response.
    let (principal, finish) = request();
    principal.refund();
    drop(finish);
    assert_eq!(world.left(world.acme.clone()), Some(94));

    // All layers give back what they took, also those without a charge of their own.
    for (outer, inner) in [(3, 5), (0, 5), (5, 3)] {
        let (principal, mut around) = admitted(verdict(&gate, &key, any().credits(outer), None));
        let within = verdict(&gate, &key, any().credits(inner), Some(&principal));
        let Verdict::Admit(mut within) = within else {
            panic!()
        };
        assert_eq!(world.left(world.acme.clone()), Some(89));
        let handler = match within.access.take() {
            Some(Access::Principal(changed)) => changed,
            _ => principal,
        };
        handler.refund();
        let mut response = TestResponse::new(200);
        within.finish.apply(&mut response);
        around.apply(&mut response);
        assert_eq!(world.left(world.acme.clone()), Some(94));
    }

    // A test key has nothing to get back.
    let (test, _) = world.key(Environment::TEST, |new| new);
    let (principal, finish) = admitted(verdict(&gate, &test, any(), None));
    principal.refund();
    assert!(!principal.is_refunded());
    finished(TestResponse::new(200), finish);
    assert_eq!(world.left(world.acme.clone()), Some(94));
}

fn a_later_charge_takes_all_of_its_credits_or_none(open: Open<'_>) {
    let world = World::new(open);
    let (gate, key) = (world.gate(), world.live(|new| new));
    world.set_credits(world.acme.clone(), 100);
    let (principal, mut finish) = admitted(verdict(&gate, &key, any(), None));
    let exhausted = Err(DenialKind::CreditsExhausted);
    let charge = |credits| block_on(principal.charge(credits)).map_err(|error| error.kind());
    assert_eq!(charge(0), Ok(()));
    assert_eq!(charge(40), Ok(()));
    assert_eq!(charge(60), exhausted);
    assert_eq!(
        world.left(world.acme.clone()),
        Some(59),
        "nothing was taken"
    );
    assert_eq!(charge(50), Ok(()));
    finish.apply(&mut TestResponse::new(500));
    principal.refund();
    assert_eq!(
        world.left(world.acme.clone()),
        Some(9),
        "a later charge is final"
    );
    // A principal that is kept works after the response.
    assert_eq!(block_on(principal.charge_up_to(5)), Ok(5));
    assert_eq!(block_on(principal.charge_up_to(5)), Ok(4));
    assert_eq!(block_on(principal.charge_up_to(5)), Ok(0));
    assert_eq!(charge(1), exhausted);
    assert_eq!(world.left(world.acme.clone()), Some(0));
    assert_eq!(ask(&gate, &key), exhausted);
    assert_eq!(principal.credits().map(|credits| credits.left), Some(0));
    // A new balance is charged as well.
    world.set_credits(world.acme.clone(), 7);
    assert_eq!(charge(7), Ok(()));
    block_on(
        world
            .admin
            .set_credits(&operator(), world.acme.clone(), None),
    )
    .unwrap();
    assert_eq!(charge(1000), Ok(()), "credits limit it no longer");

    let (test, _) = world.key(Environment::TEST, |new| new);
    world.set_credits(world.acme.clone(), 3);
    let (principal, _) = admitted(verdict(&gate, &test, any(), None));
    assert_eq!(block_on(principal.charge_up_to(1000)), Ok(1000), "free");
    assert_eq!(principal.credits(), None);
    assert_eq!(world.left(world.acme.clone()), Some(3));
}

fn concurrent_later_charges_spend_no_credit_twice(open: Open<'_>) {
    let world = World::new(open);
    let (gate, key) = (world.gate(), world.live(|new| new));
    world.set_credits(world.acme.clone(), 5000);
    let charged: u32 = thread::scope(|threads| {
        let many = || {
            let (principal, _) = admitted(verdict(&gate, &key, any().credits(0), None));
            let mut sum = 0;
            for credits in 1..40 {
                sum += if credits % 2 == 0 {
                    block_on(principal.charge(credits)).map_or(0, |()| credits)
                } else {
                    block_on(principal.charge_up_to(credits)).unwrap()
                };
            }
            sum
        };
        let all: Vec<_> = (0..8).map(|_| threads.spawn(many)).collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    // More was asked for. A charge that was refused may have held the last ones meanwhile.
    let left = world.left(world.acme.clone()).unwrap();
    assert_eq!(u64::from(charged) + left, 5000);
    let (principal, _) = admitted(verdict(&gate, &key, any().credits(0), None));
    let rest = block_on(principal.charge_up_to(u32::MAX));
    assert_eq!(rest.map(u64::from), Ok(left));
    assert_eq!(block_on(principal.charge_up_to(u32::MAX)), Ok(0));
}

fn a_later_charge_works_on_routes_that_cost_nothing_and_for_old_entries(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let (key, id) = world.key(Environment::LIVE, |new| new.credits(Credits::new(30)));
    let (principal, _) = admitted(verdict(&gate, &key, any().credits(0), None));
    assert_eq!(principal.credits(), None, "none were drawn yet");
    assert_eq!(block_on(principal.charge(10)), Ok(()));
    assert_eq!(principal.credits().map(|credits| credits.left), Some(20));
    // The work was done, whatever has become of the key.
    let change = KeyChange::new().name("renamed");
    block_on(world.admin.update(&operator(), id, change)).unwrap();
    assert_eq!(block_on(principal.charge(10)), Ok(()));
    block_on(world.admin.revoke(&operator(), id, "leaked")).unwrap();
    assert_eq!(block_on(principal.charge(5)), Ok(()));
    assert_eq!(world.left(id), Some(5));
}

fn server_errors_are_refunded_if_the_service_asks_for_it(open: Open<'_>) {
    let world = World::new(open);
    let key = world.live(|new| new);
    world.set_credits(world.acme.clone(), 10);
    for (gate, left) in [
        (world.gate(), 9),
        (world.builder().refund_server_errors().build().unwrap(), 9),
    ] {
        let finish = finish_of(verdict(&gate, &key, any(), None));
        finished(TestResponse::new(500), finish);
        assert_eq!(world.left(world.acme.clone()), Some(left));
    }
    let gate = world.builder().refund_server_errors().build().unwrap();
    finished(
        TestResponse::new(200),
        finish_of(verdict(&gate, &key, any(), None)),
    );
    assert_eq!(world.left(world.acme.clone()), Some(8));
}

fn client_errors_are_refunded_if_the_service_asks_for_it(open: Open<'_>) {
    let world = World::new(open);
    let key = world.live(|new| new);
    world.set_credits(world.acme.clone(), 10);
    let all = world.builder().refund_errors().build().unwrap();
    let own = world
        .builder()
        .refund_errors()
        .refund_server_errors()
        .build();
    let server = world.builder().refund_server_errors().build().unwrap();
    for (gate, status, left) in [
        (&all, 400, 10),
        (&all, 413, 10),
        (&all, 503, 10),
        (&own.unwrap(), 400, 10),
        (&all, 399, 9),
        (&server, 499, 8),
    ] {
        let finish = finish_of(verdict(gate, &key, any(), None));
        finished(TestResponse::new(status), finish);
        assert_eq!(world.left(world.acme.clone()), Some(left), "{status}");
    }
}

fn refunded_credits_return_to_the_store_at_the_next_flush(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.builder().refund_server_errors().build().unwrap();
    let key = world.live(|new| new);
    world.set_credits(world.acme.clone(), 2000);
    let asked: Vec<_> = (0..1500)
        .map(|_| finish_of(verdict(&gate, &key, any(), None)))
        .collect();
    for finish in asked {
        finished(TestResponse::new(500), finish);
    }
    block_on(world.store.flush()).unwrap();
    let owner = world.acme.clone().into();
    assert_eq!(world.store.replica().held_of(&owner), None);
    assert_eq!(world.left(world.acme.clone()), Some(2000));
    assert_eq!(passing(&gate, &key), 1000);
    assert_eq!(world.left(world.acme.clone()), Some(1000));
}

fn a_new_balance_voids_credits_of_the_old_one(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let key = world.live(|new| new);
    world.set_credits(world.acme.clone(), 800);
    let finish = finish_of(verdict(&gate, &key, any(), None));
    world.set_credits(world.acme.clone(), 3);
    assert_eq!(ask(&gate, &key), Ok(()));
    finish.give_back(); // credits of the old balance are void
    assert_eq!(passing(&gate, &key), 2);
    assert_eq!(world.left(world.acme.clone()), Some(0));
}

fn only_an_operator_gives_credits(open: Open<'_>) {
    let world = World::new(open);
    let user = Actor::user("ann", world.acme.clone(), Permission::ALL);
    let error = |outcome: Result<(), AdminError>| outcome.unwrap_err().kind();
    let acme = || world.acme.clone();
    let some = Some(Credits::new(5));
    let (_, id) = world.key(Environment::LIVE, |new| new);
    for refused in [
        block_on(world.admin.set_credits(&user, acme(), some)),
        block_on(world.admin.set_credits(&user, id, None)),
        block_on(world.admin.add_credits(&user, acme(), 1)),
        block_on(world.admin.create(
            &user,
            NewKey::new(acme(), Environment::LIVE, "rich").credits(Credits::new(9)),
        ))
        .map(drop),
    ] {
        assert_eq!(error(refused), AdminErrorKind::NotPermitted);
    }
    // A reader of the account sees its balance; a reader of another account does not even see the
    // account.
    world.set_credits(acme(), 5);
    let seen = block_on(world.admin.credits(&user, acme())).unwrap();
    assert_eq!(seen.map(|credits| credits.left), Some(5));
    let other = Actor::user("bob", AccountId::parse("other").unwrap(), Permission::ALL);
    let hidden = block_on(world.admin.credits(&other, acme())).map(drop);
    assert_eq!(error(hidden), AdminErrorKind::UnknownAccount);
    let hidden = block_on(world.admin.credits(&other, id)).map(drop);
    assert_eq!(error(hidden), AdminErrorKind::UnknownKey);
    let nothing = block_on(world.admin.add_credits(&operator(), id, 1));
    assert_eq!(error(nothing), AdminErrorKind::Conflict);
    let line = block_on(world.store.audit(AuditQuery::newest(1)))
        .unwrap()
        .remove(0);
    assert_eq!((line.action, line.key), (AuditAction::AddCredits, Some(id)));
    assert_eq!(line.refused, Some(AdminErrorKind::Conflict));
}

fn only_an_operator_gives_a_key_more_than_its_plan(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let user = |permissions: &[Permission]| {
        Actor::user("ann", world.acme.clone(), permissions.iter().copied())
    };
    let all = Scopes::parse(["api_keys.*"]).unwrap();
    let acting = world.live(|new| new.scopes(all));
    let acting = Actor::key(&admitted(verdict(&gate, &acting, any(), None)).0);
    let actors = [user(&Permission::ALL), user(&[Permission::Update]), acting];
    let new = |limit| {
        let new = NewKey::new(world.acme.clone(), Environment::LIVE, "key");
        new.rate_limits(limit)
    };
    let (_, id) = world.key(Environment::LIVE, |new| new);
    let update = |actor: &Actor, limit| {
        let updated = world
            .admin
            .update(actor, id, KeyChange::new().rate_limits(limit));
        block_on(updated).map(drop).map_err(|error| error.kind())
    };
    let create = |actor: &Actor, limit| {
        let created = block_on(world.admin.create(actor, new(limit)));
        created.map(drop).map_err(|error| error.kind())
    };
    let too_wide = Err(AdminErrorKind::TooWide);
    for plan in [RateLimits::none(), minute(5).into()] {
        world.change_account(AccountChange::new().rate_limits(plan));
        for actor in &actors {
            assert_eq!(update(actor, minute(6)), too_wide, "{actor:?}");
        }
        for actor in [&actors[0], &actors[2]] {
            assert_eq!(create(actor, minute(6)), too_wide, "{actor:?}");
        }
    }
    for actor in [&actors[0], &actors[2]] {
        assert_eq!(create(actor, minute(5)), Ok(()));
    }
    // Limits set by an operator can be narrowed, whatever the plan allows.
    assert_eq!(update(&operator(), minute(9)), Ok(()));
    assert_eq!(update(&actors[1], minute(8)), Ok(()));
    assert_eq!(update(&actors[1], minute(9)), too_wide);
}

fn a_key_with_its_own_credits_cannot_create_a_key_without(open: Open<'_>) {
    let world = World::new(open);
    let gate = world.gate();
    let scopes = Scopes::parse(["api_keys.*"]).unwrap();
    let key = world.live(|new| new.scopes(scopes).credits(Credits::new(50)));
    let (principal, _) = admitted(verdict(&gate, &key, any(), None));
    let new = NewKey::new(world.acme.clone(), Environment::LIVE, "free");
    let made = block_on(world.admin.create(&Actor::key(&principal), new));
    assert_eq!(made.unwrap_err().kind(), AdminErrorKind::TooWide);
}

fn units_are_recorded_per_key_and_billed_for_live_keys(open: Open<'_>) {
    let world = World::new(open);
    for gate in [
        world.gate(),
        world.builder().without_usage().build().unwrap(),
    ] {
        for environment in [Environment::LIVE, Environment::TEST] {
            let (key, id) = world.key(environment, |new| new);
            let (principal, _) = admitted(verdict(&gate, &key, any(), None));
            principal.record(12);
            principal.record(30);
            block_on(world.store.flush()).unwrap();
            principal.record(5);
            block_on(world.store.flush()).unwrap();
            let span = SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH + NOW + NOW;
            let usage = block_on(world.admin.usage(&operator(), &world.acme, None, span)).unwrap();
            let hour = usage.iter().find(|hour| hour.key == id).unwrap();
            let billed = if environment == Environment::LIVE {
                47
            } else {
                0
            };
            assert_eq!((hour.counts.units, hour.billable_units()), (47, billed));
        }
    }
}
