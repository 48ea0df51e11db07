//! Webhooks: the secret, the signature, and the decision about a delivery that has come in.

pub(crate) mod builder;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod form;
pub(crate) mod id;
pub(crate) mod receiver;
pub(crate) mod replay;
pub(crate) mod sealing;
pub(crate) mod secret;
pub(crate) mod signer;
#[cfg(test)]
mod tests;
pub(crate) mod verdict;
pub(crate) mod verifier;
