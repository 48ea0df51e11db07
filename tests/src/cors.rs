//! The gate's CORS fields beside those of handlers and of other layers: no line is there twice.

use actix_web::{App, HttpResponse, test, web};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use keyward::{Cors, Gate, Requirement};
use keyward_actix::RequireKey;
use keyward_tower::RequireKeyLayer;
use tower::ServiceExt;

use crate::service::Service;

/// Every line of an answer that CORS is about, as `name: value`, sorted.
type Lines = Vec<String>;

const PAGE: &str = "https://shop.example";

fn gate(service: &Service, path: &str) -> Gate {
    let mut routes = service.routes.iter();
    routes.find(|(at, ..)| *at == path).unwrap().1.clone()
}

fn lines<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Lines {
    let about_cors =
        |(name, _): &(&str, &[u8])| name.starts_with("access-control-") || *name == "vary";
    let line = |(name, value): (&str, &[u8])| {
        format!("{name}: {}", String::from_utf8_lossy(value).to_lowercase())
    };
    let mut lines: Lines = fields.filter(about_cors).map(line).collect();
    lines.sort();
    lines
}

fn ask(method: &str, key: Option<&str>) -> Vec<(&'static str, String)> {
    let mut fields = vec![("origin", PAGE.to_owned())];
    match method {
        "OPTIONS" => fields.push(("access-control-request-method", "GET".to_owned())),
        _ => fields.extend(key.map(|key| ("x-api-key", key.to_owned()))),
    }
    fields
}

