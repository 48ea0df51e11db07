//! The error codes in replies to refused deliveries.

use keyward::denial::ErrorCode;
use keyward::reply::{Replies, Reply, ReplyCode};
use keyward::request::KeyLocation;

/// The realm of the challenges (RFC 9110 §11.5).
const REALM: &str = "webhook";

/// RFC 9110 §11.6.1 requires a challenge in every 401, and none is registered for signatures.
const CHALLENGE: &str = r#"WebhookSignature realm="webhook""#;

/// The `code` in the body of the reply to a refused delivery.
///
/// ```text
/// HTTP/1.1 401 Unauthorized
/// cache-control: no-store
/// content-type: application/problem+json
/// www-authenticate: WebhookSignature realm="webhook"
///
/// {"type":"about:blank","title":"Unauthorized","status":401,"detail":"The signature does not match the body. Check the secret, and sign the bytes that are sent.","code":"invalid_webhook_signature"}
/// ```
///
/// ```
/// use keyward_webhooks::error::WebhookErrorCode;
///
/// assert_eq!(WebhookErrorCode::StaleWebhook.as_str(), "stale_webhook");
/// assert_eq!(WebhookErrorCode::StaleWebhook.status(), 401);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WebhookErrorCode {
    /// 401 `missing_api_key`, if the receiver expects a key
    MissingApiKey,
    /// 400 `multiple_api_keys`
    MultipleApiKeys,
    /// 401 `invalid_api_key`
    InvalidApiKey,
    /// 401 `missing_webhook_signature`
    MissingWebhookSignature,
    /// 401 `invalid_webhook_signature`: wrong secret or modified body
    InvalidWebhookSignature,
    /// 401 `stale_webhook`: the timestamp is too far in the past or the future
    StaleWebhook,
    /// 400 `malformed_webhook`
    MalformedWebhook,
    /// 400 `invalid_webhook_json`
    InvalidWebhookJson,
    /// 413 `webhook_too_large`
    WebhookTooLarge,
    /// 408 `webhook_timeout`
    WebhookTimeout,
    /// 409 `replayed_webhook`: already handled, or currently being handled
    ReplayedWebhook,
    /// 503 `webhook_unavailable`
    WebhookUnavailable,
}

impl WebhookErrorCode {
    const ALL: [Self; 12] = [
        Self::MissingApiKey,
        Self::MultipleApiKeys,
        Self::InvalidApiKey,
        Self::MissingWebhookSignature,
        Self::InvalidWebhookSignature,
        Self::StaleWebhook,
        Self::MalformedWebhook,
        Self::InvalidWebhookJson,
        Self::WebhookTooLarge,
        Self::WebhookTimeout,
        Self::ReplayedWebhook,
        Self::WebhookUnavailable,
    ];

    /// Returns the equivalent code of a gate, if this code is about the API key.
    const fn about_key(self) -> Option<ErrorCode> {
        match self {
            Self::MissingApiKey => Some(ErrorCode::MissingApiKey),
            Self::MultipleApiKeys => Some(ErrorCode::MultipleApiKeys),
            Self::InvalidApiKey => Some(ErrorCode::InvalidApiKey),
            _ => None,
        }
    }

    /// Returns the code as sent in the body.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingApiKey => ErrorCode::MissingApiKey.as_str(),
            Self::MultipleApiKeys => ErrorCode::MultipleApiKeys.as_str(),
            Self::InvalidApiKey => ErrorCode::InvalidApiKey.as_str(),
            Self::MissingWebhookSignature => "missing_webhook_signature",
            Self::InvalidWebhookSignature => "invalid_webhook_signature",
            Self::StaleWebhook => "stale_webhook",
            Self::MalformedWebhook => "malformed_webhook",
            Self::InvalidWebhookJson => "invalid_webhook_json",
            Self::WebhookTooLarge => "webhook_too_large",
            Self::WebhookTimeout => "webhook_timeout",
            Self::ReplayedWebhook => "replayed_webhook",
            Self::WebhookUnavailable => "webhook_unavailable",
        }
    }

    /// Returns the HTTP status, unless the receiver's [`Replies`] map it to another one.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::MultipleApiKeys | Self::MalformedWebhook | Self::InvalidWebhookJson => 400,
            Self::MissingApiKey
            | Self::InvalidApiKey
            | Self::MissingWebhookSignature
            | Self::InvalidWebhookSignature
            | Self::StaleWebhook => 401,
            Self::WebhookTimeout => 408,
            Self::ReplayedWebhook => 409,
            Self::WebhookTooLarge => 413,
            Self::WebhookUnavailable => 503,
        }
    }

    const fn detail(self) -> &'static str {
        match self {
            Self::MissingApiKey => ErrorCode::MissingApiKey.detail(),
            Self::MultipleApiKeys => ErrorCode::MultipleApiKeys.detail(),
            Self::InvalidApiKey => ErrorCode::InvalidApiKey.detail(),
            Self::MissingWebhookSignature => {
                "Sign the delivery: it needs its id, its timestamp and its signature, as the docs say."
            }
            Self::InvalidWebhookSignature => {
                "The signature does not match the body. Check the secret, and sign the bytes that are sent."
            }
            Self::StaleWebhook => {
                "The timestamp is more than five minutes off. Check the clock, and sign each attempt anew."
            }
            Self::MalformedWebhook => {
                "A field of the delivery is malformed or there twice, or its body broke off."
            }
            Self::InvalidWebhookJson => "The body is not the JSON that is expected here.",
            Self::WebhookTooLarge => "The body is larger than is accepted here.",
            Self::WebhookTimeout => "The body took too long to arrive. Send the delivery again.",
            Self::ReplayedWebhook => {
                "This delivery has been received before, or is being handled at this moment."
            }
            Self::WebhookUnavailable => "Deliveries cannot be taken at the moment: try again.",
        }
    }
}

impl ReplyCode for WebhookErrorCode {
    fn as_str(self) -> &'static str {
        self.as_str()
    }

    fn status(self) -> u16 {
        self.status()
    }

    fn detail(self) -> &'static str {
        self.detail()
    }
}

/// The reply for each code, rendered when the receiver is built.
pub(crate) struct ReceiverReplies(Vec<Reply>);

impl ReceiverReplies {
    pub(crate) fn rendered(replies: &Replies, locations: &[KeyLocation]) -> Self {
        let render = |code: WebhookErrorCode| match code.about_key() {
            Some(code) => replies.render_key_error(code, REALM, locations),
            None => replies.render(code, &[CHALLENGE]),
        };
        Self(WebhookErrorCode::ALL.map(render).into())
    }

    pub(crate) fn of(&self, code: WebhookErrorCode) -> Reply {
        match self.0.get(code as usize) {
            Some(reply) => reply.clone(),
            None => Reply::new(500, Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_list_at_its_place() {
        for (at, code) in WebhookErrorCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, at);
        }
        let last = WebhookErrorCode::WebhookUnavailable as usize;
        assert_eq!(last + 1, WebhookErrorCode::ALL.len());
    }
}
