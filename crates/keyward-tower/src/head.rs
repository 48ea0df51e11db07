//! Requests and responses as core sees them.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, Entry, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use http::{Extensions, Request, Response, StatusCode, Version};
use keyward::gate::{Access, Anonymous, Denial, Finish, KeyHeaderAction, Refusal};
use keyward::reply::{Reply, ResponseHead};
use keyward::request::RequestHead;
use keyward::{KeyLocation, Principal};

use crate::ResponseBody;

static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// A function that returns the client's IP address, from the extensions of a request.
pub(crate) type Peer = fn(&Extensions) -> Option<IpAddr>;

/// Returns the `SocketAddr` that a plain hyper server has inserted.
pub(crate) fn socket_addr(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<SocketAddr>().map(SocketAddr::ip)
}

/// The header names of key locations, parsed once instead of for every request.
///
/// `None` stands for a name that no request can have.
#[derive(Clone, Debug)]
pub(crate) struct FieldNames(Arc<[Option<HeaderName>]>);

impl FieldNames {
    pub(crate) fn of(locations: &[KeyLocation]) -> Self {
        let fields = locations.iter().map(KeyLocation::header_name);
        Self(fields.map(|field| field.parse().ok()).collect())
    }

    fn at(&self, location: usize) -> Option<&HeaderName> {
        self.0.get(location)?.as_ref()
    }
}

/// The head of a request, without copying it.
pub(crate) struct Head<'a, B> {
    pub(crate) request: &'a Request<B>,
    pub(crate) names: &'a FieldNames,
    pub(crate) peer: Peer,
}

impl<B> RequestHead for Head<'_, B> {
    fn method(&self) -> &str {
        self.request.method().as_str()
    }

    fn peer(&self) -> Option<IpAddr> {
        (self.peer)(self.request.extensions())
    }

    fn is_http1(&self) -> bool {
        self.request.version() <= Version::HTTP_11
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let fields = self.request.headers();
        let lines = match field {
            // Every refusal looks this one up, so its name is not parsed each time.
            "content-type" => fields.get_all(CONTENT_TYPE),
            _ => fields.get_all(field),
        };
        lines.iter().map(HeaderValue::as_bytes)
    }

    fn values_at<'a>(&'a self, location: usize, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let fields = self.request.headers();
        let lines = match self.names.at(location) {
            Some(name) => fields.get_all(name),
            None => fields.get_all(field),
        };
        lines.iter().map(HeaderValue::as_bytes)
    }
}

/// Prepares an admitted request for the inner service.
pub(crate) fn admit<B>(
    access: Option<Access>,
    key_header: KeyHeaderAction,
    names: &FieldNames,
    request: &mut Request<B>,
) {
    apply(key_header, names, request);
    let extensions = request.extensions_mut();
    match access {
        None => {}
        Some(Access::Principal(principal)) => {
            extensions.insert(principal);
        }
        Some(Access::Anonymous(anonymous)) => {
            extensions.remove::<Principal>();
            extensions.insert::<Anonymous>(anonymous);
        }
    }
}

/// Changes the header of the key as the gate says.
pub(crate) fn apply<B>(key_header: KeyHeaderAction, names: &FieldNames, request: &mut Request<B>) {
    let fields = request.headers_mut();
    match key_header {
        KeyHeaderAction::None => {}
        KeyHeaderAction::Remove(location) => {
            if let Some(name) = names.at(location) {
                fields.remove(name);
            }
        }
        KeyHeaderAction::Replace(location, value) => {
            if let Some(name) = names.at(location) {
                fields.remove(name);
                fields.extend(
                    value_of(String::from(value).into()).map(|value| (name.clone(), value)),
                );
            }
        }
        KeyHeaderAction::MarkSensitive(location) => {
            if let Some(Entry::Occupied(mut lines)) =
                names.at(location).map(|name| fields.entry(name))
            {
                lines.iter_mut().for_each(|value| value.set_sensitive(true));
            }
        }
    }
}

/// Adds the headers of the gate to a response.
pub(crate) fn finish<B>(
    finish: &mut Finish,
    mut response: Response<B>,
) -> Response<ResponseBody<B>> {
    finish.apply(&mut Fields(&mut response));
    response.map(ResponseBody::inner)
}

/// Creates the response to a rejected request.
pub(crate) fn refuse<B>(refusal: Refusal) -> Response<ResponseBody<B>> {
    let mut response = to_response(refusal.reply).map(ResponseBody::own);
    if let Some(denial) = refusal.denial {
        response.extensions_mut().insert(denial);
    }
    response
}

/// Creates a response with the same bytes as in every other adapter.
pub(crate) fn to_response(mut reply: Reply) -> Response<Bytes> {
    let own = reply.take_own_headers();
    let made;
    let Prepared(prepared) = if let Some(prepared) = reply.prepared(prepare) {
        prepared
    } else {
        made = prepare(&reply);
        &made
    };
    if own.len() == 0 {
        return prepared.clone();
    }
    let mut response = Response::new(prepared.body().clone());
    *response.status_mut() = prepared.status();
    // With capacity for all headers; a clone would have to grow.
    let mut fields = HeaderMap::with_capacity(prepared.headers().len() + own.len());
    for (name, value) in prepared.headers() {
        fields.append(name.clone(), value.clone());
    }
    *response.headers_mut() = fields;
    add(own, &mut response);
    response
}

/// The part that all responses of a kind share, with parsed header names and values.
#[derive(Clone)]
struct Prepared(Response<Bytes>);

fn prepare(reply: &Reply) -> Prepared {
    let mut response = Response::new(Bytes::copy_from_slice(reply.body()));
    let status = StatusCode::from_u16(reply.status());
    *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    add(reply.headers(), &mut response);
    Prepared(response)
}

fn add<V>(fields: impl Iterator<Item = (&'static str, V)>, response: &mut Response<Bytes>)
where
    V: TryInto<HeaderValue>,
{
    for (name, value) in fields {
        // The gate validated the values when it was built.
        if let Ok(value) = value.try_into() {
            response.headers_mut().append(name_of(name), value);
        }
    }
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
        let lines = self.0.headers().get_all(name_of(field));
        lines.iter().map(HeaderValue::as_bytes)
    }

    fn append(&mut self, field: &'static str, value: Cow<'static, str>) {
        if let Some(value) = value_of(value) {
            self.0.headers_mut().append(name_of(field), value);
        }
    }

    fn replace(&mut self, field: &'static str, value: Cow<'static, str>) {
        if let Some(value) = value_of(value) {
            self.0.headers_mut().insert(name_of(field), value);
        }
    }
}

/// Converts a header value of core, which provides only valid ones.
fn value_of(value: Cow<'static, str>) -> Option<HeaderValue> {
    match value {
        Cow::Borrowed(value) => Some(HeaderValue::from_static(value)),
        Cow::Owned(value) => HeaderValue::try_from(value).ok(),
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
