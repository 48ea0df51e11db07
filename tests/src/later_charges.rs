//! Handlers that refund a request or charge more for it, in every stack alike.

use std::sync::Arc;

use actix_web::{App, HttpRequest, HttpResponse, web};
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use keyward::credits::{CreditOwner, Credits, Refill, RefillSchedule};
use keyward::testing::block_on;
use keyward::{AccountId, Actor, Gate, KeyAdmin, KeyFormat, KeyScheme, Requirement, Store};
use keyward_actix::RequireKey;
use keyward_tower::RequireKeyLayer;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use crate::service::Service;
use crate::stacks::{Answer, answer, collect};

/// A handler of all stacks: its status and its body.
async fn work(caller: keyward::Principal, path: &str) -> (u16, String) {
    let status = match path {
        "/miss" => {
            caller.refund();
            404
        }
        "/miss-of-a-clone" => {
            let clone = caller.clone();
            drop(tokio::task::spawn_blocking(move || clone.refund()).await);
            200
        }
        "/fails" => 500,
        "/fails-for-free" => {
            caller.refund();
            500
        }
        "/dear" => caller
            .charge(20)
            .await
            .map_or_else(|error| error.code().status(), |()| 200),
        "/dearest" => caller
            .charge(1000)
            .await
            .map_or_else(|error| error.code().status(), |()| 200),
        "/rest" => match caller.charge_up_to(1000).await {
            Ok(paid) => return (200, format!("paid {paid}")),
            Err(error) => error.code().status(),
        },
        _ => 200,
    };
    let left = caller.credits().map(|credits| credits.left);
    (status, format!("{left:?}"))
}

/// The path, the status of its response, and the credits that are left of 100 afterwards.
const CALLS: [(&str, u16, u64); 8] = [
    ("/hit", 200, 95),
    ("/miss", 404, 100),
    ("/miss-of-a-clone", 200, 100),
    ("/fails", 500, 100),
    ("/fails-for-free", 500, 100),
    ("/dear", 200, 75),
    ("/dearest", 429, 95),
    ("/rest", 200, 0),
];

fn gate(service: &Service) -> Gate {
    let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
    let admin = KeyAdmin::new(&service.store, &scheme);
    let month = RefillSchedule::monthly("Europe/Berlin").unwrap();
    let credits = Credits::new(100).refill(Refill::every(month, 100));
    let set = |acme| {
        let credits = credits.warn_below(80);
        block_on(admin.set_credits(&Actor::operator("ops"), acme, Some(credits)))
    };
    set(AccountId::parse("acme").unwrap()).unwrap();
    let gate = Gate::builder(&service.store, &scheme).refund_server_errors();
    gate.build().unwrap()
}

fn requirement() -> Requirement {
    Requirement::new().credits(5)
}

async fn axum(service: &Service, path: &str) -> Answer {
    async fn handler(caller: keyward_tower::Principal, uri: http::Uri) -> (StatusCode, String) {
        let (status, body) = work((*caller).clone(), uri.path()).await;
        (StatusCode::from_u16(status).unwrap(), body)
    }
    let layer = RequireKeyLayer::new(&gate(service), requirement());
    let app = Router::new()
        .route("/{call}", axum::routing::get(handler))
        .layer(layer);
    let request = Request::get(path).header("x-api-key", &service.keys["live"]);
    let request = request.body(Body::empty()).unwrap();
    collect(app.oneshot(request).await.unwrap()).await
}

async fn tower(service: &Service, path: &str) -> Answer {
    let layer = RequireKeyLayer::new(&gate(service), requirement());
    let handler = service_fn(async |request: Request<Full<Bytes>>| {
        let caller = request.extensions().get::<keyward::Principal>().unwrap();
        let (status, body) = work(caller.clone(), request.uri().path()).await;
        let response = Response::builder().status(status);
        let response = response.header("content-type", "text/plain; charset=utf-8");
        response.body(Full::from(body))
    });
    let app = ServiceBuilder::new().layer(layer).service(handler);
    let request = Request::get(path).header("x-api-key", &service.keys["live"]);
    let request = request.body(Full::default()).unwrap();
    collect(app.oneshot(request).await.unwrap()).await
}

async fn actix(service: &Service, path: &str) -> Answer {
    async fn handler(caller: keyward_actix::Principal, request: HttpRequest) -> HttpResponse {
        let (status, body) = work((*caller).clone(), request.path()).await;
        let status = actix_web::http::StatusCode::from_u16(status).unwrap();
        HttpResponse::build(status)
            .content_type("text/plain; charset=utf-8")
            .body(body)
    }
    let layer = RequireKey::new(&gate(service), requirement());
    let app = App::new().service(
        web::resource("/{call}")
            .wrap(layer)
            .route(web::get().to(handler)),
    );
    let app = actix_web::test::init_service(app).await;
    let request = actix_web::test::TestRequest::with_uri(path);
    let request = request.insert_header(("x-api-key", &*service.keys["live"]));
    let response = actix_web::test::call_service(&app, request.to_request()).await;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = actix_web::test::read_body(response).await;
    let fields = headers.iter();
    let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
    answer(status, fields, body)
}

fn left(service: &Service) -> u64 {
    let acme = CreditOwner::Account(AccountId::parse("acme").unwrap());
    block_on(service.store.credits(acme)).unwrap().unwrap().left
}

#[actix_web::test]
async fn handlers_refund_and_charge_alike_in_every_stack() {
    let service = Service::new();
    for (path, status, credits) in CALLS {
        let mut answers = Vec::new();
        for stack in ["axum", "tower", "actix"] {
            answers.push(match stack {
                "axum" => axum(&service, path).await,
                "tower" => tower(&service, path).await,
                _ => actix(&service, path).await,
            });
            assert_eq!(left(&service), credits, "{path} in {stack}");
        }
        assert_eq!(answers[0].status, status, "{path}");
        assert_eq!(answers[0], answers[1], "{path}");
        assert_eq!(answers[0], answers[2], "{path}");
        let told = |name: &str| answers[0].fields[name].join("|");
        assert!(told("ratelimit-policy").starts_with(r#""credits";q=100;w="#));
        assert!(told("ratelimit").contains(r#", "credits-soft";r="#));
    }
}

#[tokio::test]
async fn a_principal_that_outlives_its_response_can_still_be_charged() {
    let service = Arc::new(Service::new());
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let handler = service_fn(move |request: Request<Full<Bytes>>| {
        let caller = request.extensions().get::<keyward::Principal>();
        let (caller, tell) = (caller.unwrap().clone(), tell.clone());
        async move {
            tell.send(caller).await.unwrap();
            Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    let layer = RequireKeyLayer::new(&gate(&service), requirement());
    let app = ServiceBuilder::new().layer(layer).service(handler);
    let request = Request::get("/").header("x-api-key", &service.keys["live"]);
    let response = app.oneshot(request.body(Full::default()).unwrap()).await;
    assert_eq!(response.unwrap().status(), 200);
    let caller = told.recv().await.unwrap();
    caller.refund(); // too late
    assert_eq!(left(&service), 95);
    assert_eq!(caller.charge(90).await, Ok(()));
    assert_eq!(caller.charge_up_to(90).await, Ok(5));
    assert_eq!(left(&service), 0);
    // Its store is gone: that is no empty balance.
    let service = Arc::into_inner(service).unwrap();
    drop(service);
    let error = caller.charge_up_to(1).await.unwrap_err();
    assert_eq!(error.code().status(), 503);
}
