//! Every subset of the checks that can fail, in every stack: the first of them answers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyward::address::AddressPolicy;
use keyward::admin::AccountChange;
use keyward::clock::ManualClock;
use keyward::credits::Credits;
use keyward::denial::DenialKind;
use keyward::gate::GateBuilder;
use keyward::record::{Account, AccountStatus, KeyRecord, KeyStatus};
use keyward::replica::{Replica, Revision};
use keyward::store::Commit;
use keyward::testing::{TestRequest, block_on, decided};
use keyward::throttle::AuthFailureLimiter;
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyId, KeyKind, KeyLocation,
    KeyScheme, OriginPolicy, Peppers, RateLimit, Replies, Requirement, Store,
};

use crate::service::{NOW, Service};
use crate::stacks::{Ask, everywhere};

/// What fails, in the order of the checks. A dead key is revoked, disabled or expired by turns.
const FAILS: [DenialKind; 18] = [
    DenialKind::MultipleKeys,
    DenialKind::Malformed,
    DenialKind::Throttled,
    DenialKind::Unavailable,
    DenialKind::Unknown,
    DenialKind::ForeignAccount,
    DenialKind::Revoked,
    DenialKind::AccountInactive,
    DenialKind::EnvironmentMismatch, // of the key's own text
    DenialKind::EnvironmentMismatch, // of the route
    DenialKind::SecretExposed,
    DenialKind::KindNotAccepted,
    DenialKind::NoApiAccess,
    DenialKind::OriginNotAllowed,
    DenialKind::AddressNotAllowed,
    DenialKind::ScopeMissing,
    DenialKind::RateLimited,
    DenialKind::CreditsExhausted,
];

/// The number of checks that need no look-up.
const EARLY: usize = 5;

const DEAD: [DenialKind; 3] = [
    DenialKind::Revoked,
    DenialKind::Disabled,
    DenialKind::Expired,
];

/// The places in [`FAILS`].
mod at {
    pub const SEVERAL: usize = 0;
    pub const MALFORMED: usize = 1;
    pub const THROTTLED: usize = 2;
    pub const STALE: usize = 3;
    pub const UNKNOWN: usize = 4;
    pub const FOREIGN: usize = 5;
    pub const DEAD: usize = 6;
    pub const SUSPENDED: usize = 7;
    pub const KEY_ENVIRONMENT: usize = 8;
    pub const ENVIRONMENT: usize = 9;
    pub const PLACE: usize = 10;
    pub const KIND: usize = 11;
    pub const PLAN: usize = 12;
    pub const ORIGIN: usize = 13;
    pub const ADDRESS: usize = 14;
    pub const SCOPE: usize = 15;
    pub const RATE: usize = 16;
    pub const CREDITS: usize = 17;
}

/// A set of the checks that fail, one bit for each.
#[derive(Clone, Copy)]
struct Subset(u32);

impl Subset {
    fn has(self, check: usize) -> bool {
        self.0 >> check & 1 == 1
    }

    /// The part of it that these checks make up.
    fn of(self, checks: &[usize]) -> Self {
        let own = checks.iter().filter(|check| self.has(**check));
        Self(own.fold(0, |bits, check| bits | 1 << check))
    }

    fn dead(self) -> Option<DenialKind> {
        let turn = self.0.count_ones() as usize % DEAD.len();
        self.has(at::DEAD).then_some(DEAD[turn])
    }

    fn first(self) -> Option<DenialKind> {
        let first = (0..FAILS.len()).find(|check| self.has(*check))?;
        match first {
            at::DEAD => self.dead(),
            first => Some(FAILS[first]),
        }
    }
}

const OF_ACCOUNT: [usize; 4] = [at::SUSPENDED, at::PLAN, at::RATE, at::CREDITS];
const OF_GATE: [usize; 2] = [at::THROTTLED, at::STALE];
const OF_ROUTE: [usize; 6] = [
    at::THROTTLED,
    at::STALE,
    at::FOREIGN,
    at::ENVIRONMENT,
    at::KIND,
    at::SCOPE,
];

/// All subsets of the given checks.
fn subsets(checks: &[usize]) -> impl Iterator<Item = Subset> {
    (0..1_u32 << checks.len()).map(|chosen| {
        let chosen = checks
            .iter()
            .enumerate()
            .filter(|(bit, _)| chosen >> bit & 1 == 1);
        Subset(chosen.fold(0, |bits, (_, check)| bits | 1 << check))
    })
}

fn format() -> KeyFormat {
    KeyFormat::new("vhk_{env}_").unwrap()
}

fn account(subset: Subset) -> AccountId {
    AccountId::parse(&format!("account-{}", subset.of(&OF_ACCOUNT).0)).unwrap()
}

/// The client's address, which is also where its failures were counted.
fn address(subset: Subset) -> IpAddr {
    let last = if subset.has(at::THROTTLED) { 9 } else { 7 };
    if subset.has(at::ADDRESS) {
        [198, 51, 100, last].into()
    } else {
        [203, 0, 113, last].into()
    }
}

