//! Rate limiting of keys and accounts.

pub(crate) mod bucket;
pub(crate) mod limiter;
pub(crate) mod quota;
pub(crate) mod rate_limit;
pub(crate) mod rate_limits;

pub use self::bucket::{Bucket, BucketOwner};
pub use self::limiter::{Charge, CountedLevel, LimitFuture, LimitOutcome, Limiter, LimiterError};
pub use self::quota::{Quota, ResetUnit};
pub use self::rate_limit::RateLimit;
pub use self::rate_limits::RateLimits;
