//! The response future of a webhook.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use keyward_webhooks::receive::{AwaitedBody, Receipt, WebhookAnswer, WebhookVerdict};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use crate::head::{FieldNames, apply, to_response};
use crate::timer::sleep;
use crate::{ResponseBody, drain};

pin_project! {
    /// The response future of [`ReceiveWebhook`](crate::ReceiveWebhook).
    pub struct ReceiveFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B>,
        // The headers in which an API key may be.
        names: Option<FieldNames>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B>
    where
        S: Service<Request<B>>,
    {
        Reading {
            // Boxed, so that the rest of it can be moved out and drained.
            body: Option<Pin<Box<B>>>,
            read: BytesMut,
            // Set when the body has to be waited for. Most bodies arrive at once.
            #[pin]
            timer: Option<Sleep>,
            // The check of the body, the service that was polled ready, and the request for it.
            waiting: Option<(AwaitedBody, S, Parts)>,
        },
        Deciding {
            verdict: Pin<Box<dyn Future<Output = WebhookVerdict> + Send>>,
            waiting: Option<(S, Request<B>)>,
        },
        Called {
            #[pin]
            future: S::Future,
            receipt: Option<Receipt>,
        },
        Answered {
            answer: Option<WebhookAnswer>,
        },
    }
}

impl<S, B> ReceiveFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(crate) fn reading(
        awaited: AwaitedBody,
        service: S,
        request: Request<B>,
        names: FieldNames,
    ) -> Self {
        let (parts, body) = request.into_parts();
        let state = State::Reading {
            body: Some(Box::pin(body)),
            timer: None,
            // Not with the capacity of the announced length, which is not a proof of anything sent.
            read: BytesMut::new(),
            waiting: Some((awaited, service, parts)),
        };
        let names = Some(names);
        Self { state, names }
    }
}

impl<S, B> ReceiveFuture<S, B>
where
    S: Service<Request<B>>,
    B: Body + Send + 'static,
{
    pub(crate) fn answered(answer: WebhookAnswer, body: B) -> Self {
        let state = State::unread(answer, body);
        let names = None;
        Self { state, names }
    }
}

impl<S, B> State<S, B>
where
    S: Service<Request<B>>,
{
    fn answered(answer: WebhookAnswer) -> Self {
        let answer = Some(answer);
        Self::Answered { answer }
    }

    /// Answers before the end of the body, and drains the rest if that is allowed.
    fn unread<T: Body + Send + 'static>(answer: WebhookAnswer, body: T) -> Self {
        if let Some(permit) = answer.drain() {
            drain::spawn(permit, body);
        }
        Self::answered(answer)
    }
}

impl<S, B, ResBody> Future for ReceiveFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    B: Body + From<Bytes> + Send + 'static,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (mut state, names) = (this.state, this.names);
        loop {
            let next = match state.as_mut().project() {
                StateProj::Reading {
                    body,
                    read,
                    timer,
                    waiting,
                } => {
                    let (Some((awaited, ..)), Some(unread)) = (&mut *waiting, &mut *body) else {
                        return Poll::Pending;
                    };
                    let end = match poll_body(unread.as_mut(), read, awaited, context) {
                        Poll::Ready(end) => end,
                        Poll::Pending => Err(ready!(poll_timer(timer, awaited, context))),
                    };
                    match (end, waiting.take()) {
                        (Ok(()), Some((awaited, service, parts))) => {
                            let bytes = mem::take(read).freeze();
                            let request = Request::from_parts(parts, B::from(bytes.clone()));
                            State::Deciding {
                                verdict: awaited.verify(bytes),
                                waiting: Some((service, request)),
                            }
                        }
                        (Err(answer), _) => match body.take() {
                            Some(body) => State::unread(answer, body),
                            None => State::answered(answer),
                        },
                        (Ok(()), None) => return Poll::Pending,
                    }
                }
                StateProj::Deciding { verdict, waiting } => {
                    let verdict = ready!(verdict.as_mut().poll(context));
                    match (verdict, waiting.take()) {
                        (WebhookVerdict::Deliver(delivery), Some((mut service, mut request))) => {
                            if let Some(names) = names.take() {
                                apply(delivery.key_header, &names, &mut request);
                            }
                            request.extensions_mut().insert(delivery.event);
                            State::Called {
                                future: service.call(request),
                                receipt: Some(delivery.receipt),
                            }
                        }
                        (WebhookVerdict::Answer(answer), _) => State::answered(answer),
                        (WebhookVerdict::Deliver(_), None) => return Poll::Pending,
                    }
                }
                StateProj::Called { future, receipt } => {
                    let response = ready!(future.poll(context));
                    // An error concludes nothing; the receipt is dropped.
                    let (receipt, response) = (receipt.take(), response?);
                    if let Some(receipt) = receipt {
                        receipt.conclude(response.status().as_u16());
                    }
                    return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                }
                StateProj::Answered { answer } => match answer.take() {
                    Some(answer) => return Poll::Ready(Ok(refuse(answer))),
                    // Polled again after completion.
                    None => return Poll::Pending,
                },
            };
            state.set(next);
        }
    }
}

/// Reads the body to its end or to a limit.
fn poll_body<B: Body>(
    mut body: Pin<&mut B>,
    read: &mut BytesMut,
    awaited: &mut AwaitedBody,
    context: &mut Context<'_>,
) -> Poll<Result<(), WebhookAnswer>> {
    while let Some(frame) = ready!(body.as_mut().poll_frame(context)) {
        let Ok(frame) = frame else {
            return Poll::Ready(Err(awaited.unreadable()));
        };
        if let Ok(data) = frame.into_data() {
            if let Err(answer) = awaited.receive(data.remaining()) {
                return Poll::Ready(Err(answer));
            }
            read.put(data);
        }
    }
    Poll::Ready(Ok(()))
}

/// Waits for the deadline of the body, and returns the answer.
fn poll_timer(
    mut timer: Pin<&mut Option<Sleep>>,
    awaited: &AwaitedBody,
    context: &mut Context<'_>,
) -> Poll<WebhookAnswer> {
    if timer.is_none() {
        timer.set(sleep(awaited.time_left()));
    }
    match timer.as_pin_mut() {
        Some(timer) => timer.poll(context).map(|()| awaited.too_slow()),
        None => Poll::Ready(awaited.no_timer()),
    }
}

fn refuse<B>(answer: WebhookAnswer) -> Response<ResponseBody<B>> {
    let mut response = to_response(answer.reply).map(ResponseBody::own);
    if let Some(error) = answer.error {
        response.extensions_mut().insert(error);
    }
    response
}

impl<S, B> fmt::Debug for ReceiveFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveFuture").finish_non_exhaustive()
    }
}
