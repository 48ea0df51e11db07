//! Why a store could not do what it was asked.

use std::error::Error;
use std::fmt;

use crate::replica::ReplicaError;

/// The store could not do what it was asked.
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
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: StoreErrorKind) -> Self {
        Self {
            kind,
            source: None,
            place: None,
        }
    }

    /// Names where the store is, such as the path of a file. Not for what holds a password.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.place = Some(place.to_string().into());
        self
    }

    /// With the error behind it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Which it is.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StoreErrorKind::Unavailable => "the store cannot answer",
            StoreErrorKind::Conflict => "what was to be changed has changed meanwhile",
            StoreErrorKind::TooManyKeys => "the account has as many active keys as it may",
            StoreErrorKind::TooManyEndpoints => "the account has as many endpoints as it may",
            StoreErrorKind::Corrupt => "the store holds a row that is not valid",
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

/// Which error it is. See [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// It cannot be reached, read or written.
    Unavailable,
    /// What was to be changed has changed meanwhile; read it again and decide anew.
    Conflict,
    /// An account would have more active keys than it may.
    TooManyKeys,
    /// An account would have more endpoints in an environment than it may.
    TooManyEndpoints,
    /// It holds a row that is not valid.
    Corrupt,
    /// It was written by a newer version.
    Schema,
}
