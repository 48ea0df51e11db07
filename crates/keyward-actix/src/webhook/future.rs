//! The response future of a webhook.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodyStream, EitherBody, MessageBody};
use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse};
use actix_web::rt::time::timeout;
use actix_web::web::{Bytes, BytesMut};
use actix_web::{HttpMessage, HttpResponse};
use keyward_webhooks::receive::{AwaitedBody, Receipt, WebhookAnswer, WebhookVerdict};
use pin_project_lite::pin_project;

use crate::head::{FieldNames, apply, refuse_shared, to_response};
use crate::unread::keep_unread;

/// The verdict, the bytes of the body, and the rest of the payload.
type Decided = (WebhookVerdict, Bytes, Payload);

pin_project! {
    /// The response future of [`ReceiveWebhookMiddleware`](crate::ReceiveWebhookMiddleware).
    pub struct ReceiveFuture<S>
    where
        S: Service<ServiceRequest>,
    {
        #[pin]
        state: State<S>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S>
    where
        S: Service<ServiceRequest>,
    {
        Reading {
            decided: Pin<Box<dyn Future<Output = Decided>>>,
            // The service, and the request for it.
            waiting: Option<(Rc<S>, ServiceRequest)>,
            names: FieldNames,
        },
        Called {
            #[pin]
            future: S::Future,
            receipt: Option<Receipt>,
        },
        Answered {
            response: Option<ServiceResponse>,
        },
    }
}

impl<S> ReceiveFuture<S>
where
    S: Service<ServiceRequest>,
{
    pub(crate) fn reading(
        awaited: AwaitedBody,
        service: Rc<S>,
        mut request: ServiceRequest,
        names: FieldNames,
    ) -> Self {
        let decided = Box::pin(read(awaited, request.take_payload()));
        let waiting = Some((service, request));
        let state = State::Reading {
            decided,
            waiting,
            names,
        };
        Self { state }
    }

    pub(crate) fn answered(answer: WebhookAnswer, mut request: ServiceRequest) -> Self {
        let unread = request.take_payload();
        let state = State::answered(refuse(answer, unread), request);
        Self { state }
    }
}

impl<S> State<S>
where
    S: Service<ServiceRequest>,
{
    fn decided(
        (verdict, bytes, unread): Decided,
        service: &S,
        mut request: ServiceRequest,
        names: &FieldNames,
    ) -> Self {
        let delivery = match verdict {
            WebhookVerdict::Deliver(delivery) => delivery,
            WebhookVerdict::Answer(answer) => {
                return Self::answered(refuse(answer, unread), request);
            }
        };
        if apply(delivery.key_header, names, &mut request).is_none() {
            return Self::answered(refuse_shared(), request);
        }
        request.extensions_mut().insert(delivery.event);
        request.set_payload(Payload::from(bytes));
        Self::Called {
            future: service.call(request),
            receipt: Some(delivery.receipt),
        }
    }

    fn answered(response: HttpResponse, request: ServiceRequest) -> Self {
        let response = Some(request.into_response(response));
        Self::Answered { response }
    }
}

/// Reads the body to its end or to a limit, and verifies it.
async fn read(mut awaited: AwaitedBody, mut payload: Payload) -> Decided {
    let time = awaited.time_left();
    let answer = match timeout(time, read_body(&mut awaited, &mut payload)).await {
        Ok(Ok(bytes)) => return (awaited.verify(bytes.clone()).await, bytes, payload),
        Ok(Err(answer)) => answer,
        Err(_) => awaited.too_slow(),
    };
    (WebhookVerdict::Answer(answer), Bytes::new(), payload)
}

async fn read_body(
    awaited: &mut AwaitedBody,
    payload: &mut Payload,
) -> Result<Bytes, WebhookAnswer> {
    let mut body = pin!(BodyStream::new(payload));
    // Not with the capacity of the announced length, which is not a proof of anything sent.
    let mut read = BytesMut::new();
    while let Some(chunk) = poll_fn(|context| body.as_mut().poll_next(context)).await {
        let chunk = chunk.map_err(|_| awaited.unreadable())?;
        awaited.receive(chunk.len())?;
        read.extend_from_slice(&chunk);
    }
    Ok(read.freeze())
}

fn refuse(answer: WebhookAnswer, unread: Payload) -> HttpResponse {
    let mut response = keep_unread(to_response(answer.reply), unread);
    if let Some(error) = answer.error {
        response.extensions_mut().insert(error);
    }
    response
}

impl<S, B> Future for ReceiveFuture<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>>,
{
    type Output = Result<ServiceResponse<EitherBody<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Reading {
                    decided,
                    waiting,
                    names,
                } => {
                    let decided = ready!(decided.as_mut().poll(context));
                    match waiting.take() {
                        Some((service, request)) => {
                            State::decided(decided, &*service, request, names)
                        }
                        None => return Poll::Pending,
                    }
                }
                StateProj::Called { future, receipt } => {
                    let response = ready!(future.poll(context));
                    // An error concludes nothing; the receipt is dropped.
                    let (receipt, response) = (receipt.take(), response?);
                    if let Some(receipt) = receipt {
                        receipt.conclude(response.status().as_u16());
                    }
                    return Poll::Ready(Ok(response.map_into_left_body()));
                }
                StateProj::Answered { response } => match response.take() {
                    Some(response) => return Poll::Ready(Ok(response.map_into_right_body())),
                    // Polled again after completion.
                    None => return Poll::Pending,
                },
            };
            state.set(next);
        }
    }
}

impl<S> fmt::Debug for ReceiveFuture<S>
where
    S: Service<ServiceRequest>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveFuture").finish_non_exhaustive()
    }
}
