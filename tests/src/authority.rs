//! Chains of calls by those who may do a little: in the end nobody has more than at the beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyward::address::AddressPolicy;
use keyward::admin::{AccountFilter, AdminError, BulkMode, KeyChange, KeyFilter};
use keyward::gate::{Access, Verdict};
use keyward::key::Hint;
use keyward::record::{DisabledBy, KeyRecord, KeyState, KeyStatus};
use keyward::request::RequestHead;
use keyward::store::{Commit, KeySearch};
use keyward::testing::{block_on, decided};
use keyward::{
    AccountId, Actor, ApiKey, Environment, Gate, Grace, KeyAdmin, KeyFormat, KeyId, KeyKind,
    KeyLocation, KeyScheme, NewKey, OriginPolicy, Peppers, Permission, RateLimit, RateLimits,
    Requirement, ScopeCatalog, Scopes,
};
use keyward_sqlite::SqliteOptions;
use keyward_webhooks::WebhookAdmin;
use keyward_webhooks::admin::EndpointChange;
use keyward_webhooks::sealing::{SealingKey, SealingKeys};
use keyward_webhooks::send::{EndpointId, EndpointUrl, WebhookEndpoint};
use keyward_webhooks::{MemoryWebhooks, WebhookStore};
use proptest::collection::vec;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);
const ACME: &str = "acme";
const OTHER: &str = "other";

/// What keys of the tests hold and ask for.
const GRANTS: [&str; 14] = [
    "api_keys.create",
    "api_keys.read",
    "api_keys.update",
    "api_keys.revoke",
    "webhooks.read",
    "webhooks.manage",
    "api_keys.*",
    "webhooks.*",
    "hybrid",
    "kyc.read",
    "kyc.write",
    "kyc.*",
    "age",
    "manager",
];

/// What can be asked of a key, one by one.
const POWERS: [&str; 11] = [
    "api_keys.create",
    "api_keys.read",
    "api_keys.update",
    "api_keys.revoke",
    "webhooks.read",
    "webhooks.manage",
    "hybrid",
    "kyc.read",
    "kyc.write",
    "age",
    "manager",
];

/// What a scope of the catalog brings with it, told here once more.
fn implied(power: &str) -> &'static [&'static str] {
    match power {
        "hybrid" => &["kyc.read", "age"],
        // A service may say so; to manage keys it does not count.
        "manager" => &["api_keys.read", "api_keys.create"],
        _ => &[],
    }
}

fn is_managing(power: &str) -> bool {
    power.starts_with("api_keys.") || power.starts_with("webhooks.")
}

/// The powers of grants, by hand.
fn powers(scopes: &Scopes, has_catalog: bool) -> BTreeSet<&'static str> {
    let holds = |power: &str| {
        scopes.iter().any(|grant| {
            grant == power
                || grant
                    .strip_suffix('*')
                    .is_some_and(|stem| power.starts_with(stem))
        })
    };
    let mut all: BTreeSet<_> = POWERS.into_iter().filter(|power| holds(power)).collect();
    if has_catalog {
        for power in all.clone() {
            all.extend(implied(power).iter().filter(|power| !is_managing(power)));
        }
    }
    all
}

struct Head(String, bool, IpAddr);

impl RequestHead for Head {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn peer(&self) -> Option<IpAddr> {
        Some(self.2)
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let value = match field {
            "x-api-key" => Some(self.0.as_bytes()),
            "origin" if self.1 => Some(&b"https://shop.example"[..]),
            _ => None,
        };
        value.into_iter()
    }
}

/// What an attacker begins with.
#[derive(Clone, Debug)]
enum Start {
    User(u8),
    Key {
        grants: u16,
        is_live: bool,
        expires: bool,
        listed: bool,
        limited: bool,
        addresses: u8,
    },
}

/// Of the two places in the list of actors and of keys, and of what is asked for.
#[derive(Clone, Debug)]
struct Step {
    call: u8,
    who: u8,
    what: u8,
    grants: u16,
    flags: u8,
    addresses: u8,
}

/// The keys that were there before.
#[derive(Clone, Debug)]
struct Victim {
    grants: u16,
    is_live: bool,
    is_other: bool,
    state: u8,
    is_known: bool,
    flags: u8,
    addresses: u8,
}

