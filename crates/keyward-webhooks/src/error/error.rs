//! Why a delivery was not accepted: for logs and metrics, not for the sender.

use std::error::Error;
use std::fmt;

use crate::error::WebhookErrorCode;

/// Why a delivery was not accepted. An adapter puts it into the response's extensions.
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
/// assert_eq!(error.to_string(), "no signature, or no id or timestamp with it");
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

    /// The reason.
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

/// The reason, finer than the [`WebhookErrorCode`] that the sender reads.
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
    /// The API key that the receiver expects is not there.
    KeyMissing,
    /// There is more than one API key.
    KeySeveral,
    /// It is not the API key that the receiver expects.
    KeyWrong,
    /// No signature, or no id or timestamp with it.
    Missing,
    /// A field is there twice.
    Doubled,
    /// A field does not have its form, or is longer than its bound.
    Malformed,
    /// The timestamp is further back than the tolerance.
    TooOld,
    /// The timestamp is further ahead than the tolerance.
    TooNew,
    /// No signature is that of any secret: wrong secret, or body or fields were changed.
    BadSignature,
    /// It has been handled already.
    Replayed,
    /// It is being handled at this moment.
    InHand,
    /// The body is over the limit.
    TooLarge,
    /// The body did not arrive within its time.
    TooSlow,
    /// The bodies that are under way together are over their limit.
    Crowded,
    /// The body broke off.
    Unreadable,
    /// The body is signed, and is not the JSON that the handler takes.
    InvalidJson,
    /// The memory of what has been handled is full, or did not answer.
    Unavailable,
    /// The async runtime has no timer, so the deadline of the body cannot be kept.
    NoTimer,
}

impl WebhookErrorKind {
    /// What the sender is told.
    #[must_use]
    pub const fn code(self) -> WebhookErrorCode {
        match self {
            Self::KeyMissing => WebhookErrorCode::MissingApiKey,
            Self::KeySeveral => WebhookErrorCode::MultipleApiKeys,
            Self::KeyWrong => WebhookErrorCode::InvalidApiKey,
            Self::Missing => WebhookErrorCode::MissingWebhookSignature,
            Self::Doubled | Self::Malformed | Self::Unreadable => {
                WebhookErrorCode::MalformedWebhook
            }
            Self::TooOld | Self::TooNew => WebhookErrorCode::StaleWebhook,
            Self::BadSignature => WebhookErrorCode::InvalidWebhookSignature,
            Self::Replayed | Self::InHand => WebhookErrorCode::ReplayedWebhook,
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
            Self::KeyMissing => "no key",
            Self::KeySeveral => "more than one key",
            Self::KeyWrong => "another key than the one expected",
            Self::Missing => "no signature, or no id or timestamp with it",
            Self::Doubled => "a field is there twice",
            Self::Malformed => "a field is malformed or too long",
            Self::TooOld => "the timestamp is too old",
            Self::TooNew => "the timestamp is too far ahead",
            Self::BadSignature => "the signature is of no known secret",
            Self::Replayed => "handled already",
            Self::InHand => "being handled at this moment",
            Self::TooLarge => "the body is over the limit",
            Self::TooSlow => "the body did not arrive within its time",
            Self::Crowded => "the bodies under way together are over their limit",
            Self::Unreadable => "the body broke off",
            Self::InvalidJson => "the body is not the JSON that is expected",
            Self::Unavailable => "the replay memory is full or does not answer",
            Self::NoTimer => "the async runtime has no timer for the deadline of the body",
        }
    }
}

/// The error of a [`WebhookReceiver`](crate::receive::WebhookReceiver) that cannot be built.
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
    /// A status is mapped to another class, or the content type cannot be sent in a header.
    Replies,
}
