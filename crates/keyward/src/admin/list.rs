//! Pages of keys, of accounts and of the audit log.

use std::time::{Duration, SystemTime};

use crate::clock::unix_time;
use crate::environment::Environment;
use crate::ids::AccountId;
use crate::key::KeyKind;
use crate::record::{Account, AccountStatus, AuditEntry, KeyRecord, KeyState};
use crate::scope::Scopes;
use crate::store::{AccountQuery, KeyCursor, KeyQuery, KeySearch};
use crate::usage::ClientNetwork;

/// A key as shown to its owner. See [`KeyFilter`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyView {
    /// The stored record.
    pub record: KeyRecord,
    /// The state of the key, disregarding the status of its account.
    pub state: KeyState,
    /// The time of the last use, in whole seconds.
    pub last_used_at: Option<SystemTime>,
    /// The network of the last use, if the gate [records](crate::gate::GateBuilder::record_networks)
    /// it.
    pub last_network: Option<ClientNetwork>,
}

/// A filter for listing keys; by default all of them, newest first, 50 per page.
///
/// A key must match every part that is set. A [search](Self::search) is answered from an index. So
/// is a list of one account, of all accounts, or of what an actor [created](Self::created_by);
/// whatever else is set is compared with each key in turn until the page is full.
///
/// ```
/// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey};
/// # use keyward::admin::KeyFilter;
/// # use keyward::record::KeyState;
/// # keyward::testing::block_on(async {
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
/// # let operator = Actor::operator("docs");
/// # let acme = AccountId::parse("acme")?;
/// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
/// # let id = created.record.id;
/// # admin.create(&operator, NewKey::new(acme.clone(), Environment::LIVE, "second")).await?;
/// let filter = KeyFilter::new().state(KeyState::Active).limit(1);
/// let page = admin.keys(&operator, &acme, filter.clone()).await?;
/// assert_eq!(page.keys[0].state, KeyState::Active);
///
/// let next = page.next.expect("there are two keys");
/// let page = admin.keys(&operator, &acme, filter.after(next)).await?;
/// assert_eq!((page.keys.len(), page.next), (1, None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct KeyFilter(
    /// The admin sets the account and the time.
    pub(super) KeyQuery,
);

impl KeyFilter {
    /// Creates a filter that matches all keys.
    pub fn new() -> Self {
        Self(KeyQuery::newest(SystemTime::UNIX_EPOCH, 50))
    }

    /// Lists only keys of this environment.
    pub fn environment(mut self, environment: Environment) -> Self {
        self.0.environment = Some(environment);
        self
    }

    /// Lists only keys in this state.
    pub fn state(mut self, state: KeyState) -> Self {
        self.0.state = Some(state);
        self
    }

    /// Lists only keys of this kind.
    pub fn kind(mut self, kind: KeyKind) -> Self {
        self.0.kind = Some(kind);
        self
    }

    /// Lists only keys that this search finds. A search by name lists them in the order of names.
    pub fn search(mut self, search: KeySearch) -> Self {
        self.0.search = Some(search);
        self
    }

    /// Lists only keys that hold all of these scopes, as they were granted.
    ///
    /// Neither wildcards nor the catalog count: `reports.read` does not find a key that was granted
    /// `reports.*`, and `reports.*` finds only that one.
    pub fn scopes(mut self, scopes: Scopes) -> Self {
        self.0.scopes = scopes;
        self
    }

    /// Lists only keys that this actor created, by its [name](KeyRecord::created_by).
    pub fn created_by(mut self, actor: &str) -> Self {
        self.0.created_by = Some(actor.to_owned());
        self
    }

    /// Lists only keys that were not used at or after this time.
    ///
    /// A key that was never used counts as used when it was created. What this process has counted
    /// is written first; other processes write their counts every few seconds.
    pub fn unused_since(mut self, time: SystemTime) -> Self {
        self.0.unused_since = Some(time);
        self
    }

    /// Lists only keys that expire before this time, or have expired.
    pub fn expires_before(mut self, time: SystemTime) -> Self {
        self.0.expires_before = Some(time);
        self
    }

    /// Continues after an earlier page.
    pub fn after(mut self, page: KeyCursor) -> Self {
        self.0.after = Some(page);
        self
    }

    /// Sets the page size, from 1 to 1000.
    pub fn limit(mut self, limit: usize) -> Self {
        self.0.limit = limit.clamp(1, 1000);
        self
    }

    /// Returns the query for keys of this account and environment.
    pub(super) fn query(
        self,
        account: Option<AccountId>,
        environment: Option<Environment>,
        now: SystemTime,
    ) -> KeyQuery {
        let mut query = KeyQuery {
            account,
            environment,
            now,
            ..self.0
        };
        if let Some(after) = &mut query.after
            && !matches!(query.search, Some(KeySearch::Name(_)))
        {
            after.name = None;
        }
        query
    }
}

