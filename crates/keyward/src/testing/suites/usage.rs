//! The promises of every store about usage: by label and hour, in pages, and summed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::admin::{Actor, KeyAdmin, NewKey, UsageFilter};
use crate::clock::{Clock, ManualClock};
use crate::environment::Environment;
use crate::gate::{Access, Admitted, Gate, Principal, Requirement, Verdict};
use crate::ids::AccountId;
use crate::key::{ApiKey, KeyFormat};
use crate::record::AdminErrorKind;
use crate::scheme::KeyScheme;
use crate::scope::Permission;
use crate::store::Store;
use crate::testing::suites::Open;
use crate::testing::{TestRequest, TestResponse, block_on, decided};
use crate::usage::{ClientNetwork, KeyUsage, RequestCounts, UsageLabel, UsageQuery};

/// Tests that a store keeps usage: by key, label and hour, each request once, in pages and as sums.
///
/// ```
/// use keyward::{MemoryStore, testing};
///
/// testing::suites::usage(MemoryStore::with_clock);
/// ```
///
/// # Panics
/// If the store breaks a promise.
pub fn usage<S: Store>(open: impl Fn(Arc<dyn Clock>) -> S) {
    let open: Open<'_> = &|clock| Arc::new(open(clock));
    crate::__usage_promises!(__run_promises open);
}

#[doc(hidden)]
#[macro_export]
macro_rules! __usage_promises {
    ($then:ident $($with:tt)*) => {
        $crate::$then! { [$($with)*] usage
            a_request_with_a_label_counts_once_by_its_outcome
            a_request_counts_under_its_innermost_label
            a_route_without_a_label_counts_under_none
            the_network_of_the_last_use_is_kept_if_it_is_recorded
            usage_is_read_page_by_page
            a_bill_is_the_sum_of_the_rows
            usage_of_all_accounts_is_for_operators
        }
    };
}

/// The promises, one by one.
pub mod promises {
    crate::__usage_promises!(__publish_promises);
}

struct World {
    store: Arc<dyn Store>,
    admin: KeyAdmin,
    gate: Gate,
    clock: Arc<ManualClock>,
}

/// A time at the beginning of an hour.
const START: Duration = Duration::from_secs(1_800_000 * 1000);
const HOUR: Duration = Duration::from_secs(3600);

impl World {
    fn new(open: Open<'_>) -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let store = open(Arc::<ManualClock>::clone(&clock));
        let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
        Self {
            admin: KeyAdmin::new(&store, &scheme),
            gate: Gate::new(&store, &scheme).unwrap(),
            store,
            clock,
        }
    }

    fn key(&self, account: &str, environment: Environment) -> ApiKey {
        let account = AccountId::parse(account).unwrap();
        block_on(self.admin.open_account(&operator(), &account)).unwrap();
        let new = NewKey::new(account, environment, "key");
        let created = block_on(self.admin.create(&operator(), new)).unwrap();
        created.key.unwrap()
    }

    fn check(
        &self,
        key: &ApiKey,
        requirement: Requirement,
        outer: Option<&Principal>,
    ) -> Option<Admitted> {
        let request = TestRequest::get().key(key.expose_secret());
        match decided(self.gate.check(&request, &Arc::new(requirement), outer)) {
            Verdict::Admit(admitted) => Some(admitted),
            Verdict::Refuse(_) => None,
        }
    }

    /// Asks with a key, and returns the principal.
    fn ask(&self, key: &ApiKey, requirement: Requirement, status: u16) -> Option<Principal> {
        let mut admitted = self.check(key, requirement, None)?;
        admitted.finish.apply(&mut TestResponse::new(status));
        match admitted.access {
            Some(Access::Principal(principal)) => Some(principal),
            other => panic!("{other:?}"),
        }
    }

    fn rows(&self, query: UsageQuery) -> Vec<KeyUsage> {
        block_on(self.store.flush()).unwrap();
        block_on(self.store.usage(query)).unwrap()
    }

    /// Returns the counts of all labels.
    fn labels(&self) -> BTreeMap<String, RequestCounts> {
        let query = UsageQuery {
            labels: true,
            ..UsageQuery::of(None, 0..u64::MAX)
        };
        let mut labels: BTreeMap<_, RequestCounts> = BTreeMap::new();
        for row in self.rows(query) {
            *labels.entry(row.label.unwrap().to_string()).or_default() += row.counts;
        }
        labels
    }
}

fn operator() -> Actor {
    Actor::operator("suite")
}

fn reports() -> Requirement {
    Requirement::new().label("reports")
}

