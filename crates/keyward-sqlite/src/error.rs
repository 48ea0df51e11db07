//! Conversion of SQLite errors to those of a store.

use std::error::Error;
use std::time::Duration;

use keyward::store::{StoreError, StoreErrorKind};
use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_CONSTRAINT_CHECK;

/// The time for which SQLite waits for another process that holds a lock.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Converts an error of SQLite: a conflict, a corrupt row or an outage.
pub(crate) fn failed(error: rusqlite::Error) -> StoreError {
    let kind = match (&error, error.sqlite_error_code()) {
        // A value that the tables reject, and core should have rejected.
        (rusqlite::Error::SqliteFailure(failure, _), _)
            if failure.extended_code == SQLITE_CONSTRAINT_CHECK =>
        {
            StoreErrorKind::Corrupt
        }
        (_, Some(ErrorCode::ConstraintViolation))
        | (rusqlite::Error::StatementChangedRows(_), _) => StoreErrorKind::Conflict,
        (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        | (
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::QueryReturnedNoRows
            | rusqlite::Error::Utf8Error(..),
            _,
        ) => StoreErrorKind::Corrupt,
        _ => StoreErrorKind::Unavailable,
    };
    StoreError::new(kind).because(error)
}

/// Returns whether another process held the lock for too long.
pub(crate) fn is_busy(error: &StoreError) -> bool {
    let source = error
        .source()
        .and_then(|source| source.downcast_ref::<rusqlite::Error>());
    source.and_then(rusqlite::Error::sqlite_error_code) == Some(ErrorCode::DatabaseBusy)
}

/// Creates an error of the kind `Unavailable` with this source.
pub(crate) fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable).because(source)
}
