//! The rest of the body of a rejected request.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Payload;
use actix_web::web::Bytes;

/// Keeps the rest of a request's body until the response has been sent.
///
/// If a chunked body is dropped, actix-web reads it to its end, without a limit. If the body still exists when
/// the response has been sent, actix-web closes the connection within `client_disconnect_timeout`.
pub(crate) fn keep_unread(response: HttpResponse, unread: Payload) -> HttpResponse {
    if !matches!(unread, Payload::H1 { .. }) {
        return response;
    }
    response.map_body(|_, text| {
        BoxBody::new(Refusal {
            text,
            _unread: unread,
        })
    })
}

struct Refusal {
    text: BoxBody,
    _unread: Payload,
}

impl MessageBody for Refusal {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        self.text.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.text).poll_next(context)
    }
}
