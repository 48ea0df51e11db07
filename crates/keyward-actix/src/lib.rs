//! API key authentication as [actix-web] middleware, for an app, a scope or a resource.
//!
//! A [`RequireKey`] wraps a service and states what its routes require: scopes, environments, rate limit costs.
//! A [`Gate`](keyward::Gate) checks each request. A handler receives the [`Principal`](keyward::Principal), the
//! account and key that make the request. A rejected request never reaches the handler.
//!
//! ```no_run
//! use actix_web::{App, HttpServer, web};
//! use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore, Requirement};
//! use keyward_actix::{Principal, RequireKey};
//!
//! async fn whoami(principal: Principal) -> String {
//!     principal.account().to_string()
//! }
//!
//! #[actix_web::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let store = MemoryStore::new();
//!     let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
//!     let gate = Gate::new(&store, &scheme)?;
//!     let server = HttpServer::new(move || {
//!         let api = web::scope("/v1")
//!             .wrap(RequireKey::new(&gate, Requirement::new().scope("kyc")))
//!             .route("/whoami", web::get().to(whoami));
//!         App::new().service(api)
//!     });
//!     server.bind(("127.0.0.1", 8080))?.run().await?;
//!     Ok(())
//! }
//! ```
//!
//! Build the gate once, outside the closure, because the closure runs for every worker.
//!
//! # Placing the middleware
//!
//! There is no list of exempt paths. Keep a route that needs no key outside of what is wrapped.
//!
//! - `App::wrap` covers everything, including the default service: an unknown path without a key gets a 401.
//! - `Scope::wrap` covers every path under its prefix, known or not, including those that the default service
//!   would answer. An unknown path under the prefix gets a 401; other paths are not affected. `web::scope("")`
//!   matches every path, so register public routes before it.
//! - `Resource::wrap` covers every method of its paths, and the 405 for other methods.
//! - `Route::wrap`, and `wrap` in a macro such as `#[get("/x", wrap = "…")]`, cover a single method. Every other
//!   route of the same path is unprotected, and actix-web answers preflight requests, as described at
//!   [`RequireKey`].
//! - The last `wrap` is the outermost. Wrap CORS and logging middleware after this middleware; inside of it,
//!   they see no rejections.
//! - The middleware answers CORS preflight requests that reach it: under `App::wrap` for every path, under
//!   `Scope::wrap` and `Resource::wrap` for theirs, and never if it covers a single method. If browsers call
//!   the service, use one of the three.
//! - A service in a wrapped scope or app is covered by the middleware of both levels. If they share a gate, the
//!   inner middleware adds its requirements, and the key is verified and charged once. A different gate
//!   authenticates the request again; in that case, build the outer gate with
//!   [`insecure_forward_key`](keyward::gate::GateBuilder::insecure_forward_key).
//!
//! # Changes to requests and responses
//!
//! The middleware removes the header that held the key before it calls the inner service. A response to a
//! request with a key gets `Cache-Control: private`, so that no shared cache serves it to anyone else, unless
//! the handler has set `public`, `s-maxage`, `must-revalidate`, `private` or `no-store`. If the key is optional,
//! every response gets a `Vary` header that lists the headers in which a key is accepted.
//!
//! An `Err` of an inner middleware is passed on. The response that is made from it gets the same headers, and
//! credits are refunded as for that response. A rejection is a response, not an `Err`. It has the
//! [`Denial`](keyward::gate::Denial) in its extensions, for logging and metrics in outer middleware.
//!
//! # Clones of the request
//!
//! No outer middleware may hold a clone of the `HttpRequest` while it calls the inner service. Otherwise, the
//! request gets a 500, and with `panic = "abort"` the process ends. See [`RequireKey`] for the reason.
//!
//! # Streaming responses
//!
//! A request is authenticated once, when it arrives. A response that stays open, such as server-sent events, a
//! WebSocket or a long download, outlives its key unless the handler wraps it in [`WhileAlive`]. That ends it
//! within 250 ms after the key is revoked. `cargo run --example streams-actix` shows both.
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
//! # Testing handlers
//!
//! With the feature `testing`, `keyward::testing::principal` becomes a [`Principal`] for the unit test of a
//! handler. No gate accepts it: a middleware that finds it in the extensions of a request still requires a key.
//!
//! ```
//! use keyward_actix::Principal;
//!
//! async fn submit(caller: Principal) -> String {
//!     caller.account().to_string()
//! }
//!
//! # #[actix_web::main]
//! # async fn main() {
//! let caller = keyward::testing::principal("acme").scope("kyc");
//! assert_eq!(submit(caller.into()).await, "acme");
//! # }
//! ```
//!
//! `keyward::testing::World` is a service in memory, whose keys pass through the middleware:
//!
//! ```
//! # use actix_web::{App, test::{TestRequest, call_service, init_service}, web};
//! use keyward::Requirement;
//! # use keyward_actix::{Principal, RequireKey};
//! # async fn submit(caller: Principal) -> String { caller.account().to_string() }
//! # #[actix_web::main]
//! # async fn main() {
//! let world = keyward::testing::World::new();
//! let layer = RequireKey::new(world.gate(), Requirement::new().scope("kyc"));
//! let app = init_service(App::new().wrap(layer).route("/", web::get().to(submit))).await;
//! let request = TestRequest::get().insert_header(("x-api-key", world.key("kyc")));
//! assert_eq!(call_service(&app, request.to_request()).await.status(), 200);
//! # }
//! ```
//!
//! # Webhooks
//!
//! With the feature `webhooks`, a `ReceiveWebhook` verifies incoming webhooks before a handler sees them.
//!
//! # Runtime
//!
//! The middleware needs the timer of the tokio runtime. The workers of
//! [`HttpServer`](actix_web::HttpServer) always have one.
//!
//! [actix-web]: https://docs.rs/actix-web

// docs.rs builds with nightly and shows which feature each item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod alive;
mod extract;
#[cfg(test)]
mod fixture;
mod future;
mod head;
mod middleware;
mod peer;
mod transform;
mod unread;
#[cfg(feature = "webhooks")]
mod webhook;

pub use crate::alive::WhileAlive;
pub use crate::extract::{
    InEnvironment, MaybePrincipal, Principal, PrincipalError, in_environment,
};
pub use crate::future::ResponseFuture;
pub use crate::middleware::RequireKeyMiddleware;
pub use crate::peer::PeerFromRequest;
pub use crate::transform::RequireKey;
#[cfg(feature = "webhooks")]
pub use crate::webhook::extract::{VerifiedJson, VerifiedJsonError};
#[cfg(feature = "webhooks")]
pub use crate::webhook::future::ReceiveFuture;
#[cfg(feature = "webhooks")]
pub use crate::webhook::middleware::ReceiveWebhookMiddleware;
#[cfg(feature = "webhooks")]
pub use crate::webhook::transform::ReceiveWebhook;
