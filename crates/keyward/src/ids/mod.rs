//! Public ids of keys and accounts.

pub(crate) mod account_id;
pub(crate) mod key_id;
pub(crate) mod public_name;

pub use self::account_id::AccountId;
pub use self::key_id::KeyId;
pub use self::public_name::PublicName;
