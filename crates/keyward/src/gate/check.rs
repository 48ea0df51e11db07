//! The list of a gate's checks, in the order of evaluation.
//!
//! They are made in `prove` (up to `Known`), `judge` (up to `Scopes`) and `charging`; `explain` goes
//! through all of them.

/// A check of the gate; the variants are in the order of evaluation.
///
/// ```
/// use keyward::gate::Check;
///
/// assert!(Check::Known < Check::Scopes);
/// assert_eq!(Check::Scopes.as_str(), "the scopes of the route");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Check {
    /// The request has exactly one key, in one place.
    Credential,
    /// The key has an accepted format.
    Form,
    /// The client's address has not failed too often (brute-force protection).
    Throttle,
    /// The memory is fresh enough.
    Freshness,
    /// The key is in memory.
    Known,
    /// The key belongs to the route's account.
    Account,
    /// The key is not revoked, disabled or expired.
    Alive,
    /// The account is not suspended.
    AccountActive,
    /// The environment in the key's text is that of its record.
    KeyEnvironment,
    /// The route serves the key's environment.
    Environment,
    /// The key is in a place where its kind is allowed.
    Place,
    /// The route accepts the kind of key.
    Kind,
    /// The account's plan includes the API.
    Plan,
    /// The origin of the page is on the key's allowlist.
    Origin,
    /// The client's address is on the key's allowlist.
    Address,
    /// The key has the scopes of the route.
    Scopes,
    /// The rate limits are not exceeded.
    RateLimit,
    /// The key has credits left.
    Credits,
}

impl Check {
    /// Returns a description of what is checked.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Credential => "one key in one place",
            Self::Form => "its form",
            Self::Throttle => "failures from the address",
            Self::Freshness => "how fresh the memory is",
            Self::Known => "a known key",
            Self::Account => "the account of the route",
            Self::Alive => "not revoked, disabled or expired",
            Self::AccountActive => "an active account",
            Self::KeyEnvironment => "the environment in its text",
            Self::Environment => "the environment of the route",
            Self::Place => "the place for its kind",
            Self::Kind => "the kinds of the route",
            Self::Plan => "a plan with the API",
            Self::Origin => "the origins of the key",
            Self::Address => "the addresses of the key",
            Self::Scopes => "the scopes of the route",
            Self::RateLimit => "the rate limits",
            Self::Credits => "the credits",
        }
    }

    /// Returns whether it checks a requirement of the route, rather than the key itself.
    pub(super) const fn is_demanded(self) -> bool {
        matches!(self, Self::Environment | Self::Kind | Self::Scopes)
    }
}
