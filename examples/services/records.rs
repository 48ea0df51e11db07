//! What a service stores of its business: JSON, in a table beside the keys'.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use rusqlite::Result as Recorded;
use rusqlite::{Connection, OptionalExtension, Result, TransactionBehavior, params};
use serde_json::{Value, json};

/// JSON by account and kind, in one table; each has a number, which stands in it as `id`.
#[derive(Debug)]
pub struct Records {
    connection: Mutex<Connection>,
    table: &'static str,
}

impl Records {
    /// Opens the table, or makes a new one.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub(crate) fn open(path: &Path, table: &'static str) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {table} \
             (id INTEGER PRIMARY KEY, account TEXT NOT NULL, kind TEXT NOT NULL, json TEXT NOT NULL)"
        ))?;
        let connection = Mutex::new(connection);
        Ok(Self { connection, table })
    }

    /// Stores it, and gives it with its number.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&self, account: &str, kind: &str, json: Value) -> Result<Value> {
        let connection = self.lock();
        connection.execute(
            &format!(
                "INSERT INTO {} (account, kind, json) VALUES (?, ?, ?)",
                self.table
            ),
            params![account, kind, json.to_string()],
        )?;
        Ok(numbered(connection.last_insert_rowid(), json))
    }

    /// Changes the one of this number, and gives what it is then; `None` where there is none. Nobody else
    /// changes it meanwhile.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn change(
        &self,
        account: &str,
        kind: &str,
        id: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Option<Value>> {
        let mut connection = self.lock();
        let write = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let Some(mut json) = self.read(&write, account, kind, id)? else {
            return Ok(None);
        };
        change(&mut json);
        let sql = format!("UPDATE {} SET json = ? WHERE id = ?", self.table);
        write.execute(&sql, params![json.to_string(), json["id"].as_i64()])?;
        write.commit()?;
        Ok(Some(json))
    }

    /// The one of this number, if it is of this account and kind.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn one(&self, account: &str, kind: &str, id: &str) -> Result<Option<Value>> {
        self.read(&self.lock(), account, kind, id)
    }

    /// Whose the one of this number is.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn owner(&self, kind: &str, id: &str) -> Result<Option<String>> {
        let sql = format!(
            "SELECT account FROM {} WHERE kind = ? AND id = ?",
            self.table
        );
        let found = self
            .lock()
            .query_row(&sql, params![kind, number(id)], |row| row.get(0));
        found.optional()
    }

    /// All of this account and kind, the oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn all(&self, account: &str, kind: &str) -> Result<Vec<Value>> {
        let connection = self.lock();
        let mut found = connection.prepare(&format!(
            "SELECT id, json FROM {} WHERE account = ? AND kind = ? ORDER BY id",
            self.table
        ))?;
        let found = found.query_map(params![account, kind], |row| {
            Ok(read(row.get(0)?, &row.get::<_, String>(1)?))
        });
        found?.collect()
    }

    fn read(
        &self,
        connection: &Connection,
        account: &str,
        kind: &str,
        id: &str,
    ) -> Result<Option<Value>> {
        let sql = format!(
            "SELECT id, json FROM {} WHERE account = ? AND kind = ? AND id = ?",
            self.table
        );
        let found = connection.query_row(&sql, params![account, kind, number(id)], |row| {
            Ok(read(row.get(0)?, &row.get::<_, String>(1)?))
        });
        found.optional()
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands in a path where a number is meant.
fn number(id: &str) -> Option<i64> {
    id.parse().ok()
}

fn read(id: i64, json: &str) -> Value {
    numbered(id, serde_json::from_str(json).unwrap_or_default())
}

fn numbered(id: i64, mut json: Value) -> Value {
    json["id"] = json!(id);
    json
}
