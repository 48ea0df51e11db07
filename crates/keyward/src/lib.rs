//! API key authentication for any Rust web stack: the core, which decides.
//!
//! ```ignore
//! use std::error::Error;
//!
//! use axum::{Router, routing::get};
//! use keyward::{
//!     AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, NewKey, Requirement,
//!     Scopes,
//! };
//! use keyward_sqlite::SqliteStore;
//! use keyward_tower::{Principal, RequireKeyLayer};
//! use tokio::net::TcpListener;
//!
//! async fn whoami(caller: Principal) -> String {
//!     format!("{} calls with {}\n", caller.account(), caller.hint())
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn Error>> {
//!     let store = SqliteStore::open("keys.db")?;
//!     let scheme = KeyScheme::new(KeyFormat::new("acme_{env}_")?);
//!     let gate = Gate::new(&store, &scheme)?;
//!
//!     // At sign-up: open an account and create its first key, which is shown once. The token makes
//!     // that idempotent, so that this program can be started again.
//!     let admin = KeyAdmin::new(&store, &scheme);
//!     let operator = Actor::operator("sign-up");
//!     let account = AccountId::parse("customer-1")?;
//!     admin.open_account(&operator, &account).await?;
//!     let new = NewKey::new(account, Environment::LIVE, "production")
//!         .scopes(Scopes::parse(["kyc"])?)
//!         .token("first-key");
//!     if let Some(key) = admin.create(&operator, new).await?.key {
//!         let key = key.expose_secret();
//!         println!("curl -i localhost:3000/whoami -H 'x-api-key: {key}'");
//!     }
//!
//!     let app = Router::new()
//!         .route("/whoami", get(whoami))
//!         .layer(RequireKeyLayer::new(&gate, Requirement::new().scope("kyc")))
//!         .route("/health", get(async || "ok\n")); // after the layer: needs no key
//!     let listener = TcpListener::bind("127.0.0.1:3000").await?;
//!     Ok(axum::serve(listener, app).await?)
//! }
//! ```
//!
//! This is `examples/axum.rs`, with `keyward-tower` and `keyward-sqlite`. A [`Gate`] checks each request against the
//! [`Requirement`] of its route, and a [`KeyAdmin`] creates, rotates and revokes keys. Both share a [`KeyScheme`]: the
//! formats of keys, the peppers with which they are hashed, and the catalog of scopes. A [`Store`] keeps the
//! [`KeyRecord`](crate::record::KeyRecord)s, with digests and never secrets. [`ErrorCode`](crate::denial::ErrorCode)
//! lists what a rejected client reads. The [guide](https://github.com/keyward-rs/keyward/tree/main/docs) has a page
//! for each task: rotation, import, browsers, testing, operating.
//!
//! ```text
//! request head -> exactly one key -> its format -> digest -> record -> checks -> Principal
//!                                                                            or Denial -> Reply
//! ```
//!
//! This crate knows no web framework, no runtime and no database. `keyward-tower` is the middleware for axum and
//! tower, `keyward-actix` for actix-web; `keyward-sqlite` keeps the keys in a file; `keyward-webhooks` signs, verifies
//! and delivers webhooks.
//!
//! # Features
//!
//! - `psl` (default): the public suffix list, by which a wildcard in a key's [list of
//!   origins](OriginPolicy::listed) is checked. Without it, every wildcard except `*.localhost` is rejected.
//! - `serde`: what a management API shows is `Serialize`: [`KeyView`](crate::admin::KeyView),
//!   [`KeyPage`](crate::admin::KeyPage), [`Leak`](crate::admin::Leak), [`AuditEntry`](crate::record::AuditEntry),
//!   [`AuditPage`](crate::admin::AuditPage), [`Account`](crate::record::Account),
//!   [`KeyUsage`](crate::usage::KeyUsage) and [`Credits`](crate::credits::Credits). The `impl Serialize` of the
//!   last three shows the JSON. Members have the names of the fields; those of a key's record stand beside its state.
//!   A time is in milliseconds since the Unix epoch, and a missing value is `null`. A digest or a secret is never
//!   written, nor what only a store needs. None of them is `Deserialize`: they come only from a store.
//! - `testing`: helpers for tests, and the suites that every store must pass.

// docs.rs has nightly: it says there which feature brings what.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod address;
pub mod admin;
pub mod clock;
pub mod credits;
pub mod denial;
pub mod environment;
pub mod error;
pub mod gate;
pub mod ids;
pub mod import;
pub mod key;
pub mod limit;
pub mod log_limit;
pub mod origin;
pub mod record;
pub mod replica;
pub mod reply;
pub mod request;
pub mod scheme;
pub mod scope;
pub mod secret_text;
#[cfg(feature = "serde")]
mod serialize;
pub mod store;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
pub mod throttle;
pub mod usage;

pub use crate::admin::{Actor, Grace, KeyAdmin, NewKey};
pub use crate::environment::Environment;
pub use crate::gate::{Cors, Gate, Principal, Requirement};
pub use crate::ids::{AccountId, KeyId};
pub use crate::key::{ApiKey, KeyFormat, KeyKind, Peppers};
pub use crate::limit::{RateLimit, RateLimits};
pub use crate::origin::OriginPolicy;
pub use crate::reply::Replies;
pub use crate::request::KeyLocation;
pub use crate::scheme::KeyScheme;
pub use crate::scope::{Permission, ScopeCatalog, Scopes};
pub use crate::store::{MemoryStore, Store};
