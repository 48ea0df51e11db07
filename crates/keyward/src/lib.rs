//! Decides about API keys.
//!
//! This crate holds everything there is to decide: how a key looks ([`KeyFormat`]), what is kept of
//! it ([`KeyRecord`](crate::record::KeyRecord)), what a route demands ([`Requirement`]) and whether a request may pass
//! ([`Gate`]). It knows no web framework, no runtime and no database: `keyward-tower` and
//! `keyward-actix` put a gate in front of handlers, `keyward-sqlite` keeps the keys.
//!
//! [`KeyAdmin`] shows how keys are made and revoked, [`Gate`] how a request is decided, [`ErrorCode`](crate::denial::ErrorCode)
//! what is answered, [`Store`] how keys are kept elsewhere. Webhooks, signed both ways, are in `keyward-webhooks`.
//!
//! ```text
//! request head -> exactly one key -> its form -> digest -> record -> checks -> Principal
//!                                                                          or Denial -> Reply
//! ```
//!
//! With the feature `serde`, what a management API shows is `Serialize`: [`KeyView`](crate::admin::KeyView), [`KeyPage`](crate::admin::KeyPage), [`Leak`](crate::admin::Leak),
//! [`AuditEntry`](crate::record::AuditEntry), [`AuditPage`](crate::admin::AuditPage), [`Account`](crate::record::Account), [`UsageHour`](crate::replica::UsageHour) and [`Credits`](crate::credits::Credits);
//! the `impl Serialize` of the last three shows the JSON. Members are named as the fields
//! are, those of a key's record beside its state. A time is in milliseconds since the Unix epoch, what is not
//! there is `null`. A digest or a secret is never written, nor what only a store needs. None of them is
//! `Deserialize`: they come from a store alone.

// docs.rs has nightly: it says there which feature brings what.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod admin;
pub mod clock;
pub mod credits;
pub mod denial;
pub mod environment;
pub mod error;
pub mod gate;
pub mod ids;
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
