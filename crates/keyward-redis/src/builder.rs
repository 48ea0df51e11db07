//! The settings of a limiter.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use keyward::clock::Clock;
use redis::Client;
use tokio::runtime::Handle;

use crate::error::{RedisError, RedisErrorKind};
use crate::fallback::Fallback;
use crate::limiter::{Counters, Inner, RedisLimiter};
use crate::link::{Link, LinkSettings};
use crate::script::Scripts;

/// Builds a [`RedisLimiter`].
///
/// ```no_run
/// # async fn f() -> Result<(), keyward_redis::RedisError> {
/// use std::time::Duration;
/// use keyward_redis::{Fallback, RedisLimiter};
///
/// let limiter = RedisLimiter::builder("redis://:secret@10.0.0.7:6379/0")?
///     .fallback(Fallback::share(4))
///     .deadline(Duration::from_millis(10))
///     .connect()
///     .await?;
/// assert!(limiter.is_connected());
/// # Ok(()) }
/// ```
#[must_use]
pub struct RedisLimiterBuilder {
    client: Client,
    prefix: String,
    fallback: Fallback,
    settings: LinkSettings,
    clock: Option<Arc<dyn Clock>>,
}

impl RedisLimiter {
    /// Starts a limiter that counts in the Redis of this URL.
    ///
    /// The URL is `redis://[user][:password@]host[:port][/database]`, or `unix:///path` for a socket.
    /// Nothing is connected yet. TLS (`rediss://`) is not supported: use a private network or a tunnel.
    ///
    /// # Errors
    /// Returns an error if the URL has another form.
    pub fn builder(url: &str) -> Result<RedisLimiterBuilder, RedisError> {
        // The source of the error is left out: it might quote the URL.
        let client = Client::open(url).map_err(|_| RedisError::new(RedisErrorKind::Url, None))?;
        Ok(RedisLimiterBuilder {
            client,
            prefix: "keyward".into(),
            fallback: Fallback::default(),
            settings: LinkSettings {
                deadline: Duration::from_millis(15),
                connect_timeout: Duration::from_secs(1),
                failures: 5,
                in_flight: 1024,
            },
            clock: None,
        })
    }
}

impl RedisLimiterBuilder {
    /// Sets what happens to requests while Redis does not answer: by default, they are refused.
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.fallback = fallback;
        self
    }

    /// Sets how long a request waits for Redis; 15 ms by default.
    ///
    /// Redis answers in less than a millisecond in one data center. What takes longer than the
    /// deadline is decided by the [`fallback`](Self::fallback).
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// Sets after how many failures in a row Redis is not asked any more; 5 by default.
    ///
    /// One task then connects anew, after pauses of 50 ms to 1 s, and requests wait for none of it. An
    /// error that breaks the connection has the same effect at once. Zero counts as one.
    pub fn max_failures(mut self, failures: u32) -> Self {
        self.settings.failures = failures;
        self
    }

    /// Sets how long an attempt to connect may take, with its first command; 1 s by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// Sets how many requests wait for Redis at once; 1024 by default.
    ///
    /// Those above are decided by the [`fallback`](Self::fallback).
    ///
    /// # Panics
    /// Panics if the number is zero.
    #[track_caller]
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        assert!(requests > 0, "no request may ask Redis");
        self.settings.in_flight = requests;
        self
    }

    /// Sets what the keys in Redis begin with; `keyward` by default.
    ///
    /// Services that share a Redis need different prefixes, and all processes of one service the
    /// same.
    ///
    /// # Panics
    /// Panics if the prefix contains a brace, which would choose the slot in a cluster.
    #[track_caller]
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        assert!(
            !prefix.contains(['{', '}']),
            "a brace in the prefix of keys"
        );
        self.prefix = prefix;
        self
    }

    /// Counts by this clock instead of that of the server, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Connects to Redis and creates the limiter.
    ///
    /// The limiter belongs to the tokio runtime on which this is called: there its connection lives
    /// until the runtime ends. Requests may be polled anywhere.
    ///
    /// # Errors
    /// Returns an error if Redis cannot be reached within the timeout, or refuses the scripts.
    pub async fn connect(self) -> Result<RedisLimiter, RedisError> {
        let limiter = self.build()?;
        let connected = limiter.0.link.connect().await;
        connected.map_err(|error| RedisError::new(RedisErrorKind::Unavailable, error))?;
        Ok(limiter)
    }

    /// Creates the limiter without waiting, so that a service starts even if Redis is down.
    ///
    /// The [`fallback`](Self::fallback) decides until Redis answers.
    ///
    /// # Errors
    /// Returns an error if this is called outside of a tokio runtime.
    pub fn connect_lazily(self) -> Result<RedisLimiter, RedisError> {
        let limiter = self.build()?;
        limiter.0.link.connect_in_background();
        Ok(limiter)
    }

    fn build(self) -> Result<RedisLimiter, RedisError> {
        let runtime = Handle::try_current().ok().filter(|_| has_timer());
        let runtime = runtime.ok_or_else(|| RedisError::new(RedisErrorKind::Runtime, None))?;
        #[cfg(any(test, feature = "testing"))]
        let scripts = match self.clock {
            Some(_) => Scripts::by_argument(),
            None => Scripts::new(),
        };
        #[cfg(not(any(test, feature = "testing")))]
        let scripts = Scripts::new();
        let link = Link::new(self.client, runtime, scripts, self.prefix, self.settings);
        Ok(RedisLimiter(Arc::new(Inner {
            link: Arc::new(link),
            fallback: self.fallback,
            clock: self.clock,
            counts: Counters::default(),
        })))
    }
}

/// Returns whether the current runtime has timers, without which tokio panics.
fn has_timer() -> bool {
    catch_unwind(AssertUnwindSafe(|| {
        drop(tokio::time::sleep(Duration::ZERO));
    }))
    .is_ok()
}

impl fmt::Debug for RedisLimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client is left out, as its URL may have a password.
        f.debug_struct("RedisLimiterBuilder")
            .field("prefix", &self.prefix)
            .field("fallback", &self.fallback)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
