//! API key authentication as a [tower] layer, for axum, hyper and any [`tower_service::Service`].
//!
//! A [`RequireKeyLayer`] wraps a service and states what its routes require: scopes, environments, rate
//! limit costs. A [`Gate`](keyward::Gate) checks each request. A handler receives the
//! [`Principal`](keyward::Principal), the account and key that make the request. A rejected request never
//! reaches the handler.
//!
//! ```
//! use axum::{Router, routing::get};
//! use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore, Requirement};
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
//! let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
//! let gate = Gate::new(&store, &scheme)?;
//! let app: Router = Router::new()
//!     .route("/whoami", get(whoami))
//!     .layer(RequireKeyLayer::new(&gate, Requirement::new().scope("kyc")));
//!
//! let without_key = http::Request::get("/whoami").body(axum::body::Body::empty())?;
//! assert_eq!(app.oneshot(without_key).await?.status(), 401);
//! # Ok(())
//! # }
//! ```
//!
//! # Placing the layer
//!
//! There is no list of exempt paths. Add a route that needs no key after the layer, or to another router.
//!
//! - `Router::layer` covers the routes added before it and the fallback, so an unknown path without a key
//!   gets a 401. `Router::route_layer` covers only the routes, so an unknown path gets a 404.
//! - `MethodRouter::layer`, as in `get(list).layer(…)`, covers only the methods added before it:
//!   `get(list).layer(…).post(create)` leaves `create` unprotected. Add the layer last.
//! - The layer answers CORS preflight requests that reach it. An `OPTIONS` request that no method of the
//!   route handles does not reach a `MethodRouter::route_layer`: axum responds with 405 first.
//! - axum adds an `allow` header to every response to a method that the route does not have, including
//!   rejections.
//! - A nested router is covered by the layers of both routers. If they share a gate, the inner layer adds its
//!   requirements, and the key is verified and charged once. A different gate authenticates the request
//!   again; in that case, build the outer gate with
//!   [`insecure_forward_key`](keyward::gate::GateBuilder::insecure_forward_key).
//!
//! # Around a whole router
//!
//! [`Router::layer`] runs a layer after axum has found the route. To require a key before that, wrap the
//! finished router, and serve the result as the fallback of an empty one, because `axum::serve` takes a router:
//!
//! ```
//! # use axum::{Router, body::Body, routing::get};
//! # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore, Requirement};
//! # use keyward_tower::RequireKeyLayer;
//! use tower::Layer;
//! # use tower::ServiceExt;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
//! # let gate = Gate::new(&store, &scheme)?;
//!
//! let router: Router = Router::new().route("/reports", get(async || "reports"));
//! let layer = RequireKeyLayer::new(&gate, Requirement::new());
//! let app: Router = Router::new().fallback_service(layer.layer(router)); // for `axum::serve(listener, app)`
//! # let ask = || http::Request::post("/reports").body(Body::empty());
//! # let response = app.clone().oneshot(ask()?).await?;
//! # assert_eq!((response.status().as_u16(), response.headers().get("allow")), (401, None));
//! # let router: Router = Router::new().route("/reports", get(async || "reports"));
//! # let inside = router.layer(RequireKeyLayer::new(&gate, Requirement::new()));
//! # assert_eq!(inside.oneshot(ask()?).await?.headers()["allow"], "GET,HEAD");
//! # Ok(())
//! # }
//! ```
//!
//! Do this if every path of the server needs a key, and
//!
//! - a rejection must not reveal anything about routes, such as the `allow` header that axum adds otherwise, or
//! - a layer inside, such as `NormalizePathLayer` of tower-http, changes the path before axum finds the route.
//!
//! A layer around the router does not know the route, so it cannot require a scope of only some routes. Add
//! those requirements with another layer of the same gate on the routes themselves.
//!
//! [`Router::layer`]: https://docs.rs/axum/latest/axum/struct.Router.html#method.layer
//!
//! # Combining with other middleware
//!
//! The order of layers does not change which requests are admitted. It changes the following:
//!
//! - Tracing, request ID and compression layers see rejections only if they are outside this layer. A tracing
//!   layer outside sees the [`Denial`](keyward::gate::Denial). One inside sees the
//!   [`Principal`](keyward::Principal), and never the key.
//! - A CORS layer belongs outside, where it answers preflight requests. Inside, it never sees one.
//! - Timeout, `load_shed` and `buffer` layers belong inside, with their errors turned into 5xx responses there.
//!   A gate with [`refund_server_errors`](keyward::gate::GateBuilder::refund_server_errors) then refunds the
//!   credits. A request that a timeout outside cancels is charged.
//! - A `concurrency_limit` inside is not exhausted by requests without a key, because a rejection holds no
//!   permit.
//! - In salvo, add the layer with `hoop(layer.compat())`. In poem, `compat()` on a layer expects poem's own
//!   request type, so wrap a service in the layer and add that service to the routes with `compat()`.
//!
//! # Changes to requests and responses
//!
//! The layer removes the header that held the key before it calls the inner service. A response to a request
//! with a key gets `Cache-Control: private`, so that no shared cache serves it to anyone else, unless the
//! handler has set `public`, `s-maxage`, `must-revalidate`, `private` or `no-store`. If the key is optional,
//! every response gets a `Vary` header that lists the headers in which a key is accepted. A rejection has the
//! [`Denial`](keyward::gate::Denial) in its extensions, for logging and metrics in outer layers.
//!
//! # Streaming responses
//!
//! A request is authenticated once, when it arrives. A response that stays open, such as server-sent events,
//! a WebSocket or a long download, outlives its key unless the handler wraps it in [`WhileAlive`]. That ends
//! it within 250 ms after the key is revoked. `cargo run --example streams` shows both.
//!
//! # Rejected uploads
//!
//! [`RequireKeyLayer`] rejects a request before its body is read, and `ReceiveWebhookLayer` may do so
//! before the body is read or when it has been read in part. Over HTTP/1, such a rejection has
//! `connection: close`; over HTTP/2 it does not affect the connection. hyper closes the connection as soon as
//! the body is dropped, and a client that is still sending then sees a connection reset instead of the
//! response. Therefore the response is sent at once, while a tokio task reads and discards the rest of the
//! body: at most 1 MiB, for at most one second, for at most 100 requests per process at a time
//! ([`BodyDrain`](keyward::gate::BodyDrain)).
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
//! # Testing handlers
//!
//! With the feature `testing`, `keyward::testing::principal` becomes a [`Principal`] for the unit test of a
//! handler. No gate accepts it: a layer that finds it in the extensions of a request still requires a key.
//!
//! ```
//! use keyward_tower::Principal;
//!
//! async fn submit(caller: Principal) -> String {
//!     caller.account().to_string()
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let caller = keyward::testing::principal("acme").scope("kyc");
//! assert_eq!(submit(caller.into()).await, "acme");
//! # }
//! ```
//!
//! `keyward::testing::World` is a service in memory, whose keys pass through a layer:
//!
//! ```
//! # use axum::{Router, body::Body, routing::get};
//! use keyward::Requirement;
//! # use keyward_tower::{Principal, RequireKeyLayer};
//! # use tower::ServiceExt;
//! # async fn submit(caller: Principal) -> String { caller.account().to_string() }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let world = keyward::testing::World::new();
//! let layer = RequireKeyLayer::new(world.gate(), Requirement::new().scope("kyc"));
//! let app: Router = Router::new().route("/", get(submit)).layer(layer);
//! let request = http::Request::get("/").header("x-api-key", world.key("kyc"));
//! assert_eq!(app.oneshot(request.body(Body::empty())?).await?.status(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! # Webhooks
//!
//! With the feature `webhooks`, a `ReceiveWebhookLayer` verifies incoming webhooks before a handler sees them,
//! and a `WebhookSender` delivers outgoing webhooks from the transactional outbox of `keyward-webhooks`, through
//! any HTTP client that is a tower service.
//!
//! [tower]: https://docs.rs/tower