async fn through_axum(app: &Router, method: &str, key: Option<&str>) -> (u16, Lines) {
    let mut request = Request::builder().method(method).uri("/");
    for (name, value) in ask(method, key) {
        request = request.header(name, value);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let fields = response.headers().iter();
    let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
    (response.status().as_u16(), lines(fields))
}

/// Sends a request through an actix app; a macro, for nobody can write down the type of an app.
macro_rules! through_actix {
    ($app:expr, $method:expr, $key:expr) => {{
        let mut request = test::TestRequest::with_uri("/").method($method.parse().unwrap());
        for (name, value) in ask($method, $key) {
            request = request.append_header((name, value));
        }
        let response = test::call_service(&$app, request.to_request()).await;
        let fields = response.headers().iter();
        let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
        (response.status().as_u16(), lines(fields))
    }};
}

/// That no line but `vary`, which is a list, is there twice, and that a page may read the answer.
fn assert_readable_once(about: &str, lines: &Lines) {
    let names = || lines.iter().map(|line| line.split(':').next().unwrap());
    let origins = names().filter(|name| *name == "access-control-allow-origin");
    assert_eq!(origins.count(), 1, "{about}: {lines:?}");
    for name in names().filter(|name| *name != "vary") {
        let same = names().filter(|other| *other == name);
        assert_eq!(same.count(), 1, "{about}: {lines:?}");
    }
}

#[tokio::test]
async fn an_outer_layer_of_tower_http_adds_its_fields_and_ours_none() {
    let service = Service::new();
    let (good, listed) = (&service.keys["live"], &service.keys["shop"]);
    let outer = || {
        tower_http::cors::CorsLayer::new()
            .allow_origin([PAGE.parse().unwrap()])
            .allow_credentials(true)
            .allow_headers([http::HeaderName::from_static("x-api-key")])
            .expose_headers([http::header::RETRY_AFTER])
    };
    let open = Router::new().route("/", get(async || "in")).layer(outer());
    let app = Router::new().route("/", get(async || "in"));
    let app = app.layer(RequireKeyLayer::new(
        &gate(&service, "/live"),
        Requirement::new(),
    ));
    let app = app.layer(outer());
    let (_, alone) = through_axum(&open, "GET", None).await;
    for (about, key, status) in [
        ("passed", Some(&**good), 200),
        ("passed by origin", Some(&**listed), 200),
        ("no key", None, 401),
        ("wrong key", Some("x"), 401),
    ] {
        let (got, lines) = through_axum(&app, "GET", key).await;
        assert_eq!(got, status, "{about}");
        assert_readable_once(about, &lines);
        assert_eq!(lines, alone, "{about}");
    }
    let (status, preflight) = through_axum(&app, "OPTIONS", None).await;
    assert_eq!(status, 200, "answered outside");
    assert_eq!(preflight, through_axum(&open, "OPTIONS", None).await.1);
}

#[actix_web::test]
async fn an_outer_middleware_of_actix_cors_adds_its_fields_and_ours_none() {
    let service = Service::new();
    let (good, listed) = (&service.keys["live"], &service.keys["shop"]);
    let outer = || {
        actix_cors::Cors::default()
            .allowed_origin(PAGE)
            .allowed_methods(["GET"])
            .allowed_header("x-api-key")
            .expose_headers(["retry-after"])
            .supports_credentials()
    };
    let handler = || web::get().to(async || "in");
    let open = test::init_service(App::new().wrap(outer()).route("/", handler())).await;
    let app = App::new().wrap(RequireKey::new(
        &gate(&service, "/live"),
        Requirement::new(),
    ));
    let app = test::init_service(app.wrap(outer()).route("/", handler())).await;
    let (_, alone) = through_actix!(open, "GET", None);
    for (about, key, status) in [
        ("passed", Some(&**good), 200),
        ("passed by origin", Some(&**listed), 200),
        ("no key", None, 401),
        ("wrong key", Some("x"), 401),
    ] {
        let (got, lines) = through_actix!(app, "GET", key);
        assert_eq!(got, status, "{about}");
        assert_readable_once(about, &lines);
        assert_eq!(lines, alone, "{about}");
    }
    let (status, preflight) = through_actix!(app, "OPTIONS", None);
    assert_eq!(status, 200, "answered outside");
    assert_eq!(preflight, through_actix!(open, "OPTIONS", None).1);
}

#[tokio::test]
async fn with_both_on_the_outer_layer_of_tower_http_has_the_last_word() {
    let service = Service::with_cors(Some(Cors::new()));
    let app = |allowed: &str| {
        let outer = tower_http::cors::CorsLayer::new().allow_origin([allowed.parse().unwrap()]);
        let app = Router::new().route("/", get(async || "in"));
        let app = app.layer(RequireKeyLayer::new(
            &gate(&service, "/live"),
            Requirement::new(),
        ));
        app.layer(outer)
    };
    for key in [Some(&*service.keys["shop"]), None] {
        let (_, lines) = through_axum(&app(PAGE), "GET", key).await;
        assert_readable_once("both", &lines);
        assert!(lines.contains(&format!("access-control-allow-origin: {PAGE}")));
        // To a page that it does not allow it says nothing.
        let (_, lines) = through_axum(&app("https://other.example"), "GET", key).await;
        assert!(lines.contains(&"access-control-allow-origin: *".to_owned()));
    }
}

#[actix_web::test]
async fn with_both_on_the_outer_middleware_of_actix_cors_has_the_last_word() {
    let service = Service::with_cors(Some(Cors::new()));
    let outer = actix_cors::Cors::default().allowed_origin(PAGE);
    let app = App::new().wrap(RequireKey::new(
        &gate(&service, "/live"),
        Requirement::new(),
    ));
    let app = app.wrap(outer).route("/", web::get().to(async || "in"));
    let app = test::init_service(app).await;
    for key in [Some(&*service.keys["shop"]), None] {
        let (_, lines) = through_actix!(app, "GET", key);
        assert_readable_once("both", &lines);
        assert!(lines.contains(&format!("access-control-allow-origin: {PAGE}")));
    }
}

#[actix_web::test]
async fn the_cors_of_a_route_is_like_that_of_a_gate_on_every_stack() {
    let by_gate = Service::with_cors(Some(Cors::new()));
    let by_route = Service::new();
    let handler = || Router::new().route("/", get(async || "in"));
    let requirement = || Requirement::new().cors(Cors::new());
    let outer = handler().layer(RequireKeyLayer::new(
        &gate(&by_gate, "/live"),
        Requirement::new(),
    ));
    let axum = handler().layer(RequireKeyLayer::new(
        &gate(&by_route, "/live"),
        requirement(),
    ));
    let actix = App::new().wrap(RequireKey::new(&gate(&by_route, "/live"), requirement()));
    let actix = actix.route("/", web::get().to(async || HttpResponse::Ok()));
    let actix = test::init_service(actix).await;
    for (method, name, status) in [
        ("OPTIONS", None, 204),
        ("GET", None, 401),
        ("GET", Some("live"), 200),
        ("GET", Some("shop"), 200),
    ] {
        let key = |service: &Service| name.map(|name| service.keys[name].clone());
        let expected = through_axum(&outer, method, key(&by_gate).as_deref()).await;
        assert_eq!(expected.0, status, "{method} {name:?}");
        assert_readable_once(method, &expected.1);
        let key = key(&by_route);
        let (axum, actix) = (
            through_axum(&axum, method, key.as_deref()).await,
            through_actix!(actix, method, key.as_deref()),
        );
        assert_eq!(axum, expected, "{method} {name:?}");
        assert_eq!(actix, expected, "{method} {name:?}");
    }
}

#[tokio::test]
async fn layers_inside_each_other_mark_an_answer_once() {
    let service = Service::with_cors(Some(Cors::new()));
    let layer = |path, requirement| RequireKeyLayer::new(&gate(&service, path), requirement);
    let any = Requirement::new;
    let app = |inner| {
        let app = Router::new().route("/", get(async || "in"));
        app.layer(inner).layer(layer("/live", any()))
    };
    let key = Some(&*service.keys["shop"]);
    for (about, app, status) in [
        ("the same gate, passed", app(layer("/live", any())), 200),
        (
            "the same gate, refused",
            app(layer("/live", any().scope("kyc"))),
            403,
        ),
        ("another gate, refused", app(layer("/apart", any())), 401),
        ("optional", app(layer("/apart", any().optional())), 200),
    ] {
        let (got, lines) = through_axum(&app, "GET", key).await;
        assert_eq!(got, status, "{about}");
        assert_readable_once(about, &lines);
    }
}

#[tokio::test]
async fn what_an_axum_handler_says_about_origins_stands() {
    let service = Service::with_cors(Some(Cors::new()));
    let handler = async || {
        let own = [
            ("access-control-allow-origin", PAGE),
            ("access-control-allow-credentials", "true"),
            ("vary", "accept-encoding, origin"),
        ];
        (own, "in")
    };
    let layer = RequireKeyLayer::new(&gate(&service, "/live"), Requirement::new());
    let app = Router::new().route("/", get(handler)).layer(layer);
    let (status, lines) = through_axum(&app, "GET", Some(&service.keys["shop"])).await;
    assert_eq!(status, 200);
    let exposed = "retry-after, ratelimit, ratelimit-policy, www-authenticate";
    let expected = [
        "access-control-allow-credentials: true".to_owned(),
        format!("access-control-allow-origin: {PAGE}"),
        format!("access-control-expose-headers: {exposed}"),
        "vary: accept-encoding, origin".to_owned(),
    ];
    assert_eq!(lines, expected);
}

#[actix_web::test]
async fn what_an_actix_handler_says_about_origins_stands() {
    let service = Service::with_cors(Some(Cors::new()));
    let handler = async || {
        HttpResponse::Ok()
            .insert_header(("access-control-allow-origin", PAGE))
            .insert_header(("vary", "accept-encoding"))
            .finish()
    };
    let app = App::new().wrap(RequireKey::new(
        &gate(&service, "/live"),
        Requirement::new(),
    ));
    let app = test::init_service(app.route("/", web::get().to(handler))).await;
    let (status, lines) = through_actix!(app, "GET", Some(&*service.keys["shop"]));
    assert_eq!(status, 200);
    let exposed = "retry-after, ratelimit, ratelimit-policy, www-authenticate";
    let expected = [
        format!("access-control-allow-origin: {PAGE}"),
        format!("access-control-expose-headers: {exposed}"),
        "vary: accept-encoding, origin".to_owned(),
    ];
    assert_eq!(lines, expected);
}
