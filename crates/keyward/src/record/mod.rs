//! What is kept of a key and of the account that owns it.

pub(crate) mod account;
pub(crate) mod audit;
pub(crate) mod key_id;
pub(crate) mod key_record;
pub(crate) mod metadata;
pub(crate) mod public_name;
