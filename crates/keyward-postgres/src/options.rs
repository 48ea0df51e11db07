//! Options for opening a store.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use keyward::clock::{Clock, SystemClock};
use keyward::replica::Replica;
use keyward::store::StoreError;

use crate::PostgresStore;
use crate::connect::{Connector, Tls};
use crate::store::{self, Settings};

/// Options for opening a store, in place of [`PostgresStore::connect`].
///
/// ```no_run
/// # async fn open() -> Result<(), keyward::store::StoreError> {
/// use std::time::Duration;
/// use keyward_postgres::PostgresOptions;
///
/// let options = PostgresOptions::new().poll_interval(Duration::from_millis(100)).label("api-1");
/// let store = options.connect("postgres://my_api@localhost/my_api").await?;
/// # drop(store);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct PostgresOptions {
    settings: Settings,
    clock: Arc<dyn Clock>,
    ceiling: usize,
    connections: usize,
    pool: Option<Pool>,
    tls: Tls,
    holds_details: bool,
}

impl PostgresOptions {
    /// Creates the default options, those of [`PostgresStore::connect`].
    pub fn new() -> Self {
        Self {
            settings: Settings {
                poll_interval: Duration::from_millis(250),
                flush_interval: Duration::from_secs(10),
                deadline: Duration::from_secs(5),
                label: String::new(),
            },
            clock: Arc::new(SystemClock),
            ceiling: 1_000_000,
            connections: 4,
            pool: None,
            tls: Tls::Off,
            holds_details: false,
        }
    }

    /// Sets how soon a change is noticed whose notification was lost; 250 milliseconds by default.
    ///
    /// The minimum is 20 milliseconds. Normally the server's notification comes within a few
    /// milliseconds, and a gate without any [`max_staleness`] waits for neither.
    ///
    /// [`max_staleness`]: keyward::gate::GateBuilder::max_staleness
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.settings.poll_interval = interval.max(Duration::from_millis(20));
        self
    }

    /// Sets how often usage counts are written; every ten seconds by default.
    ///
    /// The minimum is a millisecond. If the process is killed, the counts of this period are lost, or
    /// those collected since the database could last be written.
    pub fn flush_interval(mut self, interval: Duration) -> Self {
        self.settings.flush_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Sets the deadline of a call; five seconds by default.
    ///
    /// A call that the server does not answer in time fails as
    /// [`Unavailable`](keyward::store::StoreErrorKind::Unavailable). A commit has this time to be
    /// written, and again to be read by this process.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// Sets the name of this process in the table `keyward.node`, such as its host name.
    pub fn label(mut self, label: &str) -> Self {
        label.clone_into(&mut self.settings.label);
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
    /// [`Replica::above_ceiling`].
    pub fn ceiling(mut self, keys: usize) -> Self {
        self.ceiling = keys;
        self
    }

    /// Sets the number of connections for calls; four by default.
    ///
    /// The feed has one more of its own, and another while it reads everything.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// Makes calls through the application's own pool.
    ///
    /// Its connections may lead through PgBouncer in transaction mode. The feed still connects to the URL
    /// of [`connect`](Self::connect), which must lead to the primary server itself, as it listens for
    /// notifications. All connections must lead to the same database.
    pub fn pool(mut self, pool: Pool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Connects with TLS, and verifies the server by this configuration.
    ///
    /// ```no_run
    /// # async fn open() -> Result<(), Box<dyn std::error::Error>> {
    /// use keyward_postgres::PostgresOptions;
    ///
    /// let mut roots = rustls::RootCertStore::empty();
    /// // roots.add(..)?: the authority that has signed the server's certificate.
    /// let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    /// let options = PostgresOptions::new().tls(tls);
    /// let store = options.connect("postgres://my_api@db.internal/my_api").await?;
    /// # drop(store);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls(mut self, config: rustls::ClientConfig) -> Self {
        self.tls = Tls::Rustls(tokio_postgres_rustls::MakeRustlsConnect::new(config));
        self
    }

    /// Holds names, metadata and creators of keys in memory too, for [`Principal`](keyward::Principal).
    ///
    /// A handler then has them without a query. See [`Replica::hold_details`] for the memory that they
    /// take.
    pub fn hold_details(mut self) -> Self {
        self.holds_details = true;
        self
    }

    /// Opens the store, as [`PostgresStore::connect`] does.
    ///
    /// # Errors
    /// The same as those of [`PostgresStore::connect`].
    pub async fn connect(&self, url: &str) -> Result<PostgresStore, StoreError> {
        let connector = Connector::parse(url, self.tls.clone())?;
        let pool = match &self.pool {
            Some(pool) => pool.clone(),
            None => connector.pool(self.connections)?,
        };
        let replica = Replica::with(Arc::clone(&self.clock), self.ceiling);
        if self.holds_details {
            replica.hold_details();
        }
        store::start(connector, pool, replica, self.settings.clone()).await
    }

    /// Brings the tables up to date, as [`PostgresStore::migrate`] does.
    ///
    /// # Errors
    /// The same as those of [`PostgresStore::migrate`].
    pub async fn migrate(&self, url: &str) -> Result<(), StoreError> {
        let connector = Connector::parse(url, self.tls.clone())?;
        store::migrate(connector).await
    }
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self::new()
    }
}
