//! The report of an import: an outcome for each line.

use std::error::Error;
use std::fmt;

use crate::admin::AdminError;
use crate::error::ParseError;
use crate::ids::KeyId;
use crate::record::AdminErrorKind;

/// The outcome of one line of an import.
///
/// It contains nothing of the line's text, which may hold a secret. `Display` writes it for a log.
///
/// ```
/// use keyward::import::{ImportOutcome, ImportReport, Skipped};
///
/// let report = ImportReport::new(7, ImportOutcome::Skipped(Skipped::Expired));
/// assert_eq!(report.to_string(), "line 7: skipped: the key has expired");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportReport {
    /// The number of the line, from 1.
    pub line: u64,
    /// The outcome.
    pub outcome: ImportOutcome,
}

impl ImportReport {
    /// Creates the report of a line.
    #[must_use]
    pub fn new(line: u64, outcome: ImportOutcome) -> Self {
        Self { line, outcome }
    }
}

impl fmt::Display for ImportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.outcome)
    }
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImportOutcome {
    /// The key was imported under this id.
    Imported(KeyId),
    /// The key was imported before, under this id. Nothing was changed.
    AlreadyImported(KeyId),
    /// The key was not imported.
    Skipped(Skipped),
}

impl fmt::Display for ImportOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Imported(id) => write!(f, "imported as {id}"),
            Self::AlreadyImported(id) => write!(f, "already imported as {id}"),
            Self::Skipped(skipped) => write!(f, "skipped: {skipped}"),
        }
    }
}

/// The reason why a row was not imported.
///
/// ```
/// use keyward::import::Skipped;
/// use keyward::record::AdminErrorKind;
///
/// let full = Skipped::Refused(AdminErrorKind::TooManyKeys);
/// assert_eq!(full.to_string(), "active key limit reached");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skipped {
    /// The line is longer than 64 KiB.
    TooLong,
    /// The line is not UTF-8.
    NotUtf8,
    /// The line is not a JSON object.
    NotJson,
    /// This column is missing or not as the system writes it.
    Malformed(&'static str),
    /// The digest cannot be looked up, such as one of PBKDF2, bcrypt or Argon2, or is not a digest.
    UnsupportedDigest,
    /// The key has expired.
    Expired,
    /// The key is disabled.
    Disabled,
    /// The key is revoked.
    Revoked,
    /// The credits are refilled at an interval that is not one of the calendar.
    ///
    /// See [`ImportRow::refill`](crate::import::ImportRow::refill).
    Refill,
    /// The row has no name.
    NameMissing,
    /// The row has no owner.
    OwnerMissing,
    /// The digest is stored already, by a key that this import has not created.
    DigestStored,
    /// The service left the row out.
    Excluded,
    /// The service could not map the row.
    Mapping(ParseError),
    /// The key was refused, as [`KeyAdmin::import`](crate::KeyAdmin::import) would refuse it.
    Refused(AdminErrorKind),
}

impl From<ParseError> for Skipped {
    fn from(error: ParseError) -> Self {
        Self::Mapping(error)
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the line is longer than 64 KiB",
            Self::NotUtf8 => "the line is not UTF-8",
            Self::NotJson => "the line is not a JSON object",
            Self::Malformed(column) => {
                return write!(f, "the column `{column}` is missing or malformed");
            }
            Self::UnsupportedDigest => "the digest is of an unsupported kind",
            Self::Expired => "the key has expired",
            Self::Disabled => "the key is disabled",
            Self::Revoked => "the key is revoked",
            Self::Refill => "the interval of the refill is not one of the calendar",
            Self::NameMissing => "the row has no name",
            Self::OwnerMissing => "the row has no owner",
            Self::DigestStored => "another key has this digest",
            Self::Excluded => "the service left the row out",
            Self::Mapping(error) => return error.fmt(f),
            Self::Refused(kind) => kind.sentence(),
        })
    }
}

/// The number of lines by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportTotals {
    /// The number of keys that were imported.
    pub imported: u64,
    /// The number of keys that were imported before.
    pub already_imported: u64,
    /// The number of lines that were skipped.
    pub skipped: u64,
}

impl ImportTotals {
    pub(super) fn count(&mut self, outcome: ImportOutcome) {
        *match outcome {
            ImportOutcome::Imported(_) => &mut self.imported,
            ImportOutcome::AlreadyImported(_) => &mut self.already_imported,
            ImportOutcome::Skipped(_) => &mut self.skipped,
        } += 1;
    }
}

/// The error that ends an import before the last line.
///
/// Run the import again with the same file: what is done is reported as
/// [`AlreadyImported`](ImportOutcome::AlreadyImported).
///
/// ```
/// # use keyward::{Environment, testing::{World, block_on}};
/// # use keyward::import::{ImportErrorKind, ImportSource, Importer, Skipped};
/// # let world = World::new();
/// # let operator = world.operator();
/// let importer = Importer::new(world.admin(), &operator, ImportSource::sanctum());
/// let directory = std::io::BufReader::new(std::fs::File::open(".")?);
/// let done = importer.run(directory, |_| Err(Skipped::Excluded), |_| ());
/// assert_eq!(block_on(done).unwrap_err().kind(), ImportErrorKind::Read);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct ImportError {
    kind: ImportErrorKind,
    line: u64,
    source: Box<dyn Error + Send + Sync>,
}

/// The kind of an [`ImportError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImportErrorKind {
    /// The export could not be read.
    Read,
    /// The store failed, or the operating system provided no random bytes.
    Store,
}

impl ImportError {
    pub(super) fn read(line: u64, error: std::io::Error) -> Self {
        Self {
            kind: ImportErrorKind::Read,
            line,
            source: error.into(),
        }
    }

    pub(super) fn store(line: u64, error: AdminError) -> Self {
        Self {
            kind: ImportErrorKind::Store,
            line,
            source: error.into(),
        }
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> ImportErrorKind {
        self.kind
    }

    /// Returns the number of the line at which the import ended, from 1.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ImportErrorKind::Read => "the export could not be read",
            ImportErrorKind::Store => "the store failed",
        };
        write!(f, "{what} at line {}", self.line)
    }
}

impl Error for ImportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}
