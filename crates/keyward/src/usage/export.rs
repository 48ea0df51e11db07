//! Usage as CSV and as JSON lines.

use std::io::{self, Write};

use serde_core::ser::{Serialize, SerializeMap, Serializer};

use crate::usage::calendar::rfc3339;
use crate::usage::{KeyUsage, RequestCounts, UsageSum};

/// A row of usage that can be exported: [`KeyUsage`] and [`UsageSum`].
///
/// It is sealed: other types cannot implement it.
#[expect(private_bounds, reason = "it is sealed")]
pub trait UsageRow: Columns {}

impl UsageRow for KeyUsage {}
impl UsageRow for UsageSum {}

/// The columns of a row, each with a name, in the order of a CSV file.
trait Columns {
    fn columns(&self) -> Vec<(&'static str, Cell)>;
}

enum Cell {
    Text(String),
    Number(u64),
    Nothing,
}

impl Columns for KeyUsage {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        let mut columns = vec![
            ("start", Cell::Text(rfc3339(self.hour))),
            ("hour", Cell::Number(self.hour)),
            ("hours", Cell::Number(self.hours)),
            ("account", Cell::Text(self.account.to_string())),
            ("key", Cell::Text(self.key.to_string())),
            ("environment", Cell::Text(self.environment.to_string())),
            ("label", text(self.label.as_ref())),
        ];
        columns.extend(counts(&self.counts, self.billable(), self.billable_units()));
        columns
    }
}

impl Columns for UsageSum {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        let mut columns = vec![
            ("account", Cell::Text(self.account.to_string())),
            ("environment", Cell::Text(self.environment.to_string())),
            ("label", text(self.label.as_ref())),
        ];
        columns.extend(counts(&self.counts, self.billable(), self.billable_units()));
        columns
    }
}

fn text<T: ToString>(value: Option<&T>) -> Cell {
    value.map_or(Cell::Nothing, |value| Cell::Text(value.to_string()))
}

fn counts(counts: &RequestCounts, billable: u64, billable_units: u64) -> [(&'static str, Cell); 8] {
    let RequestCounts {
        admitted,
        refused,
        client_errors,
        server_errors,
        unanswered,
        units,
    } = *counts;
    [
        ("admitted", Cell::Number(admitted)),
        ("refused", Cell::Number(refused)),
        ("client_errors", Cell::Number(client_errors)),
        ("server_errors", Cell::Number(server_errors)),
        ("unanswered", Cell::Number(unanswered)),
        ("units", Cell::Number(units)),
        ("billable", Cell::Number(billable)),
        ("billable_units", Cell::Number(billable_units)),
    ]
}

/// Writes usage as CSV (RFC 4180), with a header line.
///
/// Text that a spreadsheet would take for a formula, because it begins with `=`, `+`, `-`, `@`, a
/// tab or a carriage return, is written with an apostrophe before it (CSV injection).
///
/// ```
/// use keyward::{AccountId, Environment, KeyId};
/// use keyward::usage::{CsvWriter, KeyUsage};
///
/// let account = AccountId::parse("=1+1,\"acme\"")?;
/// let key = KeyId::parse("key_0123456789ab")?;
/// let mut usage = KeyUsage::new(account, key, Environment::LIVE, 472_222);
/// usage.counts.admitted = 10;
///
/// let mut csv = CsvWriter::new(Vec::new());
/// csv.write(&[usage])?; // a page; the next one gets no header
/// let expected = "start,hour,hours,account,key,environment,label,admitted,refused,client_errors,\
///      server_errors,unanswered,units,billable,billable_units\r\n\
///      2023-11-14T22:00:00Z,472222,1,\"'=1+1,\"\"acme\"\"\",key_0123456789ab,live,,10,0,0,0,0,0,10,0\r\n";
/// assert_eq!(String::from_utf8(csv.into_inner())?, expected);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CsvWriter<W> {
    out: W,
    has_header: bool,
}

