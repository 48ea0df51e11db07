//! The service that the layer creates.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use keyward::gate::{Decision, Verdict};
use keyward::{Gate, Principal, Requirement};
use tower_service::Service;

use crate::drain::{self, Drain};
use crate::head::{FieldNames, Head, Peer, admit};
use crate::timer::sleep;
use crate::{ResponseBody, ResponseFuture};

/// The service that [`RequireKeyLayer`](crate::RequireKeyLayer) creates.
///
/// It wraps any service of `http` requests and does not depend on axum. If the in-memory keys are too old, a
/// request waits for the store, on the timer of tokio; without that timer it is rejected at once. See
/// [`GateBuilder::refresh_wait`](keyward::gate::GateBuilder::refresh_wait).
///
/// ```
/// # use bytes::Bytes;
/// # use http_body_util::{BodyExt, Full};
/// # use keyward_tower::RequireKeyLayer;
/// # use tower::{Layer, ServiceExt};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use keyward::{Environment, Gate, KeyFormat, KeyScheme, MemoryStore, Requirement};
/// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
/// # let gate = Gate::new(&store, &scheme)?;
/// let inner = tower::service_fn(async |_: http::Request<()>| {
///     Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from("reached"))))
/// });
/// let service = RequireKeyLayer::new(&gate, Requirement::new()).layer(inner);
/// let response = service.oneshot(http::Request::new(())).await?;
/// assert_eq!(response.status(), 401);
/// assert_eq!(response.headers()["cache-control"], "no-store");
/// let body = response.into_body().collect().await?.to_bytes();
/// assert!(body.ends_with(br#""code":"missing_api_key"}"#));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RequireKey<S> {
    pub(crate) inner: S,
    pub(crate) gate: Gate,
    pub(crate) names: FieldNames,
    pub(crate) requirement: Arc<Requirement>,
    pub(crate) peer: Peer,
    pub(crate) drain: Drain,
}

impl<S, B, ResBody> Service<Request<B>> for RequireKey<S>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
    B: 'static,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let outer = request.extensions().get::<Principal>();
        let head = Head {
            request: &request,
            names: &self.names,
            peer: self.peer,
        };
        match self.gate.check(&head, &self.requirement, outer) {
            Decision::Ready(Verdict::Admit(admitted)) => {
                // Destructured, because it is large to move.
                let (access, key_header) = (admitted.access, admitted.key_header);
                admit(access, key_header, &self.names, &mut request);
                ResponseFuture::called(self.inner.call(request), admitted.finish)
            }
            Decision::Ready(Verdict::Refuse(refusal)) => {
                drop(self.take_ready());
                drain::start(self.drain, refusal.drain(), request.into_body());
                ResponseFuture::refused(refusal)
            }
            Decision::Pending(pending) => {
                let (names, service) = (self.names.clone(), self.take_ready());
                let verdict = pending.with_timer(timer);
                ResponseFuture::pending(verdict, names, self.drain, service, request)
            }
        }
    }
}

/// Waits on the timer of tokio, or not at all without one.
///
/// Nothing may wait without a limit.
async fn timer(wait: Duration) {
    if let Some(sleep) = sleep(wait) {
        sleep.await;
    }
}

impl<S: Clone> RequireKey<S> {
    /// Takes the ready service and leaves a clone that is not ready.
    ///
    /// What the ready service has reserved, such as a permit, goes with it. If it stayed here, it would be
    /// missing for other requests.
    fn take_ready(&mut self) -> S {
        let clone = self.inner.clone();
        mem::replace(&mut self.inner, clone)
    }
}
