//! Conversion of PostgreSQL errors to those of a store.

use std::error::Error as StdError;
use std::fmt;

use keyward::replica::ReplicaError;
use keyward::store::{StoreError, StoreErrorKind};
use tokio_postgres::error::SqlState;

/// An error of the database or of the store itself.
#[derive(Debug)]
pub(crate) enum Error {
    Postgres(tokio_postgres::Error),
    Row(RowError),
    Store(StoreError),
}

/// A row that the server delivered and that is invalid.
#[derive(Debug)]
pub(crate) struct RowError {
    pub(crate) column: usize,
    pub(crate) why: Box<dyn StdError + Send + Sync>,
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.why)
    }
}

impl StdError for RowError {}

/// The part of a server's message that has no values of rows.
///
/// The details of a violated constraint contain the row, with the digest.
#[derive(Debug)]
struct ServerError {
    code: String,
    message: String,
    constraint: Option<String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            code,
            message,
            constraint,
        } = self;
        match constraint {
            Some(constraint) => write!(f, "{message} ({code}, {constraint})"),
            None => write!(f, "{message} ({code})"),
        }
    }
}

impl StdError for ServerError {}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<RowError> for Error {
    fn from(error: RowError) -> Self {
        Self::Row(error)
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<ReplicaError> for Error {
    fn from(error: ReplicaError) -> Self {
        Self::Store(error.into())
    }
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error {
            Error::Postgres(error) => failed(error),
            Error::Row(error) => Self::new(StoreErrorKind::Corrupt).because(error),
            Error::Store(error) => error,
        }
    }
}

/// Converts an error of the client or the server.
fn failed(error: tokio_postgres::Error) -> StoreError {
    let Some(server) = error.as_db_error() else {
        return unavailable(error);
    };
    let code = server.code();
    let kind = match code.code().get(..2) {
        // A value that the tables reject, and core should have rejected.
        _ if *code == SqlState::CHECK_VIOLATION => StoreErrorKind::Corrupt,
        Some("22") => StoreErrorKind::Corrupt,
        // A violated constraint, what a trigger refuses, a serialization failure or a deadlock.
        Some("23" | "40") => StoreErrorKind::Conflict,
        _ => StoreErrorKind::Unavailable,
    };
    StoreError::new(kind).because(ServerError {
        code: code.code().to_owned(),
        message: server.message().to_owned(),
        constraint: server.constraint().map(str::to_owned),
    })
}

/// Creates an error of the kind `Unavailable` with this source.
pub(crate) fn unavailable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable).because(source)
}

/// Creates the error of a change that meets another.
pub(crate) fn conflict() -> Error {
    StoreError::new(StoreErrorKind::Conflict).into()
}