fn span(hours: Range<u32>) -> Range<SystemTime> {
    let at = |hour| SystemTime::UNIX_EPOCH + START + hour * HOUR;
    at(hours.start)..at(hours.end)
}

fn a_request_with_a_label_counts_once_by_its_outcome(open: Open<'_>) {
    let world = World::new(open);
    let key = world.key("acme", Environment::LIVE);
    for status in [200, 201, 302, 399, 400, 404, 499, 500, 503] {
        let principal = world.ask(&key, reports(), status).unwrap();
        principal.record(10);
    }
    // Without a response, and with one of a layer further inside that refused it.
    drop(world.check(&key, reports(), None).unwrap());
    let refused = &mut world.check(&key, reports(), None).unwrap();
    refused.finish.apply(&mut TestResponse::new(403).denied());
    // By this layer.
    assert!(world.ask(&key, reports().scope("kyc"), 200).is_none());
    let counted = RequestCounts {
        admitted: 10,
        refused: 2,
        client_errors: 3,
        server_errors: 2,
        unanswered: 1,
        units: 90,
    };
    assert_eq!(counted.succeeded(), 4);
    let labels = BTreeMap::from([("reports".to_owned(), counted)]);
    for _ in 0..2 {
        assert_eq!(world.labels(), labels);
    }
    // They add to what is in the file.
    world.ask(&key, reports(), 200).unwrap();
    world.clock.advance(HOUR);
    let later = world.key("acme", Environment::LIVE);
    world.ask(&later, reports(), 200).unwrap();
    assert_eq!(world.labels()["reports"].admitted, 12);
}

fn a_request_counts_under_its_innermost_label(open: Open<'_>) {
    let world = World::new(open);
    let key = world.key("acme", Environment::LIVE);
    let inner = || Requirement::new().label("inner");
    let enter = |outer: Requirement| {
        let mut admitted = world.check(&key, outer, None).unwrap();
        match admitted.access.take() {
            Some(Access::Principal(principal)) => (admitted, principal),
            other => panic!("{other:?}"),
        }
    };
    // Both have a label; both finish with the response.
    let (mut outer, principal) = enter(Requirement::new().label("outer"));
    let mut within = world.check(&key, inner(), Some(&principal)).unwrap();
    principal.record(7);
    for admitted in [&mut within, &mut outer] {
        admitted.finish.apply(&mut TestResponse::new(200));
    }
    // The inner one refuses.
    let (mut outer, principal) = enter(Requirement::new().label("outer"));
    let within = world.check(&key, inner().scope("kyc"), Some(&principal));
    assert!(within.is_none());
    outer.finish.apply(&mut TestResponse::new(403).denied());
    // Only the inner one has a label, and the one after it sees the new principal.
    for status in [200, 404] {
        let (mut outer, principal) = enter(Requirement::new());
        let mut within = world.check(&key, inner(), Some(&principal)).unwrap();
        let Some(Access::Principal(principal)) = within.access.take() else {
            panic!("{within:?}")
        };
        let last = Requirement::new().label("last");
        let mut last = world.check(&key, last, Some(&principal)).unwrap();
        for admitted in [&mut last, &mut within, &mut outer] {
            admitted.finish.apply(&mut TestResponse::new(status));
        }
    }
    let (mut outer, principal) = enter(Requirement::new());
    let within = world.check(&key, inner().scope("kyc"), Some(&principal));
    assert!(within.is_none());
    outer.finish.apply(&mut TestResponse::new(403).denied());
    // One that has to pay more.
    let (mut outer, principal) = enter(Requirement::new());
    let dear = inner().cost(5);
    let mut within = world.check(&key, dear, Some(&principal)).unwrap();
    for admitted in [&mut within, &mut outer] {
        admitted.finish.apply(&mut TestResponse::new(500));
    }
    let of = |counts: RequestCounts| counts;
    let wanted = BTreeMap::from([
        (
            "inner".to_owned(),
            of(RequestCounts {
                admitted: 2,
                refused: 2,
                server_errors: 1,
                units: 7,
                ..RequestCounts::default()
            }),
        ),
        (
            "last".to_owned(),
            of(RequestCounts {
                admitted: 2,
                client_errors: 1,
                ..RequestCounts::default()
            }),
        ),
    ]);
    assert_eq!(world.labels(), wanted);
}

