//! One table of deliveries through every stack: the same answers, and the handler is reached only
//! where it should be.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use actix_web::{App, HttpResponse, web};
use axum::routing::post;
use axum::{Extension, Router};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use keyward::clock::ManualClock;
use keyward::reply::ErrorJson;
use keyward::request::RequestHead;
use keyward::store::{StoreError, StoreErrorKind, StoreFuture};
use keyward::testing::block_on;
use keyward::{KeyLocation, Replies, Requirement};
use keyward_tower::{ReceiveWebhookLayer, RequireKeyLayer};
use keyward_webhooks::WebhookReceiver;
use keyward_webhooks::error::WebhookErrorKind;
use keyward_webhooks::receive::{
    RecentWebhooks, ReplayMemory, ReplayStatus, WebhookAttempt, WebhookEvent,
    WebhookReceiverBuilder, WebhookVerdict,
};
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use keyward_webhooks::{WebhookSigner, WebhookVerifier};
use serde_json::Value;
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service as _, ServiceBuilder, ServiceExt, service_fn};

use crate::readiness::Strict;
use crate::secrecy::capture;
use crate::service::{NOW, Service};
use crate::stacks::{Answer, answer, collect};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const WRONG: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const KEY: &str = "hk_5a8ac1b2c0ae4dd7";
/// What a body may have, in bytes.
const LIMIT: usize = 1000;

const ID: &str = "webhook-id";
const AT: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";

type Json = HashMap<String, Value>;

/// A delivery, in bytes.
#[derive(Clone, Debug)]
struct Delivery {
    path: &'static str,
    fields: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
}

impl Delivery {
    /// A message of its own, signed so many seconds from now.
    fn signed(off: i64, body: impl AsRef<[u8]>) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let id = format!("msg_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self::attempt(&id, off, body)
    }

    /// An attempt to deliver a message.
    fn attempt(id: &str, off: i64, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        let fields = fields(SECRET, id, off, &body);
        let fields = fields.map(|(name, value)| (name, value.into_bytes()));
        Self {
            path: "/json",
            fields: fields.into(),
            body,
        }
    }

