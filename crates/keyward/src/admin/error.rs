//! Why nothing was done.

use std::error::Error;
use std::fmt;

use crate::error::named;
use crate::{ParseError, RandomError, SealError, SealErrorKind, StoreError, StoreErrorKind};

/// Why nothing was done.
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
/// let reader = Actor::user("ann@acme.example", acme, [Permission::Read]);
/// let error = admin.revoke(&reader, id, "").await.unwrap_err();
/// assert_eq!(error.kind(), AdminErrorKind::NotPermitted);
/// assert_eq!(error.to_string(), "the actor lacks the permission");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # });
/// # let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
/// # let done = example.as_mut().poll(context);
/// # assert!(matches!(done, std::task::Poll::Ready(Ok(()))), "{done:?}");
/// ```
#[derive(Debug)]
pub struct AdminError {
    kind: AdminErrorKind,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl AdminError {
    /// Which it is.
    #[must_use]
    pub fn kind(&self) -> AdminErrorKind {
        self.kind
    }

    /// The HTTP status to answer with: that of its [kind](AdminErrorKind::http_status).
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
    /// A key may not have these origins; the source says which and why.
    pub(super) fn origins(source: ParseError) -> Self {
        Self {
            kind: AdminErrorKind::Origins,
            source: Some(Box::new(source)),
        }
    }

    /// A long text is searched by no thread; the source says why.
    pub(super) fn thread(source: impl Error + Send + Sync + 'static) -> Self {
        Self {
            kind: AdminErrorKind::Thread,
            source: Some(Box::new(source)),
        }
    }
}

impl From<AdminErrorKind> for AdminError {
    fn from(kind: AdminErrorKind) -> Self {
        Self { kind, source: None }
    }
}

impl From<RandomError> for AdminError {
    fn from(error: RandomError) -> Self {
        Self {
            kind: AdminErrorKind::Random,
            source: Some(Box::new(error)),
        }
    }
}

impl From<ParseError> for AdminError {
    fn from(error: ParseError) -> Self {
        Self {
            kind: AdminErrorKind::Url,
            source: Some(Box::new(error)),
        }
    }
}

impl From<SealError> for AdminError {
    fn from(error: SealError) -> Self {
        let kind = match error.kind() {
            SealErrorKind::Random => AdminErrorKind::Random,
            SealErrorKind::UnknownKey | SealErrorKind::Refused => AdminErrorKind::Sealed,
        };
        Self {
            kind,
            source: Some(Box::new(error)),
        }
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
        Self {
            kind,
            source: Some(Box::new(error)),
        }
    }
}

/// Which error it is. Each has a name, under which the audit trail keeps it.
///
/// ```
/// assert_eq!(keyward::AdminErrorKind::TooWide.as_str(), "too_wide");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminErrorKind {
    /// There is no such key, or it is another account's.
    UnknownKey,
    /// There is no such account, or it is not the actor's.
    UnknownAccount,
    /// The actor lacks the permission.
    NotPermitted,
    /// The actor would hand on more than it holds.
    ///
    /// Also when it would widen a key without being allowed to create one, and when it would create,
    /// widen, rotate or enable a key with a [permission](crate::Permission) that it lacks itself.
    TooWide,
    /// The name is empty, longer than 100 characters or holds a control character.
    Name,
    /// A name, reason, token, scope, the metadata or the URL of an endpoint holds a key.
    HoldsKey,
    /// A reason of more than 500 characters, or an ill-formed token.
    ///
    /// A token has 1 to 128 printable ASCII characters.
    TooLong,
    /// The expiry is not in the future, or later than the service allows.
    Expiry,
    /// The catalog does not permit these scopes for such a key.
    ///
    /// Also, with any catalog and without one, when a scope begins with `api_keys.` or `webhooks.` and is
    /// that of no [`Permission`](crate::Permission).
    Scopes,
    /// Such a key may not have these origins.
    ///
    /// The source is a [`ParseError`], which says [which entry](ParseError::entry) and why.
    Origins,
    /// The account has as many active keys as it may.
    TooManyKeys,
    /// The key is revoked, which is final.
    Revoked,
    /// The key has expired.
    Expired,
    /// The key has a successor already, or somebody else was faster.
    Conflict,
    /// There is no such endpoint, or it is another account's.
    UnknownEndpoint,
    /// There is no such message in the endpoint's account and environment, or it was forgotten.
    UnknownMessage,
    /// An endpoint may not be at this URL; the source says why.
    Url,
    /// The account has as many endpoints in this environment as it may.
    TooManyEndpoints,
    /// The endpoint has not answered its challenge.
    Unanswered,
    /// A live key needs a live endpoint that has answered a challenge, and there is none.
    NoWorkingEndpoint,
    /// A secret was sealed with a key that is not there.
    Sealed,
    /// The operating system gave no random bytes.
    Random,
    /// No thread could be started to search a long text.
    Thread,
    /// The store failed.
    Store,
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
    UnknownEndpoint = "unknown_endpoint",
    UnknownMessage = "unknown_message",
    Url = "url",
    TooManyEndpoints = "too_many_endpoints",
    Unanswered = "unanswered",
    NoWorkingEndpoint = "no_working_endpoint",
    Sealed = "sealed",
    Random = "random",
    Thread = "thread",
    Store = "store",
}

