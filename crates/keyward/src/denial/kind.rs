//! Detailed reasons for refusals.

use crate::denial::ErrorCode;

/// The reason for a refusal, finer than the [`ErrorCode`] that the client receives.
///
/// ```
/// use keyward::denial::{DenialKind, ErrorCode};
///
/// // Guessing does not reveal whether a key ever existed.
/// assert_eq!(DenialKind::Unknown.code(), ErrorCode::InvalidApiKey);
/// assert_eq!(DenialKind::Revoked.code(), ErrorCode::InvalidApiKey);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DenialKind {
    /// No configured location contains a key.
    Missing,
    /// The request contains more than one key, or one key more than once.
    MultipleKeys,
    /// The request contains a key and another credential, and the route accepts only one of them.
    OtherCredential,
    /// The key matches no accepted format.
    Malformed,
    /// The name of an authentication scheme precedes a key that is expected alone.
    SchemeInKey,
    /// The key is enclosed in quotation marks or brackets.
    QuotedKey,
    /// Too many authentications failed from the client's address.
    Throttled,
    /// The gate limits failures by address, but the adapter knows no peer address.
    PeerUnknown,
    /// The store did not answer, or the data in memory is too old.
    Unavailable,
    /// No key has this digest.
    Unknown,
    /// The key belongs to another account than the route.
    ForeignAccount,
    /// The key was revoked, alone or together with all keys of its account.
    Revoked,
    /// The key is disabled.
    Disabled,
    /// The key has expired.
    Expired,
    /// The key is not valid yet: its [`not_before`](crate::record::KeyRecord::not_before) is later.
    NotYetValid,
    /// The account is suspended.
    AccountInactive,
    /// The key's environment differs from that of the route or of the key's own text.
    EnvironmentMismatch,
    /// The kind of key is not accepted on this route.
    KindNotAccepted,
    /// A publishable key was sent in a location for secret keys.
    KindMisplaced,
    /// A secret key was sent in a location for publishable keys.
    ///
    /// It is probably in a web page and therefore leaked. This is the only refusal that is logged
    /// as a warning.
    SecretExposed,
    /// The account's plan does not include API access.
    NoApiAccess,
    /// The key has an origin allowlist, and the request has no `Origin`.
    OriginMissing,
    /// The request's origin is not on the key's allowlist.
    OriginNotAllowed,
    /// The key has an address allowlist, but the adapter knows no peer address.
    ///
    /// This is logged as an error, because the service has to be set up differently: see the [peer
    /// source](crate::gate::GateBuilder::peer) of the adapter.
    AddressUnknown,
    /// The client's address is not on the key's allowlist.
    AddressNotAllowed,
    /// The key lacks a required scope.
    ScopeMissing,
    /// The route costs more than a rate limit of the key allows at once.
    CostTooHigh,
    /// The limiter or the store that holds the credits did not answer.
    LimitUnavailable,
    /// A rate limit of the key is used up.
    RateLimited,
    /// The key or its account has no credits left.
    CreditsExhausted,
}

impl DenialKind {
    /// Returns the code that the client receives.
    ///
    /// Revoked, disabled and expired keys have codes of their own if the service [asks for
    /// that](crate::Replies::tell_dead_keys_apart).
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Missing => ErrorCode::MissingApiKey,
            Self::MultipleKeys | Self::OtherCredential => ErrorCode::MultipleApiKeys,
            Self::Malformed
            | Self::SchemeInKey
            | Self::QuotedKey
            | Self::Unknown
            | Self::ForeignAccount
            | Self::Revoked
            | Self::Disabled
            | Self::Expired
            | Self::NotYetValid => ErrorCode::InvalidApiKey,
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
            Self::AddressUnknown | Self::AddressNotAllowed => ErrorCode::AddressNotAllowed,
            Self::ScopeMissing => ErrorCode::InsufficientScope,
            Self::LimitUnavailable => ErrorCode::RateLimitUnavailable,
            Self::RateLimited => ErrorCode::RateLimited,
            Self::CreditsExhausted => ErrorCode::CreditsExhausted,
        }
    }

    /// The kinds whose text is more specific than that of their code.
    pub(crate) const WITH_OWN_TEXT: [Self; 8] = [
        Self::OtherCredential,
        Self::SchemeInKey,
        Self::QuotedKey,
        Self::KindNotAccepted,
        Self::KindMisplaced,
        Self::SecretExposed,
        Self::NoApiAccess,
        Self::CostTooHigh,
    ];

    /// Returns whether the refusal is about the form of the key.
    pub(crate) const fn is_of_form(self) -> bool {
        matches!(self, Self::Malformed | Self::SchemeInKey | Self::QuotedKey)
    }

    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Missing => "no key",
            Self::MultipleKeys => "more than one key",
            Self::OtherCredential => "a key and another credential",
            Self::Malformed => "malformed key",
            Self::SchemeInKey => "authentication scheme before a key that is expected alone",
            Self::QuotedKey => "key in quotation marks or brackets",
            Self::Throttled => "too many failed authentications from this address",
            Self::PeerUnknown => "no peer address to count failures by",
            Self::Unavailable => "keys in memory are too old",
            Self::Unknown => "unknown key",
            Self::ForeignAccount => "key of another account",
            Self::Revoked => "revoked key",
            Self::Disabled => "disabled key",
            Self::Expired => "expired key",
            Self::NotYetValid => "key that is not valid yet",
            Self::AccountInactive => "account suspended",
            Self::EnvironmentMismatch => "key of another environment",
            Self::KindNotAccepted => "kind of key not accepted on this route",
            Self::KindMisplaced => "publishable key in a location for secret keys",
            Self::SecretExposed => "secret key in a location for publishable keys, probably leaked",
            Self::NoApiAccess => "plan without API access",
            Self::OriginMissing => "no origin header",
            Self::OriginNotAllowed => "origin not on the allowlist",
            Self::AddressUnknown => {
                "no peer address to compare with the allowlist of the key; serve with connect info, or set a source with `GateBuilder::peer`"
            }
            Self::AddressNotAllowed => "address not on the allowlist",
            Self::ScopeMissing => "missing scope",
            Self::CostTooHigh => "cost exceeds what a rate limit allows at once",
            Self::LimitUnavailable => "limiter or store does not answer",
            Self::RateLimited => "rate limit used up",
            Self::CreditsExhausted => "no credits left",
        }
    }
}
