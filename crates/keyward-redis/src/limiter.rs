//! The limiter that counts in Redis.

use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyward::clock::Clock;
use keyward::limit::{Charge, LimitFuture, LimitOutcome, Limiter, LimiterError, Quota};

use crate::fallback::{Fallback, Now};
use crate::link::Link;
use crate::script::{Call, Taken};

/// The time for which a refusal is remembered without asking Redis again.
const REMEMBERED: Duration = Duration::from_secs(1);

/// A rate limiter that counts in Redis, exactly across processes.
///
/// It is created by [`builder`](Self::builder). A clone is the same limiter, so that several gates can
/// share one connection. See the [crate](crate) for what happens when Redis fails.
#[derive(Clone)]
pub struct RedisLimiter(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) link: Arc<Link>,
    pub(crate) fallback: Fallback,
    /// The clock of a test; otherwise the server's counts.
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) counts: Counters,
}

/// The numbers of requests by how they were decided, since the limiter was created.
///
/// See [`RedisLimiter::counts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisLimiterCounts {
    /// The requests for which Redis was asked.
    pub asked: u64,
    /// The requests that were refused without asking, because Redis had refused one like it.
    pub refused_from_memory: u64,
    /// The requests that were decided without Redis, as the [`Fallback`] says.
    pub without_redis: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    asked: AtomicU64,
    refused_from_memory: AtomicU64,
    without_redis: AtomicU64,
}

impl RedisLimiter {
    /// Returns whether Redis answers.
    ///
    /// `false` from the failure that closes the connection until a new one has answered.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.0.link.is_live()
    }

    /// Returns how requests were decided, for metrics and alarms.
    ///
    /// A rising [`without_redis`](RedisLimiterCounts::without_redis) means that Redis is down or slow.
    #[must_use]
    pub fn counts(&self) -> RedisLimiterCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.0.counts;
        RedisLimiterCounts {
            asked: read(&counts.asked),
            refused_from_memory: read(&counts.refused_from_memory),
            without_redis: read(&counts.without_redis),
        }
    }
}

impl Limiter for RedisLimiter {
    fn take(&self, charge: Charge, now: Duration) -> LimitFuture {
        let inner = &self.0;
        let Some(live) = inner.link.live() else {
            return inner.fall_back_at_once(charge, now);
        };
        let charge = match charge.reserve_here(now, REMEMBERED) {
            Ok(charge) => charge,
            Err(quota) => {
                count(&inner.counts.refused_from_memory);
                return LimitFuture::Ready(LimitOutcome::Nothing(quota));
            }
        };
        let Some(place) = inner.link.place() else {
            return inner.fall_back_at_once(charge, now);
        };
        count(&inner.counts.asked);
        let call = Call::take(&inner.link.prefix, &charge).at(inner.now());
        let inner = Arc::clone(inner);
        LimitFuture::Pending(Box::pin(async move {
            let reply = inner.link.run(&live, &call).await;
            drop(place);
            match reply.ok().as_deref().and_then(Taken::parse) {
                Some(taken) => Ok(charge.counted(taken.is_taken, taken.levels, now)),
                None => inner.fall_back(charge, now),
            }
        }))
    }

    fn give_back(&self, charge: Charge) {
        let link = &self.0.link;
        if let Some(call) = Call::give_back(&link.prefix, &charge)
            && let (Some(live), Some(place)) = (link.live(), link.place())
        {
            let (call, own) = (call.at(self.0.now()), Arc::clone(link));
            link.start(async move {
                // What cannot be given back stays taken until time has refilled it.
                _ = own.run(&live, &call).await;
                drop(place);
            });
        }
        charge.give_back_here();
    }
}

impl Inner {
    /// Decides without Redis.
    fn fall_back(&self, charge: Charge, now: Duration) -> Result<LimitOutcome, LimiterError> {
        count(&self.counts.without_redis);
        match self.fallback.now() {
            Now::Share(nodes) => Ok(charge.take_share_here(nodes, now)),
            Now::Refuse => {
                charge.give_back_here();
                Err(LimiterError::new("Redis does not answer"))
            }
            Now::Allow => {
                let first = charge.buckets().next();
                let full = first.map(|bucket| {
                    let burst = bucket.limit().max_burst();
                    Quota::new(bucket, burst, Duration::ZERO, Duration::ZERO)
                });
                let quota = full.ok_or_else(|| LimiterError::new("no bucket"))?;
                Ok(LimitOutcome::All(charge, quota))
            }
        }
    }

    fn fall_back_at_once(&self, charge: Charge, now: Duration) -> LimitFuture {
        match self.fall_back(charge, now) {
            Ok(outcome) => LimitFuture::Ready(outcome),
            Err(error) => LimitFuture::Pending(Box::pin(ready(Err(error)))),
        }
    }

    fn now(&self) -> Option<Duration> {
        self.clock.as_ref().map(|clock| clock.boot())
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl fmt::Debug for RedisLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client is left out, as its URL may have a password.
        f.debug_struct("RedisLimiter")
            .field("connected", &self.is_connected())
            .field("prefix", &self.0.link.prefix)
            .field("fallback", &self.0.fallback)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
