//! The import of keys from another system's export, line by line, with a report.

pub(crate) mod fields;
pub(crate) mod importer;
pub(crate) mod lines;
pub(crate) mod report;
pub(crate) mod row;
pub(crate) mod source;
#[cfg(test)]
mod tests;
pub(crate) mod time;

pub use self::importer::Importer;
pub use self::report::{
    ImportError, ImportErrorKind, ImportOutcome, ImportReport, ImportTotals, Skipped,
};
pub use self::row::ImportRow;
pub use self::source::ImportSource;
