//! Reasons for refusing management calls, as recorded in the audit log.

/// The kind of a management error, recorded in the audit log by its name.
///
/// ```
/// assert_eq!(keyward::record::AdminErrorKind::TooWide.as_str(), "too_wide");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdminErrorKind {
    /// The key does not exist or belongs to another account.
    UnknownKey,
    /// The account does not exist or is not the actor's.
    UnknownAccount,
    /// The actor lacks the permission.
    NotPermitted,
    /// The actor would grant more than it holds.
    ///
    /// This includes widening a key without the permission to create keys, and creating, widening,
    /// rotating or enabling a key with a [permission](crate::scope::Permission) that the actor
    /// lacks.
    TooWide,
    /// The name is empty, longer than 100 characters, or contains a control character.
    Name,
    /// A name, reason, token, scope, metadata or endpoint URL contains an API key.
    HoldsKey,
    /// The reason is longer than 500 characters, or the token is malformed.
    ///
    /// A token consists of 1 to 128 printable ASCII characters.
    TooLong,
    /// The expiry is not in the future, or later than the service allows.
    Expiry,
    /// The catalog does not permit these scopes for this kind of key.
    ///
    /// Returned with or without a catalog if a scope begins with `api_keys.` or `webhooks.` but
    /// names no [`Permission`](crate::scope::Permission).
    Scopes,
    /// The key may not have these origins.
    ///
    /// The source is a [`ParseError`](crate::error::ParseError), whose
    /// [`entry`](crate::error::ParseError::entry) is the index of the invalid one.
    Origins,
    /// The account has reached its limit of active keys.
    TooManyKeys,
    /// The key is revoked, which is final.
    Revoked,
    /// The key has expired.
    Expired,
    /// The key already has a successor, or a concurrent change came first.
    Conflict,
    /// The key of this create token was pruned. The token creates no other.
    Pruned,
    /// The endpoint does not exist or belongs to another account.
    UnknownEndpoint,
    /// The message does not exist in the endpoint's account and environment, or was deleted.
    UnknownMessage,
    /// The endpoint URL is not allowed; the source says why.
    Url,
    /// The account has reached its limit of endpoints in this environment.
    TooManyEndpoints,
    /// The endpoint has not answered its challenge.
    Unanswered,
    /// A live key requires a live endpoint that has answered its challenge.
    NoWorkingEndpoint,
    /// A [policy](crate::admin::CreatePolicy) of the service rejects the key.
    Policy,
    /// A secret was sealed with a key that is not configured.
    Sealed,
    /// The operating system provided no random bytes.
    Random,
    /// No thread could be started to search a long text.
    Thread,
    /// The store failed.
    Store,
}

impl AdminErrorKind {
    /// Returns the HTTP status that a management API should send.
    ///
    /// It is 403 if the actor is not allowed, 404 if the target does not exist for the actor, 409
    /// if the current state conflicts, 422 if the input is invalid, 503 if the store failed or no
    /// thread could be started, and 500 otherwise.
    ///
    /// ```
    /// use keyward::record::AdminErrorKind;
    ///
    /// assert_eq!(AdminErrorKind::UnknownKey.http_status(), 404);
    /// assert_eq!(AdminErrorKind::TooManyKeys.http_status(), 409);
    /// ```
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::NotPermitted | Self::TooWide | Self::Policy => 403,
            Self::UnknownKey
            | Self::UnknownAccount
            | Self::UnknownEndpoint
            | Self::UnknownMessage => 404,
            Self::TooManyKeys
            | Self::TooManyEndpoints
            | Self::Revoked
            | Self::Expired
            | Self::Conflict
            | Self::Pruned
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

    pub(crate) const fn sentence(self) -> &'static str {
        match self {
            Self::UnknownKey => "no such key",
            Self::UnknownAccount => "no such account",
            Self::NotPermitted => "the actor lacks the permission",
            Self::TooWide => "the key would exceed what the actor may grant",
            Self::Name => "a name has 1 to 100 characters and no control characters",
            Self::HoldsKey => "the text contains an API key",
            Self::TooLong => "a text is too long",
            Self::Expiry => "the expiry is in the past or later than allowed",
            Self::Scopes => "such a key may not have these scopes",
            Self::Origins => "such a key may not have these origins",
            Self::TooManyKeys => "active key limit reached",
            Self::Revoked => "the key is revoked for good",
            Self::Expired => "the key has expired",
            Self::Conflict => "conflicting concurrent change",
            Self::Pruned => "the key of this token was pruned",
            Self::UnknownEndpoint => "no such endpoint",
            Self::UnknownMessage => "no such message",
            Self::Url => "no endpoint may be at this URL",
            Self::TooManyEndpoints => "endpoint limit reached",
            Self::Unanswered => "the endpoint has not answered its challenge",
            Self::NoWorkingEndpoint => "a live key needs a working live endpoint",
            Self::Policy => "a policy of the service does not allow such a key",
            Self::Sealed => "a sealed secret cannot be opened",
            Self::Random => "the operating system returned no random bytes",
            Self::Thread => "no thread could be started",
            Self::Store => "the store failed",
        }
    }
}