impl<W: Write> CsvWriter<W> {
    /// Creates a writer. The header is written before the first row.
    pub fn new(out: W) -> Self {
        Self {
            out,
            has_header: false,
        }
    }

    /// Writes rows, of one type only.
    ///
    /// # Errors
    /// Returns the error of the underlying writer.
    pub fn write<R: UsageRow>(&mut self, rows: &[R]) -> io::Result<()> {
        for row in rows {
            let columns = row.columns();
            if !self.has_header {
                self.has_header = true;
                let names = columns.iter().map(|(name, _)| (*name).to_owned());
                self.line(names)?;
            }
            self.line(columns.into_iter().map(|(_, cell)| match cell {
                Cell::Text(text) => quoted(text),
                Cell::Number(number) => number.to_string(),
                Cell::Nothing => String::new(),
            }))?;
        }
        Ok(())
    }

    /// Returns the underlying writer.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn line(&mut self, cells: impl Iterator<Item = String>) -> io::Result<()> {
        for (number, cell) in cells.enumerate() {
            if number > 0 {
                self.out.write_all(b",")?;
            }
            self.out.write_all(cell.as_bytes())?;
        }
        self.out.write_all(b"\r\n")
    }
}

/// Quotes text where necessary, and keeps a spreadsheet from running it.
fn quoted(text: String) -> String {
    let text = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text
    };
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

/// Writes usage as JSON lines: an object for each row, each on a line of its own.
///
/// ```
/// use keyward::{AccountId, Environment, KeyId};
/// use keyward::usage::{KeyUsage, UsageLabel, write_json_lines};
///
/// let (acme, key) = (AccountId::parse("acme")?, KeyId::parse("key_0123456789ab")?);
/// let mut usage = KeyUsage::new(acme, key, Environment::LIVE, 472_222);
/// usage.label = Some(UsageLabel::parse("reports")?);
/// (usage.counts.admitted, usage.counts.client_errors) = (10, 1);
///
/// let mut out = Vec::new();
/// write_json_lines(&mut out, &[usage])?;
/// let expected = concat!(
///     r#"{"start":"2023-11-14T22:00:00Z","hour":472222,"hours":1,"account":"acme","#,
///     r#""key":"key_0123456789ab","environment":"live","label":"reports","admitted":10,"#,
///     r#""refused":0,"client_errors":1,"server_errors":0,"unanswered":0,"units":0,"#,
///     r#""billable":10,"billable_units":0}"#,
///     "\n"
/// );
/// assert_eq!(String::from_utf8(out)?, expected);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Returns the error of the writer.
pub fn write_json_lines<W: Write, R: UsageRow>(out: &mut W, rows: &[R]) -> io::Result<()> {
    for row in rows {
        serde_json::to_writer(&mut *out, &Object(row))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// A row as a JSON object.
pub(crate) struct Object<'a, R>(pub(crate) &'a R);

impl<R: UsageRow> Serialize for Object<'_, R> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let columns = self.0.columns();
        let mut to = to.serialize_map(Some(columns.len()))?;
        for (name, cell) in columns {
            match cell {
                Cell::Text(text) => to.serialize_entry(name, &text)?,
                Cell::Number(number) => to.serialize_entry(name, &number)?,
                Cell::Nothing => to.serialize_entry(name, &None::<&str>)?,
            }
        }
        to.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_a_spreadsheet_would_run_is_not_run() {
        for (text, written) in [
            ("acme", "acme"),
            ("=HYPERLINK(\"//x\")", "\"'=HYPERLINK(\"\"//x\"\")\""),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("\r=1", "\"'\r=1\""),
            ("a=b", "a=b"),
            ("a,b", "\"a,b\""),
            ("a\nb", "\"a\nb\""),
        ] {
            assert_eq!(quoted(text.to_owned()), written);
        }
    }
}
