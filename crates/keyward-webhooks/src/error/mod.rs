//! Why a delivery was refused, for the sender and for logs and metrics.

pub(crate) mod code;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod error;

pub use self::code::WebhookErrorCode;
pub use self::error::{ReceiverError, ReceiverErrorKind, WebhookError, WebhookErrorKind};