/// A service with a key and a route for every subset.
struct World {
    service: Arc<Service>,
    keys: HashMap<(u32, Option<DenialKind>), String>,
}

impl World {
    fn new() -> Self {
        let mut service = Service::new();
        let mut keys = HashMap::new();
        let mut records = Vec::new();
        let live = Environment::LIVE;
        for subset in subsets(&[&OF_ACCOUNT[..], &[at::KEY_ENVIRONMENT]].concat()) {
            for dead in [None].into_iter().chain(DEAD.map(Some)) {
                let in_text = if subset.has(at::KEY_ENVIRONMENT) {
                    Environment::TEST
                } else {
                    live
                };
                let key = format().generate(in_text).unwrap();
                let (digest, hint) = (Peppers::none().digest(&key), key.hint().clone());
                let id = KeyId::random().unwrap();
                let at = SystemTime::UNIX_EPOCH;
                let mut record = KeyRecord::new(id, digest, hint, account(subset), live, at);
                record.origins = OriginPolicy::listed(["shop.example"]).unwrap();
                record.addresses = AddressPolicy::listed(["203.0.113.0/24"]).unwrap();
                match dead {
                    Some(DenialKind::Revoked) => record.status = KeyStatus::Revoked,
                    Some(DenialKind::Disabled) => record.status = KeyStatus::Disabled,
                    Some(_) => record.expires_at = Some(at + NOW),
                    None => {}
                }
                records.push(record);
                keys.insert((subset.0, dead), key.expose_secret().to_owned());
            }
        }
        let accounts: Vec<_> = subsets(&OF_ACCOUNT)
            .map(|subset| {
                let mut account = Account::new(account(subset));
                if subset.has(at::RATE) {
                    account.shared_rate_limits = RateLimit::per_day(1).into();
                }
                account
            })
            .collect();
        let commit = Commit {
            accounts,
            keys: records.clone(),
            ..Commit::default()
        };
        block_on(service.store.commit(commit)).unwrap();

        let scheme = KeyScheme::new(format());
        let gate = builder(service.store.replica(), &scheme).build().unwrap();
        for subset in subsets(&OF_ACCOUNT) {
            // Uses up the limit, where there is one.
            let request = request(&keys[&(subset.0, None)], Subset(0));
            let request = request.peer(address(Subset(0)));
            drop(decided(gate.check(&request, &Arc::default(), None)));
            close(&service, &scheme, subset);
        }
        // Memory that holds the same and is too old.
        let clock = Arc::new(ManualClock::at(NOW));
        let stale = Replica::with(Arc::<ManualClock>::clone(&clock), 10_000);
        let mut poll = stale.poll();
        for subset in subsets(&OF_ACCOUNT) {
            let stored = block_on(service.store.account(account(subset)));
            poll.account(stored.unwrap().unwrap());
        }
        for record in &records {
            poll.key(record);
        }
        let (number, nonce) = (1, 0);
        poll.finish(Revision { number, nonce }).unwrap();
        clock.advance(Duration::from_secs(31));

        let gates: HashMap<_, _> = subsets(&OF_GATE)
            .map(|subset| {
                let replica = if subset.has(at::STALE) {
                    &stale
                } else {
                    service.store.replica()
                };
                let mut gate = builder(replica, &scheme).refresh_wait(Duration::ZERO);
                if subset.has(at::THROTTLED) {
                    gate = gate.failure_throttle(AuthFailureLimiter::new(RateLimit::per_day(1)));
                }
                let gate = gate.build().unwrap();
                for other in subsets(&[at::ADDRESS]) {
                    let from = address(Subset(subset.0 | other.0));
                    let failing = TestRequest::get().key("malformed").peer(from);
                    drop(gate.check(&failing, &Arc::default(), None));
                }
                (subset.0, gate)
            })
            .collect();
        service.routes = subsets(&OF_ROUTE)
            .map(|subset| {
                let mut requirement = Requirement::new();
                if subset.has(at::FOREIGN) {
                    requirement = requirement.account(AccountId::parse("other").unwrap());
                }
                if subset.has(at::ENVIRONMENT) {
                    requirement = requirement.environment(Environment::TEST);
                }
                if subset.has(at::KIND) {
                    requirement = requirement.kinds([KeyKind::Publishable]);
                }
                if subset.has(at::SCOPE) {
                    requirement = requirement.scope("kyc");
                }
                let gate = gates[&subset.of(&OF_GATE).0].clone();
                (&*path(subset).leak(), gate, requirement)
            })
            .collect();
        let service = Arc::new(service);
        Self { service, keys }
    }

