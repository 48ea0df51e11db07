//! The error of management calls.

use std::error::Error;
use std::fmt;

use crate::error::ParseError;
use crate::error::named;
use crate::key::RandomError;
use crate::record::AdminErrorKind;
use crate::store::{StoreError, StoreErrorKind};

/// The error of a management call. Nothing was changed.
///
/// ```
/// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Permission};
/// # use keyward::record::AdminErrorKind;
/// # keyward::testing::block_on(async {
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
/// # let operator = Actor::operator("docs");
/// # let acme = AccountId::parse("acme")?;
/// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
/// # let id = created.record.id;
/// let reader = Actor::user("ann@acme.example", acme, [Permission::Read]);
/// let error = admin.revoke(&reader, id, "").await.unwrap_err();
/// assert_eq!(error.kind(), AdminErrorKind::NotPermitted);
/// assert_eq!(error.to_string(), "the actor lacks the permission");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct AdminError {
    kind: AdminErrorKind,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl AdminError {
    /// Returns the kind of error.
    #[must_use]
    pub fn kind(&self) -> AdminErrorKind {
        self.kind
    }

    /// Adds the cause of the error.
    ///
    /// ```
    /// use std::error::Error;
    /// use keyward::admin::AdminError;
    /// use keyward::record::AdminErrorKind;
    ///
    /// let error = AdminError::from(AdminErrorKind::Policy).with_source("no contract was signed");
    /// assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("no contract was signed"));
    /// ```
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = Some(source.into());
        Self { source, ..self }
    }

    /// Returns the HTTP status that a management API should send, from the
    /// [kind](AdminErrorKind::http_status).
    #[must_use]
    pub fn http_status(&self) -> u16 {
        self.kind.http_status()
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.sentence())
    }
}

impl Error for AdminError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl AdminError {
    /// Returns whether a commit failed because another commit changed what it relies on.
    pub(super) fn is_conflicting_commit(&self) -> bool {
        let source = self.source.as_ref();
        self.kind == AdminErrorKind::Conflict
            && source.is_some_and(|source| source.is::<StoreError>())
    }

    /// Creates an error for an origin that is not allowed; the source says why.
    pub(super) fn origins(source: ParseError) -> Self {
        Self::from(AdminErrorKind::Origins).with_source(source)
    }

    /// Creates an error for a thread that could not be started; the source says why.
    pub(super) fn thread(source: impl Error + Send + Sync + 'static) -> Self {
        Self::from(AdminErrorKind::Thread).with_source(source)
    }
}

impl From<AdminErrorKind> for AdminError {
    fn from(kind: AdminErrorKind) -> Self {
        Self { kind, source: None }
    }
}

impl From<RandomError> for AdminError {
    fn from(error: RandomError) -> Self {
        Self::from(AdminErrorKind::Random).with_source(error)
    }
}

impl From<ParseError> for AdminError {
    fn from(error: ParseError) -> Self {
        Self::from(AdminErrorKind::Url).with_source(error)
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        let kind = match error.kind() {
            StoreErrorKind::Conflict => AdminErrorKind::Conflict,
            StoreErrorKind::TooManyKeys => AdminErrorKind::TooManyKeys,
            StoreErrorKind::TooManyEndpoints => AdminErrorKind::TooManyEndpoints,
            _ => AdminErrorKind::Store,
        };
        Self::from(kind).with_source(error)
    }
}

named! {
    AdminErrorKind, "refusal":
    UnknownKey = "unknown_key",
    UnknownAccount = "unknown_account",
    NotPermitted = "not_permitted",
    TooWide = "too_wide",
    Name = "name",
    HoldsKey = "holds_key",
    TooLong = "too_long",
    Expiry = "expiry",
    Scopes = "scopes",
    Origins = "origins",
    TooManyKeys = "too_many_keys",
    Revoked = "revoked",
    Expired = "expired",
    Conflict = "conflict",
    Pruned = "pruned",
    UnknownEndpoint = "unknown_endpoint",
    UnknownMessage = "unknown_message",
    Url = "url",
    TooManyEndpoints = "too_many_endpoints",
    Unanswered = "unanswered",
    NoWorkingEndpoint = "no_working_endpoint",
    Policy = "policy",
    Sealed = "sealed",
    Random = "random",
    Thread = "thread",
    Store = "store",
}