/// Lists of addresses: none, one in two halves and whole, a part of it, a wider one, another.
fn addresses(list: u8) -> AddressPolicy {
    match list % 8 {
        0 => AddressPolicy::listed(["192.0.2.0/25", "192.0.2.128/25"]).unwrap(),
        1 => AddressPolicy::listed(["192.0.2.0/24"]).unwrap(),
        2 => AddressPolicy::listed(["192.0.2.7"]).unwrap(),
        3 => AddressPolicy::listed(["192.0.2.0/23"]).unwrap(),
        4 => AddressPolicy::listed(["198.51.100.0/24"]).unwrap(),
        _ => AddressPolicy::Any,
    }
}

/// Addresses within and without these lists.
const PEERS: [[u8; 4]; 5] = [
    [192, 0, 2, 7],
    [192, 0, 2, 200],
    [192, 0, 3, 7],
    [198, 51, 100, 7],
    [203, 0, 113, 7],
];

fn grants(bits: u16) -> Scopes {
    let chosen = GRANTS.iter().enumerate();
    let chosen = chosen.filter(|(at, _)| bits >> at & 1 == 1);
    Scopes::parse(chosen.map(|(_, grant)| *grant)).unwrap()
}

fn permissions(bits: u8) -> Vec<Permission> {
    let all = Permission::ALL.into_iter().enumerate();
    all.filter(|(at, _)| bits >> at & 1 == 1)
        .map(|(_, own)| own)
        .collect()
}

fn environment(is_live: bool) -> Environment {
    if is_live {
        Environment::LIVE
    } else {
        Environment::TEST
    }
}

fn account(id: &str) -> AccountId {
    AccountId::parse(id).unwrap()
}

struct World {
    store: Arc<dyn WebhookStore>,
    admin: KeyAdmin,
    webhooks: WebhookAdmin,
    gate: Gate,
    operator: Actor,
    has_catalog: bool,
    /// The text of each key that the attackers know.
    secrets: BTreeMap<KeyId, ApiKey>,
    actors: Vec<Actor>,
    keys: Vec<KeyId>,
    endpoints: Vec<EndpointId>,
    /// What they began with.
    users: Vec<Permission>,
    own: Vec<KeyRecord>,
    disabled_by_operator: BTreeSet<KeyId>,
    revoked: BTreeSet<KeyId>,
}

