//! Who may do what: tables of actors, calls and what they touch, from which the tests are made.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyward::admin::{
    AccountChange, AccountFilter, Actor, AdminError, BulkMode, Grace, KeyAdmin, KeyChange,
    KeyFilter, NewKey, Retention, UsageFilter,
};
use keyward::credits::Credits;
use keyward::environment::Environment;
use keyward::gate::{Access, Gate, GateBuilder, Requirement, Verdict};
use keyward::ids::{AccountId, KeyId};
use keyward::key::{ApiKey, DigestScheme, Hint, KeyDigest, KeyFormat, KeyKind, Peppers};
use keyward::origin::OriginPolicy;
use keyward::record::{AccountStatus, AdminErrorKind, DisabledBy, KeyRecord, KeyState, KeyStatus};
use keyward::request::{KeyLocation, RequestHead};
use keyward::scheme::KeyScheme;
use keyward::scope::{Permission, ScopeCatalog, Scopes};
use keyward::store::{Commit, KeyQuery, Store, TombstoneQuery};
use keyward::testing::{block_on, decided};
use keyward::usage::UsageQuery;
use keyward_webhooks::admin::EndpointChange;
use keyward_webhooks::sealing::{SealingKey, SealingKeys};
use keyward_webhooks::send::{
    AttemptOutcome, DueDelivery, EndpointId, EndpointStatus, EndpointUrl, RetrySchedule,
};
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use keyward_webhooks::store::{DeliveryClaim, Redelivery};
use keyward_webhooks::{MemoryWebhooks, WebhookAdmin, WebhookMessage, WebhookStore};

type Outcome = Result<(), AdminErrorKind>;

/// A service with two accounts.
struct World {
    store: Arc<MemoryWebhooks>,
    admin: KeyAdmin,
    webhooks: WebhookAdmin,
    gate: Gate,
    operator: Actor,
}

impl World {
    fn new(catalog: Option<ScopeCatalog>) -> Self {
        let store = Arc::new(MemoryWebhooks::new());
        let mut scheme = scheme();
        let admin = KeyAdmin::new(&store, &scheme);
        let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32]).unwrap());
        let webhooks = WebhookAdmin::new(Arc::clone(&store) as _, &scheme, sealing);
        let operator = Actor::operator("ops");
        for id in [ACME, OTHER] {
            block_on(admin.open_account(&operator, &account(id))).unwrap();
        }
        if let Some(catalog) = catalog {
            scheme = scheme.catalog(catalog);
        }
        let admin = KeyAdmin::new(&store, &scheme);
        let gate = Gate::builder(&store, &scheme);
        let both = [
            KeyLocation::x_api_key(),
            KeyLocation::bearer().publishable(),
        ];
        let gate = both.into_iter().fold(gate, GateBuilder::location);
        Self {
            store,
            admin,
            webhooks,
            gate: gate.build().unwrap(),
            operator,
        }
    }

    /// A key, whatever a catalog or an actor may say to it.
    fn key(&self, owner: &str, environment: Environment, scopes: &[&str]) -> (ApiKey, KeyId) {
        self.key_with(owner, environment, scopes, |_| ())
    }

    fn key_with(
        &self,
        owner: &str,
        environment: Environment,
        scopes: &[&str],
        with: impl FnOnce(&mut KeyRecord),
    ) -> (ApiKey, KeyId) {
        let key = format().generate(environment).unwrap();
        let (digest, hint) = (Peppers::none().digest(&key), key.hint().clone());
        let (id, now) = (KeyId::random().unwrap(), SystemTime::now());
        let mut record = KeyRecord::new(id, digest, hint, account(owner), environment, now);
        record.name = "name".to_owned();
        record.scopes = Scopes::parse(scopes).unwrap();
        with(&mut record);
        let keys = vec![record];
        let commit = Commit {
            keys,
            ..Commit::default()
        };
        block_on(self.store.commit(commit)).unwrap();
        (key, id)
    }

    /// A key that acts, as a gate lets it pass.
    fn acting(&self, key: &ApiKey) -> Actor {
        let requirement = Requirement::new().any_environment();
        let requirement = requirement.kinds([KeyKind::Secret, KeyKind::Publishable]);
        let requirement = Arc::new(requirement);
        for (field, scheme) in [("x-api-key", ""), ("authorization", "Bearer ")] {
            let head = Head(field, format!("{scheme}{}", key.expose_secret()));
            if let Verdict::Admit(admitted) = decided(self.gate.check(&head, &requirement, None))
                && let Some(Access::Principal(principal)) = admitted.access
            {
                return Actor::key(&principal);
            }
        }
        panic!("the key is let in nowhere")
    }
}

