//! How a store is opened.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyward::clock::{Clock, SystemClock};
use keyward::replica::Replica;
use keyward::store::StoreError;

use crate::SqliteStore;

/// How a store is opened, where [`SqliteStore::open`] does not fit.
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
    /// What [`SqliteStore::open`] takes.
    pub fn new() -> Self {
        Self {
            poll_interval: Duration::from_millis(250),
            flush_interval: Duration::from_secs(10),
            clock: Arc::new(SystemClock),
            ceiling: 1_000_000,
            initialise_empty: false,
        }
    }

    /// How soon a change made by another process is noticed; 250 milliseconds unless said otherwise.
    ///
    /// At least a millisecond. A gate without any [`max_staleness`] does not wait for it.
    ///
    /// [`max_staleness`]: keyward::gate::GateBuilder::max_staleness
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// How often what was counted is written; every ten seconds unless said otherwise.
    ///
    /// At least a millisecond. This much is lost at most when the process is killed, or what has gathered
    /// since the file could be written last: a store that is dropped writes the rest.
    pub fn flush_interval(mut self, interval: Duration) -> Self {
        self.flush_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Judges expiry and freshness by this clock; the machine's unless said otherwise.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets how many living keys are expected; a million unless said otherwise.
    ///
    /// More are held all the same, and the log says so: see [`Replica::above_ceiling`]. Of revoked and
    /// expired keys, a tenth of it is kept in memory, each for 30 days. A key takes some 130 bytes of
    /// memory, and an account with keys some 500.
    pub fn ceiling(mut self, keys: usize) -> Self {
        self.ceiling = keys;
        self
    }

    /// Begins a store also in a file of no bytes.
    ///
    /// Without it such a file is refused: it may be what is left of a store with keys, and as an empty
    /// store it would refuse every key with 401. A path without any file begins a new store either way.
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
    /// The same.
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
