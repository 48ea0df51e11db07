//! The trait for the codes of refusals.

use crate::denial::ErrorCode;

/// A machine-readable code for a refusal, with its default status and text.
///
/// [`ErrorCode`] contains the codes of a gate. A crate or service that refuses requests for its own
/// reasons implements this trait for its codes and renders them with
/// [`Replies::render`](crate::reply::Replies::render), which has an example.
pub trait ReplyCode: Copy {
    /// Returns the code as written in the body, such as `invalid_api_key`.
    fn as_str(self) -> &'static str;

    /// Returns the default HTTP status.
    fn status(self) -> u16;

    /// Returns the default text, which tells the client what to do.
    fn detail(self) -> &'static str;

    /// Returns whether the response depends on the `Origin` header.
    ///
    /// The response then carries `vary: Origin`.
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
