//! Signing and verifying webhooks: secrets, ids and signatures.

pub(crate) mod message_id;
pub(crate) mod scheme;
pub(crate) mod secret;
pub(crate) mod signer;
pub(crate) mod verifier;

pub use self::message_id::WebhookId;
pub use self::secret::{WebhookSecret, WebhookSecrets};
pub use self::signer::WebhookSigner;
pub use self::verifier::{SignedWebhook, WebhookVerifier};
