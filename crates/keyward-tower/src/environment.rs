//! A service that routes requests by environment.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use keyward::Principal;
use keyward::gate::PerEnvironment;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::ResponseBody;

/// A service that routes test traffic to one service and live traffic to another.
///
/// Place it inside a [`RequireKeyLayer`](crate::RequireKeyLayer) that accepts those environments. A request
/// of an environment without a service, or of an anonymous caller, gets a 500 with no headers and no body,
/// and an error is logged. It never reaches the service of another environment.
///
/// The service is always ready. Like axum's router, it waits for the chosen service to become ready when it
/// is called.
///
/// ```
/// # use axum::{Router, body::Body, routing::get};
/// # use keyward_tower::RequireKeyLayer;
/// # use tower::{Layer, ServiceExt};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use keyward::Environment;
/// use keyward::gate::PerEnvironment;
/// use keyward_tower::ByEnvironment;
/// # use keyward::{AccountId, Actor, Gate, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Requirement};
/// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
/// # let gate = Gate::new(&store, &scheme)?;
/// # let admin = KeyAdmin::new(&store, &scheme);
/// # let (actor, acme) = (Actor::operator("docs"), AccountId::parse("acme")?);
/// # let test_key = admin.bootstrap(&actor, NewKey::new(acme, Environment::TEST, "key")).await?.key.unwrap();
///
/// let real = Router::<()>::new().route("/", get(async || "verified by a person"));
/// let simulated = Router::<()>::new().route("/", get(async || "simulated"));
/// let steered = ByEnvironment::new(PerEnvironment::new(real, simulated));
/// let layer = RequireKeyLayer::new(&gate, Requirement::new().environments([Environment::LIVE, Environment::TEST]));
/// let service = layer.layer(steered);
///
/// let request = http::Request::get("/").header("x-api-key", test_key.expose_secret());
/// let response = service.oneshot(request.body(Body::empty())?).await?;
/// let body = axum::body::to_bytes(Body::new(response.into_body()), 100).await?;
/// assert_eq!(body, "simulated");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ByEnvironment<S> {
    services: PerEnvironment<S>,
}

impl<S> ByEnvironment<S> {
    /// Creates a service that calls the service of each request's environment.
    #[must_use]
    pub fn new(services: PerEnvironment<S>) -> Self {
        Self { services }
    }
}

impl<S, B, ResBody> Service<Request<B>> for ByEnvironment<S>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ByEnvironmentFuture<S, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let principal = request.extensions().get::<Principal>();
        let service = principal.and_then(|principal| self.services.of(principal));
        if service.is_none() {
            let environment = principal.map(|principal| principal.environment().to_string());
            tracing::error!(
                environment,
                "no service is configured for the environment of a request"
            );
        }
        let state = match service {
            Some(service) => State::Waiting {
                service: service.clone(),
                request: Some(request),
            },
            None => State::Nowhere,
        };
        ByEnvironmentFuture { state }
    }
}

pin_project! {
    /// The response future of [`ByEnvironment`].
    pub struct ByEnvironmentFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B>
    where
        S: Service<Request<B>>,
    {
        /// Waiting for the service to become ready.
        Waiting {
            service: S,
            request: Option<Request<B>>,
        },
        Called {
            #[pin]
            future: S::Future,
        },
        Nowhere,
    }
}

impl<S, B, ResBody> Future for ByEnvironmentFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let future = match state.as_mut().project() {
                StateProj::Waiting { service, request } => {
                    ready!(service.poll_ready(context))?;
                    match request.take() {
                        Some(request) => service.call(request),
                        // Polled again after completion.
                        None => return Poll::Pending,
                    }
                }
                StateProj::Called { future } => {
                    let response = ready!(future.poll(context))?;
                    return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                }
                StateProj::Nowhere => {
                    let mut response = Response::new(ResponseBody::own(Bytes::new()));
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                    return Poll::Ready(Ok(response));
                }
            };
            state.set(State::Called { future });
        }
    }
}

impl<S, B> fmt::Debug for ByEnvironmentFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByEnvironmentFuture")
            .finish_non_exhaustive()
    }
}
