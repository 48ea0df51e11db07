//! CORS: lets web pages of other origins call the API.

use std::sync::Arc;
use std::time::Duration;

use crate::gate::Requirement;
use crate::limit::quota::{HEADERS, LEGACY_HEADERS};
use crate::reply::{Reply, ResponseHead};
use crate::request::KeyLocation;
use crate::request::location::check_token;

/// The additional headers of gRPC-Web requests, which their preflight requests ask for.
const GRPC_REQUEST: [&str; 3] = ["grpc-timeout", "x-grpc-web", "x-user-agent"];

/// The headers for the status of a gRPC rejection or a response without a message.
///
/// If they were not exposed, a page would see a response without a status. Only handlers send the
/// details.
const GRPC_RESPONSE: [&str; 3] = ["grpc-status", "grpc-message", "grpc-status-details-bin"];

/// A CORS policy, which lets web pages of other origins call the API.
///
/// It follows the "CORS protocol" of the Fetch standard. Without it, a browser hides every response
/// from such a page, including rejections. With it, every page may send requests and read
/// responses; whether a request is admitted still depends on the key, whose
/// [`OriginPolicy`](crate::origin::OriginPolicy) lists the pages that may use it. Cookies and other
/// browser credentials are never allowed: `Access-Control-Allow-Credentials` is not sent.
///
/// A preflight request carries no key, so its response is the same for every client:
///
/// ```text
/// HTTP/1.1 204 No Content
/// cache-control: no-store
/// access-control-allow-origin: *
/// access-control-allow-methods: GET, HEAD, POST, PUT, PATCH, DELETE
/// access-control-allow-headers: content-type, authorization, x-client-key
/// access-control-max-age: 7200
/// ```
///
/// Every other response, admitted or rejected, gets these two headers, and `vary: Origin` if the
/// key has a list of origins:
///
/// ```text
/// access-control-allow-origin: *
/// access-control-expose-headers: retry-after, ratelimit, ratelimit-policy, www-authenticate
/// ```
///
/// They are sent whether or not the request has an `Origin`, because a cache may serve the response
/// to a request without one to a page, which could not read it otherwise.
///
/// A layer with [`Requirement::grpc`](crate::gate::Requirement::grpc) also allows `grpc-timeout`,
/// `x-grpc-web` and `x-user-agent`, and exposes `grpc-status`, `grpc-message` and
/// `grpc-status-details-bin`. Set `grpc` on the layer that answers the preflight request; if one
/// layer covers a whole server, on that one.
///
/// Headers that the handler or an inner layer has set are kept. An outer CORS layer, such as those
/// of tower-http and actix-cors, answers preflight requests itself and overwrites these headers if
/// it allows the page; if it does not, these headers stay. Use one or the other.
///
/// ```
/// # use std::sync::Arc;
/// # use keyward::{Cors, Gate, KeyFormat, KeyLocation, KeyScheme, MemoryStore};
/// # use keyward::gate::{Decision, Verdict};
/// # use keyward::testing::TestRequest;
/// # let store = MemoryStore::new();
/// let cors = Cors::new().request_header("x-session").response_header("x-total-count");
/// let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// let gate = Gate::builder(&store, &scheme)
///     .location(KeyLocation::client_key())
///     .location(KeyLocation::x_client_key())
///     .cors(cors)
///     .build()?;
///
/// let preflight = TestRequest::new("OPTIONS")
///     .header("origin", "https://shop.example")
///     .header("access-control-request-method", "PUT");
/// let decision = gate.check(&preflight, &Arc::default(), None);
/// let Decision::Ready(Verdict::Refuse(answer)) = decision else { panic!("{decision:?}") };
/// assert_eq!(answer.reply.status(), 204);
/// assert!(answer.reply.headers().eq([
///     ("cache-control", "no-store"),
///     ("access-control-allow-origin", "*"),
///     ("access-control-allow-methods", "GET, HEAD, POST, PUT, PATCH, DELETE"),
///     ("access-control-allow-headers", "content-type, authorization, x-client-key, x-session"),
///     ("access-control-max-age", "7200"),
/// ]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Cors {
    max_age: Duration,
    methods: Vec<String>,
    request_fields: Vec<String>,
    response_fields: Vec<String>,
}

