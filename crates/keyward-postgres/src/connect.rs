//! Connections to the server.

use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use keyward::store::StoreError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls};
#[cfg(feature = "tls")]
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Error, unavailable};

/// The time for which a connection may be silent, or leave a message unacknowledged.
const SILENCE: Duration = Duration::from_secs(10);

/// How to reach the server.
#[derive(Clone)]
pub(crate) struct Connector {
    config: Config,
    tls: Tls,
}

/// How a connection is protected.
#[derive(Clone)]
pub(crate) enum Tls {
    Off,
    #[cfg(feature = "tls")]
    Rustls(MakeRustlsConnect),
}

impl Connector {
    /// Creates it from a URL or a connection string.
    pub(crate) fn parse(url: &str, tls: Tls) -> Result<Self, StoreError> {
        // The error names an option, never its value.
        let config = url.parse().map_err(unavailable)?;
        Self::new(config, tls)
    }

    fn new(mut config: Config, tls: Tls) -> Result<Self, StoreError> {
        let is_local = |host: &Host| match host {
            Host::Tcp(name) => name == "localhost" || is_loopback(name),
            #[cfg(unix)]
            Host::Unix(_) => true,
        };
        match &tls {
            Tls::Off if config.get_ssl_mode() == SslMode::Require => {
                return Err(unavailable(
                    "sslmode=require needs PostgresOptions::tls (feature `tls`)",
                ));
            }
            Tls::Off if config.get_ssl_mode() == SslMode::Disable => {}
            Tls::Off => {
                let addresses = config.get_hostaddrs();
                let are_local = config.get_hosts().iter().all(is_local);
                if !are_local || !addresses.iter().all(std::net::IpAddr::is_loopback) {
                    return Err(unavailable(
                        "the server is on another machine: use PostgresOptions::tls (feature `tls`), \
                         or set sslmode=disable if the network is trusted",
                    ));
                }
                config.ssl_mode(SslMode::Disable);
            }
            #[cfg(feature = "tls")]
            Tls::Rustls(_) => {
                config.ssl_mode(SslMode::Require);
            }
        }
        if config.get_application_name().is_none() {
            config.application_name("keyward");
        }
        // The system's own defaults notice a dead server after two hours.
        config
            .connect_timeout(SILENCE)
            .tcp_user_timeout(SILENCE)
            .keepalives(true)
            .keepalives_idle(SILENCE)
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(2)
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        Ok(Self { config, tls })
    }

    /// Creates a pool of connections for single calls.
    pub(crate) fn pool(&self, size: usize) -> Result<Pool, StoreError> {
        let manager = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let config = self.config.clone();
        let manager = match &self.tls {
            Tls::Off => Manager::from_config(config, NoTls, manager),
            #[cfg(feature = "tls")]
            Tls::Rustls(tls) => Manager::from_config(config, tls.clone(), manager),
        };
        Pool::builder(manager)
            .max_size(size)
            .build()
            .map_err(unavailable)
    }

    /// Opens a connection of its own, and wakes `notified` at each notification.
    pub(crate) async fn connect(&self, notified: Option<Arc<Notify>>) -> Result<Session, Error> {
        let (client, driver) = match &self.tls {
            Tls::Off => {
                let (client, connection) = self.config.connect(NoTls).await?;
                (client, tokio::spawn(drive(connection, notified)))
            }
            #[cfg(feature = "tls")]
            Tls::Rustls(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                (client, tokio::spawn(drive(connection, notified)))
            }
        };
        Ok(Session { client, driver })
    }

    /// Returns where the server is, for error messages.
    pub(crate) fn place(&self) -> String {
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        });
        let hosts: Vec<_> = hosts.collect();
        let database = self.config.get_dbname().unwrap_or_default();
        format!("{}/{database}", hosts.join(","))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connector").field(&self.place()).finish()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "Off",
            #[cfg(feature = "tls")]
            Self::Rustls(_) => "Rustls",
        })
    }
}

fn is_loopback(name: &str) -> bool {
    let address = name.parse::<std::net::IpAddr>();
    address.is_ok_and(|address| address.is_loopback())
}

async fn drive<S, T>(mut connection: Connection<S, T>, notified: Option<Arc<Notify>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    // An error also ends the client, whose calls return it.
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let (AsyncMessage::Notification(_), Some(notified)) = (message, &notified) {
            notified.notify_one();
        }
    }
}

/// A connection that is used by one task, and closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // At once: it may wait for a server that never answers.
        self.driver.abort();
    }
}

/// A connection of the pool.
///
/// It is closed when it is dropped, as it may be in the middle of a statement, unless it is
/// [released](Self::release).
pub(crate) struct Lease(Option<Object>);

impl Lease {
    pub(crate) async fn take(pool: &Pool) -> Result<Self, Error> {
        match pool.get().await {
            Ok(connection) => Ok(Self(Some(connection))),
            Err(deadpool_postgres::PoolError::Backend(error)) => Err(error.into()),
            Err(error) => Err(unavailable(error).into()),
        }
    }

    /// Returns the client, which is there until the lease is released.
    pub(crate) fn client(&self) -> Result<&Client, Error> {
        match &self.0 {
            Some(connection) => Ok(connection),
            None => Err(unavailable("the connection was given back").into()),
        }
    }

    /// Returns the connection to the pool, after its last statement.
    pub(crate) fn release(mut self) {
        self.0.take();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}
