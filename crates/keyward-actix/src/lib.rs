//! API keys as [actix-web] middleware: for an app, a scope or a resource.
//!
//! A [`Gate`](keyward::Gate) decides, a [`RequireKey`] puts it in front of a service and says what the
//! routes behind it demand. The handler gets the [`Principal`](keyward::Principal); a request that is
//! refused never reaches it.
//!
//! ```no_run
//! use actix_web::{App, HttpServer, web};
//! use keyward::{Gate, KeyFormat, MemoryStore, Store};
//! use keyward_actix::{Principal, RequireKey};
//!
//! async fn whoami(principal: Principal) -> String {
//!     principal.account().to_string()
//! }
//!
//! #[actix_web::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let store = MemoryStore::new();
//!     let gate = Gate::builder(store.replica()).format(KeyFormat::new("vhk_{env}_")?).build()?;
//!     let server = HttpServer::new(move || {
//!         let api = web::scope("/v1")
//!             .wrap(RequireKey::new(gate.clone()).scope("kyc"))
//!             .route("/whoami", web::get().to(whoami));
//!         App::new().service(api)
//!     });
//!     server.bind(("127.0.0.1", 8080))?.run().await?;
//!     Ok(())
//! }
//! ```
//!
//! The gate is built once, outside the closure, which runs for every worker.
//!
//! # Where to wrap
//!
//! There are no exempt paths: a route that needs no key stays outside of what is wrapped.
//!
//! - `App::wrap` covers everything, and the default service: an unknown path without a key is a 401.
//! - `Scope::wrap` covers every path under its prefix, known or not, whichever default service would
//!   answer: an unknown path under it is a 401, any other is not touched. `web::scope("")` matches
//!   every path: register what is open before it.
//! - `Resource::wrap` covers every method of its paths, and the 405 for the others.
//! - `Route::wrap`, and `wrap` in a macro, as in `#[get("/x", wrap = "…")]`, cover one method only:
//!   every other route of the same path is open, and preflights are answered by actix-web:
//!   [`RequireKey`] says how.
//! - The last `wrap` is the outermost. Wrap CORS and logs after this middleware: inside of it they
//!   see no refusal.
//! - A CORS preflight is answered by the middleware, and only where it is reached: under `App::wrap`
//!   for every path, under `Scope::wrap` and `Resource::wrap` for theirs, never under what covers one
//!   method only. Where browsers call, wrap one of the three.
//! - A service in a wrapped scope or app is covered by the middleware of both. Of the same gate the
//!   inner one adds its requirement, and the key is proved and used once. A different gate inside
//!   authenticates for itself; then the outer must be built with
//!   [`insecure_forward_key`](keyward::GateBuilder::insecure_forward_key).
//!
//! # What the middleware does to a request and its response
//!
//! The header that held the key is removed before the inner service. The response to a key gets
//! `Cache-Control: private`, so that no shared cache gives it to somebody else, unless the handler has said
//! `public`, `s-maxage`, `must-revalidate`, `private` or `no-store` itself; where a key is optional, every
//! response gets a `Vary` with the headers in which a key may stand. An `Err` of an inner middleware is
//! handed on, and the response that is made of it gets the same headers; what the request has paid is given
//! back as for that response. A refusal carries the [`Denial`](keyward::Denial) in its
//! extensions, for logs and metrics of outer middleware; it is a response, not an `Err`.
//!
//! # Who may not hold the request
//!
//! No outer middleware may keep a clone of the `HttpRequest` while it calls the inner service: the request
//! is answered 500, and with `panic = "abort"` the process ends. [`RequireKey`] says why.
//!
//! # Responses that take long
//!
//! A request is judged once, when it comes. What its handler keeps open after that, such as server-sent
//! events, a WebSocket or a long download, outlives the key unless it is wrapped in [`WhileAlive`], which
//! ends it within 250 ms. `cargo run --example streams-actix` shows both.
//!
//! # Rejected uploads
//!
//! The middleware rejects a request before its body is read. Over HTTP/1, a rejection of a request with a
//! body has `connection: close`; over HTTP/2 it does not affect the connection. actix-web then reads and
//! discards the rest of the body, so that the client can read the response, and closes the connection after
//! [`client_disconnect_timeout`](actix_web::HttpServer::client_disconnect_timeout), one second by default.
//! This applies to bodies with a `content-length` and to chunked bodies alike.
//!
//! Only the time is bounded: within it, actix-web reads as many bytes as the client sends. With a timeout of
//! zero it closes at once, and a client that is still sending sees a connection reset instead of the
//! response. If an outer middleware replaces the body of a rejection, actix-web reads a chunked request body
//! to its end, without a limit. To `Expect: 100-continue` actix-web sends `100 Continue` before it calls any
//! middleware.
//!
//! # Webhooks
//!
//! A [`ReceiveWebhook`] verifies what another service delivers before a handler sees it.
//!
//! [actix-web]: https://docs.rs/actix-web

mod alive;
mod extract;
#[cfg(test)]
mod fixture;
mod future;
mod head;
mod middleware;
mod transform;
mod unread;
mod webhook;

pub use crate::alive::WhileAlive;
pub use crate::extract::{
    InEnvironment, MaybePrincipal, Principal, PrincipalError, in_environment,
};
pub use crate::future::ResponseFuture;
pub use crate::middleware::RequireKeyMiddleware;
pub use crate::transform::RequireKey;
pub use crate::webhook::extract::{VerifiedJson, VerifiedJsonError};
pub use crate::webhook::future::ReceiveFuture;
pub use crate::webhook::middleware::ReceiveWebhookMiddleware;
pub use crate::webhook::transform::ReceiveWebhook;