impl Cors {
    /// Creates a policy with the usual methods and headers, cached for two hours.
    ///
    /// The allowed request headers are those of the gate's locations and `content-type`.
    pub fn new() -> Self {
        let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
        Self {
            max_age: Duration::from_secs(7200),
            methods: methods.map(str::to_owned).into(),
            request_fields: Vec::new(),
            response_fields: Vec::new(),
        }
    }

    /// Sets how long a browser may cache a preflight response, in whole seconds.
    ///
    /// The default is two hours, and Chromium caches it no longer than that. The response names
    /// neither a key nor an origin, so caching it delays no revocation.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// Replaces the methods that a page may use, in upper case.
    pub fn methods<I>(mut self, methods: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        self.methods = methods.into_iter().map(Into::into).collect();
        self
    }

    /// Allows a page to send this header too.
    pub fn request_header(mut self, name: &str) -> Self {
        self.request_fields.push(name.to_ascii_lowercase());
        self
    }

    /// Allows a page to read this header too.
    pub fn response_header(mut self, name: &str) -> Self {
        self.response_fields.push(name.to_ascii_lowercase());
        self
    }

    /// Returns whether all methods and header names are tokens (RFC 9110 §5.6.2).
    pub(crate) fn is_valid(&self) -> bool {
        let methods = self.methods.iter();
        let mut all = methods.chain(&self.request_fields);
        let is_token = |name: &String| check_token("name", name).is_ok();
        !self.methods.is_empty() && all.all(is_token) && self.response_fields.iter().all(is_token)
    }

    /// Returns the reply to every preflight request of a route.
    ///
    /// `beside` says whether it accepts another credential in `Authorization`.
    pub(crate) fn preflight(&self, locations: &[KeyLocation], grpc: bool, beside: bool) -> Reply {
        // Named one by one: `*` does not stand for `authorization`.
        let own = ["content-type"].into_iter();
        // A handshake of a WebSocket has no preflight, and no page may set its headers.
        let sent = locations.iter().filter(|own| !own.is_websocket_protocol());
        let own = own.chain(sent.map(KeyLocation::header_name));
        let own = own.chain(["authorization"].into_iter().filter(|_| beside));
        let own = own.chain(GRPC_REQUEST.into_iter().filter(|_| grpc));
        let named = self.request_fields.iter().map(String::as_str);
        let mut reply = Reply::new(204, Vec::new());
        reply.push_shared_header("access-control-allow-origin", "*".to_owned());
        reply.push_shared_header("access-control-allow-methods", self.methods.join(", "));
        reply.push_shared_header("access-control-allow-headers", once_each(own.chain(named)));
        let max_age = self.max_age.as_secs().to_string();
        reply.push_shared_header("access-control-max-age", max_age);
        reply
    }

    /// Returns the CORS headers of all other responses.
    pub(crate) fn cors_headers(&self, legacy_fields: bool, grpc: bool) -> CorsHeaders {
        let legacy = LEGACY_HEADERS.into_iter().filter(|_| legacy_fields);
        let sent = ["retry-after"].into_iter().chain(HEADERS);
        let sent = sent.chain(["www-authenticate"]).chain(legacy);
        let sent = sent.chain(GRPC_RESPONSE.into_iter().filter(|_| grpc));
        let named = self.response_fields.iter().map(String::as_str);
        CorsHeaders(once_each(sent.chain(named)).into())
    }
}

impl Default for Cors {
    fn default() -> Self {
        Self::new()
    }
}

/// The CORS replies of a gate or a route, rendered once.
pub(crate) struct CorsReplies {
    /// The preflight replies for routes that accept only keys, and for those that accept another
    /// credential too, each without and with gRPC-Web.
    preflights: [[Reply; 2]; 2],
    /// The CORS headers, if pages of other origins may read the responses.
    pub(crate) cors_headers: Option<CorsHeaders>,
    pub(crate) grpc_readable: Option<CorsHeaders>,
}

