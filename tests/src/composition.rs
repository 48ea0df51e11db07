//! The layer among those of tower and tower-http: where the order is free, and what changes where it is not.

use std::convert::Infallible;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use keyward::credits::{CreditOwner, Credits};
use keyward::denial::DenialKind;
use keyward::gate::Denial;
use keyward::testing::block_on;
use keyward::{AccountId, Actor, Gate, KeyAdmin, KeyFormat, KeyScheme, Requirement, Store};
use keyward_tower::{Principal, RequireKeyLayer};
use tokio::time::timeout;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::error::Overloaded;
use tower::{BoxError, Service as _, ServiceBuilder, ServiceExt, service_fn};
use tower_http::compression::CompressionLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use tracing::Span;

use crate::service::Service;

const PAGE: &str = "https://shop.example";

fn layer(service: &Service) -> RequireKeyLayer {
    RequireKeyLayer::new(&service.routes[0].1, Requirement::new())
}

/// A layer whose callers have ten credits, and get back what the service could not answer.
fn ten_credits(service: &Service) -> RequireKeyLayer {
    let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
    let admin = KeyAdmin::new(&service.store, &scheme);
    let (operator, acme) = (Actor::operator("ops"), AccountId::parse("acme").unwrap());
    block_on(admin.set_credits(&operator, acme, Some(Credits::new(10)))).unwrap();
    let gate = Gate::builder(&service.store, &scheme);
    RequireKeyLayer::new(
        &gate.refund_server_errors().build().unwrap(),
        Requirement::new(),
    )
}

async fn credits_left(service: &Service) -> u64 {
    service.store.flush().await.unwrap();
    service.store.flush().await.unwrap();
    let acme = CreditOwner::Account(AccountId::parse("acme").unwrap());
    service.store.credits(acme).await.unwrap().unwrap().left
}

fn ask<B: Default>(key: &str) -> Request<B> {
    let request = Request::get("/").header("x-api-key", key);
    request.body(B::default()).unwrap()
}

