//! Decides about API keys.
//!
//! This crate holds everything there is to decide: how a key looks ([`KeyFormat`]), what is kept of
//! it ([`KeyRecord`]), what a route demands ([`Requirement`]) and whether a request may pass
//! ([`Gate`]). It knows no web framework, no runtime and no database: `keyward-tower` and
//! `keyward-actix` put a gate in front of handlers, `keyward-sqlite` keeps the keys.
//!
//! [`KeyAdmin`] shows how keys are made and revoked, [`Gate`] how a request is decided, [`ErrorCode`]
//! what is answered, [`Store`] how keys are kept elsewhere. [`WebhookSigner`] signs webhooks, a
//! [`WebhookReceiver`] decides about those that come in, and [`WebhookAdmin`] accepts those that are to
//! be delivered.
//!
//! ```text
//! request head -> exactly one key -> its form -> digest -> record -> checks -> Principal
//!                                                                          or Denial -> Reply
//! ```

//! With the feature `serde`, what a management API shows is `Serialize`: [`KeyView`], [`KeyPage`], [`Leak`],
//! [`AuditEntry`], [`AuditPage`], [`Account`], [`UsageHour`], [`Credits`], [`WebhookEndpoint`] and
//! [`DeliveryAttempt`]; the `impl Serialize` of the last five shows the JSON. Members are named as the fields
//! are, those of a key's record beside its state. A time is in milliseconds since the Unix epoch, what is not
//! there is `null`. A digest or a secret is never written, nor what only a store needs. None of them is
//! `Deserialize`: they come from a store alone.

// docs.rs has nightly: it says there which feature brings what.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admin;
mod catalog;
mod clock;
mod denial;
mod environment;
mod error;
mod gate;
mod key;
mod limit;
mod log_limit;
mod origin;
mod outbox;
mod per_environment;
mod record;
mod reply;
mod request;
mod scope;
mod secret_text;
#[cfg(feature = "serde")]
mod serialize;
mod store;
mod sync;
#[cfg(test)]
mod test_store;
mod webhook;

pub use crate::admin::actor::{Actor, Permission};
pub use crate::admin::admin::KeyAdmin;
pub use crate::admin::change::{AccountChange, CreatedKey, Grace, KeyChange, NewKey};
pub use crate::admin::endpoints::{CreatedEndpoint, EndpointChange};
pub use crate::admin::error::{AdminError, AdminErrorKind};
pub use crate::admin::list::{AuditPage, KeyCursor, KeyFilter, KeyPage, KeyView, Leak};
pub use crate::admin::webhooks::WebhookAdmin;
pub use crate::catalog::ScopeCatalog;
pub use crate::clock::{Clock, ManualClock, SystemClock};
pub use crate::denial::{Denial, DenialKind};
pub use crate::environment::Environment;
pub use crate::error::{ParseError, ParseErrorKind};
pub use crate::gate::alive::KeyDied;
pub use crate::gate::builder::{GateBuilder, GateError, GateErrorKind};
pub use crate::gate::cors::Cors;
pub use crate::gate::drain::BodyDrain;
pub use crate::gate::explain::{Check, Explanation};
pub use crate::gate::gate::Gate;
pub use crate::gate::pending::Pending;
pub use crate::gate::principal::Principal;
pub use crate::gate::requirement::Requirement;
pub use crate::gate::throttle::FailureThrottle;
pub use crate::gate::verdict::{
    Access, Admitted, Anonymous, Decision, Finish, KeyField, Refusal, ResponseHead, Verdict,
};
pub use crate::key::alphabet::{Alphabet, RandomError};
pub use crate::key::api_key::{ApiKey, Hint};
pub use crate::key::digest::{DigestScheme, KeyDigest};
pub use crate::key::foreign::ForeignFormat;
pub use crate::key::format::KeyFormat;
pub use crate::key::pepper::{Pepper, PepperId, Peppers};
pub use crate::limit::bucket::{Bucket, BucketOwner};
pub use crate::limit::credits::{CreditGrant, CreditOwner, CreditWant, Credits, Refill, Unspent};
pub use crate::limit::limiter::{Charge, Limiter, LimiterError, Taken, Taking};
pub use crate::limit::quota::{Quota, ResetUnit};
pub use crate::limit::rate_limit::RateLimit;
pub use crate::limit::rate_limits::RateLimits;
pub use crate::origin::{OriginList, OriginPolicy};
pub use crate::outbox::attempt::{AttemptOutcome, DeliveryAttempt};
pub use crate::outbox::challenge::{AnsweredChallenge, EndpointChallenge};
pub use crate::outbox::delivery::{Conclusion, DueDelivery, NextStep};
pub use crate::outbox::endpoint::{EndpointId, EndpointStatus, WebhookEndpoint};
pub use crate::outbox::health::{CircuitState, EndpointHealth};
pub use crate::outbox::message::WebhookMessage;
pub use crate::outbox::rules::EndpointRules;
pub use crate::outbox::schedule::RetrySchedule;
pub use crate::outbox::signal::OutboxSignal;
pub use crate::outbox::store::{
    DeliveryClaim, EndpointsAtMost, ProvenEndpoints, Redelivery, WebhookCommit, WebhookStore,
};
pub use crate::outbox::url::EndpointUrl;
pub use crate::per_environment::PerEnvironment;
pub use crate::record::account::{Account, AccountId, AccountStatus};
pub use crate::record::audit::{AuditAction, AuditEntry};
pub use crate::record::key_id::KeyId;
pub use crate::record::key_record::{DisabledBy, KeyKind, KeyRecord, KeyState, KeyStatus};
pub use crate::record::metadata::Metadata;
pub use crate::reply::body::{
    DetailJson, ErrorBody, ErrorJson, ErrorMessageJson, ErrorText, ProblemJson,
};
pub use crate::reply::code::ErrorCode;
pub use crate::reply::replies::Replies;
pub use crate::reply::reply::Reply;
pub use crate::request::head::RequestHead;
pub use crate::request::location::KeyLocation;
pub use crate::scope::{Scope, Scopes};
pub use crate::store::commit::{ActiveKeys, Commit, CreateToken, CreditChange};
#[cfg(any(test, feature = "conformance"))]
pub use crate::store::conformance;
pub use crate::store::error::{StoreError, StoreErrorKind};
pub use crate::store::memory::MemoryStore;
pub use crate::store::poll::{Poll, ReplicaError, ReplicaErrorKind, Revision};
pub use crate::store::query::{AuditQuery, KeyQuery};
pub use crate::store::replica::Replica;
pub use crate::store::store::{Store, StoreFuture};
pub use crate::store::usage::{Redigest, UsageCount, UsageHour, UsageQuery};
pub use crate::webhook::builder::WebhookReceiverBuilder;
pub use crate::webhook::error::{WebhookError, WebhookErrorKind};
pub use crate::webhook::event::WebhookEvent;
pub use crate::webhook::id::WebhookId;
pub use crate::webhook::receiver::{AwaitedBody, WebhookReceiver};
pub use crate::webhook::replay::{RecentWebhooks, Recollection, ReplayMemory, WebhookAttempt};
pub use crate::webhook::sealing::{
    SealError, SealErrorKind, SealedSecret, SealingKey, SealingKeys,
};
pub use crate::webhook::secret::{WebhookSecret, WebhookSecrets};
pub use crate::webhook::signer::WebhookSigner;
pub use crate::webhook::verdict::{Receipt, WebhookAnswer, WebhookDelivery, WebhookVerdict};
pub use crate::webhook::verifier::{SignedWebhook, WebhookVerifier};
