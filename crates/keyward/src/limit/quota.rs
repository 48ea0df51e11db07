//! What a client is told about its limits.

use std::fmt;
use std::time::Duration;

use crate::{Bucket, BucketOwner, RateLimit};

/// How much of a limit is left: the most restrictive one of a request.
///
/// A client reads it in the fields of [draft-ietf-httpapi-ratelimit-headers-10], here of a limit of
/// 100 a minute with bursts of 200. The quota is what passes at once, the window the time in which an
/// empty bucket is full again:
///
/// ```text
/// RateLimit-Policy: "minute";q=200;w=120
/// RateLimit: "minute";r=12
/// ```
///
/// When nothing remains, `t` says in how many seconds something will:
///
/// ```text
/// HTTP/1.1 429 Too Many Requests
/// cache-control: no-store
/// content-type: application/problem+json
/// retry-after: 1
/// ratelimit-policy: "minute";q=200;w=120
/// ratelimit: "minute";r=0;t=1
///
/// {"type":"about:blank","title":"Too Many Requests","status":429,"detail":"The API key has used up its rate limit. Wait as long as Retry-After says.","code":"rate_limited"}
/// ```
///
/// The name of a policy is the period of its limit, with `account-` before it where all keys of the
/// account share it.
///
/// [draft-ietf-httpapi-ratelimit-headers-10]: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/10/
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    limit: RateLimit,
    is_shared: bool,
    remaining: u32,
    wait: Duration,
    full_in: Duration,
}

impl Quota {
    /// What is left of a bucket; for a limiter that counts elsewhere.
    ///
    /// `wait`: until the request could pass, zero when it did. `full_in`: until all of it is back.
    #[must_use]
    pub fn new(bucket: &Bucket, remaining: u32, wait: Duration, full_in: Duration) -> Self {
        Self {
            limit: bucket.limit(),
            is_shared: matches!(bucket.owner(), BucketOwner::Account(..)),
            remaining,
            wait,
            full_in,
        }
    }

    /// The limit.
    #[must_use]
    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// How much may pass at once now.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.remaining
    }

    /// How long a request must wait that was refused; zero for one that passed.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// The one that binds more: by the wait, then by what remains.
    pub(crate) fn tighter(self, other: Self) -> Self {
        if (other.wait, self.remaining) > (self.wait, other.remaining) {
            other
        } else {
            self
        }
    }

    /// The fields that describe it.
    ///
    /// `now` is the time since the Unix epoch.
    pub(crate) fn fields(
        &self,
        legacy: Option<ResetUnit>,
        now: Duration,
    ) -> impl Iterator<Item = (&'static str, String)> + use<> {
        let name = PolicyName(self);
        let depth = Duration::from_nanos(self.limit.depth_nanos());
        let (quota, window) = (self.limit.max_burst(), seconds(depth));
        let left = if self.remaining == 0 {
            let one_less = depth.saturating_sub(self.limit.interval());
            let next = seconds(self.full_in.saturating_sub(one_less));
            format!("{name};r=0;t={next}")
        } else {
            format!("{name};r={}", self.remaining)
        };
        let standard = [
            ("ratelimit-policy", format!("{name};q={quota};w={window}")),
            ("ratelimit", left),
        ];
        let legacy = legacy.map(|unit| {
            let reset = match unit {
                ResetUnit::Seconds => seconds(self.full_in),
                ResetUnit::UnixTime => seconds(now.saturating_add(self.full_in)),
            };
            [
                ("x-ratelimit-limit", quota.to_string()),
                ("x-ratelimit-remaining", self.remaining.to_string()),
                ("x-ratelimit-reset", reset.to_string()),
            ]
        });
        standard.into_iter().chain(legacy.into_iter().flatten())
    }
}

/// In which unit `X-RateLimit-Reset` says when the limit is whole again.
///
/// There is no standard for these older fields, and services differ. See
/// [`GateBuilder::legacy_rate_limit_fields`](crate::GateBuilder::legacy_rate_limit_fields).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetUnit {
    /// Seconds from now.
    Seconds,
    /// Seconds since the Unix epoch.
    UnixTime,
}

/// Whole seconds, rounded up.
pub(crate) fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// The name of a policy: a string of RFC 9651 §3.3.3, with its quotes.
struct PolicyName<'a>(&'a Quota);

impl fmt::Display for PolicyName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.0.is_shared { "account-" } else { "" };
        match self.0.limit.seconds() {
            1 => write!(f, "\"{whose}second\""),
            60 => write!(f, "\"{whose}minute\""),
            3600 => write!(f, "\"{whose}hour\""),
            86_400 => write!(f, "\"{whose}day\""),
            other => write!(f, "\"{whose}{other}-seconds\""),
        }
    }
}
