//! Server-sent events and a WebSocket of a page, which end when the page's key is revoked; on axum.
//!
//! ```text
//! cargo run --example streams
//! PORT=8080 cargo run --example streams
//! ```
//!
//! Open the address it prints and click, or try the lines that it prints.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocketUpgrade, close_code};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{Html, Response};
use axum::routing::{get, post};
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyKind, KeyLocation, KeyScheme,
    MemoryStore, NewKey, OriginPolicy, Requirement,
};
use keyward_tower::{Principal, RequireKeyLayer, WhileAlive};
use tokio::net::TcpListener;
use tokio::time::interval;
use tokio_stream::wrappers::IntervalStream;
use tokio_stream::{Stream, StreamExt};

/// Serves it at `PORT`.
///
/// # Errors
/// If the port is taken.
///
/// # Panics
/// If the runtime cannot start.
#[tokio::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::var("PORT").unwrap_or("3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let at = listener.local_addr()?;
    let (app, key) = service().await?;
    println!("Open http://{at} and click. Or try, and revoke the key in another shell:\n");
    println!("curl -N http://{at}/events -H 'X-Client-Key: {key}'");
    println!("websocat ws://{at}/socket -H 'X-Client-Key: {key}'");
    println!("curl -X POST http://{at}/revoke");
    Ok(axum::serve(listener, app).await?)
}

/// The service, and its only key.
///
/// # Errors
/// If the operating system returns no random bytes.
pub async fn service() -> Result<(Router, String), Box<dyn Error>> {
    let scheme = KeyScheme::new(KeyFormat::new("demo_{env}_")?);
    let store = MemoryStore::new();
    let gate = Gate::builder(&store, &scheme)
        .location(KeyLocation::x_client_key())
        .location(KeyLocation::websocket_protocol())
        .build()?;
    let admin = KeyAdmin::new(&store, &scheme);
    let operator = Actor::operator("streams");
    // The key is in the page, so it is publishable, and works on this page only. A test key, as
    // `http://` may be in the list of no other.
    let pages = OriginPolicy::listed(["http://localhost:*", "http://127.0.0.1:*"])?;
    let account = AccountId::parse("customer-1")?;
    let new = NewKey::new(account, Environment::TEST, "streams")
        .kind(KeyKind::Publishable)
        .origins(pages.or_no_origin());
    let created = admin.bootstrap(&operator, new).await?;
    let key = created.key.ok_or("no token, so a key")?;
    let key = key.expose_secret().to_owned();
    let page = include_str!("page.html").replace("{key}", &key);

    let requirement = Requirement::new()
        .environment(Environment::TEST)
        .kinds([KeyKind::Publishable]);
    let streams = Router::new()
        .route("/events", get(events))
        .route("/socket", get(socket))
        .layer(RequireKeyLayer::new(&gate, requirement))
        .with_state(gate);
    // Stands for the service's key page, where somebody has logged in.
    let revoke = async move || {
        let revoked = admin.revoke(&operator, created.record.id, "by a click");
        revoked
            .await
            .map_or(StatusCode::SERVICE_UNAVAILABLE, |_| StatusCode::NO_CONTENT)
    };
    let app = streams
        .route("/", get(async || Html(page)))
        .route("/revoke", post(revoke));
    Ok((app, key))
}

/// Ten events a second.
async fn events(
    State(gate): State<Gate>,
    principal: Principal,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = IntervalStream::new(interval(Duration::from_millis(100)));
    let events = ticks.map(|_| Ok(Event::default().data("tick")));
    Sse::new(WhileAlive::new(gate, principal.into_inner(), events))
}

/// Echoes what it gets. It knows the subprotocol `chat`; the gate selects `bearer` otherwise.
async fn socket(
    upgrade: WebSocketUpgrade,
    State(gate): State<Gate>,
    principal: Principal,
) -> Response {
    upgrade.protocols(["chat"]).on_upgrade(async move |socket| {
        let mut socket = WhileAlive::new(gate, principal.into_inner(), socket);
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(text) = message
                && socket.get_mut().send(Message::Text(text)).await.is_err()
            {
                return;
            }
        }
        let close = CloseFrame {
            code: close_code::POLICY,
            reason: "the API key has died".into(),
        };
        // Where it was the client that went away, nobody hears it.
        drop(socket.get_mut().send(Message::Close(Some(close))).await);
    })
}
