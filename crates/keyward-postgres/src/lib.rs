//! Storage of keyward's API keys in PostgreSQL, for services on several machines.
//!
//! ```no_run
//! # async fn open() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use keyward::{AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, NewKey};
//! use keyward_postgres::PostgresStore;
//!
//! let url = "postgres://my_api@localhost/my_api";
//! PostgresStore::migrate(url).await?; // creates the schema `keyward`
//! let store = Arc::new(PostgresStore::connect(url).await?);
//!
//! let scheme = KeyScheme::new(KeyFormat::new("acme_{env}_")?);
//! let gate = Gate::new(&store, &scheme)?;
//! let admin = KeyAdmin::new(&store, &scheme);
//! let (operator, acme) = (Actor::operator("sign-up"), AccountId::parse("acme")?);
//! admin.open_account(&operator, &acme).await?;
//! let new = NewKey::new(acme, Environment::LIVE, "production");
//! let key = admin.create(&operator, new).await?.key; // the gate of every process knows it soon
//! # drop((gate, key));
//! # Ok(())
//! # }
//! ```
//!
//! Every process answers requests from its own memory. A revocation is in force in the process that
//! commits it when the commit returns, and in all others some milliseconds later. A process that cannot
//! read the database for longer than its gate's `max_staleness` refuses requests with 503, so a revoked
//! key is never accepted longer than that.
//!
//! # Several processes and machines
//!
//! Each process keeps one connection for its feed and a few for calls. The feed looks for changes four
//! times a second, and at once when the server notifies it: notifications are hints, and none that is lost
//! delays a change for longer than the poll interval. Whether there are changes is one statement that
//! reads two rows.
//!
//! A change gets its revision at its commit, under a lock, so that whoever reads a revision has read all
//! before it. This holds for every isolation level, for savepoints, and for what is typed. Each revision
//! has a random nonce: if the server has lost changes (a restored backup, a failover to a standby that
//! was behind), the processes notice that their history is another, read everything again, and log how
//! many keys work again that were revoked. To lose no commit in a failover, use synchronous replication.
//!
//! All processes must reach the primary server. A read replica is refused.
//!
//! # Roles
//!
//! [`PostgresStore::migrate`] needs a role that owns the schema `keyward`, or may create it. At run time
//! less is enough. Run [`GRANTS`] as the owner after each migration, and make the login role of the
//! service a member:
//!
//! ```text
//! psql -d my_api -U my_api_owner -f roles.sql     # the text of keyward_postgres::GRANTS
//! psql -d my_api -U postgres -c 'GRANT keyward_service TO my_api'
//! ```
//!
//! Such a role can do all that requests and management calls need. It can drop, alter and truncate
//! nothing, and can neither change nor delete a line of the audit log. Retention (`KeyAdmin::maintain`,
//! `cut_audit`, `erase_account`) needs a member of `keyward_maintenance`, which may delete dead keys and
//! exported lines: run it as a job of its own.
//!
//! # Revoking a key by hand
//!
//! A key can be revoked without any program of yours. Every running process notices it within
//! milliseconds:
//!
//! ```text
//! psql -d my_api -c "
//!   UPDATE keyward.key SET status = 'revoked', revoked_for = 'seen in a log'
//!     WHERE id = 'key_4fLq7ZpT0aXc'
//!     RETURNING id, name, account, revoked_at"
//! ```
//!
//! The same for an account, or for all its keys:
//!
//! ```text
//! psql -d my_api -c "UPDATE keyward.account SET status = 'suspended' WHERE id = 'acme'"
//! psql -d my_api -c "UPDATE keyward.account SET revoked_all = revoked_all + 1 WHERE id = 'acme'"
//! ```
//!
//! A revocation is final: no statement makes the key work again (`a revoked key stays revoked`), and the
//! counters by which all keys of an account were revoked only grow. It also outlives the row of the key:
//! the table `keyward.revoked_digest` remembers the digest, and a new row with it is refused. Triggers set
//! `revoked_at` and add a line to the audit log, the table `keyward.audit`, for each change of a status
//! that is typed; its actor is `psql`. Other typed changes, such as new scopes, leave no line.
//!
//! An invalid row is refused by the table, or logged and treated as revoked: a typing error never makes a
//! key work. After changes with disabled triggers (`session_replication_role`, a logical restore of single
//! tables), run `SELECT keyward.resync()`, and every process reads everything again.
//!
//! # Deadlines
//!
//! Every call has a deadline ([`PostgresOptions::deadline`], five seconds). A commit that is not answered
//! in time fails as unavailable, and may have been written nevertheless. Commits that meet another one
//! fail as a conflict, which `KeyAdmin` decides anew. A transaction of yours that changes keys holds up
//! others only while it commits.
//!
//! # PgBouncer and TLS
//!
//! Calls may go through PgBouncer in transaction mode: hand in your own [pool](PostgresOptions::pool). The
//! feed needs a connection of its own to the server, because notifications belong to a session.
//!
//! With the feature `tls`, connections are protected by rustls (`PostgresOptions::tls`). A server on
//! another machine is refused without it, unless the URL says `sslmode=disable`.
//!
//! # Webhooks
//!
//! With the feature `webhooks`, [`PostgresStore`] is also a `WebhookStore` of `keyward-webhooks`: endpoints, the
//! outbox and deliveries are tables beside the keys, and an event is written in the transaction of the
//! change that it tells of. Senders of any number of processes deliver at once. A claim is a lease on
//! some deliveries, and no other process gets them before it ends: what a killed process has claimed is
//! delivered by another one then. The tables are the same without the feature.
//!
//! # Tables of its own, in the application's database or another
//!
//! Everything is in the schema `keyward`. PostgreSQL 13 or later is needed. An application may run
//! [`MIGRATIONS`] with its own tool. A newer schema goes on serving older programs until it says that it
//! cannot, so that programs can be replaced one after the other.

// docs.rs builds with nightly and shows which feature each item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![expect(clippy::doc_markdown, reason = "PostgreSQL and PgBouncer are names")]

mod audit;
#[cfg(feature = "webhooks")]
mod backlog;
mod calls;
#[cfg(test)]
mod checker;
#[cfg(feature = "webhooks")]
mod claim;
mod commit;
mod connect;
mod credit;
mod error;
#[cfg(test)]
mod faults;
mod feed;
#[cfg(test)]
mod fixture;
mod flush;
mod found;
mod list;
mod maintenance;
mod migration;
mod options;
#[cfg(test)]
mod order;
#[cfg(feature = "webhooks")]
mod outbox;
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

pub use crate::migration::{GRANTS, MIGRATIONS};
pub use crate::options::PostgresOptions;
pub use crate::store::PostgresStore;
