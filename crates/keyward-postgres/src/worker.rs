//! The task that writes usage, and moves credits between the database and the replica.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyward::credits::{CreditOwner, Credits};
use keyward::replica::Replica;
use keyward::store::StoreError;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::calls::Calls;
use crate::credit::{self, DRAWN_AT_ONCE};
use crate::feed::FeedHandle;
use crate::flush::{self, FlushQueue};

/// The interval at which unneeded credits are returned.
const SETTLE: Duration = Duration::from_secs(1);

/// The interval at which a failed write is repeated.
const RETRY: Duration = Duration::from_secs(1);

/// A job for the task.
pub(crate) enum Job {
    /// Write all that was counted until now.
    Flush(oneshot::Sender<Result<(), StoreError>>),
    /// Read a balance. No credits move meanwhile.
    Balance(
        CreditOwner,
        oneshot::Sender<Result<Option<Credits>, StoreError>>,
    ),
    /// Write all, also credits in use, and end.
    Stop,
}

/// The state of the task.
///
/// It does one thing after the other. So a balance is read while no credits are between the database and
/// the replica, and is exact.
pub(crate) struct Worker {
    pub(crate) calls: Calls,
    pub(crate) replica: Replica,
    pub(crate) feed: FeedHandle,
    pub(crate) jobs: UnboundedReceiver<Job>,
    /// Woken when the replica wants credits, or has too many.
    pub(crate) wishes: Arc<Notify>,
    pub(crate) queue: FlushQueue,
    pub(crate) flush_interval: Duration,
    /// Flushes that wait, each for a batch of this number.
    pub(crate) flushing: VecDeque<(i64, oneshot::Sender<Result<(), StoreError>>)>,
    /// Flushes that wait until what is counted now is taken.
    pub(crate) asked: Vec<oneshot::Sender<Result<(), StoreError>>>,
    pub(crate) is_failing: bool,
}

impl Worker {
    /// Runs until it is stopped.
    pub(crate) async fn run(mut self) {
        let mut flush_at = Instant::now() + self.flush_interval;
        let mut settle_at = Instant::now() + SETTLE;
        let mut retry_at = Instant::now();
        loop {
            self.return_excess(retry_at).await;
            self.draw().await;
            let now = Instant::now();
            let job = match self.jobs.try_recv() {
                Ok(job) => Some(job),
                Err(_) if !self.queue.is_empty() && now >= retry_at => {
                    retry_at = self.write_first().await;
                    continue;
                }
                Err(_) if self.queue.is_empty() && !self.asked.is_empty() => {
                    self.take(false).await;
                    continue;
                }
                Err(_) if self.queue.is_empty() && now >= flush_at => {
                    flush_at = now + self.flush_interval;
                    self.take(false).await;
                    continue;
                }
                Err(_) if self.queue.is_empty() && self.queue.has_lent() && now >= settle_at => {
                    settle_at = now + SETTLE;
                    self.queue.settle(&self.replica);
                    continue;
                }
                Err(_) => {
                    let next = if self.queue.is_empty() {
                        let settle_at = self.queue.has_lent().then_some(settle_at);
                        flush_at.min(settle_at.unwrap_or(flush_at))
                    } else {
                        retry_at
                    };
                    tokio::select! {
                        job = self.jobs.recv() => Some(job.unwrap_or(Job::Stop)),
                        () = self.wishes.notified() => None,
                        () = sleep_until(next) => None,
                    }
                }
            };
            match job {
                Some(Job::Flush(answer)) => {
                    self.asked.push(answer);
                    retry_at = Instant::now();
                }
                Some(Job::Balance(owner, answer)) => {
                    self.return_excess(retry_at).await;
                    drop(answer.send(self.balance(&owner).await));
                }
                Some(Job::Stop) => return self.stop().await,
                None => {}
            }
        }
    }

    async fn take(&mut self, all: bool) {
        self.queue.take(&self.replica, all).await;
        let last = self.queue.sequence();
        for answer in self.asked.drain(..) {
            if self.queue.is_empty() {
                drop(answer.send(Ok(())));
            } else {
                self.flushing.push_back((last, answer));
            }
        }
    }

