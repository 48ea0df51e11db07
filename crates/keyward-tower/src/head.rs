//! Requests and responses as core sees them.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderName, HeaderValue};
use http::{Extensions, Request, Response, StatusCode};
use keyward::{
    Access, Admitted, Anonymous, Denial, Finish, KeyField, Principal, Refusal, Reply, RequestHead,
    ResponseHead,
};

use crate::ResponseBody;

/// Finds the peer's address among the extensions of a request.
pub(crate) type Peer = fn(&Extensions) -> Option<IpAddr>;

/// Where plain hyper has put it.
pub(crate) fn socket_addr(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<SocketAddr>().map(SocketAddr::ip)
}

/// The head of a request, not copied.
pub(crate) struct Head<'a, B>(pub(crate) &'a Request<B>, pub(crate) Peer);

impl<B> RequestHead for Head<'_, B> {
    fn method(&self) -> &str {
        self.0.method().as_str()
    }

    fn peer(&self) -> Option<IpAddr> {
        (self.1)(self.0.extensions())
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.0.headers().get_all(field);
        lines.iter().map(HeaderValue::as_bytes)
    }
}

/// Hands a request on as the gate says.
pub(crate) fn admit<B>(admitted: Admitted, request: &mut Request<B>) -> Finish {
    apply(admitted.key_field, request);
    let extensions = request.extensions_mut();
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
    admitted.finish
}

/// Does to the field of the key as the gate says.
pub(crate) fn apply<B>(key_field: KeyField, request: &mut Request<B>) {
    match key_field {
        KeyField::None => {}
        KeyField::Remove(field) => {
            request.headers_mut().remove(&*field);
        }
        KeyField::MarkSensitive(field) => {
            if let Some(value) = request.headers_mut().get_mut(&*field) {
                value.set_sensitive(true);
            }
        }
    }
}

/// Adds to a response what the gate says.
pub(crate) fn finish<B>(finish: Finish, response: Response<B>) -> Response<ResponseBody<B>> {
    let mut response = response.map(ResponseBody::inner);
    finish.apply(&mut Fields(&mut response));
    response
}

/// Answers instead of the inner service.
pub(crate) fn refuse<B>(refusal: Refusal) -> Response<ResponseBody<B>> {
    let mut response = to_response(&refusal.reply).map(ResponseBody::own);
    if let Some(denial) = refusal.denial {
        response.extensions_mut().insert(denial);
    }
    response
}

/// The same bytes as every other adapter sends.
pub(crate) fn to_response(reply: &Reply) -> Response<bytes::Bytes> {
    let body = bytes::Bytes::copy_from_slice(reply.body());
    let mut response = Response::new(body);
    let status = StatusCode::from_u16(reply.status());
    *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in reply.fields() {
        // The gate has made sure of it when it was built.
        if let Ok(value) = HeaderValue::from_str(value) {
            let name = HeaderName::from_static(name);
            response.headers_mut().append(name, value);
        }
    }
    response
}

struct Fields<'a, B>(&'a mut Response<B>);

impl<B> ResponseHead for Fields<'_, B> {
    fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    fn is_denied(&self) -> bool {
        self.0.extensions().get::<Denial>().is_some()
    }

    fn values<'a>(&'a self, field: &'static str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.0.headers().get_all(field);
        lines.iter().map(HeaderValue::as_bytes)
    }

    fn append(&mut self, field: &'static str, value: &str) {
        // Core gives only what may stand in a field.
        if let Ok(value) = HeaderValue::from_str(value) {
            let name = HeaderName::from_static(field);
            self.0.headers_mut().append(name, value);
        }
    }
}