    fn to(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    fn with(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self = self.without(name);
        self.fields.push((name, value.as_ref().to_vec()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(known, _)| *known != name);
        self
    }

    fn and(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.fields.push((name, value.as_ref().to_vec()));
        self
    }

    fn field(&self, name: &str) -> String {
        let (_, value) = self
            .fields
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap();
        String::from_utf8(value.clone()).unwrap()
    }

    /// With the signature changed.
    fn forged(self, change: impl FnOnce(&str) -> String) -> Self {
        let signature = change(&self.field(SIGNATURE));
        self.with(SIGNATURE, signature)
    }

    fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    fn request<B: From<Bytes>>(&self) -> Request<B> {
        let mut request = Request::post(self.path);
        // As every client says it, and the requests of actix-web's tests do.
        if !self
            .fields
            .iter()
            .any(|(name, _)| *name == "content-length")
        {
            request = request.header("content-length", self.body.len());
        }
        for (name, value) in &self.fields {
            request = request.header(*name, &value[..]);
        }
        request.body(B::from(self.body.clone().into())).unwrap()
    }
}

fn fields(secret: &str, id: &str, off: i64, body: &[u8]) -> [(&'static str, String); 3] {
    let secret = WebhookSecret::parse(secret).unwrap();
    let at = SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(1000);
    let at = at - Duration::from_secs((1000 - off).try_into().unwrap());
    WebhookSigner::new(&secret).headers(&WebhookId::parse(id).unwrap(), at, body)
}

fn builder() -> WebhookReceiverBuilder {
    let verifier = WebhookVerifier::standard(SECRET).unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    WebhookReceiver::builder(verifier)
        .body_limit(LIMIT)
        .clock(clock)
}

/// A receiver for each path.
fn receivers() -> [(&'static str, WebhookReceiver); 6] {
    let plain = || builder().build().unwrap();
    let own = Replies::new(ErrorJson).status(
        keyward_webhooks::error::WebhookErrorCode::InvalidWebhookSignature,
        403,
    );
    [
        ("/json", plain()),
        ("/raw", plain()),
        ("/status", plain()),
        ("/other", plain()),
        (
            "/key",
            builder()
                .api_key(KeyLocation::x_api_key(), KEY)
                .unwrap()
                .build()
                .unwrap(),
        ),
        ("/own", builder().replies(own).build().unwrap()),
    ]
}

/// Counts calls; says what it has received.
#[derive(Clone, Default)]
struct Handler(Arc<AtomicUsize>);

impl Handler {
    fn json(&self, json: &Json) -> String {
        self.0.fetch_add(1, Ordering::Relaxed);
        serde_json::to_string(json).unwrap()
    }

    /// The body itself, if it is that of the event.
    fn raw(&self, event: &WebhookEvent, body: Bytes) -> Bytes {
        self.0.fetch_add(1, Ordering::Relaxed);
        assert_eq!(event.body(), body);
        body
    }

    /// The status that the body asks for.
    fn status(&self, body: &[u8]) -> u16 {
        self.0.fetch_add(1, Ordering::Relaxed);
        std::str::from_utf8(body).unwrap().parse().unwrap()
    }
}

async fn axum(deliveries: &[Delivery], handler: Handler) -> Vec<Answer> {
    type State = axum::extract::State<Handler>;

    async fn json(
        axum::extract::State(handler): State,
        keyward_tower::VerifiedJson(json): keyward_tower::VerifiedJson<Json>,
    ) -> Response<Full<Bytes>> {
        Response::new(handler.json(&json).into())
    }

    async fn raw(
        axum::extract::State(handler): State,
        Extension(event): Extension<WebhookEvent>,
        request: axum::extract::Request,
    ) -> Response<Full<Bytes>> {
        assert!(!request.headers().contains_key("x-api-key"));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(handler.raw(&event, body).into())
    }

    async fn status(axum::extract::State(handler): State, body: Bytes) -> StatusCode {
        StatusCode::from_u16(handler.status(&body)).unwrap()
    }

    let mut app = Router::new();
    for (path, receiver) in receivers() {
        let route = match path {
            "/json" | "/own" => post(json),
            "/status" => post(status),
            _ => post(raw),
        };
        app = app.route(path, route.layer(ReceiveWebhookLayer::new(receiver)));
    }
    let app = app.with_state(handler);
    let mut answers = Vec::new();
    for delivery in deliveries {
        let response = app
            .clone()
            .oneshot(delivery.request::<axum::body::Body>())
            .await;
        answers.push(collect(response.unwrap()).await);
    }
    answers
}

async fn tower(deliveries: &[Delivery], handler: Handler) -> Vec<Answer> {
    async fn respond(
        handler: Handler,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let event = request.extensions().get::<WebhookEvent>().unwrap().clone();
        assert!(!request.headers().contains_key("x-api-key"));
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        Ok(match &*path {
            "/json" | "/own" => {
                let json = event.json().map(|json| handler.json(&json));
                json.map_or_else(
                    |_| reply(event.invalid_json()),
                    |text| Response::new(text.into()),
                )
            }
            "/status" => {
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::from_u16(handler.status(&body)).unwrap();
                response
            }
            _ => Response::new(handler.raw(&event, body).into()),
        })
    }

    let inner = service_fn(move |request| respond(handler.clone(), request));
    let receivers: HashMap<_, _> = receivers().into();
    let mut answers = Vec::new();
    for delivery in deliveries {
        let layer = ReceiveWebhookLayer::new(receivers[delivery.path].clone());
        let response = layer.layer(inner.clone()).oneshot(delivery.request()).await;
        answers.push(collect(response.unwrap()).await);
    }
    answers
}

async fn actix(deliveries: &[Delivery], handler: Handler) -> Vec<Answer> {
    use actix_web::test::{TestRequest, call_service, init_service, read_body};

    type State = web::Data<Handler>;

    async fn json(
        handler: State,
        keyward_actix::VerifiedJson(json): keyward_actix::VerifiedJson<Json>,
    ) -> HttpResponse {
        HttpResponse::Ok().body(handler.json(&json))
    }

    async fn raw(
        handler: State,
        event: web::ReqData<WebhookEvent>,
        request: actix_web::HttpRequest,
        body: Bytes,
    ) -> HttpResponse {
        assert!(!request.headers().contains_key("x-api-key"));
        HttpResponse::Ok().body(handler.raw(&event, body))
    }

    async fn status(handler: State, body: Bytes) -> HttpResponse {
        let status = actix_web::http::StatusCode::from_u16(handler.status(&body));
        HttpResponse::new(status.unwrap())
    }

    let app = App::new()
        .app_data(web::Data::new(handler))
        .configure(|app| {
            for (path, receiver) in receivers() {
                let resource = web::resource(path);
                let resource = match path {
                    "/json" | "/own" => resource.route(web::post().to(json)),
                    "/status" => resource.route(web::post().to(status)),
                    _ => resource.route(web::post().to(raw)),
                };
                app.service(resource.wrap(keyward_actix::ReceiveWebhook::new(receiver)));
            }
        });
    let app = init_service(app).await;
    let mut answers = Vec::new();
    for delivery in deliveries {
        let mut request = TestRequest::post()
            .uri(delivery.path)
            .set_payload(delivery.body.clone());
        for (name, value) in &delivery.fields {
            let value = actix_web::http::header::HeaderValue::from_bytes(value).unwrap();
            request = match *name {
                // There is one already, of the payload.
                "content-length" => request.insert_header((*name, value)),
                name => request.append_header((name, value)),
            };
        }
        let response = call_service(&app, request.to_request()).await;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = read_body(response).await;
        let fields = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        answers.push(answer(status, fields, body));
    }
    answers
}

fn reply(reply: &keyward::reply::Reply) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(reply.status());
    for (name, value) in reply.headers() {
        response = response.header(name, value);
    }
    response.body(reply.body().to_vec().into()).unwrap()
}

/// Sends the deliveries through all stacks, in order; the answers must be equal, and how often the
/// handler was reached.
fn everywhere(deliveries: &[Delivery]) -> (Vec<Answer>, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let handlers = [0; 3].map(|_| Handler::default());
    let [by_axum, by_tower, by_actix] = &handlers;
    let mut axum = runtime.block_on(axum(deliveries, by_axum.clone()));
    let mut tower = runtime.block_on(tower(deliveries, by_tower.clone()));
    let mut actix = actix_web::rt::System::new().block_on(actix(deliveries, by_actix.clone()));
    for (at, delivery) in deliveries.iter().enumerate() {
        for answers in [&mut axum, &mut tower, &mut actix] {
            // The frameworks' own, for what a handler answers.
            if answers[at].status == 200 {
                answers[at].fields.clear();
            }
        }
        assert_eq!(axum[at], tower[at], "axum and tower on {delivery:?}");
        assert_eq!(axum[at], actix[at], "axum and actix on {delivery:?}");
    }
    let reached = handlers.map(|handler| handler.0.load(Ordering::Relaxed));
    assert!(reached[0] == reached[1] && reached[0] == reached[2]);
    (axum, reached[0])
}

/// A row: what it is about, the delivery, the status, and the code, or the body of a 200.
type Row = (&'static str, Delivery, u16, &'static str);

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    const BODY: &str = r#"{"a":1}"#;
    const INVALID: &str = "invalid_webhook_signature";
    const MISSING: &str = "missing_webhook_signature";
    const MALFORMED: &str = "malformed_webhook";
    const STALE: &str = "stale_webhook";
    const LARGE: &str = "webhook_too_large";
    const REPLAY: &str = "replayed_webhook";
    const JSON: &str = "invalid_webhook_json";
    let good = || Delivery::signed(0, BODY);
    let json = |body: &[u8]| Delivery::signed(0, body);
    let wrong = |list: &str| fields(WRONG, "msg_x", 0, list.as_bytes())[2].1.clone();
    let flip = |text: &str| if text.as_bytes()[9] == b'A' { text.replacen('A', "B", 1) } else { format!("{}A{}", &text[..9], &text[10..]) };
    let spaces = |count: usize| format!("{BODY}{}", " ".repeat(count - BODY.len()));
    let key = |delivery: Delivery| delivery.to("/key");
    vec![
        ("good", good(), 200, BODY),
        ("good, the bytes", Delivery::signed(0, "{ \"a\": 1 }\n").to("/raw"), 200, "{ \"a\": 1 }\n"),
        // The signature.
        ("wrong secret", Delivery::signed(0, BODY).forged(|_| wrong(BODY)), 401, INVALID),
        ("flipped byte in the signature", good().forged(flip), 401, INVALID),
        ("flipped byte in the body", good().body(r#"{"a":3}"#), 401, INVALID),
        ("a byte more", good().body(format!("{BODY} ")), 401, INVALID),
        ("a byte less", good().body(&BODY[1..]), 401, INVALID),
        ("another id", good().with(ID, "msg_other"), 401, INVALID),
        ("another time", good().with(AT, (NOW.as_secs() + 1).to_string()), 401, INVALID),
        ("truncated signature", good().forged(|text| text[..20].to_owned()), 401, INVALID),
        ("version alone", good().with(SIGNATURE, "v1,"), 401, INVALID),
        ("signature that is not base64", good().with(SIGNATURE, "v1,***"), 401, INVALID),
        ("empty signature", good().with(SIGNATURE, ""), 401, MISSING),
        ("no signature", good().without(SIGNATURE), 401, MISSING),
        ("nothing at all", good().without(SIGNATURE).without(ID).without(AT), 401, MISSING),
        ("signature that is not UTF-8", good().with(SIGNATURE, b"v1,\xff"), 400, MALFORMED),
        ("two signature fields", good().and(SIGNATURE, wrong(BODY)), 400, MALFORMED),
        ("two ids", good().and(ID, "msg_other"), 400, MALFORMED),
        ("two timestamps", good().and(AT, "1700000000"), 400, MALFORMED),
        ("huge signature field", good().forged(|text| format!("{text}{}", " v1,x".repeat(900))), 400, MALFORMED),
        ("too many signatures", good().forged(|text| format!("{}{text}", "v1,x ".repeat(32))), 400, MALFORMED),
        ("the valid one last of several", good().forged(|text| format!("{} v1a,x v2,y {text}", wrong(BODY))), 200, BODY),
        ("the valid one first of several", good().forged(|text| format!("{text} {}", wrong(BODY))), 200, BODY),
        ("unknown version alone", good().forged(|text| text.replace("v1,", "v9,")), 401, INVALID),
        ("an id with a dot", good().with(ID, "msg.1"), 400, MALFORMED),
        ("huge id", good().with(ID, "m".repeat(3000)), 400, MALFORMED),
        // The time.
        ("300 seconds old", Delivery::signed(-300, BODY), 200, BODY),
        ("301 seconds old", Delivery::signed(-301, BODY), 401, STALE),
        ("300 seconds ahead", Delivery::signed(300, BODY), 200, BODY),
        ("301 seconds ahead", Delivery::signed(301, BODY), 401, STALE),
        ("year 1970", good().with(AT, "0"), 401, STALE),
        ("negative time", good().with(AT, "-1700000000"), 400, MALFORMED),
        ("signed time", good().with(AT, "+1700000000"), 400, MALFORMED),
        ("the largest time", good().with(AT, u64::MAX.to_string()), 401, STALE),
        ("one more", good().with(AT, "18446744073709551616"), 400, MALFORMED),
        ("huge time", good().with(AT, "9".repeat(1000)), 400, MALFORMED),
        ("no time", good().with(AT, ""), 401, MISSING),
        ("NaN", good().with(AT, "NaN"), 400, MALFORMED),
        // The body.
        ("body at the limit", Delivery::signed(0, spaces(LIMIT)), 200, BODY),
        ("body over the limit", Delivery::signed(0, spaces(LIMIT + 1)), 413, LARGE),
        ("body far over the limit", Delivery::signed(0, spaces(100 * LIMIT)), 413, LARGE),
        ("announced over the limit", good().with("content-length", "1001"), 413, LARGE),
        ("announced far over the limit", good().with("content-length", "9".repeat(30)), 413, LARGE),
        ("0 bytes", Delivery::signed(0, "").to("/raw"), 200, ""),
        ("0 bytes as JSON", json(b""), 400, JSON),
        ("not UTF-8", json(b"\xff\xfe\x00"), 400, JSON),
        ("not UTF-8 in a string", json(b"{\"a\":\"\xc3\x28\"}"), 400, JSON),
        ("spaces", json(b"   "), 400, JSON),
        ("NUL", json(b"\0"), 400, JSON),
        ("byte order mark", json(b"\xef\xbb\xbf{}"), 400, JSON),
        ("truncated", json(b"{\"a\":"), 400, JSON),
        ("truncated string", json(b"{\"a\":\"b"), 400, JSON),
        ("truncated escape", json(b"{\"a\":\"\\u00"), 400, JSON),
        ("half a surrogate", json(b"{\"a\":\"\\ud800\"}"), 400, JSON),
        ("unknown escape", json(b"{\"a\":\"\\x\"}"), 400, JSON),
        ("line in a string", json(b"{\"a\":\"\n\"}"), 400, JSON),
        ("trailing comma", json(b"{\"a\":1,}"), 400, JSON),
        ("trailing text", json(b"{}x"), 400, JSON),
        ("two documents", json(b"{}{}"), 400, JSON),
        ("single quotes", json(b"{'a':1}"), 400, JSON),
        ("no quotes", json(b"{a:1}"), 400, JSON),
        ("comment", json(b"{} // none"), 400, JSON),
        ("NaN in JSON", json(b"{\"a\":NaN}"), 400, JSON),
        ("number with a zero before it", json(b"{\"a\":01}"), 400, JSON),
        ("number that is too large", json(b"{\"a\":1e999}"), 400, JSON),
        ("deep", json("[".repeat(900).as_bytes()), 400, JSON),
        ("deep, in an object", json(format!("{{\"a\":{}{}}}", "[".repeat(400), "]".repeat(400)).as_bytes()), 400, JSON),
        ("another type", json(b"[1]"), 400, JSON),
        ("null", json(b"null"), 400, JSON),
        ("form", json(b"a=1&b=2"), 400, JSON),
        // What comes twice.
        ("first", Delivery::attempt("twice", 0, BODY), 200, BODY),
        ("replay", Delivery::attempt("twice", 0, BODY), 409, REPLAY),
        ("an earlier attempt", Delivery::attempt("twice", -1, BODY), 409, REPLAY),
        ("another body of the same id and time", Delivery::attempt("twice", 0, "{}"), 409, REPLAY),
        ("a later attempt of what was handled", Delivery::attempt("twice", 1, BODY), 204, ""),
        ("the same id elsewhere", Delivery::attempt("twice", 0, BODY).to("/other"), 200, BODY),
        ("a forgery", Delivery::attempt("forged", 0, BODY).body("{}"), 401, INVALID),
        ("is not remembered", Delivery::attempt("forged", 0, BODY), 200, BODY),
        ("a handler that fails", Delivery::attempt("fails", 0, "500").to("/status"), 500, ""),
        ("the same attempt again", Delivery::attempt("fails", 0, "503").to("/status"), 503, ""),
        ("a redirect is no success", Delivery::attempt("fails", 1, "302").to("/status"), 302, ""),
        ("a later attempt that succeeds", Delivery::attempt("fails", 2, "204").to("/status"), 204, ""),
        ("its replay", Delivery::attempt("fails", 2, "204").to("/status"), 409, REPLAY),
        ("the first that failed, replayed", Delivery::attempt("fails", 0, "500").to("/status"), 409, REPLAY),
        ("invalid JSON is not handled", Delivery::attempt("json", 0, "{"), 400, JSON),
        ("nor when it comes again", Delivery::attempt("json", 0, "{"), 400, JSON),
        // An API key beside the signature.
        ("key", key(good()).with("x-api-key", KEY), 200, BODY),
        ("no key", key(good()), 401, "missing_api_key"),
        ("empty key", key(good()).with("x-api-key", ""), 401, "missing_api_key"),
        ("wrong key", key(good()).with("x-api-key", "hk_5a8ac1b2c0ae4dd8"), 401, "invalid_api_key"),
        ("half a key", key(good()).with("x-api-key", &KEY[..10]), 401, "invalid_api_key"),
        ("key twice", key(good()).with("x-api-key", KEY).and("x-api-key", KEY), 400, "multiple_api_keys"),
        ("key without a signature", key(good()).with("x-api-key", KEY).without(SIGNATURE), 401, MISSING),
        ("key, wrong signature", key(good()).with("x-api-key", KEY).body("{}"), 401, INVALID),
        // Its own words.
        ("own status and shape", good().body("{}").to("/own"), 403, r#"{"error":"The signature does not match the body. Check the secret, and sign the bytes that are sent."}"#),
        ("own shape of invalid JSON", json(b"{").to("/own"), 400, r#"{"error":"The body is not the JSON that is expected here."}"#),
    ]
}

#[test]
fn every_stack_answers_every_delivery_alike_and_as_the_table_says() {
    let rows = rows();
    let deliveries: Vec<_> = rows
        .iter()
        .map(|(_, delivery, ..)| delivery.clone())
        .collect();
    let (log, subscriber) = capture();
    let (answers, reached) =
        tracing::subscriber::with_default(subscriber, || everywhere(&deliveries));
    for ((about, delivery, status, says), answer) in rows.iter().zip(&answers) {
        let Answer { fields, body, .. } = answer;
        assert_eq!(answer.status, *status, "{about}: {answer:?}");
        if delivery.path == "/status" && *status != 409 {
            continue;
        }
        if *status == 200 || says.is_empty() || says.starts_with('{') {
            assert_eq!(body.trim_end(), says.trim_end(), "{about}");
        } else {
            let code = format!(r#","status":{status},"#);
            assert!(body.contains(&code), "{about}: {body}");
            assert!(
                body.ends_with(&format!(r#","code":"{says}"}}"#)),
                "{about}: {body}"
            );
        }
        let expected = match (status, *says) {
            (200, _) => continue,
            (401, "missing_api_key") => Some(r#"ApiKey realm="webhook""#),
            (401, "invalid_api_key") => Some(r#"ApiKey realm="webhook", error="invalid_token""#),
            (400, "multiple_api_keys") => {
                Some(r#"ApiKey realm="webhook", error="invalid_request""#)
            }
            (401, _) => Some(r#"WebhookSignature realm="webhook""#),
            _ => None,
        };
        let challenge = fields.get("www-authenticate").map(|lines| lines.join("; "));
        assert_eq!(challenge.as_deref(), expected, "{about}");
        assert_eq!(fields["cache-control"], ["no-store"], "{about}");
    }
    let handled = |(_, delivery, status, _): &&Row| match delivery.path {
        "/status" => *status != 409,
        _ => *status == 200,
    };
    assert_eq!(reached, rows.iter().filter(handled).count());
    let log = log.0.lock().unwrap();
    let log = String::from_utf8_lossy(&log);
    assert!(log.contains("webhook refused") && log.contains("already handled"));
    for secret in [&SECRET[6..], KEY, "v1,", r#"{"a""#] {
        assert!(!log.contains(secret), "the log holds {secret}");
    }
}

/// A delivery as its receiver sees it, without a stack around it.
struct Head<'a>(&'a Delivery);

impl RequestHead for Head<'_> {
    fn method(&self) -> &'static str {
        "POST"
    }

    fn peer(&self) -> Option<IpAddr> {
        None
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let values = self.0.fields.iter().filter(move |(name, _)| *name == field);
        values.map(|(_, value)| &**value)
    }
}

#[test]
fn a_webhook_that_is_replayed_again_and_again_fills_no_log() {
    let (log, subscriber) = capture();
    let clock = Arc::new(ManualClock::at(NOW));
    let receiver = builder().clock(Arc::<ManualClock>::clone(&clock));
    let receiver = receiver.build().unwrap();
    let delivery = Delivery::attempt("again", 0, "{}");
    let deliver = || {
        let mut awaited = receiver.check(&Head(&delivery)).unwrap();
        awaited.receive(delivery.body.len()).unwrap();
        block_on(awaited.verify(delivery.body.clone()))
    };
    let WebhookVerdict::Deliver(first) = deliver() else {
        panic!("it is new");
    };
    first.receipt.conclude(200);
    tracing::subscriber::with_default(subscriber, || {
        let replay = |times| (0..times).for_each(|_| drop(deliver()));
        replay(1000);
        clock.advance(Duration::from_secs(60));
        replay(1);
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines = log.lines().filter(|line| line.contains("webhook refused"));
    let lines: Vec<_> = lines.collect();
    assert_eq!(lines.len(), 11, "{}", lines[0]);
    assert!(lines[..10].iter().all(|line| !line.contains("unlogged")));
    assert!(lines[10].contains("unlogged=990"), "{}", lines[10]);
}

#[test]
fn the_exact_answers_are_those_of_the_docs() {
    let unsigned = Delivery::signed(0, "{}").without(SIGNATURE);
    let (answers, _) = everywhere(&[unsigned, Delivery::signed(0, "{")]);
    let fields = |answer: &Answer| format!("{:?}", answer.fields);
    assert_eq!(
        answers[0].body,
        r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"Sign the delivery: it needs its id, its timestamp and its signature, as the docs say.","code":"missing_webhook_signature"}"#
    );
    assert_eq!(
        fields(&answers[0]),
        r#"{"cache-control": ["no-store"], "connection": ["close"], "content-type": ["application/problem+json"], "www-authenticate": ["WebhookSignature realm=\"webhook\""]}"#
    );
    assert_eq!(
        answers[1].body,
        r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"The body is not the JSON that is expected here.","code":"invalid_webhook_json"}"#
    );
    assert_eq!(
        fields(&answers[1]),
        r#"{"cache-control": ["no-store"], "content-type": ["application/problem+json"]}"#
    );
}

#[test]
fn debug_shows_no_secret() {
    let secret = WebhookSecret::parse(SECRET).unwrap();
    let receiver = builder().api_key(KeyLocation::bearer(), KEY).unwrap();
    let verifier = WebhookVerifier::standard(SECRET).unwrap();
    let mut text = format!("{secret:?} {receiver:#?} {verifier:?}");
    let receiver = receiver.build().unwrap();
    let layer = ReceiveWebhookLayer::new(receiver.clone());
    text += &format!("{receiver:?} {layer:?} {:?}", WebhookSigner::new(&secret));
    text += &format!("{:?}", keyward_actix::ReceiveWebhook::new(receiver));
    for secret in [&SECRET[6..], KEY] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test]
async fn the_refusal_carries_its_reason_for_layers_outside() {
    let layer = ReceiveWebhookLayer::new(builder().build().unwrap());
    let service = layer.layer(Strict::<Full<Bytes>>::default());
    let delivery = Delivery::signed(-301, "{}");
    let response = service
        .oneshot(delivery.request::<Full<Bytes>>())
        .await
        .unwrap();
    let error = response
        .extensions()
        .get::<keyward_webhooks::error::WebhookError>()
        .unwrap();
    assert_eq!(error.kind(), WebhookErrorKind::TooOld);
}

/// A body in pieces, the last of which may be missing.
struct Pieces(Vec<Result<&'static [u8], &'static str>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        match self.0.pop() {
            None => Poll::Ready(None),
            Some(Ok(b"")) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Ok(piece)) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece))))),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
        }
    }
}

#[tokio::test]
async fn a_body_in_pieces_is_put_together_and_one_that_breaks_off_is_refused() {
    let layer = ReceiveWebhookLayer::new(builder().body_limit(9).build().unwrap());
    let app = Router::<()>::new().route("/json", post(async |body: String| body));
    let app = app.layer(layer);
    let ask = async |mut pieces: Vec<Result<&'static [u8], &'static str>>| {
        pieces.reverse();
        let request = Delivery::signed(0, r#"{"a":123}"#).request::<Full<Bytes>>();
        let request = request.map(|_| axum::body::Body::new(Pieces(pieces)));
        collect(app.clone().oneshot(request).await.unwrap()).await
    };
    let whole = ask(vec![Ok(b"{"), Ok(b""), Ok(b"\"a\":"), Ok(b""), Ok(b"123}")]).await;
    assert_eq!((whole.status, &*whole.body), (200, r#"{"a":123}"#));
    let broken = ask(vec![Ok(b"{\"a\":"), Err("connection reset")]).await;
    assert_eq!(broken.status, 400);
    let over = ask(vec![Ok(b"{\"a\":123}"), Ok(b"x"), Err("is not read")]).await;
    assert_eq!(over.status, 413);
}

/// The service, polled ready.
async fn ready<S>(service: &mut S) -> &mut S
where
    S: tower::Service<Request<Full<Bytes>>, Error: std::fmt::Debug>,
{
    service.ready().await.unwrap()
}

#[tokio::test]
async fn calls_the_service_that_was_ready() {
    let strict = Strict::<Full<Bytes>>::default();
    let layer = ReceiveWebhookLayer::new(builder().build().unwrap());
    let mut behind = layer.layer(strict.clone());
    let good = || Delivery::signed(0, "{}").request::<Full<Bytes>>();
    for (request, status) in [
        (good(), 200),
        (Delivery::signed(0, "{}").body("").request(), 401),
        (Request::default(), 401),
        (good(), 200),
    ] {
        let response = ready(&mut behind).await.call(request).await.unwrap();
        assert_eq!(response.status(), status);
    }
    // Both are read before either is answered.
    let first = ready(&mut behind).await.call(good());
    let second = ready(&mut behind).await.call(good());
    assert_eq!(second.await.unwrap().status(), 200);
    assert_eq!(first.await.unwrap().status(), 200);
    assert_eq!(strict.calls.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn what_is_refused_or_given_up_gives_its_permit_back_and_may_come_again() {
    let hello = service_fn(async |_: Request<Full<Bytes>>| {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let mut behind = ServiceBuilder::new()
        .layer(ReceiveWebhookLayer::new(builder().build().unwrap()))
        .layer(ConcurrencyLimitLayer::new(1))
        .service(hello);
    let mut another = behind.clone();
    let refused = ready(&mut behind).await.call(Request::default());
    ready(&mut another).await;
    assert_eq!(refused.await.unwrap().status(), 401);

    let delivery = Delivery::signed(0, "{}");
    let mut given_up = Box::pin(another.call(delivery.request()));
    let mut context = Context::from_waker(std::task::Waker::noop());
    assert!(given_up.as_mut().poll(&mut context).is_pending());
    drop(given_up);
    let again = ready(&mut behind).await.call(delivery.request());
    assert_eq!(again.await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_delivery_in_hand_is_not_handled_beside_itself() {
    let layer = ReceiveWebhookLayer::new(builder().build().unwrap());
    let slow = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let delivery = Delivery::signed(0, "{}");
    let mut first = Box::pin(slow.clone().oneshot(delivery.request()));
    let mut context = Context::from_waker(std::task::Waker::noop());
    assert!(first.as_mut().poll(&mut context).is_pending());
    let second = slow.oneshot(delivery.request()).await.unwrap();
    assert_eq!(second.status(), 409);
    assert_eq!(first.await.unwrap().status(), 200);
}

/// A memory that is somewhere else, and may be away.
#[derive(Debug)]
struct Remote(Arc<RecentWebhooks>, bool);

impl ReplayMemory for Remote {
    fn begin<'a>(
        &'a self,
        attempt: &'a WebhookAttempt,
        now: SystemTime,
        until: SystemTime,
    ) -> StoreFuture<'a, ReplayStatus> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if self.1 {
                return Err(StoreError::new(StoreErrorKind::Unavailable));
            }
            self.0.begin(attempt, now, until).await
        })
    }

    fn conclude(&self, attempt: &WebhookAttempt, handled: bool) {
        self.0.conclude(attempt, handled);
    }
}

#[tokio::test]
async fn two_receivers_with_one_memory_handle_a_delivery_once() {
    let shared = Arc::new(RecentWebhooks::default());
    let service = |away| {
        let memory = Remote(Arc::clone(&shared), away);
        let layer = ReceiveWebhookLayer::new(builder().memory(memory).build().unwrap());
        layer.layer(Strict::<Full<Bytes>>::default())
    };
    let delivery = Delivery::signed(0, "{}");
    let [away, one, two] = [service(true), service(false), service(false)];
    for (service, status) in [(away, 503), (one, 200), (two, 409)] {
        let response = service.oneshot(delivery.request()).await.unwrap();
        assert_eq!(response.status(), status);
    }
}

/// A payload that breaks off.
struct Broken;

impl futures_core::Stream for Broken {
    type Item = Result<Bytes, actix_web::error::PayloadError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(Some(Err(actix_web::error::PayloadError::Incomplete(None))))
    }
}

#[actix_web::test]
async fn in_actix_a_body_that_breaks_off_is_refused_and_what_is_given_up_may_come_again() {
    use actix_web::dev::{Payload, Service as _, ServiceRequest, Transform};

    let receiver = keyward_actix::ReceiveWebhook::new(builder().build().unwrap());
    let inner = actix_web::dev::fn_service(async |request: ServiceRequest| {
        tokio::task::yield_now().await;
        Ok::<_, actix_web::Error>(request.into_response(HttpResponse::Ok().finish()))
    });
    let service = receiver.new_transform(inner).await.unwrap();
    let delivery = Delivery::signed(0, "{}");
    let request = |payload: Payload| {
        let mut request = actix_web::test::TestRequest::post();
        for (name, value) in &delivery.fields {
            request = request.insert_header((*name, &**value));
        }
        ServiceRequest::from_parts(request.to_http_request(), payload)
    };
    let payload = Box::pin(Broken);
    let broken = service.call(request(Payload::Stream { payload })).await;
    assert_eq!(broken.unwrap().status(), 400);

    let good = || service.call(request(Payload::from(Bytes::from("{}"))));
    let mut context = Context::from_waker(std::task::Waker::noop());
    let mut given_up = Box::pin(good());
    assert!(given_up.as_mut().poll(&mut context).is_pending());
    assert_eq!(good().await.unwrap().status(), 409);
    drop(given_up);
    assert_eq!(good().await.unwrap().status(), 200);
    assert_eq!(good().await.unwrap().status(), 409);
}

/// Where the senders have keys of the service's own, a gate stands in front of the receiver.
#[test]
fn a_gate_in_front_demands_a_key_of_the_service_too() {
    let service = Service::new();
    let (_, gate, _) = &service.routes[0];
    let good = Delivery::signed(0, "{}").to("/");
    let (live, revoked) = (&service.keys["live"], &service.keys["revoked"]);
    let table = [
        (good.clone(), 401),
        (good.clone().with("x-api-key", revoked), 401),
        (good.clone().with("x-api-key", live).body("[]"), 401),
        (good.with("x-api-key", live), 200),
    ];

    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let app = ServiceBuilder::new()
        .layer(RequireKeyLayer::new(gate, Requirement::new()))
        .layer(ReceiveWebhookLayer::new(builder().build().unwrap()))
        .service(Strict::<Full<Bytes>>::default());
    for (delivery, status) in &table {
        let response = runtime.block_on(app.clone().oneshot(delivery.request()));
        assert_eq!(response.unwrap().status(), *status, "{delivery:?}");
    }

    actix_web::rt::System::new().block_on(async {
        let app = App::new()
            .route("/", web::post().to(HttpResponse::Ok))
            .wrap(keyward_actix::ReceiveWebhook::new(
                builder().build().unwrap(),
            ))
            .wrap(keyward_actix::RequireKey::new(gate, Requirement::new()));
        let app = actix_web::test::init_service(app).await;
        for (delivery, status) in &table {
            let mut request = actix_web::test::TestRequest::post();
            for (name, value) in &delivery.fields {
                request = request.insert_header((*name, &**value));
            }
            let request = request.set_payload(delivery.body.clone()).to_request();
            let response = actix_web::test::call_service(&app, request).await;
            assert_eq!(response.status().as_u16(), *status, "{delivery:?}");
        }
    });
}
