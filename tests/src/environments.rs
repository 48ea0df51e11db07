//! What each environment has for itself: no request reaches that of another.

use std::convert::Infallible;
use std::future::ready;
use std::task::{Context, Poll, Waker};

use actix_web::{App, web};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, Response};
use keyward::gate::PerEnvironment;
use keyward::{Environment, Requirement};
use keyward_actix::{RequireKey, in_environment};
use keyward_tower::{ByEnvironment, RequireKeyLayer};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, ServiceExt, service_fn};

use crate::service::Service;
use crate::stacks::collect;

/// The key, and what its environment answers; `staging` has nothing.
const CALLS: [(&str, u16, &str); 3] = [
    ("live", 200, "live"),
    ("test", 200, "test"),
    ("staging", 500, ""),
];

fn resources() -> PerEnvironment<&'static str> {
    PerEnvironment::new("live", "test")
}

fn request(key: &str) -> Request<Body> {
    let request = Request::get("/").header("x-api-key", key);
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn in_axum_a_handler_gets_what_its_caller_may_reach() {
    let service = Service::new();
    let gate = service.routes[0].1.clone();
    let handler = get(
        async |keyward_tower::InEnvironment(own): keyward_tower::InEnvironment<&'static str>| own,
    );
    let open = Router::new()
        .route("/", handler.clone())
        .with_state(resources());
    let app = open.clone().layer(RequireKeyLayer::new(
        &gate,
        Requirement::new().any_environment(),
    ));
    for (key, status, body) in CALLS {
        let answer = app
            .clone()
            .oneshot(request(&service.keys[key]))
            .await
            .unwrap();
        let answer = collect(answer).await;
        assert_eq!((answer.status, &*answer.body), (status, body), "{key}");
    }
    let forgotten = open.oneshot(request(&service.keys["live"])).await.unwrap();
    assert_eq!(
        forgotten.status(),
        500,
        "without a layer nobody reaches anything"
    );
    let optional = Router::new().route("/", handler).with_state(resources());
    let optional = optional.layer(RequireKeyLayer::new(&gate, Requirement::new().optional()));
    let anonymous = optional.oneshot(Request::new(Body::empty())).await.unwrap();
    assert_eq!(anonymous.status(), 401);
}

#[tokio::test]
async fn a_service_is_steered_to_by_environment_and_waits_for_that_one_only() {
    let service = Service::new();
    let gate = service.routes[0].1.clone();
    let answering = |body: &'static str| {
        let inner = service_fn(move |_: Request<Body>| {
            ready(Ok::<_, Infallible>(Response::new(Body::from(body))))
        });
        ConcurrencyLimit::new(inner, 1)
    };
    let live = answering("live");
    let steered = ByEnvironment::new(PerEnvironment::new(live.clone(), answering("test")));
    let behind =
        RequireKeyLayer::new(&gate, Requirement::new().any_environment()).layer(steered.clone());
    for (key, status, body) in CALLS {
        let answer = behind
            .clone()
            .oneshot(request(&service.keys[key]))
            .await
            .unwrap();
        let answer = collect(answer).await;
        assert_eq!((answer.status, &*answer.body), (status, body), "{key}");
    }
    let nobody = steered
        .oneshot(request(&service.keys["live"]))
        .await
        .unwrap();
    assert_eq!(nobody.status(), 500);

    // The live one is busy: a test key need not wait for it, and a live one does.
    let mut busy = live;
    busy.ready().await.unwrap();
    let waiting = behind.clone().oneshot(request(&service.keys["live"]));
    let mut waiting = std::pin::pin!(waiting);
    assert!(waiting.as_mut().now_or_never().is_none());
    let test = behind.oneshot(request(&service.keys["test"]));
    assert_eq!(test.await.unwrap().status(), 200);
    drop(busy);
    assert_eq!(waiting.await.unwrap().status(), 200);
}

trait NowOrNever: Future + Sized {
    /// What it gives at once, if it does.
    fn now_or_never(self) -> Option<Self::Output> {
        let mut context = Context::from_waker(Waker::noop());
        match std::pin::pin!(self).poll(&mut context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }
}

impl<F: Future> NowOrNever for F {}

#[actix_web::test]
async fn in_actix_a_handler_gets_what_its_caller_may_reach() {
    type Own = keyward_actix::InEnvironment<&'static str>;
    let service = Service::new();
    let gate = service.routes[0].1.clone();
    let handler = async |own: Own| own.0;
    let layer = RequireKey::new(&gate, Requirement::new().any_environment());
    let guarded = web::scope("/steered")
        .route(
            "",
            web::get()
                .guard(in_environment(Environment::LIVE))
                .to(async || "live"),
        )
        .route(
            "",
            web::get()
                .guard(in_environment(Environment::TEST))
                .to(async || "test"),
        );
    let app = App::new()
        .app_data(resources())
        .service(guarded)
        .route("/", web::get().to(handler))
        .wrap(layer);
    let app = actix_web::test::init_service(app).await;
    for (key, status, body) in CALLS {
        // No resource is there for `staging`: not found, where nothing is said of it.
        for (path, status) in [
            ("/", status),
            ("/steered", if status == 500 { 404 } else { status }),
        ] {
            let request = actix_web::test::TestRequest::with_uri(path);
            let request = request.insert_header(("x-api-key", &*service.keys[key]));
            let answer = actix_web::test::call_service(&app, request.to_request()).await;
            assert_eq!(answer.status().as_u16(), status, "{key} {path}");
            assert_eq!(
                actix_web::test::read_body(answer).await,
                body,
                "{key} {path}"
            );
        }
    }
    let open = App::new()
        .app_data(resources())
        .route("/", web::get().to(handler));
    let open = actix_web::test::init_service(open).await;
    let request = actix_web::test::TestRequest::default().to_request();
    let forgotten = actix_web::test::call_service(&open, request).await;
    assert_eq!(forgotten.status(), 500);
}
