//! API keys: their format, hashed keys, and peppers.

pub(crate) mod alphabet;
pub(crate) mod api_key;
pub(crate) mod digest;
pub(crate) mod foreign;
pub(crate) mod format;
pub(crate) mod kind;
pub(crate) mod pepper;

pub use self::alphabet::{Alphabet, RandomError, fill_random};
pub use self::api_key::{ApiKey, Hint};
pub use self::digest::{DigestScheme, KeyDigest};
pub use self::foreign::ForeignFormat;
pub use self::format::KeyFormat;
pub use self::kind::KeyKind;
pub use self::pepper::{Pepper, PepperId, Peppers};
