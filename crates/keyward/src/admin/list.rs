//! Keys and the audit trail, page by page.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::clock::unix_time;
use crate::{AuditEntry, Environment, KeyId, KeyRecord, KeyState, ParseError, ParseErrorKind};

/// A key as its owner sees it. See [`KeyFilter`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyView {
    /// What is kept of it.
    pub record: KeyRecord,
    /// Whether it works now, but for its account's status.
    pub state: KeyState,
    /// When it was used last, to the second.
    pub last_used_at: Option<SystemTime>,
}

/// Which keys to list: all, newest first, 50 a page, unless told otherwise.
///
/// ```
/// # use std::sync::Arc;
/// # use keyward::*;
/// # let mut example = std::pin::pin!(async {
/// # let admin = KeyAdmin::new(Arc::new(MemoryStore::new()), KeyFormat::new("vhk_{env}_")?);
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
/// # });
/// # let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
/// # let done = example.as_mut().poll(context);
/// # assert!(matches!(done, std::task::Poll::Ready(Ok(()))), "{done:?}");
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
    /// All keys.
    pub fn new() -> Self {
        Self {
            environment: None,
            state: None,
            after: None,
            limit: 50,
        }
    }

    /// Only keys of this environment.
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = Some(environment);
        self
    }

    /// Only keys in this state.
    pub fn state(mut self, state: KeyState) -> Self {
        self.state = Some(state);
        self
    }

    /// Goes on after an earlier page.
    pub fn after(mut self, page: KeyCursor) -> Self {
        self.after = Some(page);
        self
    }

    /// So many a page, from 1 to 1000.
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

/// Some keys, and where the next page begins. See [`KeyFilter`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyPage {
    /// The keys, newest first.
    pub keys: Vec<KeyView>,
    /// For [`KeyFilter::after`]; `None` on the last page.
    pub next: Option<KeyCursor>,
}

/// A place in the list of keys, as text for a URL: `1700000000123.key_…`.
///
/// It stays where it is when keys come and go.
///
/// ```
/// use keyward::KeyCursor;
///
/// let cursor = KeyCursor::parse("1700000000123.key_0123456789ab")?;
/// assert_eq!(cursor.created_at, 1_700_000_000_123);
/// assert_eq!(cursor.to_string(), "1700000000123.key_0123456789ab");
/// # Ok::<(), keyward::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct KeyCursor {
    /// When the last key of the page was created, in milliseconds since the Unix epoch.
    pub created_at: u64,
    /// Its id.
    pub id: KeyId,
}

impl KeyCursor {
    /// Parses what `Display` writes.
    ///
    /// # Errors
    /// When it is not that.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let error = ParseError::new("page", ParseErrorKind::Character);
        let (created_at, id) = text.split_once('.').ok_or(error)?;
        Ok(Self {
            created_at: created_at.parse().map_err(|_| error)?,
            id: KeyId::parse(id)?,
        })
    }

    /// Where this key stands.
    #[must_use]
    pub fn of(record: &KeyRecord) -> Self {
        let created_at = unix_time(record.created_at).as_millis();
        Self {
            created_at: u64::try_from(created_at).unwrap_or(u64::MAX),
            id: record.id,
        }
    }
}

impl fmt::Display for KeyCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.created_at, self.id)
    }
}

/// Some lines of the audit trail, and where the next page begins. See [`AuditEntry`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuditPage {
    /// The lines, newest first.
    pub entries: Vec<AuditEntry>,
    /// Ask for the lines before this number; `None` on the last page.
    pub next: Option<u64>,
}

/// A key that was found in a text, once or more often.
///
/// ```
/// # use std::sync::Arc;
/// # use keyward::*;
/// # let mut example = std::pin::pin!(async {
/// # let admin = KeyAdmin::new(Arc::new(MemoryStore::new()), KeyFormat::new("vhk_{env}_")?);
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
/// # });
/// # let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
/// # let done = example.as_mut().poll(context);
/// # assert!(matches!(done, std::task::Poll::Ready(Ok(()))), "{done:?}");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Leak {
    /// Where the key begins in the text, in bytes: the first ten places.
    pub positions: Vec<usize>,
    /// How often it is in the text.
    pub count: u64,
    /// What may be shown of it.
    pub hint: crate::Hint,
    /// The key, when it is known and the actor may see it.
    pub key: Option<Box<KeyView>>,
}

pub(crate) fn in_whole_seconds(time: SystemTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(unix_time(time).as_secs())
}

pub(crate) fn in_whole_millis(time: SystemTime) -> SystemTime {
    let millis = unix_time(time).as_millis();
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
