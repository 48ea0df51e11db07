//! Reads on in the body of a refused request, so that the client gets to read the answer.

use std::any::Any;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, ready};

use bytes::Buf;
use http_body::Body;
use hyper::body::Incoming;
use keyward::BodyDrain;
use tokio::time::Sleep;

use crate::timer::sleep;

/// Starts to read a body, an `Option` that it takes, if it is of a type that it knows.
///
/// The layer serves requests with bodies of any type, also such as `()`: that it is one which can be read
/// cannot be a bound.
pub(crate) type Drain = fn(&mut dyn Any, BodyDrain);

/// Of axum and of hyper.
pub(crate) fn known(body: &mut dyn Any, permit: BodyDrain) {
    #[cfg(feature = "axum")]
    if body.is::<Option<axum_core::body::Body>>() {
        return only::<axum_core::body::Body>(body, permit);
    }
    only::<Incoming>(body, permit);
}

/// Of this type.
pub(crate) fn only<B: Body + Send + 'static>(body: &mut dyn Any, permit: BodyDrain) {
    if let Some(body) = body.downcast_mut::<Option<B>>().and_then(Option::take) {
        spawn(permit, body);
    }
}

/// Reads this body in a task, unless there is no runtime, or no timer that would end it.
pub(crate) fn spawn<B: Body + Send + 'static>(permit: BodyDrain, body: B) {
    // Not in the response's future or body: a client that waits for the answer before it sends more
    // would wait for nothing, and hyper drops a response's body with its last byte.
    if let Some(limit) = sleep(BodyDrain::MAX_TIME) {
        tokio::spawn(read(body, permit, limit));
    }
}

/// Reads the body of a refused request in the background, if that is allowed.
pub(crate) fn start<B: 'static>(drain: Drain, permit: Option<BodyDrain>, body: B) {
    if let Some(permit) = permit {
        drain(&mut Some(body), permit);
    }
}

async fn read<B: Body>(body: B, mut permit: BodyDrain, limit: Sleep) {
    let (mut body, mut limit) = (pin!(body), pin!(limit));
    // Whether it came to its end or not, the body is dropped then, and hyper closes.
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
