//! Webhooks: the secret, the signature, and the decision about a delivery that has come in.

pub(crate) mod builder;
pub(crate) mod code;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod id;
pub(crate) mod receiver;
pub(crate) mod replay;
pub(crate) mod scheme;
pub(crate) mod sealing;
pub(crate) mod secret;
pub(crate) mod signer;
#[cfg(test)]
mod tests;
pub(crate) mod verdict;
pub(crate) mod verifier;

pub use self::builder::WebhookReceiverBuilder;
pub use self::code::WebhookErrorCode;
pub use self::error::{ReceiverError, ReceiverErrorKind, WebhookError, WebhookErrorKind};
pub use self::event::WebhookEvent;
pub use self::id::WebhookId;
pub use self::receiver::{AwaitedBody, WebhookReceiver};
pub use self::replay::{RecentWebhooks, ReplayMemory, ReplayStatus, WebhookAttempt};
pub use self::sealing::{SealError, SealErrorKind, SealedSecret, SealingKey, SealingKeys};
pub use self::secret::{WebhookSecret, WebhookSecrets};
pub use self::signer::WebhookSigner;
pub use self::verdict::{Receipt, WebhookAnswer, WebhookDelivery, WebhookVerdict};
pub use self::verifier::{SignedWebhook, WebhookVerifier};
