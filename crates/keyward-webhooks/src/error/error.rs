//! Reasons for refusing a delivery, for logs and metrics, not for the sender.

use std::error::Error;
use std::fmt;

use crate::error::WebhookErrorCode;

/// The reason why a delivery was refused, placed in the response's extensions.
///
/// ```
/// use std::time::SystemTime;
/// use keyward_webhooks::error::WebhookErrorKind;
/// use keyward_webhooks::WebhookVerifier;
/// # use keyward::testing::TestRequest;
///
/// let verifier = WebhookVerifier::standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// let error = verifier.verify(&TestRequest::new("POST"), b"{}", SystemTime::now()).unwrap_err();
/// assert_eq!(error.kind(), WebhookErrorKind::Missing);
/// assert_eq!(error.to_string(), "missing signature, id or timestamp");
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebhookError {
    kind: WebhookErrorKind,
}

impl WebhookError {
    pub(crate) const fn new(kind: WebhookErrorKind) -> Self {
        Self { kind }
    }

    /// Returns the reason.
    #[must_use]
    pub const fn kind(&self) -> WebhookErrorKind {
        self.kind
    }
}

impl fmt::Display for WebhookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.reason())
    }
}

impl Error for WebhookError {}

/// The reason of a refusal, finer than the [`WebhookErrorCode`] that the sender receives.
///
/// ```
/// use keyward_webhooks::error::{WebhookErrorCode, WebhookErrorKind};
///
/// assert_eq!(WebhookErrorKind::TooOld.code(), WebhookErrorCode::StaleWebhook);
/// assert_eq!(WebhookErrorKind::TooNew.code(), WebhookErrorCode::StaleWebhook);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WebhookErrorKind {
    /// The expected API key is missing.
    MissingKey,
    /// More than one API key was sent.
    MultipleKeys,
    /// The API key is not the expected one.
    WrongKey,
    /// The signature is missing, or its id or timestamp.
    Missing,
    /// A header is repeated.
    RepeatedHeader,
    /// A header is malformed or too long.
    Malformed,
    /// The timestamp is further in the past than the tolerance.
    TooOld,
    /// The timestamp is further in the future than the tolerance.
    TooNew,
    /// The signature is wrong: another secret, or a modified body or headers.
    BadSignature,
    /// The delivery has already been handled.
    Replayed,
    /// The delivery is currently being handled.
    InProgress,
    /// The body exceeds the limit.
    TooLarge,
    /// The body did not arrive within its deadline.
    TooSlow,
    /// The bodies in transit exceed their total limit.
    Crowded,
    /// The body ended early.
    Unreadable,
    /// The body is signed, but is not the JSON that the handler expects.
    InvalidJson,
    /// The replay memory is full or did not answer.
    Unavailable,
    /// The async runtime has no timer, so the deadline of the body cannot be enforced.
    NoTimer,
}

impl WebhookErrorKind {
    /// Returns the code that is sent to the sender.
    #[must_use]
    pub const fn code(self) -> WebhookErrorCode {
        match self {
            Self::MissingKey => WebhookErrorCode::MissingApiKey,
            Self::MultipleKeys => WebhookErrorCode::MultipleApiKeys,
            Self::WrongKey => WebhookErrorCode::InvalidApiKey,
            Self::Missing => WebhookErrorCode::MissingWebhookSignature,
            Self::RepeatedHeader | Self::Malformed | Self::Unreadable => {
                WebhookErrorCode::MalformedWebhook
            }
            Self::TooOld | Self::TooNew => WebhookErrorCode::StaleWebhook,
            Self::BadSignature => WebhookErrorCode::InvalidWebhookSignature,
            Self::Replayed | Self::InProgress => WebhookErrorCode::ReplayedWebhook,
            Self::TooLarge => WebhookErrorCode::WebhookTooLarge,
            Self::TooSlow => WebhookErrorCode::WebhookTimeout,
            Self::InvalidJson => WebhookErrorCode::InvalidWebhookJson,
            Self::Crowded | Self::Unavailable | Self::NoTimer => {
                WebhookErrorCode::WebhookUnavailable
            }
        }
    }

    const fn reason(self) -> &'static str {
        match self {
            Self::MissingKey => "missing API key",
            Self::MultipleKeys => "more than one API key",
            Self::WrongKey => "not the expected API key",
            Self::Missing => "missing signature, id or timestamp",
            Self::RepeatedHeader => "a header is repeated",
            Self::Malformed => "a header is malformed or too long",
            Self::TooOld => "the timestamp is too old",
            Self::TooNew => "the timestamp is too far in the future",
            Self::BadSignature => "the signature matches no known secret",
            Self::Replayed => "already handled",
            Self::InProgress => "currently being handled",
            Self::TooLarge => "the body exceeds the limit",
            Self::TooSlow => "the body did not arrive in time",
            Self::Crowded => "the bodies in transit exceed their total limit",
            Self::Unreadable => "the body ended early",
            Self::InvalidJson => "the body is not the expected JSON",
            Self::Unavailable => "the replay memory is full or did not answer",
            Self::NoTimer => "the async runtime has no timer for the deadline of the body",
        }
    }
}

/// The error of building a [`WebhookReceiver`](crate::receive::WebhookReceiver).
///
/// ```
/// use keyward::Replies;
/// use keyward::reply::ErrorJson;
/// use keyward_webhooks::error::{ReceiverErrorKind, WebhookErrorCode};
/// use keyward_webhooks::{WebhookReceiver, WebhookVerifier};
///
/// let verifier = WebhookVerifier::standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// let replies = Replies::new(ErrorJson).status(WebhookErrorCode::StaleWebhook, 200);
/// let error = WebhookReceiver::builder(verifier).replies(replies).build().unwrap_err();
/// assert_eq!(error.kind(), ReceiverErrorKind::Replies);
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ReceiverError {
    kind: ReceiverErrorKind,
}

impl ReceiverError {
    pub(crate) const fn new(kind: ReceiverErrorKind) -> Self {
        Self { kind }
    }

    /// Returns the kind of error.
    #[must_use]
    pub const fn kind(&self) -> ReceiverErrorKind {
        self.kind
    }
}

impl fmt::Display for ReceiverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ReceiverErrorKind::Locations => "two locations claim the same API key",
            ReceiverErrorKind::Replies => {
                "a status is mapped to another class, or the content type cannot be sent in a header"
            }
        })
    }
}

impl Error for ReceiverError {}

/// The kind of a [`ReceiverError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReceiverErrorKind {
    /// Two locations claim the same API key.
    Locations,
    /// A status is mapped to another class, or the content type is not valid.
    Replies,
}
