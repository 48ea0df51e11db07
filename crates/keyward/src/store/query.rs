//! Queries for keys, for accounts and for the audit log.

use std::time::SystemTime;

use crate::environment::Environment;
use crate::ids::AccountId;
use crate::key::KeyKind;
use crate::record::{Account, AccountStatus, AuditEntry, KeyRecord, KeyState};
use crate::scope::Scopes;
use crate::store::search::folded;
use crate::store::{KeyCursor, KeySearch};

/// A query for keys, of one account or of all. See [`Store::keys`](crate::store::Store::keys).
///
/// A key must match every part.
///
/// ```
/// # use std::time::SystemTime;
/// # use keyward::{AccountId, Environment, KeyFormat, KeyId, KeyKind, Peppers};
/// # use keyward::record::{Account, KeyRecord};
/// # let acme = AccountId::parse("acme")?;
/// # let account = Account::new(acme.clone());
/// # let key = KeyFormat::new("vhk_{env}_")?.generate(Environment::LIVE)?;
/// # let (digest, hint) = (Peppers::none().digest(&key), key.hint().clone());
/// # let now = SystemTime::now();
/// # let record = KeyRecord::new(KeyId::random()?, digest, hint, acme, Environment::LIVE, now);
/// use keyward::store::{KeyQuery, KeySearch};
///
/// let mut query = KeyQuery::newest(now, 50);
/// query.search = Some(KeySearch::Hint(record.hint.clone()));
/// assert!(query.wants(&record, &account));
/// query.kind = Some(KeyKind::Publishable);
/// assert!(!query.wants(&record, &account));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct KeyQuery {
    /// The account of the keys; `None` for all.
    pub account: Option<AccountId>,
    /// The environment of the keys; `None` for all.
    pub environment: Option<Environment>,
    /// The state of the keys, according to [`KeyRecord::state`]; `None` for all.
    pub state: Option<KeyState>,
    /// The kind of keys; `None` for both.
    pub kind: Option<KeyKind>,
    /// The search that finds the keys; `None` for all keys.
    pub search: Option<KeySearch>,
    /// Scopes that the keys hold, each written as it was granted. May be empty.
    pub scopes: Scopes,
    /// The name in [`KeyRecord::created_by`]; `None` for any.
    pub created_by: Option<String>,
    /// The time before which the keys were used last, or created if they were never used.
    pub unused_since: Option<SystemTime>,
    /// The time before which the keys expire. A key without expiry does not match.
    pub expires_before: Option<SystemTime>,
    /// The time at which expiry is judged.
    pub now: SystemTime,
    /// The position in the list after which the keys begin.
    pub after: Option<KeyCursor>,
    /// The maximum number of keys.
    pub limit: usize,
}

/// A query for accounts. See [`Store::accounts`](crate::store::Store::accounts).
///
/// ```
/// use keyward::AccountId;
/// use keyward::record::{Account, AccountStatus};
/// use keyward::store::AccountQuery;
///
/// let acme = Account::new(AccountId::parse("acme-7")?);
/// let mut query = AccountQuery { prefix: "acme-".to_owned(), status: None, after: None, limit: 50 };
/// assert!(query.wants(&acme));
/// query.status = Some(AccountStatus::Suspended);
/// assert!(!query.wants(&acme));
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct AccountQuery {
    /// The beginning of the ids, which may be empty.
    pub prefix: String,
    /// The status of the accounts; `None` for all.
    pub status: Option<AccountStatus>,
    /// The id after which the accounts begin.
    pub after: Option<AccountId>,
    /// The maximum number of accounts.
    pub limit: usize,
}

impl AccountQuery {
    /// Returns whether an account matches, disregarding the limit.
    #[must_use]
    pub fn wants(&self, account: &Account) -> bool {
        account.id.as_str().starts_with(&self.prefix)
            && self.status.is_none_or(|status| status == account.status)
            && self.after.as_ref().is_none_or(|after| account.id > *after)
    }
}

/// A query for lines of the audit log. See [`Store::audit`](crate::store::Store::audit).
///
/// ```
/// # use std::time::SystemTime;
/// use keyward::Environment;
/// use keyward::record::{AuditAction, AuditEntry};
/// use keyward::store::AuditQuery;
///
/// let mut line = AuditEntry::new(SystemTime::now(), "operator:ops", AuditAction::Create);
/// line.environment = Some(Environment::LIVE);
/// let query = AuditQuery::newest(10);
/// assert!(query.wants(&line));
/// assert!(!AuditQuery { environment: Some(Environment::TEST), ..query }.wants(&line));
/// ```
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct AuditQuery {
    /// The account of the lines; `None` for all.
    pub account: Option<AccountId>,
    /// The environment of the lines; `None` for all.
    pub environment: Option<Environment>,
    /// The number below which the lines begin.
    pub before: Option<u64>,
    /// The maximum number of lines.
    pub limit: usize,
}

impl AuditQuery {
    /// Creates a query for the newest lines of all accounts and environments.
    #[must_use]
    pub fn newest(limit: usize) -> Self {
        Self {
            account: None,
            environment: None,
            before: None,
            limit,
        }
    }

    /// Returns whether a line matches, disregarding the limit.
    #[must_use]
    pub fn wants(&self, line: &AuditEntry) -> bool {
        self.before.is_none_or(|before| line.number < before)
            && (self.account.is_none() || line.account == self.account)
            && (self.environment.is_none() || line.environment == self.environment)
    }
}

impl KeyQuery {
    /// Creates a query for the newest keys of all accounts.
    #[must_use]
    pub fn newest(now: SystemTime, limit: usize) -> Self {
        Self {
            account: None,
            environment: None,
            state: None,
            kind: None,
            search: None,
            scopes: Scopes::none(),
            created_by: None,
            unused_since: None,
            expires_before: None,
            now,
            after: None,
            limit,
        }
    }

    /// Returns whether a key matches, disregarding the limit.
    #[must_use]
    pub fn wants(&self, record: &KeyRecord, account: &Account) -> bool {
        fn is<T: PartialEq>(wanted: Option<&T>, own: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == own)
        }
        is(self.account.as_ref(), &record.account)
            && is(self.environment.as_ref(), &record.environment)
            && is(self.kind.as_ref(), &record.kind)
            && is(self.state.as_ref(), &record.state(account, self.now))
            && self
                .search
                .as_ref()
                .is_none_or(|search| search.finds(record))
            && self
                .scopes
                .iter()
                .all(|scope| record.scopes.iter().any(|own| own == scope))
            && (self.created_by.is_none() || self.created_by == record.created_by)
            && self
                .unused_since
                .is_none_or(|since| record.last_used_at.unwrap_or(record.created_at) < since)
            && self
                .expires_before
                .is_none_or(|end| record.expires_at.is_some_and(|at| at < end))
            && self
                .after
                .as_ref()
                .is_none_or(|after| self.position(record) < *after)
    }

    /// Returns the position of a key in this list, which is in the reverse order of the positions.
    #[must_use]
    pub fn position(&self, record: &KeyRecord) -> KeyCursor {
        let is_by_name = matches!(self.search, Some(KeySearch::Name(_)));
        KeyCursor {
            name: is_by_name.then(|| folded(&record.name)),
            ..KeyCursor::of(record)
        }
    }
}
