//! Signed webhooks for services whose API keys [`keyward`] manages.
//!
//! Both directions, as [Standard Webhooks](https://www.standardwebhooks.com) describes them:
//!
//! - **Receiving.** [`WebhookVerifier`] verifies signatures of Standard Webhooks, Svix, Stripe and GitHub.
//!   [`WebhookReceiver`] puts it in front of a handler, with a limit on the body and protection against
//!   replays. `keyward-tower` and `keyward-actix` have the middleware.
//! - **Sending.** [`WebhookAdmin`] manages the endpoints of customers and accepts messages into a
//!   transactional outbox, the [`WebhookStore`]. `keyward_tower::WebhookSender` delivers them at least once,
//!   with exponential backoff, signed with the secret of each endpoint, and to public addresses only
//!   (SSRF protection). Secrets are encrypted at rest: see [`sealing`].
//!
//! ```
//! use std::time::SystemTime;
//! use keyward::testing::TestRequest;
//! use keyward_webhooks::signature::{WebhookId, WebhookSecret};
//! use keyward_webhooks::{WebhookSigner, WebhookVerifier};
//!
//! // The sender:
//! let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
//! let (id, now, body) = (WebhookId::parse("report-17-done")?, SystemTime::now(), br#"{"done":true}"#);
//! let signature = WebhookSigner::new(&secret).sign(&id, now, body);
//!
//! // The receiver:
//! let verifier = WebhookVerifier::standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
//! let timestamp = now.duration_since(SystemTime::UNIX_EPOCH)?.as_secs().to_string();
//! let head = TestRequest::new("POST")
//!     .header("webhook-id", "report-17-done")
//!     .header("webhook-timestamp", timestamp)
//!     .header("webhook-signature", signature);
//! let verified = verifier.verify(&head, body, now)?;
//! assert_eq!(verified.id().map(|id| id.as_str()), Some("report-17-done"));
//! assert!(verifier.verify(&head, br#"{"done":false}"#, now).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! - `serde`: [`WebhookEndpoint`](send::WebhookEndpoint) and [`DeliveryAttempt`](send::DeliveryAttempt) are
//!   `Serialize`, for a management API. Times are in milliseconds since the Unix epoch; secrets are never
//!   written.
//! - `testing`: the test suite for implementations of [`WebhookStore`].

// docs.rs builds with nightly and shows the feature that each item requires.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod admin;
pub mod error;
pub mod receive;
pub mod sealing;
pub mod send;
#[cfg(feature = "serde")]
mod serialize;
pub mod signature;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;

pub use crate::admin::WebhookAdmin;
pub use crate::receive::WebhookReceiver;
pub use crate::send::WebhookMessage;
pub use crate::signature::{WebhookSigner, WebhookVerifier};
pub use crate::store::{MemoryWebhooks, WebhookStore};
