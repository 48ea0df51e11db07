//! Why nothing was done.

use std::error::Error;
use std::fmt;

use crate::error::named;
use crate::{RandomError, StoreError, StoreErrorKind};

/// Why nothing was done.
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

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        let kind = match error.kind() {
            StoreErrorKind::Conflict => AdminErrorKind::Conflict,
            StoreErrorKind::TooManyKeys => AdminErrorKind::TooManyKeys,
            _ => AdminErrorKind::Store,
        };
        Self {
            kind,
            source: Some(Box::new(error)),
        }
    }
}

/// Which error it is. Each has a name, under which the audit trail keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminErrorKind {
    /// There is no such key, or it is another account's.
    UnknownKey,
    /// There is no such account, or it is not the actor's.
    UnknownAccount,
    /// The actor lacks the permission.
    NotPermitted,
    /// The actor would hand on more than it holds, or widen a key without being allowed to create.
    TooWide,
    /// The name is empty, longer than 100 characters or holds a control character.
    Name,
    /// A name, reason, token or metadata holds a key.
    HoldsKey,
    /// The reason is longer than 500 characters, or the token is not 1 to 128 printable characters.
    TooLong,
    /// The expiry is not in the future, or later than the service allows.
    Expiry,
    /// The catalog does not permit these scopes for such a key.
    Scopes,
    /// The account has as many active keys as it may.
    TooManyKeys,
    /// The key is revoked, which is final.
    Revoked,
    /// The key has expired.
    Expired,
    /// The key has a successor already, or somebody else was faster.
    Conflict,
    /// The operating system gave no random bytes.
    Random,
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
    TooManyKeys = "too_many_keys",
    Revoked = "revoked",
    Expired = "expired",
    Conflict = "conflict",
    Random = "random",
    Store = "store",
}

impl AdminErrorKind {
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
            Self::TooManyKeys => "the account has as many active keys as it may",
            Self::Revoked => "the key is revoked for good",
            Self::Expired => "the key has expired",
            Self::Conflict => "somebody else was faster",
            Self::Random => "no key could be generated",
            Self::Store => "the store failed",
        }
    }
}
