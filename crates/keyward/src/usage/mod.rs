//! Metered usage: counts of requests and units by key, hour and label, and their export.

pub(crate) mod calendar;
pub(crate) mod counts;
pub(crate) mod export;
pub(crate) mod label;
pub(crate) mod network;
pub(crate) mod roll_up;
pub(crate) mod row;

pub use self::counts::RequestCounts;
pub use self::export::{CsvWriter, UsageRow, write_json_lines};
pub use self::label::UsageLabel;
pub use self::network::ClientNetwork;
pub use self::roll_up::UsageRollUp;
pub use self::row::{KeyUsage, UsageCursor, UsageQuery, UsageSum};
