//! Keeps keyward's API keys in an SQLite file.
//!
//! ```
//! use std::sync::Arc;
//! use keyward::{AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, NewKey, Store};
//! use keyward_sqlite::SqliteStore;
//!
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("keys.db");
//! let store = Arc::new(SqliteStore::open(&path)?);
//! let format = KeyFormat::new("vhk_{env}_")?;
//! let gate = Gate::builder(store.replica()).format(format.clone()).build()?;
//! let admin = KeyAdmin::new(store.clone(), format);
//! # keyward::conformance::block_on(async {
//! let acme = AccountId::parse("acme")?;
//! let operator = Actor::operator("sign-up");
//! admin.open_account(&operator, &acme).await?;
//! admin.create(&operator, NewKey::new(acme, Environment::LIVE, "production")).await?;
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! assert_eq!(store.replica().len(), 1); // the gate knows the key already
//! # drop(gate);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A commit is on the disk when it returns. Requests are answered from memory; a thread of the store's
//! own compares it with the file four times a second, so other processes may change the same file.
//!
//! # At three in the morning
//!
//! No program of yours is needed to revoke a key. Triggers see to it that every running process
//! notices a change within its poll interval, whoever makes it:
//!
//! ```text
//! sqlite3 -cmd '.timeout 5000' keys.db \
//!   "UPDATE keyward_key SET status = 'revoked' WHERE id = 'key_4fLq7ZpT0aXc'"
//! sqlite3 -cmd '.timeout 5000' keys.db \
//!   "UPDATE keyward_account SET status = 'suspended' WHERE id = 'acme'"
//! sqlite3 -cmd '.timeout 5000' keys.db \
//!   "UPDATE keyward_account SET revoked_all = revoked_all + 1 WHERE id = 'acme'"
//! ```
//!
//! The last of these revokes all keys of the account for good. A key can also be disabled:
//! `SET status = 'disabled', disabled_by = 'operator'`, after which only an operator enables it, as also
//! where `disabled_by` is NULL. The audit trail is the table
//! `keyward_audit`: it tells what was done through a program, not what was typed, and nothing that is
//! typed changes or deletes a line of it.
//!
//! A row that is typed wrong is refused by the file, or logged and taken for dead: no key works
//! because somebody was tired. A backup is restored with `mv`, which running processes notice too;
//! they would not notice a `cp` over the file. Where the file is gone or cannot be read, requests are
//! refused with 503 once the gate's `max_staleness` has passed.
//!
//! # What to mount, copy and restore
//!
//! SQLite keeps the newest changes in `keys.db-wal` beside the file, until they are copied into it.
//!
//! - Mount the directory, not the file: `-v ./data:/data` and `/data/keys.db`. Never put it on a network
//!   file system, where SQLite's locks do not hold.
//! - Back up with [`SqliteStore::backup`], or with `sqlite3 keys.db ".backup copy.db"`. Never copy `keys.db`
//!   alone while a process has it open: revocations survive that, as they are copied into the main file
//!   before they are acknowledged, but a copy that is made during a write may be torn, and new keys, usage
//!   and webhooks may be missing.
//! - End processes with SIGTERM, and drop the store: that writes what was counted and completes the main
//!   file. The examples do so.
//! - Restore with `mv`, after removing `keys.db-wal` and `keys.db-shm` where no process has the file open.
//!   A backup knows nothing of keys that were revoked after it was made: revoke them again.
//!
//! # A file of its own, or the application's
//!
//! All tables begin with `keyward_`; nothing else in the file is touched, except that it is put into
//! WAL mode. [`MIGRATIONS`] may be run by the application's own tool.

#![expect(clippy::doc_markdown, reason = "SQLite is a name")]

mod answers;
mod audit;
mod backup;
mod commit;
mod credit;
mod error;
mod feed;
mod file;
#[cfg(test)]
mod fixture;
mod flush;
#[cfg(test)]
mod kill;
mod list;
mod migration;
mod options;
mod outbox;
mod place;
mod reader;
mod row;
mod store;
mod usage;
mod webhooks;
mod worker;

pub use crate::migration::MIGRATIONS;
pub use crate::options::SqliteOptions;
pub use crate::store::SqliteStore;
