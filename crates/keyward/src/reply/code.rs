//! The code by which a program recognises why a request was refused.

use crate::denial::ErrorCode;

/// A code by which a program recognises why a request was refused, with its default status and text.
///
/// [`ErrorCode`] has those of a gate. A crate or service that refuses requests for reasons of its own
/// implements it for its codes and renders them with [`Replies::render`](crate::reply::Replies::render),
/// which has an example.
pub trait ReplyCode: Copy {
    /// Returns the code as it stands in the body, such as `invalid_api_key`.
    fn as_str(self) -> &'static str;

    /// Returns the default HTTP status.
    fn status(self) -> u16;

    /// Returns the default text: what the client should do.
    fn detail(self) -> &'static str;

    /// Returns whether the answer depends on the `Origin` header, which caches are then told.
    fn depends_on_origin(self) -> bool {
        false
    }
}

impl ReplyCode for ErrorCode {
    fn as_str(self) -> &'static str {
        self.as_str()
    }

    fn status(self) -> u16 {
        self.status()
    }

    fn detail(self) -> &'static str {
        self.detail()
    }

    fn depends_on_origin(self) -> bool {
        self.depends_on_origin()
    }
}
