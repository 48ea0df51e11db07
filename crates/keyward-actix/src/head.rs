//! Requests and responses as core sees them.

use std::borrow::Cow;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use actix_web::http::{ConnectionType, StatusCode, Version};
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage, HttpResponse};
use keyward::gate::{Access, Admitted, Anonymous, Denial, Finish, KeyHeaderAction, Refusal};
use keyward::reply::{Reply, ResponseHead};
use keyward::request::RequestHead;
use keyward::{KeyLocation, Principal};

static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The header names of key locations, parsed once instead of for every request.
///
/// `None` stands for a name that no request can have.
#[derive(Clone, Debug)]
pub(crate) struct FieldNames(Rc<[Option<HeaderName>]>);

impl FieldNames {
    pub(crate) fn of(locations: &[KeyLocation]) -> Self {
        let fields = locations.iter().map(KeyLocation::header_name);
        Self(fields.map(|field| field.parse().ok()).collect())
    }

    fn at(&self, location: usize) -> Option<&HeaderName> {
        self.0.get(location)?.as_ref()
    }
}

/// A function that returns the client's IP address.
pub(crate) type Peer = fn(&ServiceRequest) -> Option<IpAddr>;

/// Returns the address of the connection.
pub(crate) fn peer_addr(request: &ServiceRequest) -> Option<IpAddr> {
    request.peer_addr().map(|address| address.ip())
}

/// The head of a request, without copying it.
pub(crate) struct Head<'a> {
    pub(crate) request: &'a ServiceRequest,
    pub(crate) names: &'a FieldNames,
    pub(crate) peer: Peer,
}

impl RequestHead for Head<'_> {
    fn method(&self) -> &str {
        self.request.method().as_str()
    }

    fn peer(&self) -> Option<IpAddr> {
        (self.peer)(self.request)
    }

    fn is_http1(&self) -> bool {
        self.request.version() <= Version::HTTP_11
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.request.headers().get_all(field);
        lines.map(HeaderValue::as_bytes)
    }

    fn values_at<'a>(&'a self, location: usize, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let fields = self.request.headers();
        let lines = match self.names.at(location) {
            Some(name) => fields.get_all(name),
            None => fields.get_all(field),
        };
        lines.map(HeaderValue::as_bytes)
    }
}

