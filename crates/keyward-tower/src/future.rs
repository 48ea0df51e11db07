//! The future of a response.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use keyward::{Finish, Refusal, Verdict};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::ResponseBody;
use crate::head::{admit, finish, refuse};

pin_project! {
    /// The future of a response; made by [`RequireKey`](crate::RequireKey). See there.
    pub struct ResponseFuture<S, B>
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
        /// The gate has not decided yet.
        Pending {
            verdict: Pin<Box<dyn Future<Output = Verdict> + Send>>,
            // The service that was polled ready, and what to call it with.
            waiting: Option<(S, Request<B>)>,
        },
        Called {
            #[pin]
            future: S::Future,
            finish: Finish,
        },
        Refused {
            refusal: Option<Refusal>,
        },
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(crate) fn pending(
        verdict: Pin<Box<dyn Future<Output = Verdict> + Send>>,
        service: S,
        request: Request<B>,
    ) -> Self {
        let waiting = Some((service, request));
        let state = State::Pending { verdict, waiting };
        Self { state }
    }

    pub(crate) fn called(future: S::Future, finish: Finish) -> Self {
        let state = State::Called { future, finish };
        Self { state }
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        let refusal = Some(refusal);
        let state = State::Refused { refusal };
        Self { state }
    }
}

impl<S, B, ResBody> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Called {
                    future,
                    finish: with,
                } => {
                    let response = ready!(future.poll(context))?;
                    return Poll::Ready(Ok(finish(mem::take(with), response)));
                }
                StateProj::Refused { refusal } => match refusal.take() {
                    Some(refusal) => return Poll::Ready(Ok(refuse(refusal))),
                    // Polled after it was ready, which a future need not answer.
                    None => return Poll::Pending,
                },
                StateProj::Pending { verdict, waiting } => {
                    let verdict = ready!(verdict.as_mut().poll(context));
                    match (verdict, waiting.take()) {
                        (Verdict::Admit(admitted), Some((mut service, mut request))) => {
                            let finish = admit(admitted, &mut request);
                            let future = service.call(request);
                            State::Called { future, finish }
                        }
                        (Verdict::Refuse(refusal), _) => {
                            let refusal = Some(refusal);
                            State::Refused { refusal }
                        }
                        (Verdict::Admit(_), None) => return Poll::Pending,
                    }
                }
            };
            state.set(next);
        }
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
