//! The request as adapters present it, and the locations of keys in it.

pub(crate) mod authorization;
pub(crate) mod client;
pub(crate) mod credential;
pub(crate) mod head;
pub(crate) mod list;
pub(crate) mod location;
pub(crate) mod websocket;

pub use self::credential::Credential;
pub use self::head::RequestHead;
pub use self::location::{KeyLocation, trim};
