//! Rate limits of keyward, counted in Redis, exactly across processes.
//!
//! By default, each process of a service counts for itself, so four processes let four times the limit
//! pass. With a [`RedisLimiter`] they count together, and nothing else changes: neither limits nor
//! headers nor refunds.
//!
//! ```no_run
//! use keyward::{Environment, Gate, KeyFormat, KeyScheme, MemoryStore, RateLimit};
//! use keyward_redis::{Fallback, RedisLimiter};
//!
//! # async fn f(store: MemoryStore) -> Result<(), Box<dyn std::error::Error>> {
//! let limiter = RedisLimiter::builder("redis://127.0.0.1:6379")?
//!     .fallback(Fallback::share(4)) // while Redis is down, each of four processes counts a quarter
//!     .connect()
//!     .await?;
//! let gate = Gate::builder(&store, &KeyScheme::new(KeyFormat::new("acme_{env}_")?))
//!     .rate_limits(Environment::LIVE, RateLimit::per_minute(100).burst(200))
//!     .limiter(limiter.clone())
//!     .build()?;
//! # drop(gate); Ok(()) }
//! ```
//!
//! # What is exact
//!
//! While Redis answers, all processes together let no more requests pass in any time `d` than one
//! process would: the burst of the limit and one for each of its intervals in `d`. A request with
//! several limits, such as those of its key and of its account, is charged to all or none of them in one
//! script. A refund returns only what time has not refilled. Time is that of the Redis server, in
//! whole nanoseconds, so the clocks of the processes do not matter.
//!
//! After a refusal, a process refuses the key by itself until the time at which Redis would let a
//! request pass. Meanwhile it asks once a second, as another process may have given something back.
//! So a client that ignores `Retry-After` costs Redis next to nothing. A key with a new limit begins
//! with a full bucket, and nothing is remembered of it.
//!
//! # When Redis fails
//!
//! A request waits for Redis no longer than the deadline, 15 ms. Then, and while the connection is
//! lost, the [`Fallback`] decides: refuse with 503, count an equal share in each process, or allow.
//! After five failures in a row requests do not ask at all; one task connects in the background, and
//! Redis is used again at most two seconds after it is back.
//!
//! | | what passes beyond the limit |
//! |---|---|
//! | a request times out | nothing; Redis may count it all the same |
//! | Redis does not answer, [`Fallback::refuse`] | nothing |
//! | Redis does not answer, [`Fallback::share`] | for a key that a process has not seen before, its share of a full bucket: one more burst in all, or one request in each process if that is more |
//! | only some processes reach Redis, [`Fallback::share`] | the shares of the others |
//! | Redis loses its memory: a restart, `FLUSHALL`, a fail-over to a replica that is behind | one more burst |
//! | Redis evicts a counter | one more burst, for that key |
//! | the clock of Redis jumps ahead | what would have passed in that time, at most one burst |
//! | the clock of Redis jumps back | nothing; an empty bucket refills from then on |
//!
//! Give Redis memory for 200 bytes for each key and limit in use (they expire when a bucket is full),
//! and set `maxmemory-policy noeviction`: when memory is full, the fallback decides. `volatile-ttl`
//! evicts the fullest buckets first and is the next best.
//!
//! # What Redis needs
//!
//! Redis 7, without modules; one server, or one with replicas behind one address. The scripts use no
//! command that Redis 6 and Valkey lack, but are tested with Redis 7 only. The keys of an account and
//! environment share the hash tag `{account:environment}`. The user needs
//! `+eval +evalsha +time +mget +set` on `~keyward:*`, and `+ping +hello +select +client|setinfo` to
//! connect.
//!
//! ```text
//! 127.0.0.1:6379> scan 0 match keyward:{customer-1:live}:*
//! 1) "keyward:{customer-1:live}:key_4fLq7ZpT0aXc:100/60;200"
//! 2) "keyward:{customer-1:live}:50000/86400;50000"
//! ```
//!
//! A value is the time at which the bucket is full, in nanoseconds since the Unix epoch. Deleting the
//! key fills the bucket.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod builder;
mod error;
mod fallback;
mod limiter;
mod link;
mod script;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use self::builder::RedisLimiterBuilder;
pub use self::error::{RedisError, RedisErrorKind};
pub use self::fallback::Fallback;
pub use self::limiter::{RedisLimiter, RedisLimiterCounts};