fn a_route_without_a_label_counts_under_none(open: Open<'_>) {
    let world = World::new(open);
    let key = world.key("acme", Environment::LIVE);
    let principal = world.ask(&key, Requirement::new(), 500).unwrap();
    principal.record(3);
    assert!(
        world
            .ask(&key, Requirement::new().scope("kyc"), 200)
            .is_none()
    );
    assert_eq!(world.labels(), BTreeMap::new());
    let rows = world.rows(UsageQuery::of(None, 0..u64::MAX));
    let counted = RequestCounts {
        admitted: 1,
        refused: 1,
        units: 3,
        ..RequestCounts::default()
    };
    assert_eq!((rows.len(), rows[0].counts), (1, counted));
    assert_eq!(rows[0].hours, 1);

    let scheme = world.admin.scheme();
    let gate = Gate::builder(&world.store, scheme).without_usage();
    let silent = World {
        gate: gate.build().unwrap(),
        ..World::new(open)
    };
    drop(silent.check(&key, reports(), None).unwrap());
    assert_eq!(world.labels(), BTreeMap::new(), "usage is switched off");
}

fn the_network_of_the_last_use_is_kept_if_it_is_recorded(open: Open<'_>) {
    let world = World::new(open);
    let key = world.key("acme", Environment::LIVE);
    let id = world.ask(&key, Requirement::new(), 200).unwrap().key_id();
    let view = || block_on(world.admin.key(&operator(), id)).unwrap();
    let gate = Gate::builder(&world.store, world.admin.scheme());
    let proxies = gate.trusted_proxies(["192.0.2.0/24"]).unwrap();
    let recording = proxies.record_networks().build().unwrap();
    let ask = |gate: &Gate, peer: [u8; 4]| {
        world.clock.advance(Duration::from_secs(1));
        let request = TestRequest::get().key(key.expose_secret()).peer(peer);
        let request = request.header("x-forwarded-for", "198.18.0.1, 2001:db8:1:2::3");
        let admitted = decided(gate.check(&request, &Arc::default(), None));
        assert!(matches!(admitted, Verdict::Admit(_)));
    };
    ask(&world.gate, [203, 0, 113, 7]);
    assert_eq!(view().last_network, None, "it is off by default");
    ask(&recording, [203, 0, 113, 7]);
    let network = |text| ClientNetwork::parse(text).ok();
    assert_eq!(view().last_network, network("203.0.113.0/24"));
    block_on(world.store.flush()).unwrap();
    let stored = || block_on(world.store.key(id)).unwrap().unwrap();
    assert_eq!(stored().last_network, network("203.0.113.0/24"));
    ask(&recording, [198, 51, 100, 1]);
    assert_eq!(view().last_network, network("198.51.100.0/24"));
    block_on(world.store.flush()).unwrap();
    assert_eq!(stored().last_network, network("198.51.100.0/24"));
    ask(&recording, [192, 0, 2, 1]);
    assert_eq!(view().last_network, network("2001:db8:1::/48"), "a proxy");
    ask(&recording, [198, 51, 100, 1]);
    block_on(world.store.flush()).unwrap();
    block_on(world.admin.disable(&operator(), id)).unwrap();
    assert_eq!(
        stored().last_network,
        network("198.51.100.0/24"),
        "a commit leaves it"
    );
}

/// Uses keys of several accounts and environments in several hours, under several labels.
fn fill(world: &World) {
    let (live, test) = (Environment::LIVE, Environment::TEST);
    let keys = [
        ("acme", live),
        ("acme", test),
        ("other", live),
        ("acme", live),
    ];
    let keys = keys.map(|(account, environment)| world.key(account, environment));
    let mut random = 7_u32;
    for _ in 0..12 {
        for key in &keys {
            for label in ["a", "b", "c"] {
                random = random.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                let requirement = Requirement::new().any_environment();
                let status = [200, 404, 500][random as usize / 65_536 % 3];
                if random & 0x10_0000 > 0 {
                    let principal = world.ask(key, requirement.clone(), status).unwrap();
                    principal.record(u64::from(random % 5));
                }
                if random & 0x20_0000 > 0 {
                    world.ask(key, requirement.label(label), status).unwrap();
                }
            }
        }
        block_on(world.store.flush()).unwrap();
        // Now and then the clock is set back.
        let now = world.clock.unix();
        let hours = random / 65_536 % 4;
        world.clock.set_unix(if hours == 0 {
            now.saturating_sub(HOUR)
        } else {
            now + hours * HOUR
        });
    }
}

