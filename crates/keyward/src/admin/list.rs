//! Pages of keys and of the audit log.

use std::time::{Duration, SystemTime};

use crate::clock::unix_time;
use crate::environment::Environment;
use crate::store::KeyCursor;

use crate::record::{AuditEntry, KeyRecord, KeyState};

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
}

/// A filter for listing keys; by default all of them, newest first, 50 per page.
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
/// let page = admin.keys(&operator, &acme, filter).await?;
/// assert_eq!(page.keys[0].state, KeyState::Active);
///
/// let next = page.next.expect("there are two keys");
/// let page = admin.keys(&operator, &acme, filter.after(next)).await?;
/// assert_eq!((page.keys.len(), page.next), (1, None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct KeyFilter {
    pub(crate) environment: Option<Environment>,
    pub(crate) state: Option<KeyState>,
    pub(crate) after: Option<KeyCursor>,
    pub(crate) limit: usize,
}

impl KeyFilter {
    /// Creates a filter that matches all keys.
    pub fn new() -> Self {
        Self {
            environment: None,
            state: None,
            after: None,
            limit: 50,
        }
    }

    /// Lists only keys of this environment.
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
        self
    }

    /// Lists only keys in this state.
    pub fn state(mut self, state: KeyState) -> Self {
        self.state = Some(state);
        self
    }

    /// Continues after an earlier page.
    pub fn after(mut self, page: KeyCursor) -> Self {
        self.after = Some(page);
        self
    }

    /// Sets the page size, from 1 to 1000.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit.clamp(1, 1000);
        self
    }
}

impl Default for KeyFilter {
    fn default() -> Self {
        Self::new()
    }
}

/// A page of keys. See [`KeyFilter`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyPage {
    /// The keys, newest first.
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