    /// Writes the next batch, and returns when the one after it may be written.
    ///
    /// A failure is logged once, and once when it is over.
    async fn write_first(&mut self) -> Instant {
        let written = self.write_batch().await;
        match &written {
            Err(error) if !self.is_failing => {
                let error: &(dyn StdError + 'static) = error;
                tracing::error!(error, "usage counts cannot be written and stay in memory");
            }
            Ok(()) if self.is_failing => tracing::info!("usage counts can be written again"),
            _ => {}
        }
        self.is_failing = written.is_err();
        if let Err(error) = written {
            let answers = self.flushing.drain(..).map(|(_, answer)| answer);
            for answer in answers.chain(self.asked.drain(..)) {
                let again = StoreError::new(error.kind()).because(error.to_string());
                drop(answer.send(Err(again)));
            }
            return Instant::now() + RETRY;
        }
        let sequence = self.queue.first().map(|batch| batch.sequence());
        while let Some((last, answer)) = self.flushing.pop_front() {
            if sequence.is_some_and(|sequence| sequence <= last) {
                self.flushing.push_front((last, answer));
                break;
            }
            drop(answer.send(Ok(())));
        }
        Instant::now()
    }

    async fn write_batch(&mut self) -> Result<(), StoreError> {
        let Some(batch) = self.queue.first().map(Arc::clone) else {
            return Ok(());
        };
        let written = Arc::clone(&batch);
        let write = self
            .calls
            .write(move |client| Box::pin(async move { written.write(client).await }));
        write.await?;
        let changes_keys = batch.changes_keys();
        self.queue.written();
        if changes_keys {
            self.feed.applied(self.calls.deadline).await?;
        }
        Ok(())
    }

    /// Returns credits above the limit that may be held, after any batches that are waiting.
    async fn return_excess(&mut self, retry_at: Instant) {
        while self.queue.is_empty() && Instant::now() >= retry_at {
            self.queue.take_excess(&self.replica);
            if self.queue.is_empty() || self.write_first().await > Instant::now() {
                return;
            }
        }
    }

    /// Draws the credits that requests want, from some balances at a time.
    async fn draw(&mut self) {
        loop {
            let wants = self.replica.take_some_wanted(DRAWN_AT_ONCE);
            if wants.is_empty() {
                return;
            }
            let (node, now) = (self.queue.node(), self.replica.clock().unix());
            let now = SystemTime::UNIX_EPOCH + now;
            let wants: Arc<[_]> = wants.into();
            let wanted = Arc::clone(&wants);
            let draw = self.calls.write(move |client| {
                Box::pin(async move { credit::draw(client, &wanted, node, now).await })
            });
            let grants = draw.await.unwrap_or_else(|error| {
                let error: &(dyn StdError + 'static) = &error;
                tracing::error!(error, "credits cannot be drawn, requests will be refused");
                Vec::new()
            });
            for want in &*wants {
                let Some(grant) = grants.iter().find(|grant| grant.owner == want.owner) else {
                    self.replica.no_grant(&want.owner);
                    continue;
                };
                // Credits that waiting requests take are spent soon.
                if want.held_after(grant) > 0 {
                    self.queue.lend(grant.owner.clone());
                }
                self.replica.grant(grant);
            }
        }
    }

    /// Returns a balance, including what is held and what is on its way back.
    async fn balance(&self, owner: &CreditOwner) -> Result<Option<Credits>, StoreError> {
        let node = self.queue.node();
        let of = owner.clone();
        let read = self
            .calls
            .read(move |client| Box::pin(async move { credit::balance(client, &of, node).await }));
        let Some(balance) = read.await? else {
            return Ok(None);
        };
        let mut credits = balance.credits;
        if let Some(held) = self.replica.held_of(owner) {
            credits.put_back(&held);
        }
        // Of a batch whose commit was not answered, the database tells whether it was written.
        for unspent in self.queue.returning(owner, balance.sequence) {
            credits.put_back(unspent);
        }
        Ok(Some(credits))
    }

    /// Writes the waiting counts, as far as possible, and removes what identified this process.
    async fn stop(mut self) {
        let until = Instant::now() + self.calls.deadline;
        let last = tokio::time::timeout_at(until, async {
            while !self.queue.is_empty() {
                self.write_batch().await?;
            }
            self.queue.take(&self.replica, true).await;
            while !self.queue.is_empty() {
                self.write_batch().await?;
            }
            Ok::<_, StoreError>(())
        });
        let last = last.await.unwrap_or_else(|_| {
            Err(crate::error::unavailable(
                "the server did not answer in time",
            ))
        });
        let node = self.queue.node();
        let left = match last {
            Ok(()) => {
                let forget = self
                    .calls
                    .write(move |client| Box::pin(flush::forget(client, node)));
                forget.await
            }
            failed => failed,
        };
        if let Err(error) = left {
            let error: &(dyn StdError + 'static) = &error;
            tracing::error!(error, "the last usage counts are lost");
        }
    }
}
