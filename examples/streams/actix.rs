//! Server-sent events and a WebSocket of a page, which end when the page's key is revoked; on actix-web.
//!
//! ```text
//! cargo run --example streams-actix
//! PORT=8080 cargo run --example streams-actix
//! ```
//!
//! Open the address it prints and click, or try the lines that it prints.

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::net::TcpListener;
use std::time::Duration;

use actix_web::http::header::ContentType;
use actix_web::rt::time::interval;
use actix_web::web::{self, Bytes, Data, Payload, ServiceConfig};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use actix_ws::{CloseCode, CloseReason, Message};
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyId, KeyKind, KeyLocation,
    KeyScheme, MemoryStore, NewKey, OriginPolicy, Requirement,
};
use keyward_actix::{Principal, RequireKey, WhileAlive};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::IntervalStream;

/// Serves it at `PORT`.
///
/// # Errors
/// If the port is taken.
///
/// # Panics
/// If the runtime cannot start.
#[actix_web::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::var("PORT").unwrap_or("3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    let at = listener.local_addr()?;
    let (routes, key) = service().await?;
    println!("Open http://{at} and click. Or try, and revoke the key in another shell:\n");
    println!("curl -N http://{at}/events -H 'X-Client-Key: {key}'");
    println!("websocat ws://{at}/socket -H 'X-Client-Key: {key}'");
    println!("curl -X POST http://{at}/revoke");
    let server = HttpServer::new(move || App::new().configure(routes.clone()));
    Ok(server.listen(listener)?.run().await?)
}

/// What the page and the revocation need to know.
struct Demo {
    admin: KeyAdmin,
    key: KeyId,
    page: String,
}

/// The service's routes, and its only key.
///
/// # Errors
/// If the operating system returns no random bytes.
pub async fn service() -> Result<
    (
        impl FnOnce(&mut ServiceConfig) + Clone + Send + 'static,
        String,
    ),
    Box<dyn Error>,
> {
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
    let demo = Data::new(Demo {
        admin,
        key: created.record.id,
        page,
    });
    let gate = Data::new(gate);
    let routes = move |app: &mut ServiceConfig| {
        let requirement = Requirement::new()
            .environment(Environment::TEST)
            .kinds([KeyKind::Publishable]);
        let layer = || RequireKey::new(gate.get_ref(), requirement.clone());
        app.app_data(demo)
            .app_data(gate.clone())
            .service(web::resource("/events").wrap(layer()).get(events))
            .service(web::resource("/socket").wrap(layer()).get(socket))
            .service(web::resource("/revoke").post(revoke))
            .service(web::resource("/").get(page_of));
    };
    Ok((routes, key))
}

/// Ten events a second.
async fn events(gate: Data<Gate>, principal: Principal) -> HttpResponse {
    let ticks = IntervalStream::new(interval(Duration::from_millis(100)));
    let events = ticks.map(|_| Ok::<_, Infallible>(Bytes::from_static(b"data: tick\n\n")));
    let gate = gate.get_ref().clone();
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .streaming(WhileAlive::new(gate, principal.into_inner(), events))
}

/// Echoes what it gets. It knows the subprotocol `chat`; the gate selects `bearer` otherwise.
async fn socket(
    request: HttpRequest,
    body: Payload,
    gate: Data<Gate>,
    principal: Principal,
) -> Result<HttpResponse, actix_web::Error> {
    let (response, mut session, messages) =
        actix_ws::handle_with_protocols(&request, body, &["chat"])?;
    let gate = gate.get_ref().clone();
    actix_web::rt::spawn(async move {
        let mut messages = WhileAlive::new(gate, principal.into_inner(), messages);
        while let Some(Ok(message)) = messages.next().await {
            if let Message::Text(text) = message
                && session.text(text).await.is_err()
            {
                return;
            }
        }
        let close = CloseReason {
            code: CloseCode::Policy,
            description: Some("the API key has died".to_owned()),
        };
        // Where it was the client that went away, nobody hears it.
        drop(session.close(Some(close)).await);
    });
    Ok(response)
}

async fn page_of(demo: Data<Demo>) -> HttpResponse {
    let page = demo.page.clone();
    HttpResponse::Ok()
        .content_type(ContentType::html())
        .body(page)
}

/// Stands for the service's key page, where somebody has logged in.
async fn revoke(demo: Data<Demo>) -> HttpResponse {
    let operator = Actor::operator("key page");
    match demo.admin.revoke(&operator, demo.key, "by a click").await {
        Ok(_) => HttpResponse::NoContent().finish(),
        Err(_) => HttpResponse::ServiceUnavailable().finish(),
    }
}
