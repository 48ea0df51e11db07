//! The policy while Redis is unavailable.

use std::fmt;
use std::num::NonZeroU32;

/// The policy for requests while Redis does not answer.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use keyward_redis::Fallback;
///
/// let live = Arc::new(AtomicU32::new(4)); // kept by the service
/// let fallback = Fallback::share_among(move || live.load(Ordering::Relaxed));
/// assert_eq!(format!("{fallback:?}"), "Fallback::share_among(4)");
/// assert_eq!(format!("{:?}", Fallback::default()), "Fallback::refuse");
/// ```
#[derive(Default)]
pub struct Fallback(Policy);

#[derive(Default)]
enum Policy {
    #[default]
    Refuse,
    Share(Box<dyn Fn() -> u32 + Send + Sync>),
    Allow,
}

/// The policy at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Now {
    Refuse,
    Share(NonZeroU32),
    Allow,
}

impl Fallback {
    /// Refuses every request that has a rate limit. The default.
    ///
    /// ```text
    /// HTTP/1.1 503 Service Unavailable
    /// cache-control: no-store
    /// content-type: application/problem+json
    /// retry-after: 1
    ///
    /// {"type":"about:blank","title":"Service Unavailable","status":503,"detail":"Limits cannot be checked at the moment. Try again.","code":"rate_limit_unavailable"}
    /// ```
    #[must_use]
    pub fn refuse() -> Self {
        Self(Policy::Refuse)
    }

    /// Lets each of `nodes` processes count an equal part of each limit by itself.
    ///
    /// Of 100 a minute with bursts of 200, each of four processes lets 25 a minute pass with bursts
    /// of 50, and always one at once. A process continues from the level that Redis last told it, and
    /// from a full bucket for a key that it has not seen. Zero counts as one.
    #[must_use]
    pub fn share(nodes: u32) -> Self {
        Self::share_among(move || nodes)
    }

    /// Does the same for a number of processes that changes.
    ///
    /// The closure is called for each request that Redis does not answer, so it must be fast.
    pub fn share_among(nodes: impl Fn() -> u32 + Send + Sync + 'static) -> Self {
        Self(Policy::Share(Box::new(nodes)))
    }

    /// Lets every request pass.
    ///
    /// Insecure: whoever can overload Redis, or cut it off, has no rate limit.
    #[must_use]
    pub fn insecure_allow() -> Self {
        Self(Policy::Allow)
    }

    pub(crate) fn now(&self) -> Now {
        match &self.0 {
            Policy::Refuse => Now::Refuse,
            Policy::Share(nodes) => Now::Share(NonZeroU32::new(nodes()).unwrap_or(NonZeroU32::MIN)),
            Policy::Allow => Now::Allow,
        }
    }
}

impl fmt::Debug for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.now() {
            Now::Refuse => f.write_str("Fallback::refuse"),
            Now::Share(nodes) => write!(f, "Fallback::share_among({nodes})"),
            Now::Allow => f.write_str("Fallback::insecure_allow"),
        }
    }
}
