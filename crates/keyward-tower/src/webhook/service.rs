//! The service that the layer creates.

use std::mem;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use keyward_webhooks::WebhookReceiver;
use tower_service::Service;

use crate::head::{FieldNames, Head, socket_addr};
use crate::{ReceiveFuture, ResponseBody};

/// The service that [`ReceiveWebhookLayer`](crate::ReceiveWebhookLayer) creates.
///
/// It does not depend on axum:
///
/// ```
/// # use bytes::Bytes;
/// # use http_body_util::Full;
/// # use keyward_webhooks::{WebhookReceiver, WebhookVerifier};
/// # use keyward_tower::ReceiveWebhookLayer;
/// # use tower::{Layer, ServiceExt};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let verifier = WebhookVerifier::standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// # let receiver = WebhookReceiver::builder(verifier).build()?;
/// let inner = tower::service_fn(async |_: http::Request<Full<Bytes>>| {
///     Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from("reached"))))
/// });
/// let service = ReceiveWebhookLayer::new(receiver).layer(inner);
/// let response = service.oneshot(http::Request::new(Full::from("unsigned"))).await?;
/// assert_eq!(response.status(), 401);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ReceiveWebhook<S> {
    inner: S,
    receiver: WebhookReceiver,
    names: FieldNames,
}

impl<S> ReceiveWebhook<S> {
    pub(crate) fn new(inner: S, receiver: WebhookReceiver, names: FieldNames) -> Self {
        Self {
            inner,
            receiver,
            names,
        }
    }
}

impl<S, B, ResBody> Service<Request<B>> for ReceiveWebhook<S>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
    B: Body + From<Bytes> + Send + 'static,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ReceiveFuture<S, B>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The body is read first. As in `RequireKey`, the ready service goes with the call.
        let clone = self.inner.clone();
        let ready = mem::replace(&mut self.inner, clone);
        let head = Head {
            request: &request,
            names: &self.names,
            peer: socket_addr,
        };
        match self.receiver.check(&head) {
            Ok(awaited) => ReceiveFuture::reading(awaited, ready, request, self.names.clone()),
            Err(answer) => ReceiveFuture::answered(answer, request.into_body()),
        }
    }
}
