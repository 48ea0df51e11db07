//! The key itself: its text, the form of that text, and the digest that is kept instead.

pub(crate) mod alphabet;
pub(crate) mod api_key;
pub(crate) mod digest;
pub(crate) mod foreign;
pub(crate) mod format;
pub(crate) mod pepper;
