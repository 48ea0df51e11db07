//! What came of an attempt.

use std::time::{Duration, SystemTime};

use crate::named::named;

use crate::send::EndpointId;
use crate::signature::WebhookId;

/// One attempt to deliver a message, and what came of it, as a store keeps it.
///
/// Nothing of the request or the response is kept but the status.
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
    reason = "a store takes it apart, a new part must not be missed"
)]
pub struct DeliveryAttempt {
    /// Its place among all; the store sets it. Zero: not stored yet.
    pub number: u64,
    /// Of which message.
    pub message: WebhookId,
    /// To which endpoint.
    pub endpoint: EndpointId,
    /// The how manyth for this delivery, counting those of processes that ended before they could say
    /// what came of it.
    pub attempt: u32,
    /// When it began.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What came of it.
    pub outcome: AttemptOutcome,
    /// What the receiver answered, if it did.
    pub status: Option<u16>,
    /// Whether there will be no other, because it was delivered or given up; unless somebody
    /// [redelivers](crate::admin::WebhookAdmin::redeliver) it.
    pub last: bool,
}

/// What came of an attempt.
///
/// ```
/// use keyward_webhooks::send::AttemptOutcome;
///
/// assert_eq!(AttemptOutcome::of_status(204), AttemptOutcome::Delivered);
/// assert_eq!(AttemptOutcome::of_status(308), AttemptOutcome::Redirected); // and not followed
/// assert_eq!(AttemptOutcome::of_status(410), AttemptOutcome::Gone);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// The receiver answered 2xx.
    Delivered,
    /// The receiver answered with another status.
    Refused,
    /// The receiver answered 3xx. A redirect is never followed: it may lead anywhere.
    Redirected,
    /// The receiver answered 410. The endpoint is switched off.
    Gone,
    /// The receiver did not answer in time.
    TimedOut,
    /// No connection, or it broke off.
    Unreachable,
    /// The host has no public address, or the [rules](crate::send::EndpointRules) forbid the URL.
    NotPublic,
    /// The endpoint's secret could not be opened, or its URL is none for the client.
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
    /// What an answer of this status means.
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
