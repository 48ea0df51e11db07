//! Where the layer may stand in axum and hyper, and what it then covers.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use keyward::denial::DenialKind;
use keyward::gate::Denial;
use keyward::{Gate, KeyKind, KeyLocation, KeyScheme, Requirement};
use keyward_tower::{Principal, RequireKeyLayer};
use tokio::net::{TcpListener, TcpStream};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use crate::service::Service;
use crate::stacks::PROTOCOL;

fn gate(service: &Service) -> Gate {
    service.routes[0].1.clone()
}

/// Another gate over the same keys.
fn another_gate(service: &Service) -> Gate {
    let mut routes = service.routes.iter();
    routes
        .find(|(path, ..)| *path == "/apart")
        .unwrap()
        .1
        .clone()
}

/// A gate that leaves the key where it is.
fn forwarding_gate(service: &Service) -> Gate {
    let scheme = KeyScheme::new(keyward::KeyFormat::new("vhk_{env}_").unwrap());
    Gate::builder(&service.store, &scheme)
        .insecure_forward_key()
        .build()
        .unwrap()
}

fn layer(service: &Service) -> RequireKeyLayer {
    layer_of(service, Requirement::new())
}

fn layer_of(service: &Service, requirement: Requirement) -> RequireKeyLayer {
    RequireKeyLayer::new(&gate(service), requirement)
}

fn ask(method: &str, path: &str, key: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    request.body(Body::empty()).unwrap()
}

async fn status(app: &Router, method: &str, path: &str, key: Option<&str>) -> u16 {
    let response = app.clone().oneshot(ask(method, path, key)).await.unwrap();
    response.status().as_u16()
}

async fn account(principal: Principal) -> String {
    principal.account().to_string()
}

#[tokio::test]
async fn a_router_layer_covers_unknown_paths_and_a_route_layer_does_not() {
    let service = Service::new();
    let routes = || Router::new().route("/", get(account));
    let all = routes().layer(layer(&service));
    assert_eq!(status(&all, "GET", "/nowhere", None).await, 401);
    assert_eq!(
        status(&all, "GET", "/nowhere", Some(&service.keys["live"])).await,
        404
    );
    let only = routes().route_layer(layer(&service));
    assert_eq!(status(&only, "GET", "/nowhere", None).await, 404);
    for app in [all, only] {
        assert_eq!(status(&app, "GET", "/", None).await, 401);
        assert_eq!(
            status(&app, "GET", "/", Some(&service.keys["live"])).await,
            200
        );
    }
}

#[tokio::test]
async fn a_method_router_layer_covers_the_methods_before_it() {
    let service = Service::new();
    let open = async || "open";
    let methods = get(account).layer(layer(&service)).merge(post(open));
    let app = Router::new().route("/", methods);
    assert_eq!(status(&app, "GET", "/", None).await, 401);
    assert_eq!(
        status(&app, "GET", "/", Some(&service.keys["live"])).await,
        200
    );
    assert_eq!(status(&app, "POST", "/", None).await, 200);
}

#[tokio::test]
async fn a_preflight_reaches_every_layer_but_the_route_layer_of_a_method_router() {
    let service = Service::new();
    let preflight = || {
        let mut request = ask("OPTIONS", "/", None);
        request
            .headers_mut()
            .insert("origin", "https://a.example".parse().unwrap());
        let method = "access-control-request-method";
        request.headers_mut().insert(method, "GET".parse().unwrap());
        request
    };
    let layer = || layer(&service);
    let routes = || Router::new().route("/", get(account));
    for (app, status) in [
        (routes().layer(layer()), 204),
        (routes().route_layer(layer()), 204),
        (Router::new().route("/", get(account).layer(layer())), 204),
        (
            Router::new().route("/", get(account).route_layer(layer())),
            405,
        ),
    ] {
        assert_eq!(app.oneshot(preflight()).await.unwrap().status(), status);
    }
}

#[tokio::test]
async fn a_nested_layer_of_the_same_gate_adds_its_requirement() {
    let service = Service::new();
    let inner = Router::new()
        .route("/", get(account))
        .layer(layer_of(&service, Requirement::new().scope("kyc")));
    let app = Router::new()
        .nest("/kyc", inner)
        .route("/", get(account))
        .layer(layer(&service));
    assert_eq!(
        status(&app, "GET", "/", Some(&service.keys["live"])).await,
        200
    );
    assert_eq!(
        status(&app, "GET", "/kyc", Some(&service.keys["live"])).await,
        403
    );
    assert_eq!(
        status(&app, "GET", "/kyc", Some(&service.keys["kyc"])).await,
        200
    );
    assert_eq!(status(&app, "GET", "/kyc", None).await, 401);
}

