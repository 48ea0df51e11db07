//! The service that the middleware creates.

use std::rc::Rc;

use actix_web::body::EitherBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, forward_ready};
use keyward_webhooks::WebhookReceiver;

use crate::ReceiveFuture;
use crate::head::{FieldNames, Head, peer_addr};

/// The service that [`ReceiveWebhook`](crate::ReceiveWebhook) creates.
#[derive(Debug)]
pub struct ReceiveWebhookMiddleware<S> {
    inner: Rc<S>,
    receiver: WebhookReceiver,
    names: FieldNames,
}

impl<S> ReceiveWebhookMiddleware<S> {
    pub(crate) fn new(inner: S, receiver: WebhookReceiver) -> Self {
        let inner = Rc::new(inner);
        let names = FieldNames::of(receiver.locations());
        Self {
            inner,
            receiver,
            names,
        }
    }
}

impl<S, B> Service<ServiceRequest> for ReceiveWebhookMiddleware<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>>,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = S::Error;
    type Future = ReceiveFuture<S>;

    forward_ready!(inner);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let head = Head {
            request: &request,
            names: &self.names,
            peer: peer_addr,
        };
        match self.receiver.check(&head) {
            Ok(awaited) => {
                let (inner, names) = (Rc::clone(&self.inner), self.names.clone());
                ReceiveFuture::reading(awaited, inner, request, names)
            }
            Err(answer) => ReceiveFuture::answered(answer, request),
        }
    }
}
