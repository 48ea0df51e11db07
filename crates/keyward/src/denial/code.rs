//! Error codes of refusals.

/// The error code that a client receives, as `code` in the default body.
///
/// A complete response with the default body and locations:
///
/// ```text
/// HTTP/1.1 401 Unauthorized
/// cache-control: no-store
/// content-type: application/problem+json
/// www-authenticate: ApiKey realm="api", error="invalid_token"
/// www-authenticate: Bearer realm="api", error="invalid_token"
///
/// {"type":"about:blank","title":"Unauthorized","status":401,"detail":"The API key is not valid. Check that it is complete; if it has been revoked or has expired, create a new one.","code":"invalid_api_key"}
/// ```
///
/// Every 401, the 400, and `insufficient_scope` carry a challenge for each scheme in which the
/// route accepts a key (RFC 9110 §11.6.1, RFC 6750 §3). Its `error` is `invalid_token`, but
/// `invalid_request` in the 400 and `insufficient_scope` for a missing scope, which `scope` then
/// names. It is absent if no key was sent. A 503 also carries `retry-after: 1`. A 429 for failures
/// or a rate limit carries the seconds to wait in `retry-after`. The two codes about origins carry
/// `vary: Origin`.
///
/// On a route that is [declared as gRPC](crate::gate::Requirement::grpc), a gRPC call (a `POST`
/// with the content type `application/grpc` or one of gRPC-Web) gets the same refusal in gRPC form:
/// a trailers-only response with the text as its message. 400 becomes `INVALID_ARGUMENT`, 401
/// `UNAUTHENTICATED`, 403 `PERMISSION_DENIED`, 429 `RESOURCE_EXHAUSTED`, 503 `UNAVAILABLE` and 500
/// `INTERNAL`. The metadata includes `retry-after` and the rate limit headers:
///
/// ```text
/// HTTP/2 200
/// cache-control: no-store
/// content-type: application/grpc
/// grpc-status: 16
/// grpc-message: The API key is not valid. Check that it is complete; if it has been revoked or has expired, create a new one.
/// ```
///
/// ```
/// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore};
/// # use keyward::gate::{Decision, Verdict};
/// # use keyward::testing::TestRequest;
/// # let store = MemoryStore::new();
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let gate = Gate::new(&store, &scheme)?;
/// # let decision = gate.check(&TestRequest::get().key("nonsense"), &std::sync::Arc::default(), None);
/// # let Decision::Ready(Verdict::Refuse(refusal)) = decision else { panic!("{decision:?}") };
/// # let mut shown = refusal.reply.headers().map(|(name, value)| format!("{name}: {value}"));
/// # assert_eq!(shown.next().as_deref(), Some("cache-control: no-store"));
/// # assert_eq!(shown.next().as_deref(), Some("content-type: application/problem+json"));
/// # assert_eq!(shown.next().as_deref(), Some(r#"www-authenticate: ApiKey realm="api", error="invalid_token""#));
/// # assert_eq!(shown.next().as_deref(), Some(r#"www-authenticate: Bearer realm="api", error="invalid_token""#));
/// # assert_eq!((refusal.reply.status(), shown.next()), (401, None));
/// # assert_eq!(refusal.reply.body(), br#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"The API key is not valid. Check that it is complete; if it has been revoked or has expired, create a new one.","code":"invalid_api_key"}"#);
/// use keyward::denial::ErrorCode;
///
/// assert_eq!(ErrorCode::InvalidApiKey.as_str(), "invalid_api_key");
/// assert_eq!(ErrorCode::InvalidApiKey.status(), 401);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// 401 `missing_api_key`: the request contains no key.
    MissingApiKey,
    /// 400 `multiple_api_keys`: the request contains more than one key.
    MultipleApiKeys,
    /// 401 `invalid_api_key`: the key is malformed, unknown, revoked, disabled, expired, not valid
    /// yet, or of another account.
    InvalidApiKey,
    /// 401 `revoked_api_key`, if the service [reports dead
    /// keys](crate::Replies::tell_dead_keys_apart).
    RevokedApiKey,
    /// 401 `disabled_api_key`, if the service [reports dead
    /// keys](crate::Replies::tell_dead_keys_apart).
    DisabledApiKey,
    /// 401 `expired_api_key`, if the service [reports dead
    /// keys](crate::Replies::tell_dead_keys_apart).
    ExpiredApiKey,
    /// 503 `auth_unavailable`: the store does not answer, or the data in memory is too old.
    AuthUnavailable,
    /// 403 `account_inactive`: the account is suspended.
    AccountInactive,
    /// 401 `environment_mismatch`: the key belongs to another environment.
    EnvironmentMismatch,
    /// 403 `key_not_allowed`: the kind of key, its location or the account's plan is not accepted.
    KeyNotAllowed,
    /// 403 `origin_required`: the key has an origin allowlist, and the request has no `Origin`.
    OriginRequired,
    /// 403 `origin_not_allowed`: the origin is not on the key's allowlist.
    OriginNotAllowed,
    /// 403 `address_not_allowed`: the client's address is not on the key's allowlist, or unknown.
    AddressNotAllowed,
    /// 403 `insufficient_scope`: the key lacks a required scope.
    InsufficientScope,
    /// 429 `too_many_failures`: too many authentications failed from the client's address.
    TooManyFailures,
    /// 503 `rate_limit_unavailable`: the limiter or the credits cannot be reached.
    RateLimitUnavailable,
    /// 429 `rate_limited`: a rate limit is used up.
    RateLimited,
    /// 429 `credits_exhausted`: no credits are left.
    CreditsExhausted,
    /// 500 `internal_error`: the service is misconfigured; its log has the reason.
    InternalError,
}

