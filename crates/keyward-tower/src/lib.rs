//! API keys as a [tower] layer: for axum, hyper, anything on [`tower_service::Service`].
//!
//! A [`Gate`](keyward::Gate) decides, a [`RequireKeyLayer`] puts it in front of a service and says
//! what the routes behind it demand. The handler gets the [`Principal`](keyward::Principal); a
//! request that is refused never reaches it.
//!
//! ```
//! use axum::{Router, routing::get};
//! use keyward::{Gate, KeyFormat, MemoryStore, Store};
//! use keyward_tower::{Principal, RequireKeyLayer};
//!
//! async fn whoami(principal: Principal) -> String {
//!     principal.account().to_string()
//! }
//!
//! # use tower::ServiceExt;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = MemoryStore::new();
//! let gate = Gate::builder(store.replica()).format(KeyFormat::new("vhk_{env}_")?).build()?;
//! let app: Router = Router::new()
//!     .route("/whoami", get(whoami))
//!     .layer(RequireKeyLayer::new(gate).scope("kyc"));
//!
//! let without_key = http::Request::get("/whoami").body(axum::body::Body::empty())?;
//! assert_eq!(app.oneshot(without_key).await?.status(), 401);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to put the layer
//!
//! There are no exempt paths: a route that needs no key is added after the layer, or to another
//! router.
//!
//! - `Router::layer` covers the routes added before it, and the fallback: an unknown path without a
//!   key is a 401. `Router::route_layer` covers the routes only: an unknown path is a 404.
//! - `MethodRouter::layer`, as in `get(list).layer(…)`, covers only the methods added before it:
//!   `get(list).layer(…).post(create)` leaves `create` open. Add the layer last.
//! - A CORS preflight is answered by the layer wherever the layer is reached. `MethodRouter::route_layer`
//!   is not reached by an `OPTIONS` that no method of the route handles: axum answers 405 before.
//! - axum adds `allow` to whatever answers a method that a route does not have, so also to a refusal
//!   there.
//! - A nested router is covered by the layers of both. Of the same gate the inner layer adds its
//!   requirement, and the key is proved and used once. A different gate inside authenticates for
//!   itself; then the outer must be built with
//!   [`insecure_forward_key`](keyward::GateBuilder::insecure_forward_key).
//!
//! # Among other layers
//!
//! Who passes and what he reads is the same in every order. What changes:
//!
//! - Trace, request ids and compression reach refusals only from outside. A trace outside sees the
//!   [`Denial`](keyward::Denial), one inside the [`Principal`](keyward::Principal), and no key.
//! - A CORS layer stands outside, where it answers preflights; inside it never sees one.
//! - A timeout, `load_shed` and `buffer` belong inside, answered there by a status of 5xx: so a gate with
//!   [`refund_server_errors`](keyward::GateBuilder::refund_server_errors) gives credits back. A request that
//!   is cancelled by a timeout outside has paid.
//! - A `concurrency_limit` inside is not used up by requests without a key; a refusal keeps no permit.
//! - salvo takes the layer as `hoop(layer.compat())`. poem's `compat()` of a layer wants poem's own
//!   request; put the layer around a service, and that into the routes by `compat()`.
//!
//! # What the layer does to a request and its response
//!
//! The header that held the key is removed before the inner service. The response to a key gets
//! `Cache-Control: private`, so that no shared cache gives it to somebody else, unless the handler has said
//! `public`, `s-maxage`, `must-revalidate`, `private` or `no-store` itself; where a key is optional, every
//! response gets a `Vary` with the headers in which a key may stand. A refusal carries
//! the [`Denial`](keyward::Denial) in its extensions, for logs and metrics of outer layers.
//!
//! # Responses that take long
//!
//! A request is judged once, when it comes. What its handler keeps open after that, such as server-sent
//! events, a WebSocket or a long download, outlives the key unless it is wrapped in [`WhileAlive`], which
//! ends it within 250 ms. `cargo run --example streams` shows both.
//!
//! # Rejected uploads
//!
//! [`RequireKeyLayer`] rejects a request before its body is read, and [`ReceiveWebhookLayer`] may do so
//! before the body is read or when it has been read in part. Over HTTP/1, such a rejection has
//! `connection: close`; over HTTP/2 it does not affect the connection. hyper closes the connection as soon as
//! the body is dropped, and a client that is still sending then sees a connection reset instead of the
//! response. Therefore the response is sent at once, while a tokio task reads and discards the rest of the
//! body: at most 1 MiB, for at most one second, for at most 100 requests per process at a time
//! ([`BodyDrain`](keyward::BodyDrain)).
//!
//! A client can still see a reset if it sends more than 1 MiB without looking for a response, if it takes
//! longer than a second, or if more than 100 uploads are rejected at the same time. Clients that send
//! `Expect: 100-continue`, as curl does for large bodies, get the response before they send the body, and
//! nothing is drained. If an outer layer changes the type of the request body to one that is neither axum's
//! nor hyper's, name that type with [`RequireKeyLayer::request_body`].
//!
//! # Runtimes without a timer
//!
//! The crate uses the timer of tokio. Outside of a tokio runtime, and in a runtime that was built without
//! `enable_time`, requests are still served, and anything that would have to wait fails closed:
//!
//! - The body of a rejected upload is not drained.
//! - A request that finds the in-memory keys too old is rejected with 503 without waiting for the store.
//! - A webhook whose body has not arrived yet is rejected with 503 `webhook_unavailable`.
//! - A [`WhileAlive`] ends when it is first polled.
//!
//! tokio panics when a timer is created without `enable_time`. The panic is caught, and an error is logged
//! once; with `panic = "abort"` in the profile it cannot be caught and **ends the process**.
//!
//! # Webhooks
//!
//! A [`ReceiveWebhookLayer`] verifies what another service delivers before a handler sees it. A
//! [`WebhookSender`] delivers what this service has accepted, through any client that is a service.
//!
//! [tower]: https://docs.rs/tower

// docs.rs has nightly: it says there which feature brings what.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod alive;
mod body;
mod drain;
mod environment;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod head;
mod layer;
mod service;
mod timer;
mod webhook;

pub use crate::alive::WhileAlive;
pub use crate::body::ResponseBody;
pub use crate::environment::{ByEnvironment, SteeredFuture};
#[cfg(feature = "axum")]
pub use crate::extract::{InEnvironment, Principal, PrincipalRejection};
pub use crate::future::ResponseFuture;
pub use crate::layer::RequireKeyLayer;
pub use crate::service::RequireKey;
#[cfg(feature = "axum")]
pub use crate::webhook::extract::{VerifiedJson, VerifiedJsonRejection};
pub use crate::webhook::future::ReceiveFuture;
pub use crate::webhook::layer::ReceiveWebhookLayer;
pub use crate::webhook::resolver::{
    PublicAddresses, ResolveError, ResolveErrorKind, ResolveFuture,
};
pub use crate::webhook::sender::WebhookSender;
pub use crate::webhook::service::ReceiveWebhook;