async fn send(app: &Router, request: Request<Body>) -> (http::response::Parts, Bytes) {
    let (head, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    (head, body.collect().await.unwrap().to_bytes())
}

async fn account(principal: Principal) -> String {
    format!("{}, {}", principal.account(), "often. ".repeat(20))
}

fn plain(head: &http::response::Parts, body: &Bytes) -> String {
    let mut text = String::new();
    match head.headers.get("content-encoding") {
        None => text.push_str(std::str::from_utf8(body).unwrap()),
        Some(encoding) => {
            assert_eq!(encoding, "gzip");
            let mut gzip = flate2::read::GzDecoder::new(&body[..]);
            gzip.read_to_string(&mut text).unwrap();
        }
    }
    text
}

/// Every order of so many things.
fn orders(of: usize) -> Vec<Vec<usize>> {
    match of {
        0 => vec![vec![]],
        _ => orders(of - 1)
            .into_iter()
            .flat_map(|order| {
                (0..of).map(move |at| {
                    let mut order = order.clone();
                    order.insert(at, of - 1);
                    order
                })
            })
            .collect(),
    }
}

#[tokio::test]
async fn who_passes_and_what_he_reads_is_the_same_in_every_order() {
    let service = Service::new();
    let mut seen = Vec::new();
    for order in orders(5) {
        let mut app = Router::new().route("/", get(account));
        for which in &order {
            app = match which {
                0 => app.layer(layer(&service)),
                1 => app.layer(TraceLayer::new_for_http()),
                2 => app.layer(TimeoutLayer::with_status_code(
                    StatusCode::GATEWAY_TIMEOUT,
                    Duration::from_secs(60),
                )),
                3 => app.layer(CompressionLayer::new()),
                _ => app.layer(ConcurrencyLimitLayer::new(1)),
            };
        }
        let mut answers = Vec::new();
        for key in ["live", "revoked", "test"] {
            let mut request = ask(&service.keys[key]);
            let gzip = "gzip".parse().unwrap();
            request.headers_mut().insert("accept-encoding", gzip);
            let (head, body) = send(&app, request).await;
            let challenge: Vec<_> = head.headers.get_all("www-authenticate").iter().collect();
            let denial = head.extensions.get::<Denial>().map(Denial::kind);
            answers.push((
                head.status.as_u16(),
                format!("{challenge:?} {denial:?}"),
                head.headers["cache-control"].clone(),
                plain(&head, &body),
            ));
        }
        seen.push(answers);
    }
    assert_eq!(seen.len(), 120);
    let statuses: Vec<_> = seen[0].iter().map(|answer| answer.0).collect();
    assert_eq!(statuses, [200, 401, 401]);
    assert!(seen.iter().all(|answers| *answers == seen[0]));
}

#[tokio::test]
async fn a_trace_outside_sees_a_refusal_and_why_and_one_inside_sees_the_principal() {
    let service = Service::new();
    let noted = Arc::new(Mutex::new(Vec::new()));
    let on_response = || {
        let noted = Arc::clone(&noted);
        move |response: &Response<_>, _: Duration, _: &Span| {
            let denial = response.extensions().get::<Denial>().map(Denial::kind);
            noted.lock().unwrap().push(denial);
        }
    };
    let entered = Arc::new(Mutex::new(Vec::new()));
    let make_span = || {
        let entered = Arc::clone(&entered);
        move |request: &Request<Body>| {
            let principal = request.extensions().get::<keyward::Principal>();
            let key = request.headers().contains_key("x-api-key");
            entered.lock().unwrap().push((principal.is_some(), key));
            Span::none()
        }
    };
    let trace = || TraceLayer::new_for_http().make_span_with(make_span());
    let trace = || trace().on_response(on_response());
    let app = Router::new().route("/", get(account));
    let outside = app.clone().layer(layer(&service)).layer(trace());
    let inside = app.layer(trace()).layer(layer(&service));
    for app in [outside, inside] {
        for key in ["revoked", "live"] {
            send(&app, ask(&service.keys[key])).await;
        }
    }
    let outside_then_inside = [Some(DenialKind::Revoked), None, None];
    assert_eq!(*noted.lock().unwrap(), outside_then_inside);
    // The principal is known inside only, where the key is gone.
    let outside_then_inside = [(false, true), (false, true), (true, false)];
    assert_eq!(*entered.lock().unwrap(), outside_then_inside);
}

#[tokio::test]
async fn a_refusal_has_a_request_id_only_from_outside() {
    let service = Service::new();
    let app = || Router::new().route("/", get(account));
    let ids = || {
        ServiceBuilder::new()
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
            .layer(PropagateRequestIdLayer::x_request_id())
    };
    let outside = app().layer(layer(&service)).layer(ids());
    let inside = app().layer(ids()).layer(layer(&service));
    for (app, key, has_id) in [
        (&outside, "live", true),
        (&outside, "revoked", true),
        (&inside, "live", true),
        (&inside, "revoked", false),
    ] {
        let (head, _) = send(app, ask(&service.keys[key])).await;
        assert_eq!(head.headers.contains_key("x-request-id"), has_id, "{key}");
    }
}

#[tokio::test]
async fn a_refusal_is_compressed_only_from_outside() {
    let service = Service::new();
    let app = || Router::new().route("/", get(account));
    let outside = app().layer(layer(&service)).layer(CompressionLayer::new());
    let inside = app().layer(CompressionLayer::new()).layer(layer(&service));
    let mut bodies = Vec::new();
    for (app, key, compressed) in [
        (&outside, "live", true),
        (&outside, "revoked", true),
        (&inside, "live", true),
        (&inside, "revoked", false),
    ] {
        let mut request = ask(&service.keys[key]);
        let gzip = "gzip".parse().unwrap();
        request.headers_mut().insert("accept-encoding", gzip);
        let (head, body) = send(app, request).await;
        let encoding = head.headers.get("content-encoding");
        assert_eq!(encoding.is_some(), compressed, "{key}");
        if key == "revoked" {
            assert_eq!(head.headers["content-type"], "application/problem+json");
            bodies.push(plain(&head, &body));
        }
    }
    assert_eq!(bodies[0], bodies[1]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_has_paid_only_where_the_timeout_is_outside() {
    let handler = async |request: Request<Body>| {
        if request.headers().contains_key("x-slow") {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    };
    let app = || Router::new().route("/", get(handler));
    let soon = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(1));
    let [outer, inner] = [Service::new(), Service::new()];
    for (about, service, app, left) in [
        // The gate never sees an answer: it may have had its effect.
        (
            "outside",
            &outer,
            app().layer(ten_credits(&outer)).layer(soon),
            8,
        ),
        // The gate sees a 504, and gives back what a failure of the service cost.
        (
            "inside",
            &inner,
            app().layer(soon).layer(ten_credits(&inner)),
            9,
        ),
    ] {
        let mut slow = ask(&service.keys["live"]);
        slow.headers_mut().insert("x-slow", "1".parse().unwrap());
        assert_eq!(send(&app, slow).await.0.status, 504, "{about}");
        let quick = ask(&service.keys["live"]);
        assert_eq!(send(&app, quick).await.0.status, 200, "{about}");
        assert_eq!(credits_left(service).await, left, "{about}");
    }
}

#[tokio::test]
async fn cors_stands_outside_or_the_gate_answers_preflights_without_it() {
    let service = Service::new();
    let cors = || {
        tower_http::cors::CorsLayer::new()
            .allow_origin([PAGE.parse().unwrap()])
            .allow_headers([HeaderName::from_static("x-api-key")])
    };
    let app = || Router::new().route("/", get(account));
    let outside = app().layer(layer(&service)).layer(cors());
    let inside = app().layer(cors()).layer(layer(&service));
    let preflight = || {
        let request = Request::options("/").header("origin", PAGE);
        let request = request.header("access-control-request-method", "GET");
        request.body(Body::empty()).unwrap()
    };
    let refused = || {
        let mut request = ask(&service.keys["revoked"]);
        request
            .headers_mut()
            .insert("origin", PAGE.parse().unwrap());
        request
    };
    for (app, request, status, readable) in [
        (&outside, preflight(), 200, true),
        (&outside, refused(), 401, true),
        (&inside, preflight(), 204, false),
        (&inside, refused(), 401, false),
    ] {
        let (head, _) = send(app, request).await;
        assert_eq!(head.status, status);
        let allowed = head.headers.contains_key("access-control-allow-origin");
        assert_eq!(allowed, readable, "{status}");
    }
}

/// A service that answers when it is told to, and counts who is in it.
#[derive(Clone, Default)]
struct Slow {
    calls: Arc<AtomicUsize>,
    let_go: Arc<tokio::sync::Notify>,
}

impl Slow {
    async fn answer(self) -> Result<Response<Full<Bytes>>, BoxError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.let_go.notified().await;
        Ok(Response::default())
    }
}

#[tokio::test]
async fn shedding_inside_leaves_refusals_as_they_are_and_outside_it_hides_them() {
    let service = Service::new();
    let slow = Slow::default();
    let inner = || {
        let slow = slow.clone();
        service_fn(move |_: Request<Full<Bytes>>| slow.clone().answer())
    };
    let inside = ServiceBuilder::new()
        .layer(layer(&service))
        .load_shed()
        .concurrency_limit(1)
        .service(inner());
    let outside = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(1)
        .layer(layer(&service))
        .service(inner());
    // Boxed, as their types differ.
    let inside = tower::util::BoxCloneSyncService::new(inside.map_response(|r| r.status()));
    let outside = tower::util::BoxCloneSyncService::new(outside.map_response(|r| r.status()));
    for (stack, refused_when_full) in [(inside, Ok(401)), (outside, Err(true))] {
        let before = slow.calls.load(Ordering::Relaxed);
        let first = tokio::spawn(stack.clone().oneshot(ask(&service.keys["live"])));
        while slow.calls.load(Ordering::Relaxed) == before {
            tokio::task::yield_now().await;
        }
        let outcome = async |key: &str| match stack.clone().oneshot(ask(&service.keys[key])).await {
            Ok(status) => Ok(status.as_u16()),
            Err(error) => Err(error.is::<Overloaded>()),
        };
        assert_eq!(outcome("live").await, Err(true), "the only place is taken");
        assert_eq!(outcome("revoked").await, refused_when_full);
        slow.let_go.notify_one();
        assert_eq!(first.await.unwrap().unwrap(), 200);
        for _ in 0..10 {
            assert_eq!(outcome("revoked").await, Ok(401), "no place is kept");
        }
        slow.let_go.notify_one();
        assert_eq!(outcome("live").await, Ok(200));
    }
}

#[tokio::test]
async fn what_is_shed_inside_is_given_back_when_it_is_answered_inside() {
    let service = Service::new();
    let slow = Slow::default();
    let answer_503 = HandleErrorLayer::new(async |_: BoxError| StatusCode::SERVICE_UNAVAILABLE);
    let handler = {
        let slow = slow.clone();
        async move || slow.answer().await.map(drop).unwrap()
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(
            ServiceBuilder::new()
                .layer(answer_503)
                .load_shed()
                .concurrency_limit(1),
        )
        .layer(ten_credits(&service))
        // As `axum::serve` does; without it each request gets layers, and places, of its own.
        .with_state(());
    let first = tokio::spawn({
        let (app, request) = (app.clone(), ask(&service.keys["live"]));
        async move { send(&app, request).await }
    });
    while slow.calls.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        let (head, _) = send(&app, ask(&service.keys["live"])).await;
        assert_eq!(
            head.status, 503,
            "more than there are credits, and never 429"
        );
    }
    slow.let_go.notify_one();
    assert_eq!(first.await.unwrap().0.status, 200);
    assert_eq!(credits_left(&service).await, 9);
}

#[tokio::test]
async fn a_place_in_a_buffer_is_not_kept_by_a_refusal() {
    let service = Service::new();
    let hello = || {
        service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        })
    };
    let mut before = ServiceBuilder::new()
        .layer(layer(&service))
        .buffer(1)
        .service(hello());
    let mut another = before.clone();
    let mut behind = ServiceBuilder::new()
        .buffer(1)
        .layer(layer(&service))
        .service(hello());
    let soon = Duration::from_secs(5);
    for (key, status) in [
        ("revoked", 401),
        ("live", 200),
        ("test", 401),
        ("live", 200),
    ] {
        // A connection that is idle after a refusal holds no place that another waits for.
        let ready = timeout(soon, before.ready())
            .await
            .expect("a place")
            .unwrap();
        let response = ready.call(ask(&service.keys[key])).await.unwrap();
        assert_eq!(response.status(), status);
        let ready = timeout(soon, another.ready())
            .await
            .expect("a place")
            .unwrap();
        let response = ready.call(ask(&service.keys["live"])).await.unwrap();
        assert_eq!(response.status(), 200);
        let ready = timeout(soon, behind.ready())
            .await
            .expect("a place")
            .unwrap();
        let response = ready.call(ask(&service.keys[key])).await.unwrap();
        assert_eq!(response.status(), status);
        let denial = response.extensions().get::<Denial>();
        assert_eq!(denial.is_some(), status == 401);
    }
}
