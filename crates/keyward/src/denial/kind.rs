//! The reason why a request was refused.

use crate::denial::ErrorCode;

/// The reason of a refusal, finer than the [`ErrorCode`] that the client reads.
///
/// ```
/// use keyward::denial::{DenialKind, ErrorCode};
///
/// // A guess must not tell whether there was such a key.
/// assert_eq!(DenialKind::Unknown.code(), ErrorCode::InvalidApiKey);
/// assert_eq!(DenialKind::Revoked.code(), ErrorCode::InvalidApiKey);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenialKind {
    /// No configured location holds a key.
    Missing,
    /// More than one key, or one key more than once.
    MultipleKeys,
    /// What stands in the key's place is not of any accepted format.
    Malformed,
    /// The name of an authentication scheme stands before the key, where the key must stand alone.
    SchemeInKey,
    /// The key stands in quotation marks or brackets.
    QuotedKey,
    /// Too many failures came from the client's address.
    Throttled,
    /// The gate limits failures by address, and the adapter knows no peer address.
    PeerUnknown,
    /// The store did not answer, or its last answer is too old.
    Unavailable,
    /// No key has this digest.
    Unknown,
    /// The key is of another account than the route.
    ForeignAccount,
    /// The key is revoked, alone or with all others of its account.
    Revoked,
    /// The key is switched off.
    Disabled,
    /// The key has expired.
    Expired,
    /// The account is suspended.
    AccountInactive,
    /// The key is of another environment than the route, or than its own text says.
    EnvironmentMismatch,
    /// The key is of a kind that is not accepted on this route.
    KindNotAccepted,
    /// The key is publishable and stands in a place for secret ones.
    KindMisplaced,
    /// The key is secret and stands in a place for publishable ones.
    ///
    /// It is probably in a page, and leaked: the one refusal that is logged as a warning.
    SecretExposed,
    /// The account's plan does not include the API.
    NoApiAccess,
    /// The key has an origin list and the request no origin.
    OriginMissing,
    /// The request's origin is not on the key's list.
    OriginNotAllowed,
    /// The key lacks a scope.
    ScopeMissing,
    /// A limit of the key lets less pass at once than the route costs.
    CostTooHigh,
    /// The limiter, or the store that keeps the credits, did not answer.
    LimitUnavailable,
    /// The key has used up one of its limits.
    RateLimited,
    /// The key or its account has no credits left.
    CreditsExhausted,
}

impl DenialKind {
    /// What the client is told, unless the service has dead keys told apart.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Missing => ErrorCode::MissingApiKey,
            Self::MultipleKeys => ErrorCode::MultipleApiKeys,
            Self::Malformed
            | Self::SchemeInKey
            | Self::QuotedKey
            | Self::Unknown
            | Self::ForeignAccount
            | Self::Revoked
            | Self::Disabled
            | Self::Expired => ErrorCode::InvalidApiKey,
            Self::Throttled => ErrorCode::TooManyFailures,
            Self::PeerUnknown => ErrorCode::InternalError,
            Self::Unavailable => ErrorCode::AuthUnavailable,
            Self::AccountInactive => ErrorCode::AccountInactive,
            Self::EnvironmentMismatch => ErrorCode::EnvironmentMismatch,
            Self::KindNotAccepted
            | Self::KindMisplaced
            | Self::SecretExposed
            | Self::NoApiAccess
            | Self::CostTooHigh => ErrorCode::KeyNotAllowed,
            Self::OriginMissing => ErrorCode::OriginRequired,
            Self::OriginNotAllowed => ErrorCode::OriginNotAllowed,
            Self::ScopeMissing => ErrorCode::InsufficientScope,
            Self::LimitUnavailable => ErrorCode::RateLimitUnavailable,
            Self::RateLimited => ErrorCode::RateLimited,
            Self::CreditsExhausted => ErrorCode::CreditsExhausted,
        }
    }

    /// Those for which the client is told more than the code says of all.
    pub(crate) const WITH_OWN_TEXT: [Self; 7] = [
        Self::SchemeInKey,
        Self::QuotedKey,
        Self::KindNotAccepted,
        Self::KindMisplaced,
        Self::SecretExposed,
        Self::NoApiAccess,
        Self::CostTooHigh,
    ];

    /// Whether the text in the key's place is no key.
    pub(crate) const fn is_of_form(self) -> bool {
        matches!(self, Self::Malformed | Self::SchemeInKey | Self::QuotedKey)
    }

    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Missing => "no key",
            Self::MultipleKeys => "more than one key",
            Self::Malformed => "malformed key",
            Self::SchemeInKey => "a scheme before the key, where the key must stand alone",
            Self::QuotedKey => "a key in quotation marks or brackets",
            Self::Throttled => "too many failures from this address",
            Self::PeerUnknown => "no peer address, by which failures are counted",
            Self::Unavailable => "the keys in memory are too old",
            Self::Unknown => "unknown key",
            Self::ForeignAccount => "key of another account",
            Self::Revoked => "revoked key",
            Self::Disabled => "disabled key",
            Self::Expired => "expired key",
            Self::AccountInactive => "account suspended",
            Self::EnvironmentMismatch => "key of another environment",
            Self::KindNotAccepted => "kind of key not accepted here",
            Self::KindMisplaced => "publishable key in a place for secret ones",
            Self::SecretExposed => "secret key in a place for publishable ones, probably leaked",
            Self::NoApiAccess => "plan without API access",
            Self::OriginMissing => "no origin",
            Self::OriginNotAllowed => "origin not on the list",
            Self::ScopeMissing => "scope missing",
            Self::CostTooHigh => "a limit lets less pass at once than this costs",
            Self::LimitUnavailable => "the limiter or the store does not answer",
            Self::RateLimited => "rate limit used up",
            Self::CreditsExhausted => "no credits left",
        }
    }
}