// docs.rs builds with nightly and shows which feature each item needs.
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
mod peer;
mod service;
mod timer;
#[cfg(feature = "webhooks")]
mod webhook;

pub use crate::alive::WhileAlive;
pub use crate::body::ResponseBody;
pub use crate::environment::{ByEnvironment, ByEnvironmentFuture};
#[cfg(feature = "axum")]
pub use crate::extract::{InEnvironment, Principal, PrincipalRejection};
pub use crate::future::ResponseFuture;
pub use crate::layer::RequireKeyLayer;
pub use crate::peer::PeerFromExtensions;
pub use crate::service::RequireKey;
#[cfg(all(feature = "axum", feature = "webhooks"))]
pub use crate::webhook::extract::{VerifiedJson, VerifiedJsonRejection};
#[cfg(feature = "webhooks")]
pub use crate::webhook::future::ReceiveFuture;
#[cfg(feature = "webhooks")]
pub use crate::webhook::layer::ReceiveWebhookLayer;
#[cfg(feature = "webhooks")]
pub use crate::webhook::resolver::{
    PublicOnlyResolver, ResolveError, ResolveErrorKind, ResolveFuture,
};
#[cfg(feature = "webhooks")]
pub use crate::webhook::sender::WebhookSender;
#[cfg(feature = "webhooks")]
pub use crate::webhook::service::ReceiveWebhook;
