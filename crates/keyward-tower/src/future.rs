//! The response future.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use keyward::gate::{Finish, Refusal, Verdict};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::ResponseBody;
use crate::drain::{self, Drain};
use crate::head::{FieldNames, admit, finish, refuse};

pin_project! {
    /// The response future of [`RequireKey`](crate::RequireKey).
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B>,
        finish: Finish,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B>
    where
        S: Service<Request<B>>,
    {
        /// The gate has not decided yet. Boxed, because it is rare and large.
        Pending {
            pending: Box<Pending<S, B>>,
        },
        Called {
            #[pin]
            future: S::Future,
        },
        Refused {
            refusal: Option<Refusal>,
        },
    }
}

struct Pending<S, B> {
    verdict: Pin<Box<dyn Future<Output = Verdict> + Send>>,
    names: FieldNames,
    drain: Drain,
    /// The service that was polled ready, and the request for it.
    waiting: Option<(S, Request<B>)>,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(crate) fn pending(
        verdict: Pin<Box<dyn Future<Output = Verdict> + Send>>,
        names: FieldNames,
        drain: Drain,
        service: S,
        request: Request<B>,
    ) -> Self {
        let waiting = Some((service, request));
        let pending = Box::new(Pending {
            verdict,
            names,
            drain,
            waiting,
        });
        let state = State::Pending { pending };
        let finish = Finish::default();
        Self { state, finish }
    }

    pub(crate) fn called(future: S::Future, finish: Finish) -> Self {
        let state = State::Called { future };
        Self { state, finish }
    }

    pub(crate) fn refused(refusal: Refusal) -> Self {
        let refusal = Some(refusal);
        let state = State::Refused { refusal };
        let finish = Finish::default();
        Self { state, finish }
    }
}

impl<S, B, ResBody> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    B: 'static,
{
    type Output = Result<Response<ResponseBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut state = this.state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Called { future } => {
                    let response = ready!(future.poll(context))?;
                    return Poll::Ready(Ok(finish(this.finish, response)));
                }
                StateProj::Refused { refusal } => match refusal.take() {
                    Some(refusal) => return Poll::Ready(Ok(refuse(refusal))),
                    // Polled again after completion.
                    None => return Poll::Pending,
                },
                StateProj::Pending { pending } => {
                    let verdict = ready!(pending.verdict.as_mut().poll(context));
                    match (verdict, pending.waiting.take()) {
                        (Verdict::Admit(admitted), Some((mut service, mut request))) => {
                            let (access, key_header) = (admitted.access, admitted.key_header);
                            admit(access, key_header, &pending.names, &mut request);
                            let future = service.call(request);
                            *this.finish = admitted.finish;
                            State::Called { future }
                        }
                        (Verdict::Refuse(refusal), waiting) => {
                            if let Some((service, request)) = waiting {
                                drop(service);
                                drain::start(pending.drain, refusal.drain(), request.into_body());
                            }
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
