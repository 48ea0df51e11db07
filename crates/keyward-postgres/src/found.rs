//! The rows of a list, which are fetched some at a time.

use tokio_postgres::Row;

use crate::error::RowError;
use crate::row;

/// The number of rows that one statement fetches at most.
const FETCH: usize = 1000;

/// The valid rows of a list, up to its limit.
pub(crate) struct Found<T> {
    rows: Vec<T>,
    limit: usize,
}

impl<T> Found<T> {
    pub(crate) fn at_most(limit: usize) -> Self {
        let rows = Vec::new();
        Self { rows, limit }
    }

    /// Returns how many rows the next statement must fetch.
    pub(crate) fn wanted(&self) -> i64 {
        let wanted = self.limit.saturating_sub(self.rows.len()).min(FETCH);
        i64::try_from(wanted).unwrap_or(i64::MAX)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows.len() >= self.limit
    }

    /// Adds the valid rows of a statement that has fetched as many as were wanted, if there are.
    ///
    /// Returns the last of them if the list goes on after it. Invalid rows are logged, with the id in
    /// this column, and do not count.
    pub(crate) fn add<'a>(
        &mut self,
        rows: &'a [Row],
        id: usize,
        read: impl Fn(&Row) -> Result<T, RowError>,
    ) -> Option<&'a Row> {
        let is_over = i64::try_from(rows.len()).is_ok_and(|fetched| fetched < self.wanted());
        for row in rows {
            match read(row) {
                Ok(valid) => self.rows.push(valid),
                Err(why) => row::log_broken(row, id, &why),
            }
        }
        rows.last().filter(|_| !is_over && !self.is_full())
    }

    pub(crate) fn into_rows(self) -> Vec<T> {
        self.rows
    }
}