impl Default for KeyFilter {
    fn default() -> Self {
        Self::new()
    }
}

/// A filter for listing accounts; by default all of them, in the order of their ids, 50 per page.
///
/// ```
/// # use keyward::{AccountId, Actor, KeyAdmin, KeyFormat, KeyScheme, MemoryStore};
/// # use keyward::admin::AccountFilter;
/// # use keyward::record::AccountStatus;
/// # keyward::testing::block_on(async {
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
/// # let operator = Actor::operator("docs");
/// for id in ["acme-1", "acme-2", "bolt"] {
///     admin.open_account(&operator, &AccountId::parse(id)?).await?;
/// }
/// let filter = AccountFilter::new().prefix("acme").status(AccountStatus::Active).limit(1);
/// let page = admin.accounts(&operator, filter.clone()).await?;
/// assert_eq!(page.accounts[0].id.as_str(), "acme-1");
///
/// let next = page.next.expect("there are two accounts");
/// let page = admin.accounts(&operator, filter.after(next)).await?;
/// assert_eq!((page.accounts[0].id.as_str(), page.next), ("acme-2", None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct AccountFilter(pub(super) AccountQuery);

impl AccountFilter {
    /// Creates a filter that matches all accounts.
    pub fn new() -> Self {
        Self(AccountQuery {
            prefix: String::new(),
            status: None,
            after: None,
            limit: 50,
        })
    }

    /// Lists only accounts whose id begins with this text. Upper and lower case differ.
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.0.prefix);
        self
    }

    /// Lists only accounts with this status.
    pub fn status(mut self, status: AccountStatus) -> Self {
        self.0.status = Some(status);
        self
    }

    /// Continues after an earlier page.
    pub fn after(mut self, page: AccountId) -> Self {
        self.0.after = Some(page);
        self
    }

    /// Sets the page size, from 1 to 1000.
    pub fn limit(mut self, limit: usize) -> Self {
        self.0.limit = limit.clamp(1, 1000);
        self
    }
}

impl Default for AccountFilter {
    fn default() -> Self {
        Self::new()
    }
}

/// A page of accounts. See [`AccountFilter`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AccountPage {
    /// The accounts, in the order of their ids.
    pub accounts: Vec<Account>,
    /// The position for [`AccountFilter::after`]; `None` on the last page.
    pub next: Option<AccountId>,
}

/// A page of keys. See [`KeyFilter`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyPage {
    /// The keys, newest first, or in the order of names in a search by name.
    pub keys: Vec<KeyView>,
    /// The position for [`KeyFilter::after`]; `None` on the last page.
    pub next: Option<KeyCursor>,
}

/// A page of the audit log. See [`AuditEntry`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuditPage {
    /// The lines, newest first.
    pub entries: Vec<AuditEntry>,
    /// The number to pass as `before` for the next page; `None` on the last page.
    pub next: Option<u64>,
}

/// A leaked key, found once or more in a text.
///
/// ```
/// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey};
/// # use keyward::record::KeyState;
/// # keyward::testing::block_on(async {
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
/// # let operator = Actor::operator("docs");
/// # let acme = AccountId::parse("acme")?;
/// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
/// # let id = created.record.id;
/// # let key = created.key.expect("a new account's first key");
/// let log = format!("GET /report x-api-key={} 200", key.expose_secret());
/// let leaks = admin.leaks(&operator, &log).await?;
/// assert_eq!((&leaks[0].positions[..], leaks[0].count), (&[22][..], 1));
/// assert_eq!(leaks[0].hint, *key.hint());
/// let known = leaks[0].key.as_ref().expect("it is of this service");
/// assert_eq!((known.record.id, known.state), (id, KeyState::Active)); // to be revoked
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Leak {
    /// The byte offsets of the first ten occurrences.
    pub positions: Vec<usize>,
    /// The number of occurrences in the text.
    pub count: u64,
    /// The part of the key that may be displayed.
    pub hint: crate::key::Hint,
    /// The key, if it is known and the actor may see it.
    pub key: Option<Box<KeyView>>,
}

pub(crate) fn in_whole_seconds(time: SystemTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(unix_time(time).as_secs())
}

/// Returns the time in whole seconds, rounded up.
pub(crate) fn in_next_whole_seconds(time: SystemTime) -> Option<SystemTime> {
    let almost_one = Duration::from_nanos(999_999_999);
    time.checked_add(almost_one).map(in_whole_seconds)
}

pub(crate) fn in_whole_millis(time: SystemTime) -> SystemTime {
    let millis = unix_time(time).as_millis();
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