impl CorsReplies {
    pub(crate) fn made(cors: Option<&Cors>, locations: &[KeyLocation], legacy: bool) -> Self {
        let preflight = |grpc, beside| match cors {
            Some(cors) => cors.preflight(locations, grpc, beside),
            None => Reply::new(204, Vec::new()),
        };
        Self {
            preflights: [false, true]
                .map(|beside| [false, true].map(|grpc| preflight(grpc, beside))),
            cors_headers: cors.map(|cors| cors.cors_headers(legacy, false)),
            grpc_readable: cors.map(|cors| cors.cors_headers(legacy, true)),
        }
    }

    /// Returns the reply to a preflight request of a route.
    pub(crate) fn preflight(&self, requirement: &Requirement) -> &Reply {
        let [keys_only, beside] = &self.preflights;
        let [plain, grpc] = if requirement.other_credential().is_accepted() {
            beside
        } else {
            keys_only
        };
        if requirement.is_grpc() { grpc } else { plain }
    }
}

/// The CORS headers that let any page read a response.
#[derive(Clone, Debug)]
pub(crate) struct CorsHeaders(Arc<str>);

impl CorsHeaders {
    /// Adds the headers to a reply of the gate.
    pub(crate) fn mark(&self, reply: &mut Reply) {
        for (name, value) in self.fields() {
            reply.push_shared_header(name, value.to_owned());
        }
    }

    /// Adds the headers to the inner service's response, unless it has set them.
    pub(crate) fn apply<R: ResponseHead>(&self, response: &mut R) {
        for (name, value) in self.fields() {
            if !response.has(name) {
                response.append(name, value.to_owned().into());
            }
        }
    }

    /// Returns the names of the headers that a page may read.
    pub(crate) fn names(&self) -> &str {
        &self.0
    }

    fn fields(&self) -> [(&'static str, &str); 2] {
        [
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", &self.0),
        ]
    }
}

fn once_each<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut list = Vec::new();
    for name in names {
        if !list.contains(&name) {
            list.push(name);
        }
    }
    list.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::tests::{World, principal};
    use crate::gate::{Decision, Gate, Principal, Verdict};
    use crate::key::KeyKind;
    use crate::origin::OriginPolicy;
    use crate::record::KeyStatus;
    use crate::testing::TestResponse;