/// Prepares an admitted request for the inner service.
///
/// Returns `None` if the request is shared, so that its key cannot be removed.
pub(crate) fn admit(
    admitted: Admitted,
    names: &FieldNames,
    request: &mut ServiceRequest,
) -> Option<Finish> {
    // First, so that a request that is rejected here gets no principal.
    if apply(admitted.key_header, names, request).is_none() {
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

/// Changes the header of the key as the gate says.
///
/// Returns `None` if the request is shared.
pub(crate) fn apply(
    key_header: KeyHeaderAction,
    names: &FieldNames,
    request: &mut ServiceRequest,
) -> Option<()> {
    match key_header {
        KeyHeaderAction::None => {}
        KeyHeaderAction::Remove(location) => {
            let fields = headers_mut(request)?;
            if let Some(name) = names.at(location) {
                fields.remove(name);
            }
        }
        KeyHeaderAction::Replace(location, value) => {
            let fields = headers_mut(request)?;
            if let Some(name) = names.at(location) {
                fields.remove(name);
                if let Ok(value) = HeaderValue::try_from(String::from(value)) {
                    fields.append(name.clone(), value);
                }
            }
        }
        KeyHeaderAction::MarkSensitive(location) => {
            let fields = headers_mut(request)?;
            if let Some(name) = names.at(location) {
                for mut value in fields.remove(name) {
                    value.set_sensitive(true);
                    fields.append(name.clone(), value);
                }
            }
        }
    }
    Some(())
}

/// Returns the headers of a request, or `None` while a clone of its `HttpRequest` exists.
fn headers_mut(request: &mut ServiceRequest) -> Option<&mut HeaderMap> {
    // actix-web cannot be asked whether a clone exists. It panics before anything has changed.
    let fields = catch_unwind(AssertUnwindSafe(move || {
        let whole = request;
        whole.headers_mut()
    }));
    fields.ok()
}

/// Adds the headers of the gate to a response.
pub(crate) fn finish<B>(
    finish: &mut Finish,
    mut response: ServiceResponse<B>,
) -> ServiceResponse<B> {
    finish.apply(&mut Fields(response.response_mut()));
    response
}

/// Adds the headers of the gate to the future response of an error.
pub(crate) fn finish_error(finish: &mut Finish, error: &mut Error) {
    // Only once, because it may refund the request, while a mapper may be called repeatedly.
    let mut response = error.error_response();
    let mut changed = Changed {
        fields: Fields(&mut response),
        changes: Vec::new(),
    };
    finish.apply(&mut changed);
    let made = changed.changes;
    if !made.is_empty() {
        error.add_response_mapper(move |mut response| {
            for (how, field, value) in &made {
                put(&mut response, *how, field, value.clone());
            }
            response
        });
    }
}

/// Creates the response to a rejected request.
pub(crate) fn refuse(refusal: Refusal) -> HttpResponse {
    let mut response = to_response(refusal.reply);
    if let Some(denial) = refusal.denial {
        response.extensions_mut().insert(denial);
    }
    response
}

/// Creates the response to a request that is shared.
pub(crate) fn refuse_shared() -> HttpResponse {
    tracing::error!(
        "the API key cannot be removed: an outer middleware holds a clone of HttpRequest"
    );
    let mut response = HttpResponse::new(StatusCode::INTERNAL_SERVER_ERROR);
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    response
}

/// Creates a response with the same bytes as in every other adapter.
pub(crate) fn to_response(mut reply: Reply) -> HttpResponse {
    let own = reply.take_own_headers();
    let made;
    let prepared = if let Some(prepared) = reply.prepared(Prepared::of) {
        prepared
    } else {
        made = Prepared::of(&reply);
        &made
    };
    // Not with a builder, which would add headers of its own.
    let body = BoxBody::new(prepared.body.clone());
    let mut response = HttpResponse::with_body(prepared.status, body);
    let own = own.filter_map(read);
    for (name, value) in prepared.fields.iter().cloned().chain(own) {
        // actix-web does not send this header unless the connection type is set as well.
        if name == CONNECTION {
            let head = response.head_mut();
            head.set_connection_type(ConnectionType::Close);
        }
        response.headers_mut().append(name, value);
    }
    response
}

/// The part that all responses of a kind share, with parsed header names and values.
struct Prepared {
    status: StatusCode,
    fields: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Prepared {
    fn of(reply: &Reply) -> Self {
        let status = StatusCode::from_u16(reply.status());
        Self {
            status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            fields: reply.headers().filter_map(read).collect(),
            body: Bytes::copy_from_slice(reply.body()),
        }
    }
}

/// Parses a header. The gate validated the value when it was built.
fn read<V>((name, value): (&'static str, V)) -> Option<(HeaderName, HeaderValue)>
where
    V: TryInto<HeaderValue>,
{
    Some((name_of(name), value.try_into().ok()?))
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
        let lines = self.0.headers().get_all(name_of(field));
        lines.map(HeaderValue::as_bytes)
    }

    fn append(&mut self, field: &'static str, value: Cow<'static, str>) {
        put(self.0, HeaderMap::append, field, value);
    }

    fn replace(&mut self, field: &'static str, value: Cow<'static, str>) {
        put(self.0, insert, field, value);
    }
}

/// The head of a response, and a record of the changes to it.
struct Changed<'a> {
    fields: Fields<'a, BoxBody>,
    changes: Vec<(Put, &'static str, Cow<'static, str>)>,
}

impl ResponseHead for Changed<'_> {
    fn status(&self) -> u16 {
        self.fields.status()
    }

    fn is_denied(&self) -> bool {
        self.fields.is_denied()
    }

    fn values<'a>(&'a self, field: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.values(field)
    }

    fn append(&mut self, field: &'static str, value: Cow<'static, str>) {
        let append: Put = HeaderMap::append;
        self.changes.push((append, field, value.clone()));
        self.fields.append(field, value);
    }

    fn replace(&mut self, field: &'static str, value: Cow<'static, str>) {
        self.changes.push((insert, field, value.clone()));
        self.fields.replace(field, value);
    }
}

/// A function that adds a header line to a response.
type Put = fn(&mut HeaderMap, HeaderName, HeaderValue);

fn insert(fields: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    drop(fields.insert(name, value));
}

/// Adds a header line to a response. Core provides only valid header values.
fn put<B>(response: &mut HttpResponse<B>, how: Put, field: &'static str, value: Cow<'static, str>) {
    let value = match value {
        Cow::Borrowed(value) => Ok(HeaderValue::from_static(value)),
        Cow::Owned(value) => HeaderValue::try_from(value),
    };
    if let Ok(value) = value {
        how(response.headers_mut(), name_of(field), value);
    }
}

/// Converts a header name of core, without parsing the most common ones.
fn name_of(field: &'static str) -> HeaderName {
    match field {
        "cache-control" => CACHE_CONTROL,
        "content-type" => CONTENT_TYPE,
        "www-authenticate" => WWW_AUTHENTICATE,
        "retry-after" => RETRY_AFTER,
        "ratelimit" => RATE_LIMIT.clone(),
        "ratelimit-policy" => RATE_LIMIT_POLICY.clone(),
        other => HeaderName::from_static(other),
    }
}
