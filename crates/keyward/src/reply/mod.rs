//! Responses of the layer itself, which are the same bytes in every adapter.

pub(crate) mod body;
pub(crate) mod cache;
pub(crate) mod grpc;
pub(crate) mod replies;
#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod reply;
pub(crate) mod reply_code;
pub(crate) mod response_head;

pub use self::body::{DetailJson, ErrorBody, ErrorJson, ErrorMessageJson, Problem, ProblemJson};
pub use self::replies::Replies;
pub use self::reply::Reply;
pub use self::reply_code::ReplyCode;
pub use self::response_head::ResponseHead;