impl AdminErrorKind {
    /// The HTTP status that a management API should answer with.
    ///
    /// 403 where the actor may not, 404 where there is no such thing for him, 409 where what is there
    /// stands against it, 422 where what was sent is not valid, 503 where the store failed or no thread could be started, and 500.
    ///
    /// ```
    /// use keyward::AdminErrorKind;
    ///
    /// assert_eq!(AdminErrorKind::UnknownKey.http_status(), 404);
    /// assert_eq!(AdminErrorKind::TooManyKeys.http_status(), 409);
    /// ```
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::NotPermitted | Self::TooWide => 403,
            Self::UnknownKey
            | Self::UnknownAccount
            | Self::UnknownEndpoint
            | Self::UnknownMessage => 404,
            Self::TooManyKeys
            | Self::TooManyEndpoints
            | Self::Revoked
            | Self::Expired
            | Self::Conflict
            | Self::Unanswered
            | Self::NoWorkingEndpoint => 409,
            Self::Name
            | Self::HoldsKey
            | Self::TooLong
            | Self::Expiry
            | Self::Scopes
            | Self::Origins
            | Self::Url => 422,
            Self::Sealed | Self::Random => 500,
            Self::Thread | Self::Store => 503,
        }
    }

    const fn sentence(self) -> &'static str {
        match self {
            Self::UnknownKey => "no such key",
            Self::UnknownAccount => "no such account",
            Self::NotPermitted => "the actor lacks the permission",
            Self::TooWide => "the key would be wider than its creator may make it",
            Self::Name => "a name has 1 to 100 characters and no control characters",
            Self::HoldsKey => "a text that is to be kept holds a key",
            Self::TooLong => "a text is too long",
            Self::Expiry => "the expiry is past, or later than allowed",
            Self::Scopes => "such a key may not have these scopes",
            Self::Origins => "such a key may not have these origins",
            Self::TooManyKeys => "the account has as many active keys as it may",
            Self::Revoked => "the key is revoked for good",
            Self::Expired => "the key has expired",
            Self::Conflict => "somebody else was faster",
            Self::UnknownEndpoint => "no such endpoint",
            Self::UnknownMessage => "no such message",
            Self::Url => "no endpoint may be at this URL",
            Self::TooManyEndpoints => "the account has as many endpoints as it may",
            Self::Unanswered => "the endpoint has not answered its challenge",
            Self::NoWorkingEndpoint => "a live key needs a working live endpoint",
            Self::Sealed => "a secret cannot be opened",
            Self::Random => "nothing random could be generated",
            Self::Thread => "no thread could be started",
            Self::Store => "the store failed",
        }
    }
}
