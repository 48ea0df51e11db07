//! Reasons for refusing a request.

pub(crate) mod code;
pub(crate) mod kind;

pub use self::code::ErrorCode;
pub use self::kind::DenialKind;
