//! Requests and responses as core sees them.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use actix_web::{HttpMessage, HttpResponse};
use keyward::{
    Access, Admitted, Anonymous, Denial, Finish, KeyField, Principal, Refusal, Reply, RequestHead,
    ResponseHead,
};

/// The head of a request, not copied.
pub(crate) struct Head<'a>(pub(crate) &'a ServiceRequest);

impl RequestHead for Head<'_> {
    fn method(&self) -> &str {
        self.0.method().as_str()
    }

    fn peer(&self) -> Option<IpAddr> {
        self.0.peer_addr().map(|address| address.ip())
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.0.headers().get_all(field);
        lines.map(HeaderValue::as_bytes)
    }
}

/// Hands a request on as the gate says; `None` when it is shared and its key cannot be removed.
pub(crate) fn admit(admitted: Admitted, request: &mut ServiceRequest) -> Option<Finish> {
    // First, so that a request that is refused after all has got no principal.
    if apply(admitted.key_field, request).is_none() {
        admitted.finish.give_back();
        return None;
    }
    let mut extensions = request.extensions_mut();
    match admitted.access {
        None => {}
        Some(Access::Principal(principal)) => {
            extensions.insert(principal);
        }
        Some(Access::Anonymous(anonymous)) => {
            extensions.remove::<Principal>();
            extensions.insert::<Anonymous>(anonymous);
        }
    }
    Some(admitted.finish)
}

/// Does to the field of the key as the gate says; `None` when the request is shared.
pub(crate) fn apply(key_field: KeyField, request: &mut ServiceRequest) -> Option<()> {
    match key_field {
        KeyField::None => {}
        KeyField::Remove(field) => {
            headers_mut(request)?.remove(&*field);
        }
        KeyField::MarkSensitive(field) => {
            if let Some(value) = headers_mut(request)?.get_mut(&*field) {
                value.set_sensitive(true);
            }
        }
    }
    Some(())
}

/// The fields of a request, which nobody can change while a clone of its `HttpRequest` is alive.
fn headers_mut(request: &mut ServiceRequest) -> Option<&mut HeaderMap> {
    // There is no asking whether a clone is alive. actix-web panics before anything has changed.
    let fields = catch_unwind(AssertUnwindSafe(move || {
        let whole = request;
        whole.headers_mut()
    }));
    fields.ok()
}

/// Adds to a response what the gate says.
pub(crate) fn finish<B>(finish: Finish, mut response: ServiceResponse<B>) -> ServiceResponse<B> {
    finish.apply(&mut Fields(response.response_mut()));
    response
}

/// Answers instead of the inner service.
pub(crate) fn refuse(refusal: Refusal) -> HttpResponse {
    let mut response = to_response(&refusal.reply);
    if let Some(denial) = refusal.denial {
        response.extensions_mut().insert(denial);
    }
    response
}

/// Answers a request that is shared.
pub(crate) fn refuse_shared() -> HttpResponse {
    tracing::error!("the key cannot be removed: an outer middleware holds a clone of HttpRequest");
    let mut response = HttpResponse::new(StatusCode::INTERNAL_SERVER_ERROR);
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    response
}

/// The same bytes as every other adapter sends.
pub(crate) fn to_response(reply: &Reply) -> HttpResponse {
    let status = StatusCode::from_u16(reply.status());
    let body = Bytes::copy_from_slice(reply.body());
    // Not through a builder: it would add fields of its own.
    let mut response = HttpResponse::with_body(
        status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        BoxBody::new(body),
    );
    for (name, value) in reply.fields() {
        // The gate has made sure of it when it was built.
        if let Ok(value) = HeaderValue::from_str(value) {
            let name = HeaderName::from_static(name);
            response.headers_mut().append(name, value);
        }
    }
    response
}

struct Fields<'a, B>(&'a mut HttpResponse<B>);

impl<B> ResponseHead for Fields<'_, B> {
    fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    fn is_denied(&self) -> bool {
        self.0.extensions().get::<Denial>().is_some()
    }

    fn values<'a>(&'a self, field: &'static str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.0.headers().get_all(field);
        lines.map(HeaderValue::as_bytes)
    }

    fn append(&mut self, field: &'static str, value: &str) {
        // Core gives only what may stand in a field.
        if let Ok(value) = HeaderValue::from_str(value) {
            let name = HeaderName::from_static(field);
            self.0.headers_mut().append(name, value);
        }
    }
}