impl World {
    fn new(store: Arc<dyn WebhookStore>, has_catalog: bool) -> Self {
        let mut scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
        if has_catalog {
            let products = ["kyc.read", "kyc.write", "age"].into_iter();
            let all = products.chain(Permission::ALL.map(Permission::as_str));
            let catalog = ScopeCatalog::new(all)
                .unwrap()
                .implying("hybrid", ["kyc.read", "age"])
                .unwrap()
                .implying("manager", ["api_keys.read", "api_keys.create"])
                .unwrap();
            scheme = scheme.catalog(catalog);
        }
        let admin = KeyAdmin::new(&store, &scheme);
        let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32]).unwrap());
        let webhooks = WebhookAdmin::new(Arc::clone(&store), &scheme, sealing);
        let operator = Actor::operator("ops");
        for id in [ACME, OTHER] {
            block_on(admin.open_account(&operator, &account(id))).unwrap();
        }
        let gate = Gate::builder(&store, &scheme)
            .location(KeyLocation::x_api_key())
            .build()
            .unwrap();
        Self {
            store,
            admin,
            webhooks,
            gate,
            operator,
            has_catalog,
            secrets: BTreeMap::new(),
            actors: vec![],
            keys: vec![],
            endpoints: vec![],
            users: vec![],
            own: vec![],
            disabled_by_operator: BTreeSet::new(),
            revoked: BTreeSet::new(),
        }
    }

    fn put(
        &self,
        owner: &str,
        is_live: bool,
        with: impl FnOnce(&mut KeyRecord),
    ) -> (ApiKey, KeyId) {
        let format = KeyFormat::new("vhk_{env}_").unwrap();
        let key = format.generate(environment(is_live)).unwrap();
        let digest = Peppers::none().digest(&key);
        let id = KeyId::random().unwrap();
        let (hint, now) = (key.hint().clone(), SystemTime::now());
        let own = account(owner);
        let mut record = KeyRecord::new(id, digest, hint, own, environment(is_live), now);
        record.name = "name".to_owned();
        with(&mut record);
        let commit = Commit {
            keys: vec![record],
            ..Commit::default()
        };
        block_on(self.store.commit(commit)).unwrap();
        (key, id)
    }

    fn record(&self, id: KeyId) -> KeyRecord {
        block_on(self.store.key(id)).unwrap().unwrap()
    }

    /// As a gate lets a key pass, if it does.
    fn pass(&self, key: &ApiKey) -> Option<Actor> {
        let requirement = Requirement::new().any_environment();
        let requirement = requirement.kinds([KeyKind::Secret, KeyKind::Publishable]);
        let requirement = Arc::new(requirement);
        let places = PEERS
            .into_iter()
            .flat_map(|peer| [(false, peer), (true, peer)]);
        places.into_iter().find_map(|(origin, peer)| {
            let head = Head(key.expose_secret().to_owned(), origin, peer.into());
            if let Verdict::Admit(admitted) = decided(self.gate.check(&head, &requirement, None))
                && let Some(Access::Principal(principal)) = admitted.access
            {
                Some(Actor::key(&principal))
            } else {
                None
            }
        })
    }

    fn start(&mut self, starts: &[Start], victims: &[Victim]) {
        for start in starts {
            match start {
                Start::User(bits) => {
                    let own = permissions(*bits);
                    self.users.extend(own.iter().copied());
                    self.actors.push(Actor::user("ann", account(ACME), own));
                }
                Start::Key {
                    grants: bits,
                    is_live,
                    expires,
                    listed,
                    limited,
                    addresses: list,
                } => {
                    let (key, id) = self.put(ACME, *is_live, |record| {
                        record.scopes = grants(*bits);
                        record.addresses = addresses(*list);
                        if *expires {
                            let end = SystemTime::now() + Duration::from_secs(3600);
                            record.expires_at = Some(whole(end));
                        }
                        if *listed {
                            record.origins = OriginPolicy::listed(["shop.example"])
                                .unwrap()
                                .or_no_origin();
                        }
                        if *limited {
                            record.rate_limits = RateLimit::per_minute(100_000).into();
                        }
                    });
                    self.actors.push(self.pass(&key).unwrap());
                    self.own.push(self.record(id));
                    self.keys.push(id);
                    self.secrets.insert(id, key);
                }
            }
        }
        for victim in victims {
            let owner = if victim.is_other { OTHER } else { ACME };
            let (key, id) = self.put(owner, victim.is_live, |record| {
                record.scopes = grants(victim.grants);
                record.addresses = addresses(victim.addresses);
                if victim.flags & 1 == 1 {
                    record.origins = OriginPolicy::listed(["shop.example"]).unwrap();
                }
                if victim.flags & 2 == 2 {
                    record.kind = KeyKind::Publishable;
                }
                if victim.flags & 4 == 4 {
                    let end = SystemTime::now() + Duration::from_secs(7200);
                    record.expires_at = Some(whole(end));
                }
                match victim.state {
                    0 => {
                        record.status = KeyStatus::Disabled;
                        record.disabled_by = Some(DisabledBy::Operator);
                    }
                    1 => record.status = KeyStatus::Disabled,
                    2 => {
                        record.status = KeyStatus::Disabled;
                        record.disabled_by = Some(DisabledBy::User);
                    }
                    3 => record.status = KeyStatus::Revoked,
                    4 => record.not_before = Some(whole(SystemTime::now() + HOUR)),
                    _ => {}
                }
            });
            self.keys.push(id);
            match victim.state {
                0 | 1 => drop(self.disabled_by_operator.insert(id)),
                3 => drop(self.revoked.insert(id)),
                _ => {}
            }
            // One that leaked, and is the attackers' too as it was then.
            if victim.is_known && !victim.is_other {
                self.secrets.insert(id, key);
                self.own.push(self.record(id));
            }
        }
        for (id, is_live) in [(ACME, true), (ACME, false), (OTHER, true)] {
            let url = EndpointUrl::parse("https://acme.example/hook").unwrap();
            let (id, environment) = (account(id), environment(is_live));
            let made = self
                .webhooks
                .create_endpoint(&self.operator, &id, environment, url);
            self.endpoints.push(block_on(made).unwrap().endpoint.id());
        }
    }

    /// One call; that it is refused is no error.
    fn step(&mut self, step: &Step) -> Result<(), AdminError> {
        if self.actors.is_empty() {
            return Ok(());
        }
        let who = usize::from(step.who) % self.actors.len();
        let actor = self.actors[who].clone();
        let id = self.keys[usize::from(step.what) % self.keys.len()];
        let endpoint = self.endpoints[usize::from(step.what) % self.endpoints.len()];
        let flag = |at: u8| step.flags >> at & 1 == 1;
        let owner = account(if flag(0) && flag(1) && flag(2) {
            OTHER
        } else {
            ACME
        });
        let own = environment(flag(3));
        let limits: RateLimits = match (flag(4), flag(5)) {
            (true, true) => RateLimit::per_minute(10).into(),
            (true, false) => RateLimit::per_minute(10_000_000).into(),
            _ => RateLimits::none(),
        };
        let origins = match (flag(6), flag(7)) {
            (true, true) => OriginPolicy::listed(["evil.example"]).unwrap(),
            (true, false) => OriginPolicy::listed(["shop.example"]).unwrap(),
            _ => OriginPolicy::Any,
        };
        let new = || {
            let mut new = NewKey::new(owner.clone(), own, "new")
                .scopes(grants(step.grants))
                .origins(origins.clone())
                .addresses(addresses(step.addresses))
                .rate_limits(limits.clone());
            if flag(1) {
                new = new.kind(KeyKind::Publishable);
            }
            if flag(2) {
                new = new.expires_at(SystemTime::now() + Duration::from_secs(1800));
            }
            if flag(0) {
                new = new.token("t");
            }
            new
        };
        match step.call % 20 {
            0 | 1 => {
                let made = block_on(self.admin.create(&actor, new()))?;
                self.keys.push(made.record.id);
                if let Some(key) = made.key {
                    self.learn(made.record.id, key);
                }
            }
            2 => {
                let key = KeyFormat::new("vhk_{env}_").unwrap().generate(own).unwrap();
                let digest = Peppers::none().digest(&key);
                let hint = Hint::parse("…abcd").unwrap();
                let record = block_on(self.admin.import(&actor, new(), digest, hint))?;
                self.keys.push(record.id);
                self.learn(record.id, key);
            }
            3 | 4 => {
                let mut change = KeyChange::new();
                if flag(0) {
                    change = change.scopes(grants(step.grants));
                }
                if flag(1) {
                    change = change.origins(origins);
                }
                if step.addresses >= 128 {
                    change = change.addresses(addresses(step.addresses));
                }
                if flag(2) {
                    change = change.rate_limits(limits);
                }
                let later = |at: u8| {
                    let minutes = u64::from(step.flags % 8 + at);
                    (!step.who.is_multiple_of(3))
                        .then(|| SystemTime::now() + Duration::from_secs(minutes * 1200))
                };
                if flag(3) {
                    change = change.expires_at(later(2));
                }
                if flag(4) {
                    change = change.not_before(later(0));
                }
                block_on(self.admin.update(&actor, id, change))?;
            }
            5 | 6 => {
                let grace = if flag(0) {
                    Grace::None
                } else {
                    Grace::For(Duration::from_secs(u64::from(step.grants)))
                };
                let made = block_on(self.admin.rotate(&actor, id, grace))?;
                let new = made.record.id;
                if self.disabled_by_operator.contains(&id) {
                    self.disabled_by_operator.insert(new);
                }
                self.keys.push(new);
                self.learn(new, made.key.unwrap());
            }
            7 => {
                block_on(self.admin.disable(&actor, id))?;
            }
            8 | 9 => {
                block_on(self.admin.enable(&actor, id))?;
            }
            10 => {
                block_on(self.admin.revoke(&actor, id, ""))?;
                self.revoked.insert(id);
            }
            11 => {
                if step.grants.is_multiple_of(8) {
                    let environment = flag(1).then_some(own);
                    block_on(self.admin.revoke_all(&actor, &owner, environment, ""))?;
                }
            }
            12 => {
                let url = EndpointUrl::parse("https://evil.example/hook").unwrap();
                let made = self.webhooks.create_endpoint(&actor, &owner, own, url);
                self.endpoints.push(block_on(made)?.endpoint.id());
            }
            13 => {
                let change = EndpointChange::new().enabled(flag(0));
                block_on(self.webhooks.update_endpoint(&actor, endpoint, change))?;
            }
            14 => {
                block_on(
                    self.webhooks
                        .regenerate_secret(&actor, endpoint, Grace::None),
                )?;
            }
            15 => {
                let operator = self.operator.clone();
                block_on(self.admin.disable(&operator, id))?;
                self.disabled_by_operator.insert(id);
            }
            16 => {
                let mine = Some(&owner).filter(|_| flag(0));
                let found = self.searches(id)[usize::from(step.what) % 4].clone();
                let mut filter = KeyFilter::new().search(found);
                if flag(4) {
                    filter = filter.environment(own);
                }
                let mode = if flag(5) {
                    BulkMode::Commit
                } else {
                    BulkMode::DryRun
                };
                let count = self.admin.revoke_matching(&actor, mine, filter, "", mode);
                if block_on(count)? > 0 && mode == BulkMode::Commit {
                    let is_revoked = |id: &KeyId| self.record(*id).status == KeyStatus::Revoked;
                    let ended: Vec<_> = self.keys.iter().copied().filter(is_revoked).collect();
                    self.revoked.extend(ended);
                }
            }
            17 => {
                // By itself, with nothing but what it presents.
                if let Some(own) = actor.name().strip_prefix("key:") {
                    let own = KeyId::parse(own).unwrap();
                    block_on(self.admin.revoke(&actor, own, ""))?;
                    assert_eq!(self.record(own).kind, KeyKind::Secret);
                    self.revoked.insert(own);
                }
            }
            _ => self.read(&actor, &owner, own),
        }
        Ok(())
    }

    fn learn(&mut self, id: KeyId, key: ApiKey) {
        if let Some(actor) = self.pass(&key) {
            self.actors.push(actor);
        }
        self.secrets.insert(id, key);
    }

    /// Whether one of the attackers had this, there.
    fn had(&self, power: &str, environment: Environment) -> bool {
        let user = |own: &Permission| own.as_str() == power;
        self.users.iter().any(user)
            || self.own.iter().any(|key| {
                key.environment == environment
                    && powers(&key.scopes, self.has_catalog).contains(power)
            })
    }

    /// Every way to look for this key.
    fn searches(&self, id: KeyId) -> Vec<KeySearch> {
        let record = self.record(id);
        let mut searches = vec![
            KeySearch::Id(id),
            KeySearch::Hint(record.hint),
            KeySearch::Lineage(record.lineage),
            KeySearch::Name(record.name),
        ];
        let key = self.secrets.get(&id);
        searches.extend(key.map(|key| KeySearch::of_key(self.admin.scheme(), key.expose_secret())));
        searches
    }

    fn read(&self, actor: &Actor, owner: &AccountId, own: Environment) {
        let environments: BTreeSet<_> = [Environment::LIVE, Environment::TEST]
            .into_iter()
            .filter(|own| self.had("api_keys.read", *own))
            .map(|own| own.to_string())
            .collect();
        let sees = |seen: Environment| assert!(environments.contains(&seen.to_string()), "{seen}");
        for filter in [KeyFilter::new(), KeyFilter::new().environment(own)] {
            if let Ok(page) = block_on(self.admin.keys(actor, owner, filter)) {
                for view in page.keys {
                    sees(view.record.environment);
                    assert_eq!(view.record.account.as_str(), ACME);
                }
            }
        }
        let searches = self.keys.iter().flat_map(|id| self.searches(*id));
        for search in searches {
            for owner in [None, Some(owner)] {
                let filter = KeyFilter::new().search(search.clone());
                if let Ok(page) = block_on(self.admin.keys(actor, owner, filter)) {
                    for view in page.keys {
                        sees(view.record.environment);
                        assert_eq!(view.record.account.as_str(), ACME);
                    }
                }
            }
        }
        assert!(block_on(self.admin.accounts(actor, AccountFilter::new())).is_err());
        for id in &self.keys {
            if let Ok(view) = block_on(self.admin.key(actor, *id)) {
                sees(view.record.environment);
                assert_eq!(view.record.account.as_str(), ACME);
            }
        }
        let ever = SystemTime::UNIX_EPOCH..SystemTime::now() + Duration::from_secs(7200);
        for asked in [None, Some(own)] {
            if let Ok(hours) = block_on(self.admin.usage(actor, owner, asked, ever.clone())) {
                for hour in hours {
                    sees(hour.environment);
                }
                assert_eq!(owner.as_str(), ACME);
            }
        }
        if let Ok(page) = block_on(self.admin.audit(actor, Some(owner), None)) {
            for line in page.entries {
                assert_eq!(line.account.as_ref().map(AccountId::as_str), Some(ACME));
                if self.users.is_empty() {
                    sees(line.environment.unwrap());
                }
            }
        }
        for key in self.secrets.values() {
            if let Ok(leaks) = block_on(self.admin.leaks(actor, key.expose_secret())) {
                for view in leaks.into_iter().filter_map(|leak| leak.key) {
                    sees(view.record.environment);
                    assert_eq!(view.record.account.as_str(), ACME);
                }
            }
        }
        for asked in [None, Some(own)] {
            if let Ok(all) = block_on(self.webhooks.endpoints(actor, owner, asked)) {
                for endpoint in all {
                    assert_eq!(endpoint.account().as_str(), ACME);
                    assert!(self.had("webhooks.read", endpoint.environment()));
                }
            }
        }
    }

    /// That nobody has more than in the beginning.
    fn check(&self) {
        let acme = block_on(self.store.account(account(ACME)))
            .unwrap()
            .unwrap();
        let now = SystemTime::now();
        let user_creates = self.users.contains(&Permission::Create);
        for id in self.secrets.keys() {
            let record = self.record(*id);
            let was = self.own.iter().find(|own| own.id == *id);
            assert_eq!(record.account.as_str(), ACME);
            if record.state(&acme, now) != KeyState::Active {
                continue;
            }
            let about = format!("{record:?}");
            // Only who may create lengthens a life, of the key itself or of its successors.
            let first = self.own.iter().find(|own| own.id == record.lineage);
            if let Some(first) = first
                && !self.had("api_keys.create", record.environment)
            {
                let ends = |end| record.expires_at.is_some_and(|at| at <= end);
                assert!(first.expires_at.is_none_or(ends), "{about}");
                assert!(first.not_before.is_none_or(|start| start <= now), "{about}");
            }
            let held = powers(&record.scopes, self.has_catalog);
            for power in &held {
                // A user chooses of products what he likes.
                if !is_managing(power) && user_creates {
                    continue;
                }
                assert!(self.had(power, record.environment), "{power}: {about}");
            }
            if user_creates || was.is_some() && self.users.contains(&Permission::Update) {
                continue;
            }
            let own = || {
                let own = self.own.iter();
                own.filter(|own| own.environment == record.environment)
            };
            assert!(own().next().is_some(), "{about}");
            let ends = |own: &KeyRecord| {
                own.expires_at
                    .is_none_or(|end| record.expires_at.is_some_and(|at| at <= end))
            };
            assert!(own().any(ends), "{about}");
            assert!(
                own().any(|own| own.origins.covers(&record.origins)),
                "{about}"
            );
            for peer in PEERS {
                let lets_in = |key: &KeyRecord| key.addresses.allows(peer.into());
                assert!(!lets_in(&record) || own().any(lets_in), "{peer:?}: {about}");
            }
            let limited = |own: &KeyRecord| own.rate_limits.covers(&record.rate_limits);
            assert!(own().any(limited), "{about}");
        }
        for id in &self.revoked {
            assert_eq!(self.record(*id).state(&acme, now), KeyState::Revoked);
        }
        for id in &self.disabled_by_operator {
            let other = block_on(self.store.account(account(OTHER)))
                .unwrap()
                .unwrap();
            let record = self.record(*id);
            let owner = if record.account == other.id {
                &other
            } else {
                &acme
            };
            assert_ne!(record.state(owner, now), KeyState::Active, "{record:?}");
        }
    }

    /// All that no attacker may change.
    fn beyond(&self) -> (Vec<KeyRecord>, Vec<WebhookEndpoint>) {
        let may_all = !self.users.is_empty();
        let reached: BTreeSet<_> = self
            .own
            .iter()
            .map(|own| own.environment.to_string())
            .collect();
        let is_beyond = |account: &AccountId, own: Environment| {
            account.as_str() != ACME || !may_all && !reached.contains(&own.to_string())
        };
        let keys = self.keys.iter().map(|id| self.record(*id));
        let endpoints = block_on(self.store.endpoints(None, None)).unwrap();
        let endpoints = endpoints.into_iter();
        (
            keys.filter(|key| is_beyond(&key.account, key.environment))
                // An operator may have done so.
                .map(|mut key| {
                    (key.revision, key.status) = (0, KeyStatus::Active);
                    (key.disabled_by, key.disabled_by_name) = (None, None);
                    key.last_used_at = None;
                    key
                })
                .collect(),
            endpoints
                .filter(|one| is_beyond(one.account(), one.environment()))
                .collect(),
        )
    }
}