struct Head(&'static str, String);

impl RequestHead for Head {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn peer(&self) -> Option<IpAddr> {
        None
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        (field == self.0).then_some(self.1.as_bytes()).into_iter()
    }
}

const ACME: &str = "acme";
const OTHER: &str = "other";

fn account(id: &str) -> AccountId {
    AccountId::parse(id).unwrap()
}

fn format() -> KeyFormat {
    KeyFormat::new("vhk_{env}_").unwrap()
}

fn scheme() -> KeyScheme {
    KeyScheme::new(format())
}

fn kind<T>(outcome: Result<T, AdminError>) -> Outcome {
    outcome.map(drop).map_err(|error| error.kind())
}

/// Somebody who calls.
#[derive(Clone, Copy, Debug)]
enum Who {
    Operator,
    User(&'static [Permission]),
    /// A key of this account and environment, with these scopes.
    Key(&'static str, Environment, &'static [&'static str]),
    /// A key of acme's that could do everything, if it were not dead.
    Dead(Death),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Death {
    Revoked,
    RevokedWithAll,
    Disabled,
    Expired,
    AccountSuspended,
    PlanWithoutApi,
    /// Never alive: it may sit in a page.
    Publishable,
}

const ALL: &[&str] = &["api_keys.*", "webhooks.*", "kyc"];

const WHO: &[Who] = &[
    Who::Operator,
    Who::User(&[]),
    Who::User(&[Permission::Create]),
    Who::User(&[Permission::Read]),
    Who::User(&[Permission::Update]),
    Who::User(&[Permission::Revoke]),
    Who::User(&[Permission::ReadWebhooks]),
    Who::User(&[Permission::ManageWebhooks]),
    Who::User(&Permission::ALL),
    Who::Key(ACME, Environment::LIVE, &["kyc"]),
    Who::Key(ACME, Environment::LIVE, &["api_keys.create"]),
    Who::Key(ACME, Environment::LIVE, &["api_keys.read"]),
    Who::Key(ACME, Environment::LIVE, &["api_keys.update"]),
    Who::Key(ACME, Environment::LIVE, &["api_keys.revoke"]),
    Who::Key(
        ACME,
        Environment::LIVE,
        &["api_keys.create", "api_keys.revoke"],
    ),
    Who::Key(ACME, Environment::LIVE, &["webhooks.read"]),
    Who::Key(ACME, Environment::LIVE, &["webhooks.manage"]),
    Who::Key(ACME, Environment::LIVE, ALL),
    Who::Key(ACME, Environment::TEST, ALL),
    Who::Key(OTHER, Environment::LIVE, ALL),
    Who::Dead(Death::Revoked),
    Who::Dead(Death::RevokedWithAll),
    Who::Dead(Death::Disabled),
    Who::Dead(Death::Expired),
    Who::Dead(Death::AccountSuspended),
    Who::Dead(Death::PlanWithoutApi),
    Who::Dead(Death::Publishable),
];

/// What there is in an account and an environment.
struct Target {
    account: AccountId,
    environment: Environment,
    key: KeyId,
    secret: ApiKey,
    endpoint: EndpointId,
    message: WebhookId,
}

const TARGETS: [(&str, Environment); 3] = [
    (ACME, Environment::LIVE),
    (ACME, Environment::TEST),
    (OTHER, Environment::LIVE),
];

impl Who {
    fn account(self) -> Option<&'static str> {
        match self {
            Self::Operator => None,
            Self::User(_) | Self::Dead(_) => Some(ACME),
            Self::Key(account, ..) => Some(account),
        }
    }

    fn environment(self) -> Option<Environment> {
        match self {
            Self::Key(_, environment, _) => Some(environment),
            _ => None,
        }
    }

    fn has(self, permission: Permission) -> bool {
        match self {
            Self::Operator => true,
            Self::User(permissions) => permissions.contains(&permission),
            // By hand, so that it is told twice.
            Self::Key(_, _, scopes) => {
                let (namespace, _) = permission.as_str().split_once('.').unwrap();
                let any = format!("{namespace}.*");
                scopes.contains(&permission.as_str()) || scopes.contains(&&*any)
            }
            Self::Dead(_) => false,
        }
    }

    fn actor(self, world: &World) -> Actor {
        match self {
            Self::Operator => world.operator.clone(),
            Self::User(permissions) => {
                Actor::user("ann", account(ACME), permissions.iter().copied())
            }
            Self::Key(account, environment, scopes) => {
                world.acting(&world.key(account, environment, scopes).0)
            }
            Self::Dead(death) => {
                let (admin, operator, acme) = (&world.admin, &world.operator, account(ACME));
                let (key, id) = world.key_with(ACME, Environment::LIVE, ALL, |record| {
                    if death == Death::Publishable {
                        record.kind = KeyKind::Publishable;
                    }
                });
                let actor = world.acting(&key);
                let suspended = AccountChange::new().status(AccountStatus::Suspended);
                let downgraded = AccountChange::new().api_access(false);
                match death {
                    Death::Publishable => {}
                    Death::Revoked => drop(block_on(admin.revoke(operator, id, "")).unwrap()),
                    Death::Disabled => drop(block_on(admin.disable(operator, id)).unwrap()),
                    Death::RevokedWithAll => {
                        block_on(admin.revoke_all(operator, &acme, None, "")).unwrap();
                    }
                    Death::Expired => {
                        let mut record = block_on(world.store.key(id)).unwrap().unwrap();
                        record.expires_at = Some(SystemTime::UNIX_EPOCH);
                        let keys = vec![record];
                        let commit = Commit {
                            keys,
                            ..Commit::default()
                        };
                        block_on(world.store.commit(commit)).unwrap();
                    }
                    Death::AccountSuspended => {
                        block_on(admin.update_account(operator, &acme, suspended)).unwrap();
                    }
                    Death::PlanWithoutApi => {
                        block_on(admin.update_account(operator, &acme, downgraded)).unwrap();
                    }
                }
                actor
            }
        }
    }
}

impl World {
    fn target(&self, id: &str, environment: Environment) -> Target {
        let (operator, id) = (&self.operator, account(id));
        let new = NewKey::new(id.clone(), environment, "name");
        let created = block_on(self.admin.create(operator, new)).unwrap();
        let secret = created.key.unwrap();
        // So that there is some usage.
        self.acting(&secret);
        let url = EndpointUrl::parse("https://acme.example/hook").unwrap();
        let endpoint = self
            .webhooks
            .create_endpoint(operator, &id, environment, url);
        let endpoint = block_on(endpoint).unwrap().endpoint.id();
        let message = message(&id, environment);
        block_on(self.webhooks.publish(operator, message.clone())).unwrap();
        Target {
            account: id,
            environment,
            key: created.record.id,
            secret,
            endpoint,
            message: message.id().clone(),
        }
    }

    /// What a call could have changed.
    fn all(&self, target: &Target) -> impl PartialEq + std::fmt::Debug + use<> {
        let (id, query) = (
            target.account.clone(),
            UsageQuery::of(Some(target.account.clone()), 0..u64::MAX),
        );
        let keys = KeyQuery {
            account: Some(id.clone()),
            ..KeyQuery::newest(SystemTime::now(), usize::MAX)
        };
        let message = self
            .store
            .message(id.clone(), target.environment, target.message.clone());
        (
            block_on(self.store.account(id.clone())).unwrap(),
            block_on(self.store.keys(keys)).unwrap(),
            block_on(self.store.credits(id.clone().into())).unwrap(),
            block_on(self.store.usage(query)).unwrap(),
            block_on(self.store.endpoints(Some(id), None)).unwrap(),
            block_on(message).unwrap().is_some(),
        )
    }
}

/// Until after the present hour.
fn ever() -> std::ops::Range<SystemTime> {
    SystemTime::UNIX_EPOCH..SystemTime::now() + Duration::from_secs(7200)
}

fn message(account: &AccountId, environment: Environment) -> WebhookMessage {
    let id = WebhookId::random().unwrap();
    WebhookMessage::new(account.clone(), environment, id, "{}").unwrap()
}

/// Who may call.
enum Needs {
    Operator,
    All(&'static [Permission]),
}

/// What a call touches, and so what is answered where that is not the actor's.
enum Touches {
    Key,
    Endpoint,
    /// What is made in or done to an environment of an account. In another than its own a key gets this.
    Account(AdminErrorKind),
    /// What is read of an account: of another environment there is nothing.
    Rows,
    /// What live keys spend: to a key of another environment there is none.
    Balance,
    /// What is read of the whole service: of another account or environment there is nothing.
    Everything,
}

/// A call, which tells of which environments it has shown something.
struct Call {
    needs: Needs,
    touches: Touches,
    go: fn(&World, &Actor, &Target) -> Result<Shown, AdminError>,
}

type Shown = Vec<Option<Environment>>;

macro_rules! calls {
    ($($test:ident = $call:ident of $admin:ident: $needs:expr, $touches:expr, $go:expr;)+) => {
        /// Those that the tests below try.
        const CALLS: &[&str] = &[$(concat!(stringify!($admin), "::", stringify!($call))),+];

        mod every_actor_gets_what_is_its_own_and_nothing_else_by {
            use super::*;
            use Permission::*;

            const OPERATOR: Needs = Needs::Operator;

            const fn needs(permissions: &'static [Permission]) -> Needs {
                Needs::All(permissions)
            }

            $(#[test]
            fn $test() {
                try_call(&Call { needs: $needs, touches: $touches, go: $go });
            })+
        }
    };
}

calls! {
    create = create of KeyAdmin:
        needs(&[Create]), Touches::Account(AdminErrorKind::TooWide), |world, actor, target| {
            let new = NewKey::new(target.account.clone(), target.environment, "new");
            let made = block_on(world.admin.create(actor, new))?;
            Ok(vec![Some(made.record.environment)])
        };
    import = import of KeyAdmin:
        needs(&[Create]), Touches::Account(AdminErrorKind::TooWide), |world, actor, target| {
            let new = NewKey::new(target.account.clone(), target.environment, "new");
            let digest = KeyDigest::import(DigestScheme::Sha256, &"0".repeat(64)).unwrap();
            let hint = Hint::parse("…abcd").unwrap();
            let record = block_on(world.admin.import(actor, new, digest, hint))?;
            Ok(vec![Some(record.environment)])
        };
    bootstrap = bootstrap of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, target| {
        let new = NewKey::new(target.account.clone(), target.environment, "new");
        match block_on(world.admin.bootstrap(actor, new)) {
            // There are accounts already.
            Err(error) if error.kind() == AdminErrorKind::Conflict => Ok(vec![None]),
            other => other.map(|made| panic!("{made:?}")),
        }
    };
    open_account = open_account of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, _| {
        block_on(world.admin.open_account(actor, &account("new"))).map(|_| vec![None])
    };
    update_account = update_account of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, target| {
        let change = AccountChange::new().max_active_keys(Some(7));
        block_on(world.admin.update_account(actor, &target.account, change)).map(|_| vec![None])
    };
    key = key of KeyAdmin: needs(&[Read]), Touches::Key, |world, actor, target| {
        let view = block_on(world.admin.key(actor, target.key))?;
        Ok(vec![Some(view.record.environment)])
    };
    keys = keys of KeyAdmin: needs(&[Read]), Touches::Rows, |world, actor, target| {
        let mut seen = Vec::new();
        for filter in [KeyFilter::new(), KeyFilter::new().environment(target.environment)] {
            let page = block_on(world.admin.keys(actor, &target.account, filter))?;
            seen.extend(page.keys.into_iter().map(|view| Some(view.record.environment)));
        }
        Ok(seen)
    };
    accounts = accounts of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, _| {
        block_on(world.admin.accounts(actor, AccountFilter::new())).map(|_| vec![None])
    };
    usage = usage of KeyAdmin: needs(&[Read]), Touches::Rows, |world, actor, target| {
        let mut seen = Vec::new();
        for environment in [None, Some(target.environment)] {
            let ever = SystemTime::UNIX_EPOCH..SystemTime::now();
            let hours = world.admin.usage(actor, &target.account, environment, ever);
            seen.extend(block_on(hours)?.into_iter().map(|hour| Some(hour.environment)));
        }
        Ok(seen)
    };
    usage_page = usage_page of KeyAdmin: needs(&[Read]), Touches::Rows, |world, actor, target| {
        let mut seen = Vec::new();
        let filter = UsageFilter::new(ever()).account(target.account.clone());
        for filter in [filter.clone(), filter.environment(target.environment)] {
            let page = block_on(world.admin.usage_page(actor, filter))?;
            seen.extend(page.rows.into_iter().map(|row| Some(row.environment)));
        }
        Ok(seen)
    };
    usage_page_of_all = usage_page of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, _| {
        block_on(world.admin.usage_page(actor, UsageFilter::new(ever()))).map(|_| vec![None])
    };
    usage_sums = usage_sums of KeyAdmin: needs(&[Read]), Touches::Rows, |world, actor, target| {
        let sums = block_on(world.admin.usage_sums(actor, Some(&target.account), ever()))?;
        Ok(sums.into_iter().map(|sum| Some(sum.environment)).collect())
    };
    usage_sums_of_all = usage_sums of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, _| {
        block_on(world.admin.usage_sums(actor, None, ever())).map(|_| vec![None])
    };
    maintain = maintain of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, _| {
        let retention = Retention::new().dead_keys(Duration::from_secs(3600));
        block_on(world.admin.maintain(actor, &retention)).map(|_| vec![None])
    };
    tombstone = tombstone of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, target| {
        block_on(world.admin.tombstone(actor, target.key)).map(|_| vec![None])
    };
    tombstones = tombstones of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, target| {
        let account = Some(target.account.clone());
        let query = TombstoneQuery { account, id: None, hint: None, after: None, limit: 1 };
        block_on(world.admin.tombstones(actor, query)).map(|_| vec![None])
    };
    export_audit = export_audit of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, _| {
        let mut out = Vec::new();
        let export = world.admin.export_audit(actor, SystemTime::now(), &mut out);
        block_on(export).map(|_| vec![None])
    };
    cut_audit = cut_audit of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, _| {
        let later = SystemTime::now() + Duration::from_secs(3600);
        let mut out = Vec::new();
        let export = world.admin.export_audit(&world.operator, later, &mut out);
        let export = block_on(export)?.unwrap();
        block_on(world.admin.cut_audit(actor, export)).map(|()| vec![None])
    };
    erase_account = erase_account of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, target| {
        block_on(world.admin.erase_account(actor, &target.account)).map(|_| vec![None])
    };
    audit = audit of KeyAdmin: needs(&[Read]), Touches::Rows, |world, actor, target| {
        let page = block_on(world.admin.audit(actor, Some(&target.account), None))?;
        Ok(page.entries.into_iter().map(|line| line.environment).collect())
    };
    audit_of_all = audit of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, _| {
        block_on(world.admin.audit(actor, None, None)).map(|_| vec![None])
    };
    schemes = schemes of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, _| {
        block_on(world.admin.schemes(actor)).map(|_| vec![None])
    };
    leaks = leaks of KeyAdmin: needs(&[Read]), Touches::Everything, |world, actor, target| {
        let leaks = block_on(world.admin.leaks(actor, target.secret.expose_secret()))?;
        assert_eq!(leaks.len(), 1, "that it is a key everybody sees");
        let known = leaks.into_iter().filter_map(|leak| leak.key);
        Ok(known.map(|key| Some(key.record.environment)).collect())
    };
    update = update of KeyAdmin: needs(&[Update]), Touches::Key, |world, actor, target| {
        let change = KeyChange::new().name("new");
        let view = block_on(world.admin.update(actor, target.key, change))?;
        Ok(vec![Some(view.record.environment)])
    };
    disable = disable of KeyAdmin: needs(&[Update]), Touches::Key, |world, actor, target| {
        let view = block_on(world.admin.disable(actor, target.key))?;
        Ok(vec![Some(view.record.environment)])
    };
    enable = enable of KeyAdmin: needs(&[Update]), Touches::Key, |world, actor, target| {
        let view = block_on(world.admin.enable(actor, target.key))?;
        Ok(vec![Some(view.record.environment)])
    };
    rotate = rotate of KeyAdmin: needs(&[Create, Revoke]), Touches::Key, |world, actor, target| {
        let made = block_on(world.admin.rotate(actor, target.key, Grace::None))?;
        Ok(vec![Some(made.record.environment)])
    };
    revoke = revoke of KeyAdmin: needs(&[Revoke]), Touches::Key, |world, actor, target| {
        let view = block_on(world.admin.revoke(actor, target.key, ""))?;
        Ok(vec![Some(view.record.environment)])
    };
    revoke_all = revoke_all of KeyAdmin:
        needs(&[Revoke]), Touches::Account(AdminErrorKind::NotPermitted), |world, actor, target| {
            let own = Some(target.environment);
            block_on(world.admin.revoke_all(actor, &target.account, own, "")).map(|()| vec![own])
        };
    revoke_matching = revoke_matching of KeyAdmin:
        needs(&[Revoke]), Touches::Rows, |world, actor, target| {
            let filter = KeyFilter::new().environment(target.environment);
            let run = |mode| {
                let (account, filter) = (&target.account, filter.clone());
                block_on(world.admin.revoke_matching(actor, account, filter, "", mode))
            };
            let counted = run(BulkMode::DryRun)?;
            assert_eq!(run(BulkMode::Commit)?, counted);
            Ok((0..counted).map(|_| Some(target.environment)).collect())
        };
    credits = credits of KeyAdmin: needs(&[Read]), Touches::Balance, |world, actor, target| {
        let left = block_on(world.admin.credits(actor, target.account.clone()))?;
        // Only live keys spend them.
        Ok(left.map(|_| Some(Environment::LIVE)).into_iter().collect())
    };
    credits_of_a_key = credits of KeyAdmin: needs(&[Read]), Touches::Key, |world, actor, target| {
        let none = block_on(world.admin.credits(actor, target.key))?;
        assert_eq!(none, None);
        Ok(vec![Some(target.environment)])
    };
    set_credits = set_credits of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, target| {
        let (to, owner) = (Some(Credits::new(7)), target.account.clone());
        block_on(world.admin.set_credits(actor, owner, to)).map(|()| vec![None])
    };
    add_credits = add_credits of KeyAdmin: OPERATOR, Touches::Everything, |world, actor, target| {
        block_on(world.admin.add_credits(actor, target.account.clone(), 7)).map(|()| vec![None])
    };
    create_endpoint = create_endpoint of WebhookAdmin:
        needs(&[ManageWebhooks]), Touches::Account(AdminErrorKind::TooWide), |world, actor, target| {
            let url = EndpointUrl::parse("https://acme.example/new").unwrap();
            let (account, environment) = (&target.account, target.environment);
            let made = world.webhooks.create_endpoint(actor, account, environment, url);
            Ok(vec![Some(block_on(made)?.endpoint.environment())])
        };
    endpoints = endpoints of WebhookAdmin: needs(&[ReadWebhooks]), Touches::Rows, |world, actor, target| {
        let mut seen = Vec::new();
        for environment in [None, Some(target.environment)] {
            let all = block_on(world.webhooks.endpoints(actor, &target.account, environment))?;
            seen.extend(all.into_iter().map(|endpoint| Some(endpoint.environment())));
        }
        Ok(seen)
    };
    endpoint = endpoint of WebhookAdmin: needs(&[ReadWebhooks]), Touches::Endpoint, |world, actor, target| {
        let endpoint = block_on(world.webhooks.endpoint(actor, target.endpoint))?;
        Ok(vec![Some(endpoint.environment())])
    };
    attempts = attempts of WebhookAdmin: needs(&[ReadWebhooks]), Touches::Endpoint, |world, actor, target| {
        block_on(world.webhooks.attempts(actor, target.endpoint, None))?;
        Ok(vec![Some(target.environment)])
    };
    update_endpoint = update_endpoint of WebhookAdmin:
        needs(&[ManageWebhooks]), Touches::Endpoint, |world, actor, target| {
            let change = EndpointChange::new().enabled(false);
            block_on(world.webhooks.update_endpoint(actor, target.endpoint, change))?;
            Ok(vec![Some(target.environment)])
        };
    delete_endpoint = delete_endpoint of WebhookAdmin:
        needs(&[ManageWebhooks]), Touches::Endpoint, |world, actor, target| {
            block_on(world.webhooks.delete_endpoint(actor, target.endpoint))?;
            Ok(vec![Some(target.environment)])
        };
    challenge = challenge of WebhookAdmin: needs(&[ManageWebhooks]), Touches::Endpoint, |world, actor, target| {
        block_on(world.webhooks.challenge(actor, target.endpoint))?;
        Ok(vec![Some(target.environment)])
    };
    verify = verify of WebhookAdmin: needs(&[ManageWebhooks]), Touches::Endpoint, |world, actor, target| {
        let answer = Err(AttemptOutcome::Refused);
        match block_on(world.webhooks.verify(actor, target.endpoint, answer)) {
            Err(error) if error.kind() == AdminErrorKind::Unanswered => {
                Ok(vec![Some(target.environment)])
            }
            other => other.map(|endpoint| panic!("{endpoint:?}")),
        }
    };
    regenerate_secret = regenerate_secret of WebhookAdmin:
        needs(&[ManageWebhooks]), Touches::Endpoint, |world, actor, target| {
            block_on(world.webhooks.regenerate_secret(actor, target.endpoint, Grace::None))?;
            Ok(vec![Some(target.environment)])
        };
    import_secret = import_secret of WebhookAdmin: OPERATOR, Touches::Everything, |world, actor, target| {
        let secret = WebhookSecret::random().unwrap();
        let imported = world.webhooks.import_secret(actor, target.endpoint, &secret, Grace::None);
        block_on(imported).map(|_| vec![None])
    };
    reseal = reseal of WebhookAdmin: OPERATOR, Touches::Everything, |world, actor, _| {
        block_on(world.webhooks.reseal(actor)).map(|_| vec![None])
    };
    publish = publish of WebhookAdmin: OPERATOR, Touches::Everything, |world, actor, target| {
        let message = message(&target.account, target.environment);
        block_on(world.webhooks.publish(actor, message)).map(|()| vec![None])
    };
    redeliver = redeliver of WebhookAdmin: needs(&[ManageWebhooks]), Touches::Endpoint, |world, actor, target| {
        let what = Redelivery::Message(target.message.clone());
        block_on(world.webhooks.redeliver(actor, target.endpoint, what))?;
        Ok(vec![Some(target.environment)])
    };
    forget_messages = forget_messages of WebhookAdmin: OPERATOR, Touches::Everything, |world, actor, _| {
        block_on(world.webhooks.forget_messages(actor, SystemTime::UNIX_EPOCH)).map(|_| vec![None])
    };
}

/// A call by everybody, on everything.
fn try_call(call: &Call) {
    for who in WHO {
        for (at, (_, environment)) in TARGETS.into_iter().enumerate() {
            let world = World::new(None);
            for id in [ACME, OTHER] {
                let balance = Some(Credits::new(1000));
                let set = world
                    .admin
                    .set_credits(&world.operator, account(id), balance);
                block_on(set).unwrap();
            }
            let mut targets = TARGETS.map(|(id, environment)| world.target(id, environment));
            let actor = who.actor(&world);
            block_on(world.store.flush()).unwrap();
            let target = &mut targets[at];
            let before = world.all(target);
            let shown = (call.go)(&world, &actor, target).map_err(|error| error.kind());
            if shown.is_err() {
                assert_eq!(
                    world.all(target),
                    before,
                    "{who:?} on {environment:?}: changed nothing"
                );
            }

            let case = format!(
                "{who:?} on {environment:?} of {}: {shown:?}",
                target.account
            );
            let of_account = who
                .account()
                .is_none_or(|own| own == target.account.as_str());
            let of_environment = who.environment().is_none_or(|own| own == environment);
            let wanted = match (&call.needs, &call.touches) {
                (Needs::Operator, _) if !matches!(who, Who::Operator) => {
                    Err(AdminErrorKind::NotPermitted)
                }
                (Needs::All(all), _) if !all.iter().all(|one| who.has(*one)) => {
                    Err(AdminErrorKind::NotPermitted)
                }
                (_, Touches::Key) if !of_account || !of_environment => {
                    Err(AdminErrorKind::UnknownKey)
                }
                (_, Touches::Endpoint) if !of_account || !of_environment => {
                    Err(AdminErrorKind::UnknownEndpoint)
                }
                (_, Touches::Account(_) | Touches::Rows | Touches::Balance) if !of_account => {
                    Err(AdminErrorKind::UnknownAccount)
                }
                (_, Touches::Account(refused)) if !of_environment => Err(*refused),
                _ => Ok(()),
            };
            assert_eq!(
                shown.as_ref().map(drop).map_err(|kind| *kind),
                wanted,
                "{case}"
            );
            let Ok(shown) = shown else { continue };
            let is_there = match call.touches {
                Touches::Balance => who.environment().is_none_or(|own| own == Environment::LIVE),
                _ => of_account && of_environment,
            };
            // In its own environment a key sees it too where another one is asked for.
            if is_there || !matches!(call.touches, Touches::Rows) {
                assert_eq!(!shown.is_empty(), is_there, "{case}");
            }
            if let Some(own) = who.environment() {
                assert!(shown.iter().all(|seen| *seen == Some(own)), "{case}");
            }
        }
    }
}

#[test]
fn no_call_is_missing_from_the_table() {
    let folders = ["keyward", "keyward-webhooks"].map(|name| {
        let crates = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates");
        format!("{crates}/{name}/src/admin")
    });
    let mut found = Vec::new();
    let files = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap());
    for file in files {
        let path = file.unwrap().path();
        // What `authority.rs` has is the check of permissions that the calls make.
        let other = ["authority.rs", "tests.rs"];
        if other.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        for part in text.split("\nimpl ").skip(1) {
            let (admin, rest) = part.split_once([' ', '<']).unwrap();
            let own = rest.split("\n}\n").next().unwrap();
            for call in own.split("\n    pub ").skip(1) {
                let call = call.trim_start_matches("async ");
                let signature = call.split('{').next().unwrap();
                let name = signature
                    .strip_prefix("fn ")
                    .and_then(|rest| rest.split(['(', '<']).next());
                if let Some(name) = name.filter(|_| signature.contains("actor: &Actor")) {
                    found.push(format!("{admin}::{name}"));
                }
            }
        }
    }
    assert!(found.len() > 30, "{found:?}");
    for call in &found {
        assert!(
            CALLS.contains(&&**call),
            "{call} is not tried by every actor"
        );
    }
}

/// How a key with certain scopes can come to be, to be wider, or to work again.
struct Way {
    name: &'static str,
    /// What an actor has to have for the call itself.
    needs: &'static [Permission],
    /// Whether the scopes are chosen with this call, so that a catalog is asked.
    chooses: bool,
    go: fn(&World, &Actor, &[&str]) -> Outcome,
}

macro_rules! ways {
    ($($name:ident: $needs:expr, $chooses:literal, $go:expr;)+) => {
        mod a_key_hands_on_no_management_scope_that_the_actor_lacks_by {
            use super::*;
            $(#[test]
            fn $name() {
                let name = stringify!($name);
                check(&Way { name, needs: &$needs, chooses: $chooses, go: $go });
            })+
        }
    };
}

ways! {
    create: [Permission::Create], true, |world, actor, scopes| {
        let scopes = Scopes::parse(scopes).unwrap();
        let new = NewKey::new(account(ACME), Environment::LIVE, "new").scopes(scopes);
        kind(block_on(world.admin.create(actor, new)))
    };
    a_repeated_create: [Permission::Create], true, |world, actor, scopes| {
        let scopes = Scopes::parse(scopes).unwrap();
        let new = NewKey::new(account(ACME), Environment::LIVE, "new").scopes(scopes).token("t");
        drop(block_on(world.admin.create(&world.operator, new.clone())));
        kind(block_on(world.admin.create(actor, new)))
    };
    import: [Permission::Create], true, |world, actor, scopes| {
        let scopes = Scopes::parse(scopes).unwrap();
        let new = NewKey::new(account(ACME), Environment::LIVE, "new").scopes(scopes);
        let digest = KeyDigest::import(DigestScheme::Sha256, &"0".repeat(64)).unwrap();
        let hint = Hint::parse("…abcd").unwrap();
        kind(block_on(world.admin.import(actor, new, digest, hint)))
    };
    update: [Permission::Create, Permission::Update], true, |world, actor, scopes| {
        let (_, id) = world.key(ACME, Environment::LIVE, &[]);
        let change = KeyChange::new().scopes(Scopes::parse(scopes).unwrap());
        kind(block_on(world.admin.update(actor, id, change)))
    };
    other_origins: [Permission::Create, Permission::Update], false, |world, actor, scopes| {
        let (_, id) = world.key_with(ACME, Environment::LIVE, scopes, |record| {
            record.origins = OriginPolicy::listed(["shop.example"]).unwrap();
        });
        let change = KeyChange::new().origins(OriginPolicy::Any);
        kind(block_on(world.admin.update(actor, id, change)))
    };
    enable: [Permission::Update], false, |world, actor, scopes| {
        let (_, id) = world.key_with(ACME, Environment::LIVE, scopes, |record| {
            record.status = KeyStatus::Disabled;
            record.disabled_by = Some(DisabledBy::User);
        });
        kind(block_on(world.admin.enable(actor, id)))
    };
    rotate: [Permission::Create, Permission::Revoke], true, |world, actor, scopes| {
        let (_, id) = world.key(ACME, Environment::LIVE, scopes);
        kind(block_on(world.admin.rotate(actor, id, Grace::None)))
    };
}

/// What is handed on, and what an actor has to have for it.
const GRANTS: [(&str, &[Permission]); 8] = [
    ("api_keys.create", &[Permission::Create]),
    ("api_keys.read", &[Permission::Read]),
    ("api_keys.update", &[Permission::Update]),
    ("api_keys.revoke", &[Permission::Revoke]),
    ("webhooks.read", &[Permission::ReadWebhooks]),
    ("webhooks.manage", &[Permission::ManageWebhooks]),
    (
        "api_keys.*",
        &[
            Permission::Create,
            Permission::Read,
            Permission::Update,
            Permission::Revoke,
        ],
    ),
    (
        "webhooks.*",
        &[Permission::ReadWebhooks, Permission::ManageWebhooks],
    ),
];

/// What looks like a scope that manages keys or endpoints, and is none.
const UNKNOWN: [&str; 6] = [
    "api_keys.zzz",
    "api_keys.",
    "api_keys.read.*",
    "api_keys.c:*",
    "webhooks.zzz",
    "webhooks.manage.all",
];

/// Each way, by each actor, for each grant, under each catalog.
fn check(way: &Way) {
    let told = || ScopeCatalog::new(Permission::ALL.map(Permission::as_str)).unwrap();
    let catalogs = [
        ("none", None, true),
        ("one that was told", Some(told()), true),
        ("one key, one scope", Some(told().one_per_key()), true),
        (
            "one that was not",
            Some(ScopeCatalog::new(["kyc"]).unwrap()),
            false,
        ),
    ];
    let one = Permission::ALL.map(|one| vec![one]);
    let more = [vec![], Permission::ALL.to_vec()].into_iter().chain(one);
    let sets: Vec<Vec<_>> = more.map(|more| [way.needs, &more].concat()).collect();
    for (about, catalog, permits) in catalogs {
        for (grant, given) in GRANTS {
            let new = || World::new(catalog.clone());
            let case = format!("{grant} by {}, catalog: {about}", way.name);
            let done = |may| match (may, way.chooses && !permits) {
                (false, _) => Err(AdminErrorKind::TooWide),
                (true, true) => Err(AdminErrorKind::Scopes),
                (true, false) => Ok(()),
            };
            let world = new();
            assert_eq!(
                (way.go)(&world, &world.operator, &[grant]),
                done(true),
                "operator: {case}"
            );
            for held in &sets {
                let may = given.iter().all(|given| held.contains(given));
                let world = new();
                let user = Actor::user("ann", account(ACME), held.iter().copied());
                assert_eq!(
                    (way.go)(&world, &user, &[grant]),
                    done(may),
                    "user, {held:?}: {case}"
                );

                // A key hands on a wildcard only where it has one itself: later there may be more scopes.
                let mut scopes: Vec<_> = held.iter().map(|own| own.as_str()).collect();
                let all = held.len() > Permission::ALL.len();
                scopes.extend(
                    all.then_some(["api_keys.*", "webhooks.*"])
                        .into_iter()
                        .flatten(),
                );
                let world = new();
                let key = world.acting(&world.key(ACME, Environment::LIVE, &scopes).0);
                let may = may && (all || !grant.ends_with('*'));
                assert_eq!(
                    (way.go)(&world, &key, &[grant]),
                    done(may),
                    "key, {held:?}: {case}"
                );
            }
        }
        for grant in UNKNOWN.iter().filter(|_| way.chooses) {
            let case = format!("{grant} by {}, catalog: {about}", way.name);
            let refused = Err(AdminErrorKind::Scopes);
            let world = World::new(catalog.clone());
            let user = Actor::user("ann", account(ACME), Permission::ALL);
            for actor in [&world.operator, &user] {
                assert_eq!(
                    (way.go)(&world, actor, &[grant]),
                    refused,
                    "{}: {case}",
                    actor.name()
                );
            }
            // Also by one that has got it from an earlier version.
            let scopes = ["api_keys.*", "webhooks.*", grant];
            let key = world.acting(&world.key(ACME, Environment::LIVE, &scopes).0);
            assert_eq!((way.go)(&world, &key, &[grant]), refused, "key: {case}");
        }
    }
}

#[test]
fn the_url_of_an_endpoint_holds_no_key() {
    let world = World::new(None);
    let target = world.target(ACME, Environment::LIVE);
    let user = Actor::user("ann", account(ACME), Permission::ALL);
    let secret = target.secret.expose_secret();
    let url = || EndpointUrl::parse(&format!("https://acme.example/in?key={secret}")).unwrap();
    let live = Environment::LIVE;
    let made = world
        .webhooks
        .create_endpoint(&user, &target.account, live, url());
    assert_eq!(kind(block_on(made)), Err(AdminErrorKind::HoldsKey));
    let change = EndpointChange::new().url(url());
    let changed = world
        .webhooks
        .update_endpoint(&user, target.endpoint, change);
    assert_eq!(kind(block_on(changed)), Err(AdminErrorKind::HoldsKey));
}

#[test]
fn what_a_scope_implies_is_not_handed_on() {
    let all = Permission::ALL.map(Permission::as_str);
    let catalog = ScopeCatalog::new(all).unwrap();
    let catalog = catalog.implying("admin", all).unwrap();
    let world = World::new(Some(catalog));
    let scopes = ["admin", "api_keys.create", "api_keys.update"];
    let (key, id) = world.key(ACME, Environment::LIVE, &scopes);
    let actor = world.acting(&key);
    let read = || Scopes::parse(["api_keys.read"]).unwrap();
    let new = NewKey::new(account(ACME), Environment::LIVE, "new").scopes(read());
    let too_wide = Err(AdminErrorKind::TooWide);
    assert_eq!(kind(block_on(world.admin.create(&actor, new))), too_wide);
    // Nor is it no widening where a key only swaps it for what it implies.
    let editor = Actor::user("bob", account(ACME), [Permission::Update]);
    for actor in [&actor, &editor] {
        let change = KeyChange::new().scopes(read());
        let updated = block_on(world.admin.update(actor, id, change));
        assert_eq!(kind(updated), too_wide, "{}", actor.name());
    }
}

#[test]
fn a_key_that_may_manage_is_narrowed_and_renamed_by_who_may_update() {
    let world = World::new(None);
    let (_, id) = world.key(ACME, Environment::LIVE, &["api_keys.*", "webhooks.*"]);
    let editor = Actor::user(
        "bob",
        account(ACME),
        [Permission::Update, Permission::Create],
    );
    let update = |change| kind(block_on(world.admin.update(&editor, id, change)));
    let narrower = Scopes::parse(["api_keys.read", "webhooks.*"]).unwrap();
    assert_eq!(update(KeyChange::new().name("renamed")), Ok(()));
    assert_eq!(update(KeyChange::new().scopes(narrower)), Ok(()));
    let wider = Scopes::parse(["api_keys.read", "api_keys.revoke", "webhooks.*"]).unwrap();
    let wider = update(KeyChange::new().scopes(wider));
    assert_eq!(wider, Err(AdminErrorKind::TooWide));
}

#[test]
fn an_unknown_management_scope_is_in_no_catalog_and_no_first_key() {
    for unknown in UNKNOWN
        .into_iter()
        .filter(|unknown| !unknown.ends_with('*'))
    {
        assert!(ScopeCatalog::new(["kyc", unknown]).is_err(), "{unknown}");
        let catalog = ScopeCatalog::new(["kyc"]).unwrap();
        assert!(catalog.implying(unknown, ["kyc"]).is_err(), "{unknown}");
    }
    let admin = KeyAdmin::new(&Arc::new(MemoryWebhooks::new()), &scheme());
    let first = |scope: &str| {
        let new = NewKey::new(account(ACME), Environment::LIVE, "first");
        let new = new.scopes(Scopes::parse([scope]).unwrap());
        kind(block_on(admin.bootstrap(&Actor::operator("ops"), new)))
    };
    assert_eq!(first("api_keys.zzz"), Err(AdminErrorKind::Scopes));
    assert_eq!(first("api_keys.*"), Ok(()));
}

/// Who disables a key, with what it keeps, and who then may enable it.
#[test]
fn what_an_operator_disables_only_an_operator_enables() {
    let scopes = ["api_keys.*", "webhooks.*"];
    let actors = |world: &World| {
        [
            (world.operator.clone(), DisabledBy::Operator),
            (
                Actor::user("ann", account(ACME), Permission::ALL),
                DisabledBy::User,
            ),
            (
                world.acting(&world.key(ACME, Environment::LIVE, &scopes).0),
                DisabledBy::Key,
            ),
        ]
    };
    for by in 0..3 {
        for (again, and) in [
            (None, "once"),
            (Some(0), "an operator too"),
            (Some(1), "a user too"),
        ] {
            for enables in 0..3 {
                let world = World::new(None);
                let actors = actors(&world);
                let (_, id) = world.key(ACME, Environment::LIVE, &[]);
                let admin = &world.admin;
                let disabled = block_on(admin.disable(&actors[by].0, id)).unwrap();
                assert_eq!(disabled.record.disabled_by, Some(actors[by].1));
                if let Some(again) = again {
                    block_on(admin.disable(&actors[again].0, id)).unwrap();
                }
                // A rotation is no way round it.
                let rotated = block_on(admin.rotate(&actors[enables].0, id, Grace::None)).unwrap();
                let successor = rotated.record;
                assert_eq!(successor.status, KeyStatus::Disabled);
                let by_operator = by == 0 || again == Some(0);
                let wanted = if by_operator && enables != 0 {
                    Err(AdminErrorKind::NotPermitted)
                } else {
                    Ok(())
                };
                let who = format!("{:?}, {and}, then {:?}", actors[by].1, actors[enables].1);
                let enabled = block_on(admin.enable(&actors[enables].0, successor.id));
                if let Ok(view) = &enabled {
                    assert_eq!(
                        (view.state, view.record.disabled_by),
                        (KeyState::Active, None)
                    );
                }
                assert_eq!(kind(enabled), wanted, "{who}");
            }
        }
    }
}

/// Who disables an endpoint, what else happens to it, and who then may enable it.
#[test]
fn an_endpoint_that_an_operator_disables_only_an_operator_enables() {
    let actors = |world: &World| {
        [
            (world.operator.clone(), DisabledBy::Operator),
            (
                Actor::user("ann", account(ACME), Permission::ALL),
                DisabledBy::User,
            ),
            (
                world.acting(&world.key(ACME, Environment::LIVE, &["webhooks.*"]).0),
                DisabledBy::Key,
            ),
        ]
    };
    let url = |url| EndpointUrl::parse(url).unwrap();
    let off = || EndpointChange::new().enabled(false);
    for by in 0..3 {
        for meanwhile in [
            "nothing", "operator", "user", "url", "secret", "verify", "gone",
        ] {
            for enables in 0..3 {
                let world = World::new(None);
                let actors = actors(&world);
                let webhooks = &world.webhooks;
                let (acme, live) = (account(ACME), Environment::LIVE);
                let url_of = url("https://acme.example/");
                let made = webhooks.create_endpoint(&world.operator, &acme, live, url_of);
                let id = block_on(made).unwrap().endpoint.id();
                let update =
                    |actor: &Actor, change| block_on(webhooks.update_endpoint(actor, id, change));
                let under_way = under_way(&world);
                let disabled = update(&actors[by].0, off()).unwrap();
                assert_eq!(disabled.disabled_by, Some(actors[by].1));
                let ann = &actors[1].0;
                match meanwhile {
                    "operator" => drop(update(&world.operator, off()).unwrap()),
                    "user" => drop(update(ann, off()).unwrap()),
                    "url" => {
                        let change = EndpointChange::new().url(url("https://new.example/"));
                        drop(update(ann, change).unwrap());
                    }
                    "secret" => {
                        let anew = webhooks.regenerate_secret(ann, id, Grace::None);
                        drop(block_on(anew).unwrap());
                    }
                    "verify" => {
                        let challenge = block_on(webhooks.challenge(ann, id)).unwrap();
                        let payload = challenge.delivery().message().payload().to_vec();
                        let question = String::from_utf8(payload).unwrap();
                        let answer = question.split('"').nth(7).unwrap();
                        let answered = challenge.answered(200, answer.as_bytes());
                        drop(block_on(webhooks.verify(ann, id, answered)).unwrap());
                    }
                    // The server answers 410 to what was under way when it was disabled.
                    "gone" => answers_gone(&world, &under_way),
                    _ => {}
                }
                let by_operator = by == 0 || meanwhile == "operator";
                let wanted = if by_operator && enables != 0 {
                    Err(AdminErrorKind::NotPermitted)
                } else {
                    Ok(())
                };
                let who = format!("{:?}, {meanwhile}, {:?}", actors[by].1, actors[enables].1);
                let enabled = update(&actors[enables].0, EndpointChange::new().enabled(true));
                if let Ok(endpoint) = &enabled {
                    let now = (endpoint.status, endpoint.disabled_by);
                    assert_eq!(now, (EndpointStatus::Enabled, None));
                }
                assert_eq!(kind(enabled), wanted, "{who}");
            }
        }
    }
}

#[test]
fn an_endpoint_that_was_gone_its_owner_enables() {
    let world = World::new(None);
    let url = EndpointUrl::parse("https://acme.example/").unwrap();
    let (acme, live) = (account(ACME), Environment::LIVE);
    let webhooks = &world.webhooks;
    let made = webhooks.create_endpoint(&world.operator, &acme, live, url);
    let id = block_on(made).unwrap().endpoint.id();
    answers_gone(&world, &under_way(&world));
    let ann = Actor::user("ann", acme, Permission::ALL);
    let gone = block_on(webhooks.endpoint(&ann, id)).unwrap();
    assert_eq!(
        (gone.status, gone.disabled_by),
        (EndpointStatus::Gone, None)
    );
    let on = EndpointChange::new().enabled(true);
    let enabled = block_on(webhooks.update_endpoint(&ann, id, on)).unwrap();
    assert_eq!(enabled.status, EndpointStatus::Enabled);
}

/// A delivery to the endpoint of acme.
fn under_way(world: &World) -> DueDelivery {
    let id = WebhookId::random().unwrap();
    let message = WebhookMessage::new(account(ACME), Environment::LIVE, id, b"{}").unwrap();
    block_on(world.webhooks.publish(&world.operator, message)).unwrap();
    let now = SystemTime::now();
    let claim = DeliveryClaim {
        now,
        until: now,
        limit: 1,
        each: 1,
        busy: vec![],
        proven: None,
    };
    block_on(world.store.claim(claim)).unwrap().remove(0)
}

fn answers_gone(world: &World, due: &DueDelivery) {
    let (gone, now) = (AttemptOutcome::Gone, SystemTime::now());
    let schedule = RetrySchedule::new([]);
    let conclusion = due.conclude(gone, Some(410), None, (now, now), &schedule);
    block_on(world.store.conclude(conclusion)).unwrap();
}
