//! The same service in axum, in plain tower and in actix-web.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::{App, HttpMessage, HttpRequest, HttpResponse, web};
use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use keyward::Principal;
use keyward::denial::DenialKind;
use keyward::gate::{Anonymous, Denial};
use keyward_actix::RequireKey;
use keyward_tower::RequireKeyLayer;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};

use crate::service::Service;

pub const PROTOCOL: &str = "sec-websocket-protocol";

/// A request, in bytes.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: &'static str,
    pub path: String,
    pub fields: Vec<(&'static str, Vec<u8>)>,
}

/// A response, in bytes: every value of every field, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub fields: BTreeMap<String, Vec<String>>,
    pub body: String,
    /// Why it was refused, which the response does not tell.
    pub denial: Option<DenialKind>,
}

/// What the handler says of the one who calls, and of what it can see of the key.
fn handle<'a>(
    principal: Option<&Principal>,
    anonymous: bool,
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> (u16, Vec<(&'static str, &'static str)>, String) {
    let who = match principal {
        Some(principal) => format!(
            "{} {} {:?} {:?}",
            principal.account(),
            principal.environment(),
            principal.kind(),
            principal.scopes(),
        ),
        None if anonymous => "anonymous".to_owned(),
        None => "nobody".to_owned(),
    };
    let key_fields = ["x-api-key", "authorization", "x-client-key", "x-helios-key"];
    let (mut status, mut chosen, mut seen) = (200, Vec::new(), Vec::new());
    for (name, value) in fields {
        match name {
            // A handshake succeeds, and selects `chat`.
            "upgrade" => status = 101,
            PROTOCOL => {
                let value = String::from_utf8_lossy(value);
                chosen.extend(value.contains("chat").then_some((PROTOCOL, "chat")));
                seen.push(format!("{name}: {value}"));
            }
            _ if key_fields.contains(&name) => seen.push(name.to_owned()),
            _ => {}
        }
    }
    (status, chosen, format!("{who}; sees {seen:?}"))
}

pub fn answer<'a>(
    status: u16,
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
    body: Bytes,
) -> Answer {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in fields.filter(|(name, _)| *name != "content-length") {
        let value = String::from_utf8(value.to_vec()).unwrap();
        all.entry(name.to_owned()).or_default().push(value);
    }
    let body = String::from_utf8(body.into()).unwrap();
    Answer {
        status,
        fields: all,
        body,
        denial: None,
    }
}

/// Sends the requests through the service in axum.
pub async fn axum(service: &Service, asks: &[Ask]) -> Vec<Answer> {
    async fn handler(request: axum::extract::Request) -> Response<Full<Bytes>> {
        hello(&request)
    }

    let mut app = Router::new();
    for (path, gate, requirement) in &service.routes {
        let layer = RequireKeyLayer::new(gate, requirement.clone());
        app = app.merge(Router::new().route(path, any(handler)).layer(layer));
    }
    let mut answers = Vec::new();
    for ask in asks {
        let response = app
            .clone()
            .oneshot(request(service, ask).map(axum::body::Body::from))
            .await;
        answers.push(collect(response.unwrap()).await);
    }
    answers
}

/// Sends the requests through the service in plain tower.
pub async fn tower(service: &Service, asks: &[Ask]) -> Vec<Answer> {
    type Route = BoxCloneSyncService<Request<Full<Bytes>>, Answer, BoxError>;

    let routes = service.routes.iter().map(|(path, gate, requirement)| {
        let layer = RequireKeyLayer::new(gate, requirement.clone());
        let inner = service_fn(async |request| Ok::<_, BoxError>(hello(&request)));
        let service = ServiceBuilder::new().layer(layer).service(inner);
        let service = service.and_then(async |response| Ok(collect(response).await));
        (*path, Route::new(service))
    });
    let routes: HashMap<_, _> = routes.collect();
    let mut answers = Vec::new();
    for ask in asks {
        let route = routes[&*ask.path].clone();
        let request = request(service, ask).map(Full::from);
        answers.push(route.oneshot(request).await.unwrap());
    }
    answers
}