impl ErrorCode {
    pub(crate) const ALL: [Self; 19] = [
        Self::MissingApiKey,
        Self::MultipleApiKeys,
        Self::InvalidApiKey,
        Self::RevokedApiKey,
        Self::DisabledApiKey,
        Self::ExpiredApiKey,
        Self::AuthUnavailable,
        Self::AccountInactive,
        Self::EnvironmentMismatch,
        Self::KeyNotAllowed,
        Self::OriginRequired,
        Self::OriginNotAllowed,
        Self::AddressNotAllowed,
        Self::InsufficientScope,
        Self::TooManyFailures,
        Self::RateLimitUnavailable,
        Self::RateLimited,
        Self::CreditsExhausted,
        Self::InternalError,
    ];

    /// Returns the code as written in the body.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingApiKey => "missing_api_key",
            Self::MultipleApiKeys => "multiple_api_keys",
            Self::InvalidApiKey => "invalid_api_key",
            Self::RevokedApiKey => "revoked_api_key",
            Self::DisabledApiKey => "disabled_api_key",
            Self::ExpiredApiKey => "expired_api_key",
            Self::AuthUnavailable => "auth_unavailable",
            Self::AccountInactive => "account_inactive",
            Self::EnvironmentMismatch => "environment_mismatch",
            Self::KeyNotAllowed => "key_not_allowed",
            Self::OriginRequired => "origin_required",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::InsufficientScope => "insufficient_scope",
            Self::TooManyFailures => "too_many_failures",
            Self::RateLimitUnavailable => "rate_limit_unavailable",
            Self::RateLimited => "rate_limited",
            Self::CreditsExhausted => "credits_exhausted",
            Self::InternalError => "internal_error",
        }
    }

    /// Returns the default HTTP status, which [`Replies::status`](crate::Replies::status) can
    /// change.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::MultipleApiKeys => 400,
            Self::MissingApiKey
            | Self::InvalidApiKey
            | Self::RevokedApiKey
            | Self::DisabledApiKey
            | Self::ExpiredApiKey
            | Self::EnvironmentMismatch => 401,
            Self::AccountInactive
            | Self::KeyNotAllowed
            | Self::OriginRequired
            | Self::OriginNotAllowed
            | Self::AddressNotAllowed
            | Self::InsufficientScope => 403,
            Self::TooManyFailures | Self::RateLimited | Self::CreditsExhausted => 429,
            Self::InternalError => 500,
            Self::AuthUnavailable | Self::RateLimitUnavailable => 503,
        }
    }

    /// Returns the `error` of the challenge (RFC 6750 §3.1); `None` if the client sent no key.
    pub(crate) const fn challenge_error(self) -> Option<&'static str> {
        match self {
            Self::MissingApiKey => None,
            Self::MultipleApiKeys => Some("invalid_request"),
            Self::InsufficientScope => Some("insufficient_scope"),
            _ => Some("invalid_token"),
        }
    }

    /// Returns whether the response carries a challenge even if its status is not 401.
    pub(crate) const fn always_challenges(self) -> bool {
        matches!(self, Self::MultipleApiKeys | Self::InsufficientScope)
    }

    pub(crate) const fn depends_on_origin(self) -> bool {
        matches!(self, Self::OriginRequired | Self::OriginNotAllowed)
    }

    /// Returns what the client should do. Two texts are completed with the locations or scopes.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::MissingApiKey => "Send an API key as ",
            Self::MultipleApiKeys => {
                "Send exactly one API key, once and in one place: the request holds several."
            }
            Self::InvalidApiKey => {
                "The API key is not valid. Check that it is complete; if it has been revoked or has expired, create a new one."
            }
            Self::RevokedApiKey => "The API key has been revoked. Create a new one.",
            Self::DisabledApiKey => "The API key is disabled. Enable it or use another.",
            Self::ExpiredApiKey => "The API key has expired. Create a new one.",
            Self::AuthUnavailable => {
                "API keys cannot be checked at the moment. The key may well be good: try again."
            }
            Self::AccountInactive => "The account that owns the API key is not active.",
            Self::EnvironmentMismatch => {
                "The API key belongs to another environment than this endpoint, such as a test key where a live key is needed."
            }
            Self::KeyNotAllowed => {
                "This kind of API key is not accepted here, or the account's plan does not include the API."
            }
            Self::OriginRequired => {
                "The API key is restricted to certain web pages and the request has no Origin."
            }
            Self::OriginNotAllowed => {
                "The API key may not be used from this web page. Add its origin to the key's allowed domains."
            }
            Self::AddressNotAllowed => {
                "The API key may not be used from this network address. Add the address to the key's allowlist, or send the request from one that is on it."
            }
            Self::InsufficientScope => "The API key lacks a scope that is required here: ",
            Self::TooManyFailures => {
                "Too many requests with keys that are not valid came from this address. Check the key and wait."
            }
            Self::RateLimitUnavailable => "Limits cannot be checked at the moment. Try again.",
            Self::RateLimited => {
                "The API key has used up its rate limit. Wait as long as Retry-After says."
            }
            Self::CreditsExhausted => "The API key has no credits left. Add some to go on.",
            Self::InternalError => "The service cannot check API keys as it is set up.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_list_at_its_place() {
        for (at, code) in ErrorCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, at);
        }
        assert_eq!(ErrorCode::InternalError as usize + 1, ErrorCode::ALL.len());
    }
}
