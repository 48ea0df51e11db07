//! A tokio runtime that was built without `enable_time`: what would wait on a timer is refused.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use keyward::gate::KeyDied;
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey,
    Principal, Requirement,
};
use keyward_tower::{ReceiveWebhookLayer, RequireKeyLayer, WhileAlive};
use keyward_webhooks::WebhookReceiver;
use keyward_webhooks::error::WebhookErrorKind;
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use keyward_webhooks::{WebhookSigner, WebhookVerifier};
use tokio::runtime::{Builder, Handle, Runtime};
use tower::{Layer, ServiceExt, service_fn};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn without_time() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

/// A body that is not there when it is first asked for.
#[derive(Default)]
struct Late {
    asked: bool,
}

impl From<Bytes> for Late {
    fn from(_: Bytes) -> Self {
        Self { asked: true }
    }
}

impl http_body::Body for Late {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if std::mem::replace(&mut self.asked, true) {
            return Poll::Ready(None);
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[test]
fn a_refused_upload_is_answered_and_not_drained() {
    let store = MemoryStore::new();
    let gate = Gate::builder(&store, &KeyScheme::new(KeyFormat::new("x_").unwrap()));
    let layer =
        RequireKeyLayer::new(&gate.build().unwrap(), Requirement::new()).request_body::<Late>();
    let reached = async |_: Request<Late>| Ok::<_, Infallible>(Response::new(Body::empty()));
    let service = layer.layer(service_fn(reached));
    let upload = Request::post("/").header("content-length", "100000");
    without_time().block_on(async {
        let response = service.oneshot(upload.body(Late::default()).unwrap()).await;
        let response = response.unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()["connection"], "close");
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    });
}

#[test]
fn a_body_that_ends_with_its_key_ends_at_once() {
    let runtime = without_time();
    let store = Arc::new(MemoryStore::new());
    let scheme = KeyScheme::new(KeyFormat::new("x_").unwrap());
    let gate = Gate::builder(&store, &scheme);
    let gate = gate.build().unwrap();
    let admin = KeyAdmin::new(&store, &scheme);
    let new = NewKey::new(AccountId::parse("acme").unwrap(), Environment::LIVE, "test");
    let operator = Actor::operator("test");
    let created = runtime.block_on(admin.bootstrap(&operator, new)).unwrap();
    let key = created.key.unwrap();

    let layer = RequireKeyLayer::new(&gate, Requirement::new());
    let service = layer.layer(service_fn(move |request: Request<Body>| {
        let principal = request.extensions().get::<Principal>().unwrap().clone();
        let rows = WhileAlive::new(gate.clone(), principal, Body::from("a long table"));
        async { Ok::<_, Infallible>(Response::new(Body::new(rows))) }
    }));
    let request = Request::get("/").header("x-api-key", key.expose_secret());
    let request = request.body(Body::empty()).unwrap();
    let error = runtime.block_on(async {
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap_err()
    });
    let error = error.into_inner();
    assert!(
        error.is::<axum::Error>() || error.is::<KeyDied>(),
        "{error:?}"
    );
}

#[test]
fn a_webhook_whose_body_is_late_is_refused_and_one_that_is_there_is_not() {
    let verifier = WebhookVerifier::standard(SECRET).unwrap();
    let receiver = WebhookReceiver::builder(verifier).build().unwrap();
    let handler = service_fn(async |_: Request<Late>| Ok::<_, Infallible>(Response::new(())));
    let service = ReceiveWebhookLayer::new(receiver).layer(handler);
    let secret = WebhookSecret::parse(SECRET).unwrap();
    let signed = |body| {
        let id = WebhookId::random().unwrap();
        let mut request = Request::post("/hook");
        for (name, value) in WebhookSigner::new(&secret).headers(&id, SystemTime::now(), b"") {
            request = request.header(name, value);
        }
        request.body(body).unwrap()
    };
    let runtime = without_time();
    let there = signed(Late { asked: true });
    let response = runtime.block_on(service.clone().oneshot(there)).unwrap();
    assert_eq!(response.status(), 200);

    let late = signed(Late::default());
    let response = runtime.block_on(service.oneshot(late)).unwrap();
    assert_eq!(response.status(), 503);
    let error = response
        .extensions()
        .get::<keyward_webhooks::error::WebhookError>();
    assert_eq!(
        error.map(keyward_webhooks::error::WebhookError::kind),
        Some(WebhookErrorKind::NoTimer)
    );
}
