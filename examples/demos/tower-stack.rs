//! The layer among those that a service has already: what stands outside of it, what inside, and why.
//!
//! ```text
//! cargo run --example tower-stack
//! ```

use std::error::Error;
use std::time::Duration;

use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use axum::routing::get;
use axum::{BoxError, Router};
use keyward::gate::Denial;
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey,
    Requirement,
};
use keyward_tower::{Principal, RequireKeyLayer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tower::ServiceBuilder;
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use tracing::{Span, info, info_span};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let (app, key) = service().await?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("curl -i --compressed localhost:3000/report  # 401, with an x-request-id");
    println!("curl -i --compressed localhost:3000/report -H 'x-api-key: {key}'  # 200");
    let mut terminate = signal(SignalKind::terminate())?;
    let end = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let server = axum::serve(listener, app).with_graceful_shutdown(end);
    Ok(server.await?)
}

async fn service() -> Result<(Router, String), Box<dyn Error>> {
    let scheme = KeyScheme::new(KeyFormat::new("demo_{env}_")?);
    let store = MemoryStore::new();
    let gate = Gate::builder(&store, &scheme)
        .refund_server_errors() // what is shed or takes too long costs the caller nothing
        .build()?;
    let admin = KeyAdmin::new(&store, &scheme);
    let new = NewKey::new(AccountId::parse("acme")?, Environment::LIVE, "demo");
    let created = admin.bootstrap(&Actor::operator("demo"), new).await?;
    let key = created.key.ok_or("an account's first key")?;
    Ok((stack(&gate), key.expose_secret().to_owned()))
}

/// Of a `ServiceBuilder` the first layer is the outermost; of a `Router` the last.
fn stack(gate: &Gate) -> Router {
    // What refusals need too. CORS stands here because it answers preflights, which carry no key.
    let outside = ServiceBuilder::new()
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_response(note),
        )
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(pages())
        .layer(CompressionLayer::new());
    // What only callers with a key may use up: a flood without keys takes no place from them.
    let inside = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(overloaded))
        .load_shed()
        .buffer(64)
        .concurrency_limit(16)
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            Duration::from_secs(5),
        ));
    Router::new()
        .route("/report", get(report))
        .layer(inside)
        .layer(RequireKeyLayer::new(gate, Requirement::new()))
        .layer(outside)
}

fn pages() -> CorsLayer {
    CorsLayer::new()
        .allow_origin([HeaderValue::from_static("https://app.example")])
        .allow_methods([Method::GET])
        .allow_headers([HeaderName::from_static("x-api-key")])
}

async fn report(principal: Principal) -> String {
    format!("the report of {}\n", principal.account())
}

async fn overloaded(error: BoxError) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
}

fn span(request: &Request<Body>) -> Span {
    let id = request.headers().get("x-request-id");
    let id = id.and_then(|id| id.to_str().ok());
    info_span!("request", path = request.uri().path(), id)
}

/// The log says why a request was refused, finer than the client is told.
fn note(response: &Response<impl Sized>, latency: Duration, _: &Span) {
    let denial = response.extensions().get::<Denial>().map(Denial::kind);
    info!(
        status = response.status().as_u16(),
        ?latency,
        ?denial,
        "answered"
    );
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;

    async fn send(request: axum::http::request::Builder) -> Response<Body> {
        let (app, key) = service().await.unwrap();
        let mut request = request.uri("/report").body(Body::empty()).unwrap();
        if let Some(with_key) = request.headers_mut().get_mut("x-api-key") {
            *with_key = key.parse().unwrap();
        }
        app.oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_refusal_has_all_that_an_answer_has() {
        for (request, status) in [
            (Request::get("/"), 401),
            (Request::get("/").header("x-api-key", "the key"), 200),
        ] {
            let request = request
                .header("origin", "https://app.example")
                .header("accept-encoding", "gzip");
            let response = send(request).await;
            assert_eq!(response.status(), status);
            let field = |name| response.headers().get(name).unwrap();
            assert_eq!(field("access-control-allow-origin"), "https://app.example");
            assert!(!field("x-request-id").is_empty());
            assert_eq!(
                response.extensions().get::<Denial>().is_some(),
                status == 401
            );
            let compressed = response.headers().contains_key("content-encoding");
            assert_eq!(compressed, status == 401, "what is short is not compressed");
        }
    }

    #[tokio::test]
    async fn a_preflight_is_answered_outside() {
        let request = Request::builder()
            .method("OPTIONS")
            .header("origin", "https://app.example")
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "x-api-key");
        let response = send(request).await;
        assert_eq!(response.status(), 200);
        let allowed = &response.headers()["access-control-allow-headers"];
        assert_eq!(allowed, "x-api-key");
    }
}
