//! Drains the body of a rejected request, so that the client can read the response.

use std::any::Any;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, ready};

use bytes::Buf;
use http_body::Body;
use hyper::body::Incoming;
use keyward::gate::BodyDrain;
use tokio::time::Sleep;

use crate::timer::sleep;

/// A function that drains the body in an `Option<B>`, if it knows the type `B`.
///
/// The layer serves requests with bodies of any type, including `()`, so `B: Body` cannot be a bound.
pub(crate) type Drain = fn(&mut dyn Any, BodyDrain);

/// Drains a body of axum or hyper.
pub(crate) fn known(body: &mut dyn Any, permit: BodyDrain) {
    #[cfg(feature = "axum")]
    if body.is::<Option<axum_core::body::Body>>() {
        return only::<axum_core::body::Body>(body, permit);
    }
    only::<Incoming>(body, permit);
}

/// Drains a body of type `B`.
pub(crate) fn only<B: Body + Send + 'static>(body: &mut dyn Any, permit: BodyDrain) {
    if let Some(body) = body.downcast_mut::<Option<B>>().and_then(Option::take) {
        spawn(permit, body);
    }
}

/// Drains a body in a task, unless there is no runtime or no timer.
pub(crate) fn spawn<B: Body + Send + 'static>(permit: BodyDrain, body: B) {
    // Not in the response future, which would delay the response, and not in the response body, which
    // hyper drops after its last byte.
    if let Some(limit) = sleep(BodyDrain::MAX_TIME) {
        tokio::spawn(read(body, permit, limit));
    }
}

/// Drains the body of a rejected request in the background, if that is allowed.
pub(crate) fn start<B: 'static>(drain: Drain, permit: Option<BodyDrain>, body: B) {
    if let Some(permit) = permit {
        drain(&mut Some(body), permit);
    }
}

async fn read<B: Body>(body: B, mut permit: BodyDrain, limit: Sleep) {
    let (mut body, mut limit) = (pin!(body), pin!(limit));
    // Afterwards the body is dropped, complete or not, and hyper closes the connection.
    poll_fn(|context| {
        while limit.as_mut().poll(context).is_pending() {
            match ready!(body.as_mut().poll_frame(context)) {
                Some(Ok(frame)) if permit.read(frame.data_ref().map_or(0, Buf::remaining)) => {}
                _ => break,
            }
        }
        Poll::Ready(())
    })
    .await;
}
