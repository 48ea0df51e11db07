//! Threads that read the file while another thread writes it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use futures_channel::oneshot;
use keyward::store::{StoreError, StoreFuture};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::error::{failed, unavailable};
use crate::file::{self, Identity, Opened};

/// A task for the thread of a [`Reader`].
type Query = Box<dyn FnOnce(&mut ReadFile) + Send>;

/// A thread that reads through its own connection.
///
/// In WAL mode a reader waits for no writer. So it answers while a write waits for another process, and a
/// long report does not delay polls.
#[derive(Debug)]
pub(crate) struct Reader {
    place: Place,
    /// `None` once the thread should end.
    queries: Option<Sender<Query>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Opens the file that the store has already opened, and starts the thread.
    pub(crate) fn start(place: Place, name: &str) -> Result<Self, StoreError> {
        let mut file = ReadFile::open(place.clone())?;
        let (queries, waiting) = mpsc::channel::<Query>();
        let thread = thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || waiting.iter().for_each(|query| query(&mut file)));
        Ok(Self {
            place,
            queries: Some(queries),
            thread: Some(thread.map_err(unavailable)?),
        })
    }

    /// Runs a query on the thread, and waits for the result.
    pub(crate) fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let query = move |file: &mut ReadFile| {
                drop(answer.send(file.read(read)));
            };
            // A query that is not received, or that panics, drops its end of the channel.
            if let Some(queries) = &self.queries {
                drop(queries.send(Box::new(query)));
            }
            self.place.answer(answered).await
        })
    }

    /// Ends the thread and closes its connection, before the writing thread closes the file.
    pub(crate) fn stop(&mut self) {
        drop(self.queries.take());
        wait_for(self.thread.take());
    }
}

/// Waits until a thread has ended.
///
/// Waking a future may drop the last handle on the thread itself, which cannot wait for itself.
pub(crate) fn wait_for(thread: Option<JoinHandle<()>>) {
    let another = |thread: &JoinHandle<()>| thread.thread().id() != thread::current().id();
    if let Some(thread) = thread.filter(another) {
        drop(thread.join());
    }
}

/// Asks the writing thread for a poll, and passes on its result.
pub(crate) type PollRequest = Arc<dyn Fn(PollAnswer) + Send + Sync>;

/// A callback for the result of a poll. It is dropped uncalled if the thread has ended.
pub(crate) type PollAnswer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// The place of a store's file, for further connections to it.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) opened: Arc<Opened>,
    pub(crate) poll: PollRequest,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Place {
    /// Waits for the answer of a thread. An error names the path of the file.
    pub(crate) async fn answer<T>(
        &self,
        answered: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let answer = answered.await.unwrap_or_else(|gone| Err(unavailable(gone)));
        answer.map_err(|error| error.at(self.path.display()))
    }

    /// Opens the file once the writing thread has opened it.
    ///
    /// It asks that thread to poll if the file was replaced.
    pub(crate) fn connect(&self) -> Result<(Connection, Identity), StoreError> {
        let look = || (self.poll)(Box::new(drop));
        let (connection, identity) = self.opened.connect(&self.path, look)?;
        file::prepare(&connection)?;
        Ok((connection, identity))
    }

    /// Opens the file for reading only.
    pub(crate) fn connect_to_read(&self) -> Result<(Connection, Identity), StoreError> {
        let (connection, identity) = self.connect()?;
        // The writing thread closes the file last, and removes its log.
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .map_err(failed)?;
        connection
            .execute_batch("PRAGMA query_only = ON")
            .map_err(failed)?;
        Ok((connection, identity))
    }
}

/// A connection that only reads the file at a path.
#[derive(Debug)]
struct ReadFile {
    place: Place,
    connection: Connection,
    identity: Identity,
}

impl ReadFile {
    fn open(place: Place) -> Result<Self, StoreError> {
        let (connection, identity) = place.connect_to_read()?;
        Ok(Self {
            place,
            connection,
            identity,
        })
    }

    /// Reads from one snapshot of the file that is at the path now.
    fn read<T>(
        &mut self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        if file::identity(&self.place.path).map_err(unavailable)? != self.identity {
            *self = Self::open(self.place.clone())?;
        }
        let snapshot = self.connection.unchecked_transaction().map_err(failed)?;
        read(&snapshot).map_err(failed)
    }
}
