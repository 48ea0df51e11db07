//! What a client sees of its limits, and when a request is paid for, in every stack alike.

use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Service as _;
use actix_web::{App, HttpResponse, web};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, Response, StatusCode};
use keyward::credits::Credits;
use keyward::limit::ResetUnit;
use keyward::testing::block_on;
use keyward::{
    AccountId, Actor, Gate, KeyAdmin, KeyFormat, KeyScheme, RateLimit, RateLimits, Requirement,
    Store,
};
use keyward_actix::RequireKey;
use keyward_tower::RequireKeyLayer;
use tower::ServiceExt;

use crate::service::{NOW, Service};
use crate::stacks::{Ask, everywhere};

fn format() -> KeyFormat {
    KeyFormat::new("vhk_{env}_").unwrap()
}

fn scheme() -> KeyScheme {
    KeyScheme::new(format())
}

fn limited(service: &Service, limits: impl Into<RateLimits>) -> Gate {
    Gate::builder(&service.store, &scheme())
        .rate_limits(keyward::Environment::LIVE, limits)
        .legacy_rate_limit_headers(ResetUnit::UnixTime)
        .refund_server_errors()
        .build()
        .unwrap()
}

fn give_credits(service: &Service, left: u64) {
    let admin = KeyAdmin::new(&service.store, &scheme());
    let acme = AccountId::parse("acme").unwrap();
    let credits = Some(Credits::new(left));
    block_on(admin.set_credits(&Actor::operator("ops"), acme, credits)).unwrap();
}

fn ask(path: &str, key: &str) -> Ask {
    Ask {
        method: "GET",
        path: path.to_owned(),
        fields: vec![("x-api-key", key.into())],
    }
}

