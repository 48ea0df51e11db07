//! Single calls: reads and transactions on connections of the pool.

use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::future::BoxFuture;
use keyward::store::StoreError;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;

use crate::connect::Lease;
use crate::error::{Error, unavailable};

/// The pool of connections, and the deadline of each call.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    pub(crate) pool: Pool,
    pub(crate) deadline: Duration,
}

/// A statement or several, on a connection that is borrowed.
pub(crate) type Work<'a, T> = BoxFuture<'a, Result<T, Error>>;

impl Calls {
    /// Runs statements without a transaction, until the deadline.
    pub(crate) async fn read<T>(
        &self,
        read: impl for<'a> FnOnce(&'a Client) -> Work<'a, T>,
    ) -> Result<T, StoreError> {
        let read = async {
            let lease = Lease::take(&self.pool).await?;
            let read = read(lease.client()?).await;
            lease.release();
            read
        };
        Ok(self.in_time(read).await?)
    }

    /// Runs statements in a transaction, until the deadline.
    ///
    /// If the deadline passes during the commit, it is not known whether anything was written.
    pub(crate) async fn write<T>(
        &self,
        write: impl for<'a> FnOnce(&'a Client) -> Work<'a, T>,
    ) -> Result<T, StoreError> {
        let write = async {
            let lease = Lease::take(&self.pool).await?;
            let client = lease.client()?;
            client.batch_execute(&self.begin()).await?;
            let written = match write(client).await {
                Ok(written) => client.batch_execute("COMMIT").await.map(|()| written),
                Err(error) => {
                    client.batch_execute("ROLLBACK").await?;
                    lease.release();
                    return Err(error);
                }
            };
            lease.release();
            Ok(written?)
        };
        Ok(self.in_time(write).await?)
    }

    /// Returns the statements that begin a transaction.
    ///
    /// The settings end with it, so that they hold behind PgBouncer too, and leave nothing behind. They
    /// are for the server, which may not notice that the client is gone.
    fn begin(&self) -> String {
        let most = self.deadline.as_millis();
        format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
             SET LOCAL keyward.writer = 'store'; \
             SET LOCAL statement_timeout = {most}; \
             SET LOCAL idle_in_transaction_session_timeout = {most}"
        )
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let until = Instant::now() + self.deadline;
        match timeout_at(until, work).await {
            Ok(done) => done,
            Err(_) => Err(unavailable("the server did not answer in time").into()),
        }
    }
}
