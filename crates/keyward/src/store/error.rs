//! The error of a store.

use std::error::Error;
use std::fmt;

use crate::replica::ReplicaError;

/// The error of a store.
///
/// ```
/// use keyward::store::{StoreError, StoreErrorKind};
///
/// let full = std::io::Error::other("no space left on device");
/// let error = StoreError::new(StoreErrorKind::Unavailable).because(full);
/// assert_eq!(error.to_string(), "the store cannot answer");
/// assert!(std::error::Error::source(&error).is_some());
/// assert_eq!(error.at("keys.db").to_string(), "the store cannot answer: keys.db");
/// ```
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Option<Box<dyn Error + Send + Sync>>,
    place: Option<Box<str>>,
}

impl StoreError {
    /// Creates an error of this kind.
    #[must_use]
    pub fn new(kind: StoreErrorKind) -> Self {
        Self {
            kind,
            source: None,
            place: None,
        }
    }

    /// Adds the location of the store, such as a file path. It must not contain a password.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.place = Some(place.to_string().into());
        self
    }

    /// Adds the cause of the error.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns the kind of error.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StoreErrorKind::Unavailable => "the store cannot answer",
            StoreErrorKind::Conflict => "conflicting concurrent change",
            StoreErrorKind::TooManyKeys => "active key limit reached",
            StoreErrorKind::TooManyEndpoints => "endpoint limit reached",
            StoreErrorKind::Corrupt => "the store contains an invalid row",
            StoreErrorKind::Unsupported => "the store does not support this",
            StoreErrorKind::Schema => "the store's schema is newer than this program",
        })?;
        match &self.place {
            Some(place) => write!(f, ": {place}"),
            None => Ok(()),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<ReplicaError> for StoreError {
    fn from(error: ReplicaError) -> Self {
        Self::new(StoreErrorKind::Unavailable).because(error)
    }
}

/// The kind of a [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store cannot be reached, read or written.
    Unavailable,
    /// A row has changed concurrently. Read it again and decide again.
    Conflict,
    /// The account would exceed its limit of active keys.
    TooManyKeys,
    /// The account would exceed its limit of endpoints in an environment.
    TooManyEndpoints,
    /// The store contains an invalid row.
    Corrupt,
    /// The store does not support the call.
    Unsupported,
    /// The store was written by a newer version.
    Schema,
}
