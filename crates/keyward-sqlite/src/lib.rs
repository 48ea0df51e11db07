//! Storage of keyward's API keys in an SQLite file.
//!
//! ```
//! use std::sync::Arc;
//! use keyward::{AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, NewKey, Store};
//! use keyward_sqlite::SqliteStore;
//!
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("keys.db");
//! let store = Arc::new(SqliteStore::open(&path)?);
//! let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
//! let gate = Gate::new(&store, &scheme)?;
//! let admin = KeyAdmin::new(&store, &scheme);
//! # keyward::testing::block_on(async {
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
//! A commit is on the disk when it returns. Requests are answered from memory. A thread of the
//! store compares the memory with the file four times a second, so other processes may change the
//! same file.
//!
//! # Revoking a key by hand
//!
//! A key can be revoked without any program of yours. Triggers make every running process notice a
//! change within its poll interval, whichever program makes it:
//!
//! ```text
//! sqlite3 -box -cmd '.timeout 5000' keys.db "
//!   UPDATE keyward_key SET status = 'revoked', revoked_for = 'seen in a log'
//!     WHERE id = 'key_4fLq7ZpT0aXc';
//!   SELECT changes() AS keys_changed;
//!   SELECT id, name, account, revoked_for, datetime(revoked_at / 1000, 'unixepoch') AS revoked_at
//!     FROM keyward_key_revoked WHERE id = 'key_4fLq7ZpT0aXc';
//!   PRAGMA wal_checkpoint"
//! ```
//!
//! The output shows what was changed: `keys_changed` is 0 if the id was mistyped, and the last line
//! says `0` and twice the same number once the revocation is in the main file. The same for an
//! account, which shows its line of the audit log:
//!
//! ```text
//! sqlite3 -box -cmd '.timeout 5000' keys.db "
//!   UPDATE keyward_account SET status = 'suspended' WHERE id = 'acme';
//!   SELECT changes() AS accounts_changed;
//!   SELECT * FROM keyward_audit WHERE account = 'acme' ORDER BY number DESC LIMIT 1;
//!   PRAGMA wal_checkpoint"
//! ```
//!
//! and with `SET revoked_all = revoked_all + 1` to revoke all keys of the account.
//!
//! A revocation is final: no statement makes the key work again (`a revoked key stays revoked`),
//! and the counters by which all keys of an account were revoked only grow. It also outlives the
//! rows of the account and the key: the file remembers the digest, and rejects a new row with it.
//! Triggers set `revoked_at` and add a line to the audit log, the table `keyward_audit`, for each
//! status change that is typed; its actor is `sqlite3`. Other typed changes, such as new scopes,
//! leave no line. No typed statement can change or delete a line.
//!
//! An invalid row is rejected by the file, or logged and treated as revoked: a typing error never
//! makes a key work. Restore a backup with `mv`, which running processes notice too; they would not
//! notice a `cp` over the file. If the file is missing or cannot be read, requests are refused with
//! 503 once the gate's `max_staleness` has passed.
//!
//! # What to mount, copy and restore
//!
//! SQLite keeps the latest changes in `keys.db-wal` beside the file, until they are copied into it.
//!
//! - Mount the directory, not the file: `-v ./data:/data` and `/data/keys.db`. Never put it on a
//!   network file system, where SQLite's locks do not work.
//! - Back up with [`SqliteStore::backup`], or with `sqlite3 keys.db ".backup copy.db"`. Never copy
//!   `keys.db` alone while a process has it open: revocations are included, as they are copied into
//!   the main file before they are acknowledged, but a copy that is made during a write may be
//!   torn, and new keys, usage and webhooks may be missing.
//! - End processes with SIGTERM, and drop the store: this writes the usage counts and completes the
//!   main file. The examples of servers do so.
//! - Restore with `mv`, after removing `keys.db-wal` and `keys.db-shm` if no process has the file
//!   open. A backup does not contain revocations made after it: revoke those keys again. A process
//!   that runs during the restore logs an error with the number of keys that it knew as revoked and
//!   that work again.
//! - An empty file is rejected, as it may be what is left of a store with keys; see
//!   [`SqliteOptions::initialise_empty`]. If there is no file, a new one appears complete.
//!
//! # Webhooks
//!
//! With the feature `webhooks`, [`SqliteStore`] is also a `WebhookStore` of `keyward-webhooks`. The schema is the
//! same without the feature: every build opens every file, and keeps the webhooks in it.
//!
//! # A file of its own, or the application's
//!
//! All tables begin with `keyward_`. Nothing else in the file is changed, except that it is put
//! into WAL mode. An application may run [`MIGRATIONS`] with its own tool.

// docs.rs builds with nightly and shows which feature each item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![expect(clippy::doc_markdown, reason = "SQLite is a name")]

mod answers;
mod audit;
mod backlog;
mod backup;
mod commit;
mod credit;
mod error;
mod feed;
mod file;
#[cfg(test)]
mod fixture;
mod flush;
mod group;
#[cfg(test)]
#[cfg(feature = "webhooks")]
mod kill;
mod list;
mod maintenance;
mod migration;
mod options;
#[cfg(feature = "webhooks")]
mod outbox;
mod place;
#[cfg(test)]
mod quota;
mod reader;
mod reading;
mod row;
mod store;
#[cfg(test)]
mod suites;
#[cfg(test)]
mod typed;
mod usage;
#[cfg(feature = "webhooks")]
mod webhooks;
mod worker;

pub use crate::migration::MIGRATIONS;
pub use crate::options::SqliteOptions;
pub use crate::store::SqliteStore;