#[tokio::test]
async fn a_nested_optional_layer_does_not_weaken_the_outer() {
    let service = Service::new();
    let inner = Router::new()
        .route("/", get(account))
        .layer(layer_of(&service, Requirement::new().optional()));
    let app = inner.layer(layer(&service));
    assert_eq!(status(&app, "GET", "/", None).await, 401);
    assert_eq!(
        status(&app, "GET", "/", Some(&service.keys["live"])).await,
        200
    );
}

#[tokio::test]
async fn another_gate_inside_authenticates_for_itself() {
    let service = Service::new();
    let other = another_gate(&service);
    let inner = Router::new()
        .route("/", get(account))
        .layer(RequireKeyLayer::new(&other, Requirement::new()));
    let live = &*service.keys["live"];
    let removed = inner.clone().layer(layer(&service));
    assert_eq!(
        status(&removed, "GET", "/", Some(live)).await,
        401,
        "the key is gone"
    );
    let forwarding = forwarding_gate(&service);
    let forwarded = inner.layer(RequireKeyLayer::new(&forwarding, Requirement::new()));
    assert_eq!(status(&forwarded, "GET", "/", Some(live)).await, 200);
}

#[tokio::test]
async fn an_anonymous_inner_gate_hides_the_principal_of_the_outer() {
    let service = Service::new();
    let other = another_gate(&service);
    let who = async |principal: Option<Principal>| {
        principal.map_or("anonymous".to_owned(), |principal| {
            principal.account().to_string()
        })
    };
    let inner = RequireKeyLayer::new(&other, Requirement::new().optional());
    let app = Router::new()
        .route("/", get(who))
        .layer(inner)
        .layer(layer(&service));
    let response = app
        .oneshot(ask("GET", "/", Some(&service.keys["live"])))
        .await
        .unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "anonymous");
}

#[tokio::test]
async fn a_handler_without_the_layer_answers_500() {
    let optional = async |_: Option<Principal>| "let in";
    for app in [
        Router::new().route("/", get(account)),
        Router::new().route("/", get(optional)),
    ] {
        assert_eq!(status(&app, "GET", "/", Some("anything")).await, 500);
    }
}

#[tokio::test]
async fn a_handler_that_needs_a_principal_refuses_the_anonymous_like_the_layer() {
    let service = Service::new();
    let app = Router::new().route("/", get(account));
    let refuse = |layer: RequireKeyLayer| {
        let response = app.clone().layer(layer).oneshot(ask("GET", "/", None));
        async {
            let (head, body) = response.await.unwrap().into_parts();
            (
                head.status,
                head.headers,
                body.collect().await.unwrap().to_bytes(),
            )
        }
    };
    let mut by_handler = refuse(layer_of(&service, Requirement::new().optional())).await;
    // As all answers where a key is optional.
    assert!(by_handler.1.remove("vary").is_some());
    assert_eq!(by_handler.0, StatusCode::UNAUTHORIZED);
    assert_eq!(by_handler, refuse(layer(&service)).await);
}

#[tokio::test]
async fn a_refusal_carries_its_reason_for_outer_layers() {
    let service = Service::new();
    let app = Router::new()
        .route("/", get(account))
        .layer(layer(&service));
    let response = app
        .oneshot(ask("GET", "/", Some(&service.keys["revoked"])))
        .await
        .unwrap();
    let denial = response.extensions().get::<Denial>().unwrap();
    assert_eq!(denial.kind(), DenialKind::Revoked);
    assert!(denial.key_id().is_some());
}