fn whole(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn starts() -> impl Strategy<Value = Vec<Start>> {
    let key = (
        any::<u16>(),
        any::<u16>(),
        any::<bool>(),
        any::<[bool; 3]>(),
        any::<u8>(),
    );
    let key = key.prop_map(
        |(some, more, is_live, [expires, listed, limited], addresses)| Start::Key {
            grants: some & more,
            is_live,
            expires,
            listed,
            limited,
            addresses,
        },
    );
    prop_oneof![
        (0..64_u8).prop_map(|own| vec![Start::User(own)]),
        vec(key.clone(), 1..3),
        ((0..64_u8), key).prop_map(|(own, key)| vec![Start::User(own), key]),
    ]
}

fn victims() -> impl Strategy<Value = Vec<Victim>> {
    let victim = (
        any::<u16>(),
        any::<u16>(),
        any::<[bool; 2]>(),
        0..8_u8,
        0..4_u8,
        0..8_u8,
        any::<u8>(),
    );
    let victim = victim.prop_map(
        |(some, more, [is_live, is_other], state, known, flags, addresses)| Victim {
            grants: some & more,
            is_live,
            is_other,
            state,
            is_known: known == 0,
            flags,
            addresses,
        },
    );
    vec(victim, 3..8)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (
        any::<u8>(),
        any::<u8>(),
        any::<u8>(),
        any::<[u16; 3]>(),
        any::<[u8; 2]>(),
    );
    let step = step.prop_map(|(call, who, what, [a, b, c], [flags, addresses])| Step {
        call,
        who,
        what,
        grants: a & b & c,
        flags,
        addresses,
    });
    vec(step, 1..40)
}

fn run(world: &mut World, starts: &[Start], victims: &[Victim], steps: &[Step]) -> u32 {
    world.start(starts, victims);
    let before = world.beyond();
    let mut done = 0;
    for step in steps {
        done += u32::from(world.step(step).is_ok());
        world.check();
    }
    let (keys, endpoints) = world.beyond();
    assert_eq!(
        (&keys[..before.0.len()], &endpoints),
        (&before.0[..], &before.1)
    );
    assert_eq!(keys.len(), before.0.len());
    done
}

fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("CASES").ok().and_then(|own| own.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(default),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn no_chain_of_calls_ends_with_more_than_it_began(
        starts in starts(), victims in victims(), steps in steps(), catalog in any::<bool>(),
    ) {
        let mut world = World::new(Arc::new(MemoryWebhooks::new()), catalog);
        run(&mut world, &starts, &victims, &steps);
    }
}

proptest! {
    #![proptest_config(cases(10))]

    #[test]
    fn nor_over_sqlite(
        starts in starts(), victims in victims(), steps in steps(), catalog in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteOptions::new().open(dir.path().join("keys.db")).unwrap();
        let mut world = World::new(Arc::new(store), catalog);
        run(&mut world, &starts, &victims, &steps);
    }
}
