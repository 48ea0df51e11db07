//! The record and the outcome of a delivery attempt.

use std::time::{Duration, SystemTime};

use keyward::__named as named;

use crate::send::EndpointId;
use crate::signature::WebhookId;

/// An attempt to deliver a message and its outcome, as a store keeps it.
///
/// Nothing of the request and only the status of the response is kept.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use keyward_webhooks::send::{AttemptOutcome, DeliveryAttempt, EndpointId};
/// use keyward_webhooks::signature::WebhookId;
///
/// let (message, endpoint) = (WebhookId::random()?, EndpointId::random()?);
/// let attempt = DeliveryAttempt {
///     number: 0,
///     message,
///     endpoint,
///     attempt: 1,
///     at: SystemTime::now(),
///     took: Duration::from_millis(83),
///     outcome: AttemptOutcome::of_status(503),
///     status: Some(503),
///     last: false,
/// };
/// assert_eq!(attempt.outcome, AttemptOutcome::Refused);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct DeliveryAttempt {
    /// The number of the attempt among all; set by the store. Zero: not stored yet.
    pub number: u64,
    /// The message.
    pub message: WebhookId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The number of this attempt for its delivery, from 1.
    ///
    /// It counts attempts of processes that ended before they could record an outcome.
    pub attempt: u32,
    /// The start of the attempt.
    pub at: SystemTime,
    /// The duration of the attempt.
    pub took: Duration,
    /// The outcome.
    pub outcome: AttemptOutcome,
    /// The status of the response, if there was one.
    pub status: Option<u16>,
    /// `true` for the final attempt: the message was delivered or given up.
    ///
    /// More follow only if the message is [redelivered](crate::admin::WebhookAdmin::redeliver).
    pub last: bool,
}

/// The outcome of a delivery attempt.
///
/// ```
/// use keyward_webhooks::send::AttemptOutcome;
///
/// assert_eq!(AttemptOutcome::of_status(204), AttemptOutcome::Delivered);
/// assert_eq!(AttemptOutcome::of_status(308), AttemptOutcome::Redirected); // not followed
/// assert_eq!(AttemptOutcome::of_status(410), AttemptOutcome::Gone);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// The receiver answered 2xx.
    Delivered,
    /// The receiver answered with another status.
    Refused,
    /// The receiver answered 3xx. Redirects are never followed, as they may lead to internal
    /// addresses.
    Redirected,
    /// The receiver answered 410. The endpoint is disabled.
    Gone,
    /// The receiver did not answer in time.
    TimedOut,
    /// The connection failed or was closed early.
    Unreachable,
    /// The host has no public address, or the [rules](crate::send::EndpointRules) forbid the URL.
    NotPublic,
    /// The endpoint's secret could not be opened, or the HTTP client rejects its URL.
    NotSendable,
}

named! {
    AttemptOutcome, "attempt outcome":
    Delivered = "delivered",
    Refused = "refused",
    Redirected = "redirected",
    Gone = "gone",
    TimedOut = "timed_out",
    Unreachable = "unreachable",
    NotPublic = "not_public",
    NotSendable = "not_sendable",
}

impl AttemptOutcome {
    /// Returns the outcome for a response with this status.
    #[must_use]
    pub const fn of_status(status: u16) -> Self {
        match status {
            200..300 => Self::Delivered,
            300..400 => Self::Redirected,
            410 => Self::Gone,
            _ => Self::Refused,
        }
    }
}