#[tokio::test]
async fn a_forwarded_key_is_marked_as_sensitive() {
    let service = Service::new();
    let gate = forwarding_gate(&service);
    let inner = service_fn(async |request: Request<Body>| {
        let value = &request.headers()["x-api-key"];
        assert!(value.is_sensitive() && !format!("{:?}", request.headers()).contains("vhk_"));
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let service_behind = ServiceBuilder::new()
        .layer(RequireKeyLayer::new(&gate, Requirement::new()))
        .service(inner);
    let request = ask("GET", "/", Some(&service.keys["live"]));
    assert_eq!(service_behind.oneshot(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_key_forwarded_among_subprotocols_is_sensitive_on_every_line() {
    let service = Service::new();
    let scheme = KeyScheme::new(keyward::KeyFormat::new("vhk_{env}_").unwrap());
    let gate = Gate::builder(&service.store, &scheme).location(KeyLocation::websocket_protocol());
    let gate = gate.insecure_forward_key().build().unwrap();
    let requirement = Requirement::new().kinds([KeyKind::Publishable]);
    let key = &service.keys["publishable"];
    let lines = ["chat, bearer", key];

    let inner = service_fn(async |request: Request<Body>| {
        let lines: Vec<_> = request.headers().get_all(PROTOCOL).iter().collect();
        assert!(lines.len() == 2 && lines.iter().all(|line| line.is_sensitive()));
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let layer = RequireKeyLayer::new(&gate, requirement.clone());
    let on_tower = ServiceBuilder::new().layer(layer).service(inner);
    let mut request = Request::builder().header("upgrade", "websocket");
    for line in lines {
        request = request.header(PROTOCOL, line);
    }
    let request = request.body(Body::empty()).unwrap();
    assert_eq!(on_tower.oneshot(request).await.unwrap().status(), 200);

    let handler = async |request: actix_web::HttpRequest| {
        let lines: Vec<_> = request.headers().get_all(PROTOCOL).collect();
        assert!(lines.len() == 2 && lines.iter().all(|line| line.is_sensitive()));
        ""
    };
    let app = actix_web::App::new()
        .wrap(keyward_actix::RequireKey::new(&gate, requirement))
        .route("/", actix_web::web::get().to(handler));
    let app = actix_web::test::init_service(app).await;
    let mut request = actix_web::test::TestRequest::get().insert_header(("upgrade", "websocket"));
    for line in lines {
        request = request.append_header((PROTOCOL, line));
    }
    let response = actix_web::test::call_service(&app, request.to_request()).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_cache_control_of_the_handler_becomes_private() {
    let service = Service::new();
    let handler = async || [("cache-control", "max-age=60")];
    let app = Router::new()
        .route("/", get(handler))
        .layer(layer(&service));
    let response = app
        .oneshot(ask("GET", "/", Some(&service.keys["live"])))
        .await
        .unwrap();
    let values: Vec<_> = response.headers().get_all("cache-control").iter().collect();
    assert_eq!(values, ["private, max-age=60"]);
}

#[tokio::test]
async fn a_streamed_body_flows_through() {
    let service = Service::new();
    let echo = async |request: Request<Body>| Response::new(request.into_body());
    let app = Router::new().route("/", post(echo)).layer(layer(&service));
    let mut request = ask("POST", "/", Some(&service.keys["live"]));
    *request.body_mut() = Body::new(Full::new(Bytes::from(vec![7; 1 << 20])));
    let body = app.oneshot(request).await.unwrap().into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), 1 << 20);
}

#[tokio::test]
async fn hyper_serves_it_without_axum_and_head_has_no_body() {
    let service = Service::new();
    let inner = service_fn(async |_: Request<hyper::body::Incoming>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    let behind = ServiceBuilder::new().layer(layer(&service)).service(inner);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let connection = hyper::server::conn::http1::Builder::new();
        let service = TowerToHyperService::new(behind);
        connection
            .serve_connection(TokioIo::new(stream), service)
            .await
            .unwrap();
    });
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let live = service.keys["live"].clone();
    for (method, key, status, length, body) in [
        ("GET", Some(&live), 200, "5", 5),
        ("HEAD", Some(&live), 200, "5", 0),
        ("GET", None, 401, "166", 166),
        ("HEAD", None, 401, "166", 0),
        ("GET", Some(&live), 200, "5", 5),
    ] {
        let mut request = Request::builder()
            .method(method)
            .uri("/")
            .header("host", "localhost");
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        let response = client
            .send_request(request.body(Empty::<Bytes>::new()).unwrap())
            .await;
        let response = response.unwrap();
        assert_eq!(response.status(), status, "{method}");
        assert_eq!(response.headers()["content-length"], length, "{method}");
        let received = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(received.len(), body, "{method} {received:?}");
    }
}

#[tokio::test]
async fn one_requirement_serves_many_layers() {
    let service = Arc::new(Service::new());
    let requirement = Requirement::new().scope("kyc");
    let app = Router::new()
        .route("/", get(account))
        .layer(layer_of(&service, requirement.clone()))
        .layer(layer_of(&service, requirement));
    assert_eq!(
        status(&app, "GET", "/", Some(&service.keys["kyc"])).await,
        200
    );
}
