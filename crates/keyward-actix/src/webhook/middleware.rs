//! The service.

use std::rc::Rc;

use actix_web::body::EitherBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, forward_ready};
use keyward::WebhookReceiver;

use crate::ReceiveFuture;
use crate::head::Head;

/// A service behind a receiver; made by [`ReceiveWebhook`](crate::ReceiveWebhook). See there.
#[derive(Debug)]
pub struct ReceiveWebhookMiddleware<S> {
    inner: Rc<S>,
    receiver: WebhookReceiver,
}

impl<S> ReceiveWebhookMiddleware<S> {
    pub(crate) fn new(inner: S, receiver: WebhookReceiver) -> Self {
        let inner = Rc::new(inner);
        Self { inner, receiver }
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
        match self.receiver.check(&Head(&request)) {
            Ok(awaited) => ReceiveFuture::reading(awaited, Rc::clone(&self.inner), request),
            Err(answer) => ReceiveFuture::answered(&answer, request),
        }
    }
}