    fn head(lines: &[(&'static str, &str)]) -> TestResponse {
        let lines = lines.iter();
        lines.fold(TestResponse::new(200), |head, (name, value)| {
            head.header(name, value)
        })
    }

    #[test]
    fn names_every_field_once() {
        let cors = Cors::new()
            .request_header("X-API-Key")
            .request_header("x-trace")
            .response_header("Retry-After")
            .response_header("etag");
        let locations = [
            KeyLocation::x_api_key(),
            KeyLocation::bearer(),
            KeyLocation::client_key(),
        ];
        let reply = cors.preflight(&locations, false, false);
        let allowed = "content-type, x-api-key, authorization, x-trace";
        let mut fields = reply.headers();
        assert!(fields.any(|field| field == ("access-control-allow-headers", allowed)));
        let exposed = "retry-after, ratelimit, ratelimit-policy, www-authenticate, etag";
        assert_eq!(&*cors.cors_headers(false, false).0, exposed);
        let legacy =
            "www-authenticate, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, etag";
        assert!(cors.cors_headers(true, false).0.ends_with(legacy));
    }

    #[test]
    fn a_page_may_send_authorization_where_another_credential_is_accepted() {
        let mut world = World::new();
        world.method = "OPTIONS";
        world.fields = vec![
            ("origin", b"https://shop.example".into()),
            ("access-control-request-method", b"GET".into()),
        ];
        let mut allowed = |gate_cors: Option<Cors>, requirement| {
            let gate = Gate::builder_from_replica(&world.replica, &crate::gate::tests::scheme());
            let gate = gate.location(KeyLocation::x_api_key());
            let gate = match gate_cors {
                Some(cors) => gate.cors(cors),
                None => gate,
            };
            world.requirement = requirement;
            let Verdict::Refuse(answer) = world.verdict(&gate.build().unwrap()) else {
                panic!()
            };
            let mut headers = answer.reply.headers();
            let allowed = headers.find(|(name, _)| *name == "access-control-allow-headers");
            allowed.unwrap().1.to_owned()
        };
        let plain = Requirement::new();
        for (route, expected) in [
            (plain.clone(), "content-type, x-api-key"),
            (
                plain.clone().or_other_credential(),
                "content-type, x-api-key, authorization",
            ),
            (
                plain.clone().beside_other_credential(),
                "content-type, x-api-key, authorization",
            ),
        ] {
            assert_eq!(allowed(Some(Cors::new()), route.clone()), expected);
            assert_eq!(allowed(None, route.clone().cors(Cors::new())), expected);
            let grpc = allowed(Some(Cors::new()), route.grpc());
            assert!(
                grpc.starts_with(&format!("{expected}, grpc-timeout")),
                "{grpc}"
            );
        }
    }

    #[test]
    fn takes_only_tokens() {
        assert!(Cors::new().is_valid());
        assert!(Cors::new().methods(["PROPFIND"]).is_valid());
        for bad in [
            Cors::new().methods([""; 0]),
            Cors::new().methods(["GET, PUT"]),
            Cors::new().request_header("x y"),
            Cors::new().response_header("a\r\nset-cookie: b"),
            Cors::new().response_header("é"),
        ] {
            assert!(!bad.is_valid(), "{bad:?}");
        }
    }

    #[test]
    fn keeps_headers_that_the_handler_has_set() {
        let own = [
            ("access-control-allow-origin", "https://shop.example"),
            ("access-control-expose-headers", "etag"),
        ];
        let mut response = head(&own);
        Cors::new().cors_headers(false, false).apply(&mut response);
        assert_eq!(response.lines(), head(&own).lines());
    }

    #[test]
    fn an_answer_depends_on_the_origin_where_pages_read_it_and_the_key_lists_some() {
        let listed = OriginPolicy::listed(["shop.example"]).unwrap();
        let listed = listed.or_no_origin();
        for (origins, cors, varies) in [
            (OriginPolicy::Any, false, false),
            (OriginPolicy::Any, true, false),
            (listed.clone(), false, false),
            (listed, true, true),
        ] {
            let mut world = World::new();
            world.requirement = world.requirement.optional();
            world.record.origins = origins;
            world.feed();
            let gate = if cors {
                world.builder().cors(Cors::new())
            } else {
                world.builder()
            };
            let gate = gate.build().unwrap();
            let finished = |world: &World| {
                let Verdict::Admit(mut admitted) = world.verdict(&gate) else {
                    panic!()
                };
                let mut response = head(&[]);
                admitted.finish.apply(&mut response);
                response
            };
            let by_origin =
                |head: &TestResponse| head.lines().iter().any(|line| line.contains("Origin"));
            assert_eq!(by_origin(&finished(&world)), varies);
            world.fields.clear();
            let anonymous = finished(&world);
            assert_eq!(anonymous.has("access-control-allow-origin"), cors);
            assert!(!by_origin(&anonymous), "whoever shows no key is no other");
        }
    }

    /// Returns a gate's reply and its additions to a handler's response.
    fn answered(world: &World, gate: &Gate, outer: Option<&Principal>) -> (Vec<String>, bool) {
        let Decision::Ready(verdict) = world.check(gate, outer) else {
            panic!("not decided at once")
        };
        match verdict {
            Verdict::Admit(mut admitted) => {
                let mut response = head(&[]);
                admitted.finish.apply(&mut response);
                (response.lines(), true)
            }
            Verdict::Refuse(refusal) => (vec![format!("{:?}", refusal.reply)], false),
        }
    }

    #[test]
    fn the_cors_of_a_route_answers_like_that_of_a_gate() {
        let cors = || {
            Cors::new()
                .methods(["GET"])
                .request_header("x-trace")
                .response_header("etag")
        };
        let other = Cors::new().response_header("x-other");
        let preflight = [
            ("origin", "https://a.example"),
            ("access-control-request-method", "GET"),
        ];
        let changes: [fn(&mut World); 8] = [
            |_| {},
            |world| world.fields.clear(),
            |world| world.fields[0].1[12] ^= 1,
            |world| world.requirement = Requirement::new().scope("none"),
            |world| world.requirement = Requirement::new().kinds([KeyKind::Publishable]),
            |world| {
                world.requirement = Requirement::new().optional();
                world.fields.clear();
            },
            |world| {
                world.record.origins = OriginPolicy::listed(["shop.example"])
                    .unwrap()
                    .or_no_origin();
            },
            |world| world.record.status = KeyStatus::Revoked,
        ];
        for (number, change) in changes.iter().enumerate() {
            for grpc in [false, true] {
                for is_preflight in [false, true] {
                    let mut world = World::new();
                    change(&mut world);
                    if grpc {
                        world.requirement = world.requirement.grpc();
                        world
                            .fields
                            .push(("content-type", b"application/grpc".into()));
                    }
                    if is_preflight {
                        world.method = "OPTIONS";
                        world
                            .fields
                            .extend(preflight.map(|(name, value)| (name, value.into())));
                    }
                    world.feed();
                    let of_gate = world.builder().cors(cors()).build().unwrap();
                    let by_gate = answered(&world, &of_gate, None);
                    world.requirement = world.requirement.cors(cors());
                    for gate in [world.builder(), world.builder().cors(other.clone())] {
                        let gate = gate.build().unwrap();
                        let by_route = answered(&world, &gate, None);
                        assert_eq!(by_route, by_gate, "{number} {grpc} {is_preflight}");
                    }
                    if !is_preflight {
                        assert!(by_gate.0.concat().contains("etag"), "{by_gate:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn of_two_layers_the_inner_cors_marks_the_response() {
        let mut world = World::new();
        world.record.origins = OriginPolicy::listed(["shop.example"])
            .unwrap()
            .or_no_origin();
        world.feed();
        let gate = world.builder().build().unwrap();
        let outer = principal(world.verdict(&gate));
        assert_eq!(answered(&world, &gate, Some(&outer)), (vec![], true));
        world.requirement = Requirement::new().cors(Cors::new().response_header("etag"));
        let (lines, _) = answered(&world, &gate, Some(&outer));
        assert_eq!(lines[0], "access-control-allow-origin: *");
        assert!(
            lines[1].ends_with("etag") && lines[2] == "vary: Origin",
            "{lines:?}"
        );
        world.requirement = world.requirement.scope("none");
        let (refused, admitted) = answered(&world, &gate, Some(&outer));
        assert!(!admitted && refused[0].contains("etag"), "{refused:?}");
    }

    #[test]
    fn a_route_that_two_gates_share_gets_the_answers_of_each() {
        let mut world = World::new();
        world.fields.clear();
        world.feed();
        let requirement = Arc::new(Requirement::new().cors(Cors::new()));
        for realm in ["one", "other", "one"] {
            let gate = world.builder().realm(realm).build().unwrap();
            let Decision::Ready(Verdict::Refuse(refusal)) = gate.check(&world, &requirement, None)
            else {
                panic!()
            };
            let challenge = format!("ApiKey realm=\"{realm}\"");
            assert!(
                refusal
                    .reply
                    .headers()
                    .any(|field| field == ("www-authenticate", &challenge))
            );
        }
    }

    #[test]
    #[should_panic(expected = "a method or a header name of the CORS policy is not a token")]
    fn a_cors_of_a_route_that_cannot_be_sent_is_refused_when_it_is_made() {
        drop(Requirement::new().cors(Cors::new().request_header("x y")));
    }
}
