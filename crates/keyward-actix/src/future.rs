//! The response future.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::body::EitherBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse};
use actix_web::{Error, HttpMessage};
use keyward::gate::{Finish, Verdict};
use pin_project_lite::pin_project;

use crate::head::{FieldNames, admit, finish, finish_error, refuse, refuse_shared};
use crate::unread::keep_unread;

pin_project! {
    /// The response future of [`RequireKeyMiddleware`](crate::RequireKeyMiddleware).
    pub struct ResponseFuture<S>
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
        /// The gate has not decided yet.
        Pending {
            verdict: Pin<Box<dyn Future<Output = Verdict> + Send>>,
            names: FieldNames,
            // The service, and the request for it.
            waiting: Option<(Rc<S>, ServiceRequest)>,
        },
        Called {
            #[pin]
            future: S::Future,
            finish: Finish,
        },
        Answered {
            response: Option<ServiceResponse>,
        },
    }
}

impl<S> ResponseFuture<S>
where
    S: Service<ServiceRequest>,
{
    pub(crate) fn pending(
        verdict: Pin<Box<dyn Future<Output = Verdict> + Send>>,
        names: FieldNames,
        service: Rc<S>,
        request: ServiceRequest,
    ) -> Self {
        let waiting = Some((service, request));
        let state = State::Pending {
            verdict,
            names,
            waiting,
        };
        Self { state }
    }

    pub(crate) fn decided(
        verdict: Verdict,
        names: &FieldNames,
        service: &S,
        request: ServiceRequest,
    ) -> Self {
        let state = State::decided(verdict, names, service, request);
        Self { state }
    }
}

impl<S> State<S>
where
    S: Service<ServiceRequest>,
{
    fn decided(
        verdict: Verdict,
        names: &FieldNames,
        service: &S,
        mut request: ServiceRequest,
    ) -> Self {
        let response = match verdict {
            Verdict::Admit(admitted) => match admit(admitted, names, &mut request) {
                Some(finish) => {
                    let future = service.call(request);
                    return Self::Called { future, finish };
                }
                None => refuse_shared(),
            },
            Verdict::Refuse(refusal) => refuse(refusal),
        };
        let response = keep_unread(response, request.take_payload());
        let response = Some(request.into_response(response));
        Self::Answered { response }
    }
}

impl<S, B> Future for ResponseFuture<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    type Output = Result<ServiceResponse<EitherBody<B>>, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Called {
                    future,
                    finish: with,
                } => {
                    let answer = ready!(future.poll(context));
                    return Poll::Ready(match answer {
                        Ok(response) => Ok(finish(with, response).map_into_left_body()),
                        Err(mut error) => {
                            finish_error(with, &mut error);
                            Err(error)
                        }
                    });
                }
                StateProj::Answered { response } => match response.take() {
                    Some(response) => return Poll::Ready(Ok(response.map_into_right_body())),
                    // Polled again after completion.
                    None => return Poll::Pending,
                },
                StateProj::Pending {
                    verdict,
                    names,
                    waiting,
                } => {
                    let verdict = ready!(verdict.as_mut().poll(context));
                    match waiting.take() {
                        Some((service, request)) => {
                            State::decided(verdict, names, &*service, request)
                        }
                        None => return Poll::Pending,
                    }
                }
            };
            state.set(next);
        }
    }
}

impl<S> fmt::Debug for ResponseFuture<S>
where
    S: Service<ServiceRequest>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
