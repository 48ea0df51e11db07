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
    holds_details: bool,
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
            holds_details: false,
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

    /// Holds names, metadata and creators of keys in memory too, for [`Principal`](keyward::Principal).
    ///
    /// A handler then has them without a query. See [`Replica::hold_details`] for the memory that
    /// they take.
    ///
    /// ```
    /// # use keyward_sqlite::SqliteOptions;
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("keys.db");
    /// assert!(SqliteOptions::new().hold_details().open(&path).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hold_details(mut self) -> Self {
        self.holds_details = true;
        self
    }

    /// Opens the store, as [`SqliteStore::open`] does.
    ///
    /// # Errors
    /// The same as those of [`SqliteStore::open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<SqliteStore, StoreError> {
        let replica = Replica::with(Arc::clone(&self.clock), self.ceiling);
        if self.holds_details {
            replica.hold_details();
        }
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

#[cfg(test)]
mod tests {
    use keyward::gate::{Access, Verdict};
    use keyward::record::Metadata;
    use keyward::testing::{TestRequest, World, block_on, decided};
    use keyward::{AccountId, Actor, Environment, Gate, KeyAdmin, NewKey, Requirement};

    use super::*;

    #[test]
    fn details_are_in_memory_after_a_restart_if_they_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.db");
        let scheme = World::new().scheme().clone();
        let metadata = Metadata::parse(r#"{"team":"billing"}"#).unwrap();
        let secret = {
            let store = SqliteStore::open(&path).unwrap();
            let (admin, operator) = (KeyAdmin::new(&store, &scheme), Actor::operator("test"));
            let new = NewKey::new(
                AccountId::parse("acme").unwrap(),
                Environment::LIVE,
                "nightly",
            );
            let new = new.metadata(metadata.clone());
            block_on(admin.bootstrap(&operator, new))
                .unwrap()
                .key
                .unwrap()
        };
        let request = TestRequest::get().key(secret.expose_secret());
        let held = |options: SqliteOptions| {
            let gate = Gate::new(&options.open(&path).unwrap(), &scheme).unwrap();
            match decided(gate.check(&request, &Arc::new(Requirement::new()), None)) {
                Verdict::Admit(admitted) => match admitted.access {
                    Some(Access::Principal(principal)) => (
                        principal.name().map(str::to_owned),
                        principal.metadata().cloned(),
                    ),
                    other => panic!("{other:?}"),
                },
                Verdict::Refuse(refusal) => panic!("{refusal:?}"),
            }
        };
        let details = (Some("nightly".to_owned()), Some(metadata));
        assert_eq!(held(SqliteOptions::new().hold_details()), details);
        assert_eq!(held(SqliteOptions::new()), (None, None));
    }
}