    fn ask(&self, subset: Subset) -> Ask {
        let own = subset.of(&[&OF_ACCOUNT[..], &[at::KEY_ENVIRONMENT]].concat());
        let mut key = self.keys[&(own.0, subset.dead())].clone();
        if subset.has(at::UNKNOWN) {
            let in_text = if subset.has(at::KEY_ENVIRONMENT) {
                Environment::TEST
            } else {
                Environment::LIVE
            };
            let unknown = format().generate(in_text).unwrap();
            unknown.expose_secret().clone_into(&mut key);
        }
        if subset.has(at::MALFORMED) {
            let last = key.pop().unwrap();
            key.push(if last == '0' { '1' } else { '0' });
        }
        let place = if subset.has(at::PLACE) {
            "x-client-key"
        } else {
            "x-api-key"
        };
        let origin = if subset.has(at::ORIGIN) {
            "https://evil.example"
        } else {
            "https://shop.example"
        };
        let forwarded = format!("192.0.2.1, {}", address(subset));
        let mut fields = vec![
            (place, key.into_bytes()),
            ("origin", origin.into()),
            ("x-forwarded-for", forwarded.into_bytes()),
        ];
        if subset.has(at::SEVERAL) {
            fields.push(("authorization", b"Bearer x".into()));
        }
        Ask {
            method: "GET",
            path: path(subset),
            fields,
        }
    }
}

fn path(subset: Subset) -> String {
    format!("/{}", subset.of(&OF_ROUTE).0)
}

fn request(key: &str, subset: Subset) -> TestRequest {
    let request = TestRequest::get().key(key);
    request
        .header("origin", "https://shop.example")
        .peer(address(subset))
}

fn builder(replica: &Replica, scheme: &KeyScheme) -> GateBuilder {
    let proxy = crate::service::PROXY.to_string();
    Gate::builder_from_replica(replica, scheme)
        .location(KeyLocation::x_api_key())
        .location(KeyLocation::bearer())
        .location(KeyLocation::x_client_key())
        .replies(Replies::default().tell_dead_keys_apart())
        .trusted_proxies([proxy])
        .unwrap()
}

/// Lets the account's own checks fail.
fn close(service: &Service, scheme: &KeyScheme, subset: Subset) {
    let admin = KeyAdmin::new(&service.store, scheme);
    let operator = Actor::operator("ops");
    let id = account(subset);
    if subset.has(at::CREDITS) {
        let none_left = Some(Credits::new(0));
        block_on(admin.set_credits(&operator, id.clone(), none_left)).unwrap();
    }
    let mut change = AccountChange::new();
    if subset.has(at::SUSPENDED) {
        change = change.status(AccountStatus::Suspended);
    }
    if subset.has(at::PLAN) {
        change = change.api_access(false);
    }
    block_on(admin.update_account(&operator, &id, change)).unwrap();
}

/// The code that is in the body.
fn code(kind: DenialKind) -> &'static str {
    match kind {
        DenialKind::Revoked => "revoked_api_key",
        DenialKind::Disabled => "disabled_api_key",
        DenialKind::Expired => "expired_api_key",
        kind => kind.code().as_str(),
    }
}

/// Sends a request for each subset, in every stack, and checks that the first failure answers.
fn check(all: &[Subset]) {
    let world = World::new();
    let mut texts = HashMap::new();
    for some in all.chunks(8192) {
        let asks: Vec<_> = some.iter().map(|subset| world.ask(*subset)).collect();
        for (subset, answer) in some.iter().zip(everywhere(&world.service, &asks)) {
            let about = format!("{:018b}: {answer:?}", subset.0);
            let first = subset.first();
            assert_eq!(answer.denial, first, "{about}");
            let Some(kind) = first else {
                assert_eq!(answer.status, 200, "{about}");
                continue;
            };
            assert_eq!(answer.status, kind.code().status(), "{about}");
            let code = format!(r#""code":"{}"}}"#, code(kind));
            assert!(answer.body.ends_with(&code), "{about}");
            // What else is wrong changes no byte. Some texts name the places of the kinds that the
            // route accepts, or its scopes.
            let route = (kind, subset.has(at::KIND), subset.has(at::SCOPE));
            match texts.entry(route) {
                Entry::Vacant(first) => drop(first.insert(answer)),
                Entry::Occupied(first) => assert_eq!(*first.get(), answer, "{about}"),
            }
        }
    }
}

#[test]
#[ignore = "takes minutes: it has 262,144 requests for each stack"]
fn of_all_subsets_of_18_checks_the_first_that_fails_answers_everywhere() {
    let checks: Vec<_> = (0..FAILS.len()).collect();
    check(&subsets(&checks).collect::<Vec<_>>());
}

#[test]
fn of_every_subset_of_checks_that_fail_the_first_answers_everywhere() {
    let late: Vec<_> = (EARLY..FAILS.len()).collect();
    let early: Vec<_> = (0..EARLY).collect();
    // All subsets of the checks of a key that is found; and all of those before, each beside
    // nothing, beside one of the others and beside all of them.
    let mut all: Vec<_> = subsets(&late).collect();
    let every = late.iter().fold(0, |bits, check| bits | 1 << check);
    for before in subsets(&early).skip(1) {
        let beside = late.iter().map(|check| 1 << check).chain([0, every]);
        all.extend(beside.map(|beside| Subset(before.0 | beside)));
    }
    assert_eq!(all.len(), (1 << 13) + 31 * 15);
    check(&all);
}
