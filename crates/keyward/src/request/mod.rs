//! The request as core sees it, and the one key in it.

pub(crate) mod client;
pub(crate) mod credential;
pub(crate) mod head;
pub(crate) mod list;
pub(crate) mod location;
pub(crate) mod network;

pub use self::head::RequestHead;
pub use self::location::KeyLocation;
