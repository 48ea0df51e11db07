//! Errors of connecting.

use std::error::Error;
use std::fmt;

/// An error of connecting to Redis.
///
/// Neither the text nor the source contains the URL, which may have a password.
///
/// ```
/// use keyward_redis::{RedisErrorKind, RedisLimiter};
///
/// let error = RedisLimiter::builder("http://localhost").unwrap_err();
/// assert_eq!(error.kind(), RedisErrorKind::Url);
/// assert_eq!(error.to_string(), "not a Redis URL");
/// ```
#[derive(Debug)]
pub struct RedisError {
    kind: RedisErrorKind,
    source: Option<redis::RedisError>,
}

/// The kind of a [`RedisError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedisErrorKind {
    /// The URL is not one of Redis.
    Url,
    /// There is no tokio runtime, or it was built without I/O or timers.
    Runtime,
    /// Redis cannot be reached, or refuses to run the scripts.
    Unavailable,
}

impl RedisError {
    pub(crate) fn new(kind: RedisErrorKind, source: impl Into<Option<redis::RedisError>>) -> Self {
        let source = source.into();
        Self { kind, source }
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> RedisErrorKind {
        self.kind
    }
}

impl fmt::Display for RedisError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            RedisErrorKind::Url => "not a Redis URL",
            RedisErrorKind::Runtime => "no tokio runtime with I/O and timers",
            RedisErrorKind::Unavailable => "Redis is unavailable",
        })
    }
}

impl Error for RedisError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let source = self.source.as_ref();
        source.map(|source| source as &(dyn Error + 'static))
    }
}
