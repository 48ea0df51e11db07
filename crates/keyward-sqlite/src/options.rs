//! Options for opening a store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyward::clock::{Clock, SystemClock};
use keyward::replica::Replica;
use keyward::store::StoreError;

use crate::SqliteStore;

/// Options for opening a store, in place of [`SqliteStore::open`].
///
/// ```
/// use std::time::Duration;
/// use keyward::Store;
/// use keyward_sqlite::SqliteOptions;
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("keys.db");
/// let options = SqliteOptions::new().poll_interval(Duration::from_millis(50)).ceiling(5_000_000);
/// let store = options.open(&path)?;
/// assert!(store.replica().is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SqliteOptions {
    poll_interval: Duration,
    flush_interval: Duration,
    clock: Arc<dyn Clock>,
    ceiling: usize,
    initialise_empty: bool,
}

impl SqliteOptions {
    /// Creates the default options, those of [`SqliteStore::open`].
    pub fn new() -> Self {
        Self {
            poll_interval: Duration::from_millis(250),
            flush_interval: Duration::from_secs(10),
            clock: Arc::new(SystemClock),
            ceiling: 1_000_000,
            initialise_empty: false,
        }
    }

    /// Sets how soon a change by another process is noticed; 250 milliseconds by default.
    ///
    /// The minimum is a millisecond. A gate without any [`max_staleness`] does not wait for it.
    ///
    /// [`max_staleness`]: keyward::gate::GateBuilder::max_staleness
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Sets how often usage counts are written; every ten seconds by default.
    ///
    /// The minimum is a millisecond. If the process is killed, the counts of this period are lost,
    /// or those collected since the file could last be written. A store that is dropped writes the
    /// rest.
    pub fn flush_interval(mut self, interval: Duration) -> Self {
        self.flush_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Sets the clock for expiry and freshness; the system's by default.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the expected number of live keys; a million by default.
    ///
    /// More keys are kept in memory all the same, and a warning is logged: see
    /// [`Replica::above_ceiling`]. A tenth of this number of revoked and expired keys is kept in
    /// memory, each for 30 days. A key takes some 130 bytes of memory, and an account with keys
    /// some 500.
    pub fn ceiling(mut self, keys: usize) -> Self {
        self.ceiling = keys;
        self
    }

    /// Allows an empty file to become a new store.
    ///
    /// By default such a file is rejected: it may be what is left of a store with keys, and as an
    /// empty store it would refuse every key with 401. A path without any file becomes a new store
    /// either way.
    ///
    /// ```
    /// # use keyward_sqlite::SqliteOptions;
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("keys.db");
    /// std::fs::File::create(&path)?;
    /// assert!(SqliteOptions::new().open(&path).is_err());
    /// assert!(SqliteOptions::new().initialise_empty().open(&path).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn initialise_empty(mut self) -> Self {
        self.initialise_empty = true;
        self
    }

    /// Opens the store, as [`SqliteStore::open`] does.
    ///
    /// # Errors
    /// The same as those of [`SqliteStore::open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<SqliteStore, StoreError> {
        let replica = Replica::with(Arc::clone(&self.clock), self.ceiling);
        SqliteStore::start(
            path.as_ref(),
            self.initialise_empty,
            replica,
            self.poll_interval,
            self.flush_interval,
        )
    }
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self::new()
    }
}