fn usage_is_read_page_by_page(open: Open<'_>) {
    let world = World::new(open);
    fill(&world);
    let acme = AccountId::parse("acme").unwrap();
    for labels in [false, true] {
        for account in [None, Some(acme.clone())] {
            for environment in [None, Some(Environment::LIVE)] {
                let all = UsageQuery {
                    environment,
                    labels,
                    ..UsageQuery::of(account.clone(), 0..u64::MAX)
                };
                let rows = world.rows(all.clone());
                assert!(rows.len() > 10, "{}", rows.len());
                assert!(rows.is_sorted_by_key(KeyUsage::cursor));
                assert!(rows.iter().all(|row| all.wants(row)));
                let from = rows.iter().map(|row| row.hour).min().unwrap();
                for (limit, summed) in [(1, false), (7, false), (rows.len(), false), (2, true)] {
                    let mut query = UsageQuery {
                        limit,
                        summed,
                        from: from + 1,
                        until: from + 9,
                        ..all.clone()
                    };
                    let mut found = Vec::new();
                    loop {
                        let page = block_on(world.store.usage(query.clone())).unwrap();
                        assert!(page.len() <= limit);
                        let Some(last) = page.last() else { break };
                        query.after = Some(last.cursor());
                        found.extend(page);
                    }
                    let whole = UsageQuery {
                        limit: usize::MAX,
                        after: None,
                        ..query
                    };
                    assert_eq!(found, whole.select(&rows), "{whole:?}");
                }
            }
        }
    }
}

/// The counts, billable requests and billable units of each line of a bill.
type Sums = BTreeMap<(AccountId, Environment, Option<UsageLabel>), (RequestCounts, u64, u64)>;

fn a_bill_is_the_sum_of_the_rows(open: Open<'_>) {
    let world = World::new(open);
    fill(&world);
    let all = |by_label: bool| {
        let filter = UsageFilter::new(span(0..1000)).limit(10_000);
        let filter = if by_label { filter.by_label() } else { filter };
        block_on(world.admin.usage_page(&operator(), filter))
            .unwrap()
            .rows
    };
    let rows: Vec<_> = all(false).into_iter().chain(all(true)).collect();
    let bill = |hours: Range<u32>| -> Sums {
        let sums = block_on(world.admin.usage_sums(&operator(), None, span(hours))).unwrap();
        let lines = sums.into_iter().map(|sum| {
            let billable = (sum.counts, sum.billable(), sum.billable_units());
            ((sum.account, sum.environment, sum.label), billable)
        });
        lines.collect()
    };
    let first = u64::from(u32::try_from(START.as_secs() / 3600).unwrap());
    let by_hand = |hours: Range<u32>| -> Sums {
        let mut sums = Sums::new();
        let hours = first + u64::from(hours.start)..first + u64::from(hours.end);
        for row in rows.iter().filter(|row| hours.contains(&row.hour)) {
            let line = (row.account.clone(), row.environment, row.label);
            let sum = sums.entry(line).or_default();
            sum.0 += row.counts;
            if row.environment == Environment::LIVE {
                sum.1 += row.counts.admitted;
                sum.2 += row.counts.units;
            }
        }
        sums
    };
    for start in 0..20 {
        for end in [start, start + 1, start + 5, start + 24] {
            assert_eq!(bill(start..end), by_hand(start..end), "{start}..{end}");
        }
    }
    // Periods that follow each other leave nothing out and count nothing twice, also if they begin
    // within an hour.
    let total = |span| {
        let sums = block_on(world.admin.usage_sums(&operator(), None, span)).unwrap();
        sums.iter().map(|sum| sum.counts.admitted).sum::<u64>()
    };
    let (half, whole) = (HOUR / 2, span(0..100));
    let middle = span(5..6).start + half;
    assert_eq!(
        total(whole.start..middle) + total(middle..whole.end),
        total(whole)
    );
}

fn usage_of_all_accounts_is_for_operators(open: Open<'_>) {
    let world = World::new(open);
    fill(&world);
    let acme = AccountId::parse("acme").unwrap();
    let user = Actor::user("ann", acme.clone(), [Permission::Read]);
    let filter = || UsageFilter::new(span(0..1000));
    let page = |filter| block_on(world.admin.usage_page(&user, filter));
    let sums = |account| block_on(world.admin.usage_sums(&user, account, span(0..1000)));
    let error = AdminErrorKind::NotPermitted;
    assert_eq!(page(filter()).unwrap_err().kind(), error);
    assert_eq!(sums(None).unwrap_err().kind(), error);
    let other = AccountId::parse("other").unwrap();
    let error = AdminErrorKind::UnknownAccount;
    assert_eq!(
        page(filter().account(other.clone())).unwrap_err().kind(),
        error
    );
    assert_eq!(sums(Some(&other)).unwrap_err().kind(), error);
    let rows = page(filter().account(acme.clone())).unwrap().rows;
    assert!(!rows.is_empty() && rows.iter().all(|row| row.account == acme));
    let sums = sums(Some(&acme)).unwrap();
    assert!(!sums.is_empty() && sums.iter().all(|sum| sum.account == acme));
}