#[test]
fn the_same_fields_say_what_is_left_everywhere() {
    let mut service = Service::new();
    let limits = RateLimits::new([RateLimit::per_hour(3), RateLimit::per_day(100)]).unwrap();
    // A bucket for each stack: they share the store, and the keys are asked one stack after another.
    service.routes.clear();
    for (path, cost) in [("/one", 1), ("/two", 2), ("/free", 0)] {
        let requirement = Requirement::new().cost(cost);
        service
            .routes
            .push((path, limited(&service, limits.clone()), requirement));
    }
    let key = service.keys["live"].clone();
    let service = Arc::new(service);
    let seen: Vec<_> = ["axum", "tower", "actix"]
        .map(|stack| {
            // As much time as it takes to be full again.
            service.clock.advance(Duration::from_secs(3600));
            let asks = [
                ask("/one", &key),
                ask("/free", &key),
                ask("/two", &key),
                ask("/one", &key),
            ];
            crate::stacks::one(stack, &service, &asks)
        })
        .into();
    let strip = |answers: &[crate::stacks::Answer]| -> Vec<_> {
        let without_time = |answer: &crate::stacks::Answer| {
            let mut fields = answer.fields.clone();
            let reset = fields.remove("x-ratelimit-reset");
            (answer.status, fields, answer.body.clone(), reset.is_some())
        };
        answers.iter().map(without_time).collect()
    };
    assert_eq!(strip(&seen[0]), strip(&seen[1]));
    assert_eq!(strip(&seen[0]), strip(&seen[2]));
    let field = |at: usize, name: &str| seen[0][at].fields.get(name).map(|values| values.join("|"));
    let statuses: Vec<_> = seen[0].iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 200, 429]);
    assert_eq!(field(0, "ratelimit").as_deref(), Some(r#""hour";r=2"#));
    assert_eq!(
        field(0, "ratelimit-policy").as_deref(),
        Some(r#""hour";q=3;w=3600"#)
    );
    assert_eq!(field(1, "ratelimit"), None, "what is free is not counted");
    assert_eq!(
        field(2, "ratelimit").as_deref(),
        Some(r#""hour";r=0;t=1200"#)
    );
    assert_eq!(field(3, "retry-after").as_deref(), Some("1200"));
    assert_eq!(field(3, "x-ratelimit-remaining").as_deref(), Some("0"));
    let reset = NOW.as_secs() + 2 * 3600;
    assert_eq!(field(3, "x-ratelimit-reset"), Some(reset.to_string()));
}

/// An inner layer refuses what an outer one has charged, the handler fails, or it is all well.
const OUTCOMES: [(&str, u16, u64); 4] = [
    // The path, its status, and what of ten credits and of the limit is left after five times.
    ("/inner/lacking", 403, 10),
    ("/inner/held", 200, 5),
    ("/fails", 500, 10),
    ("/fine", 200, 5),
];

fn remaining(values: Option<&str>) -> u64 {
    let value = values.unwrap().rsplit("r=").next().unwrap();
    value.split(';').next().unwrap().parse().unwrap()
}

async fn check_axum(path: &str, status: u16, credits: u64) {
    let service = Service::new();
    let gate = limited(&service, RateLimit::per_day(10));
    give_credits(&service, 10);
    let inner = |scope| {
        let layer = RequireKeyLayer::new(&gate, Requirement::new().scope(scope));
        get(async || "held").layer(layer)
    };
    let failing = async || StatusCode::INTERNAL_SERVER_ERROR;
    let app = Router::new()
        .route("/inner/lacking", inner("reports.none"))
        .route("/inner/held", inner("kyc"))
        .route("/fails", get(failing))
        .route("/fine", get(async || "fine"))
        .layer(RequireKeyLayer::new(&gate, Requirement::new()));
    let send = async |path: &str| -> Response<Body> {
        let request = Request::get(path).header("x-api-key", &service.keys["kyc"]);
        app.clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap()
    };
    for _ in 0..5 {
        assert_eq!(send(path).await.status().as_u16(), status, "{path}");
    }
    let left = send("/fine").await;
    let left = remaining(
        left.headers()
            .get("ratelimit")
            .map(|value| value.to_str().unwrap()),
    );
    let of_limit = if status == 403 { 9 } else { 4 };
    assert_eq!(left, of_limit, "{path} in axum");
    check_credits(&service, credits - 1, path).await;
}

async fn check_credits(service: &Service, left: u64, path: &str) {
    service.store.flush().await.unwrap();
    service.store.flush().await.unwrap();
    let owner = keyward::credits::CreditOwner::Account(AccountId::parse("acme").unwrap());
    let credits = service.store.credits(owner).await.unwrap().unwrap();
    assert_eq!(credits.left, left, "{path}");
}

#[tokio::test]
async fn in_axum_what_is_refused_inside_is_given_back() {
    for (path, status, credits) in OUTCOMES {
        check_axum(path, status, credits).await;
    }
}

#[actix_web::test]
async fn in_actix_what_is_refused_inside_is_given_back() {
    for (path, status, credits) in OUTCOMES {
        let service = Service::new();
        let gate = limited(&service, RateLimit::per_day(10));
        give_credits(&service, 10);
        let inner = |path, scope| {
            let layer = RequireKey::new(&gate, Requirement::new().scope(scope));
            web::resource(path).wrap(layer).to(HttpResponse::Ok)
        };
        let app = App::new()
            .service(inner("/inner/lacking", "reports.none"))
            .service(inner("/inner/held", "kyc"))
            .route("/fails", web::to(HttpResponse::InternalServerError))
            .route("/fine", web::to(HttpResponse::Ok))
            .wrap(RequireKey::new(&gate, Requirement::new()));
        let app = actix_web::test::init_service(app).await;
        let send = async |path: &str| {
            let request = actix_web::test::TestRequest::with_uri(path);
            let request = request.insert_header(("x-api-key", &*service.keys["kyc"]));
            app.call(request.to_request()).await.unwrap()
        };
        for _ in 0..5 {
            assert_eq!(send(path).await.status().as_u16(), status, "{path}");
        }
        let left = send("/fine").await;
        let left = remaining(
            left.headers()
                .get("ratelimit")
                .map(|value| value.to_str().unwrap()),
        );
        let of_limit = if status == 403 { 9 } else { 4 };
        assert_eq!(left, of_limit, "{path} in actix");
        check_credits(&service, credits - 1, path).await;
    }
}

#[actix_web::test]
async fn a_request_that_actix_cannot_hand_on_costs_nothing() {
    use actix_web::middleware::from_fn;
    let service = Service::new();
    let gate = limited(&service, RateLimit::per_day(10));
    for held in [true, true, false] {
        let resource = web::resource("/")
            .to(HttpResponse::Ok)
            .wrap(RequireKey::new(&gate, Requirement::new()))
            // A clone of the request that is alive makes its fields immutable.
            .wrap(from_fn(
                move |request: actix_web::dev::ServiceRequest,
                      next: actix_web::middleware::Next<_>| async move {
                    let clone = held.then(|| request.request().clone());
                    let response = next.call(request).await;
                    drop(clone);
                    response
                },
            ));
        let app = actix_web::test::init_service(App::new().service(resource)).await;
        let request = actix_web::test::TestRequest::with_uri("/");
        let request = request.insert_header(("x-api-key", &*service.keys["live"]));
        let response = app.call(request.to_request()).await.unwrap();
        let status = if held { 500 } else { 200 };
        assert_eq!(response.status().as_u16(), status);
        if !held {
            let left = response.headers().get("ratelimit");
            assert_eq!(remaining(left.map(|value| value.to_str().unwrap())), 9);
        }
    }
}

#[tokio::test]
async fn a_request_that_is_cancelled_has_paid() {
    let service = Service::new();
    let gate = limited(&service, RateLimit::per_day(10));
    let never = get(std::future::pending::<&str>);
    let app = Router::new()
        .route("/never", never)
        .route("/fine", get(async || "fine"))
        .layer(RequireKeyLayer::new(&gate, Requirement::new()));
    let request = |path| {
        let request = Request::get(path).header("x-api-key", &service.keys["live"]);
        request.body(Body::empty()).unwrap()
    };
    for _ in 0..3 {
        let waiting = app.clone().oneshot(request("/never"));
        let timeout = tokio::time::timeout(Duration::from_millis(5), waiting);
        assert!(timeout.await.is_err(), "it never answers");
    }
    let fine = app.clone().oneshot(request("/fine")).await.unwrap();
    let left = fine.headers().get("ratelimit");
    assert_eq!(remaining(left.map(|value| value.to_str().unwrap())), 6);
}

#[test]
fn the_refusals_of_limits_are_the_same_bytes_everywhere() {
    let mut service = Service::new();
    give_credits(&service, 0);
    let gate = limited(&service, RateLimit::per_day(1000));
    let narrow = limited(&service, RateLimit::per_day(1));
    let used = service.keys["live"].clone();
    service.routes.clear();
    service
        .routes
        .push(("/credits", gate.clone(), Requirement::new()));
    service
        .routes
        .push(("/free", gate, Requirement::new().credits(0)));
    service
        .routes
        .push(("/narrow", narrow, Requirement::new().credits(0)));
    let service = Arc::new(service);
    let asks = [ask("/credits", &used), ask("/narrow", &used)];
    // The first request of the narrow route takes its only place, in whichever stack it is.
    crate::stacks::one("axum", &service, &asks[1..]);
    let answers = everywhere(&service, &asks);
    assert_eq!(answers[0].status, 429);
    assert!(answers[0].body.ends_with(r#""code":"credits_exhausted"}"#));
    assert_eq!(answers[0].fields.get("retry-after"), None);
    assert_eq!(answers[1].status, 429);
    assert_eq!(answers[1].fields["retry-after"], ["86400"]);
}
