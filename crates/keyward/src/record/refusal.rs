//! The reason why a management call was refused, as the audit log keeps it.

/// Which error it is. Each has a name, under which the audit trail keeps it.
///
/// ```
/// assert_eq!(keyward::record::AdminErrorKind::TooWide.as_str(), "too_wide");
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
    /// widen, rotate or enable a key with a [permission](crate::scope::Permission) that it lacks itself.
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
    /// that of no [`Permission`](crate::scope::Permission).
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
    /// A [policy](crate::admin::CreatePolicy) of the service does not allow such a key.
    Policy,
    /// A secret was sealed with a key that is not there.
    Sealed,
    /// The operating system gave no random bytes.
    Random,
    /// No thread could be started to search a long text.
    Thread,
    /// The store failed.
    Store,
}

impl AdminErrorKind {
    /// The HTTP status that a management API should answer with.
    ///
    /// 403 where the actor may not, 404 where there is no such thing for him, 409 where what is there
    /// stands against it, 422 where what was sent is not valid, 503 where the store failed or no thread could be started, and 500.
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
            Self::Policy => "a policy of the service does not allow such a key",
            Self::Sealed => "a secret cannot be opened",
            Self::Random => "nothing random could be generated",
            Self::Thread => "no thread could be started",
            Self::Store => "the store failed",
        }
    }
}