/// Sends the requests through the service in actix-web.
pub async fn actix(service: &Service, asks: &[Ask]) -> Vec<Answer> {
    async fn handler(request: HttpRequest) -> HttpResponse {
        let extensions = request.extensions();
        let anonymous = extensions.get::<Anonymous>().is_some();
        let fields = request.headers().iter();
        let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
        let (status, chosen, body) = handle(extensions.get::<Principal>(), anonymous, fields);
        let mut response = HttpResponse::build(status.try_into().unwrap());
        for field in chosen {
            response.insert_header(field);
        }
        response.body(body)
    }

    let routes = service.routes.clone();
    let app = App::new().configure(|app| {
        for (path, gate, requirement) in routes {
            let layer = RequireKey::new(&gate, requirement);
            app.service(
                web::resource(path)
                    .wrap(layer)
                    .route(web::route().to(handler)),
            );
        }
    });
    let app = actix_web::test::init_service(app).await;
    let mut answers = Vec::new();
    for ask in asks {
        let mut request =
            actix_web::test::TestRequest::with_uri(&ask.path).method(ask.method.parse().unwrap());
        for (name, value) in &ask.fields {
            let value = actix_web::http::header::HeaderValue::from_bytes(value).unwrap();
            request = request.append_header((*name, value));
        }
        if let Some(peer) = service.peer {
            request = request.peer_addr((peer, 40_312).into());
        }
        let response = actix_web::test::call_service(&app, request.to_request()).await;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let denial = response.response().extensions().get().map(Denial::kind);
        let body = actix_web::test::read_body(response).await;
        let fields = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        answers.push(Answer {
            denial,
            ..answer(status, fields, body)
        });
    }
    answers
}

/// Sends the requests through one of the stacks.
pub fn one(stack: &str, service: &Service, asks: &[Ask]) -> Vec<Answer> {
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.enable_all().build().unwrap()
    };
    match stack {
        "axum" => runtime().block_on(axum(service, asks)),
        "tower" => runtime().block_on(tower(service, asks)),
        _ => actix_web::rt::System::new().block_on(actix(service, asks)),
    }
}

/// Sends the requests through all stacks; the answers must be equal.
pub fn everywhere(service: &Arc<Service>, asks: &[Ask]) -> Vec<Answer> {
    let [mut axum, mut tower, mut actix] =
        ["axum", "tower", "actix"].map(|stack| one(stack, service, asks));
    for (at, ask) in asks.iter().enumerate() {
        // A server sends no body to HEAD; axum has dropped it already, the others leave it to hyper
        // and actix-http, which the tests do not go through.
        if ask.method == "HEAD" {
            for answers in [&mut axum, &mut tower, &mut actix] {
                answers[at].body.clear();
            }
        }
        assert_eq!(axum[at], tower[at], "axum and tower on {ask:?}");
        assert_eq!(axum[at], actix[at], "axum and actix on {ask:?}");
    }
    axum
}

fn request(service: &Service, ask: &Ask) -> Request<Bytes> {
    let mut request = Request::builder().method(ask.method).uri(&ask.path);
    for (name, value) in &ask.fields {
        request = request.header(*name, &value[..]);
    }
    if let Some(peer) = service.peer {
        request = request.extension(SocketAddr::from((peer, 40_312)));
    }
    request.body(Bytes::new()).unwrap()
}

fn hello<B>(request: &Request<B>) -> Response<Full<Bytes>> {
    let extensions = request.extensions();
    let anonymous = extensions.get::<Anonymous>().is_some();
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let (status, chosen, body) = handle(extensions.get::<Principal>(), anonymous, fields);
    let mut response = Response::builder().status(status);
    for (name, value) in chosen {
        response = response.header(name, value);
    }
    response.body(Full::from(body)).unwrap()
}

pub async fn collect<B>(response: Response<B>) -> Answer
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let fields = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    Answer {
        denial: head.extensions.get().map(Denial::kind),
        ..answer(head.status.as_u16(), fields, body)
    }
}
