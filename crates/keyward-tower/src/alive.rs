//! Bodies and streams that end when their key is revoked or expires.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use http_body::{Body, Frame, SizeHint};
use keyward::gate::KeyDied;
use keyward::{Gate, Principal};
use pin_project_lite::pin_project;
use tokio::time::Sleep;

use crate::timer::sleep;

pin_project! {
    /// A body or stream that ends when its key is revoked or expires.
    ///
    /// A request is authenticated once, when it arrives, so a streaming response outlives its key unless the
    /// handler wraps it in this type. It calls [`Gate::is_alive`] when it is first polled and then every
    /// 250 ms, both while it waits and between items. Without the timer of a tokio runtime it ends at once.
    ///
    /// - A [`Body`] ends with the error [`KeyDied`], which aborts the transfer, so that a client does not
    ///   mistake half a download for a complete one. Over HTTP/1 the connection is closed before the end of
    ///   the body; over HTTP/2 the stream is reset.
    /// - A [`Stream`] of items ends without an error. Inside axum's `Sse`, the response ends as if there were
    ///   no more events, and a client that reconnects gets a 401. Around a WebSocket, the handler sees the
    ///   end of the stream and closes the socket through [`get_mut`](Self::get_mut), with code 1008 (policy
    ///   violation).
    ///
    /// While nothing polls it, for example because the client does not read, the key is not checked, and
    /// nothing is taken from the wrapped value either. Data that was passed on before the key was revoked may
    /// still arrive.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use axum::{Router, body::{Body, Bytes}, extract::State, routing::get};
    /// # use http_body_util::{BodyExt, Full};
    /// # use keyward_tower::RequireKeyLayer;
    /// # use tower::ServiceExt;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use keyward::{AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Requirement};
    /// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
    /// # let gate = Gate::new(&store, &scheme)?;
    /// # let admin = KeyAdmin::new(&store, &scheme);
    /// # let (actor, acme) = (Actor::operator("docs"), AccountId::parse("acme")?);
    /// # let created = admin.bootstrap(&actor, NewKey::new(acme, Environment::LIVE, "key")).await?;
    /// # let (id, key) = (created.record.id, created.key.unwrap());
    /// use keyward_tower::{Principal, WhileAlive};
    ///
    /// async fn export(State(gate): State<Gate>, principal: Principal) -> Body {
    ///     let rows = Body::from("a long table");
    ///     Body::new(WhileAlive::new(gate, principal.into_inner(), rows))
    /// }
    ///
    /// let layer = RequireKeyLayer::new(&gate, Requirement::new());
    /// let app = Router::new().route("/", get(export)).layer(layer).with_state(gate);
    /// let request = || http::Request::get("/").header("x-api-key", key.expose_secret()).body(Body::empty());
    /// let whole = app.clone().oneshot(request()?).await?;
    /// assert_eq!(whole.into_body().collect().await?.to_bytes(), "a long table");
    ///
    /// let broken_off = app.oneshot(request()?).await?;
    /// admin.revoke(&actor, id, "laptop stolen").await?;
    /// assert!(broken_off.into_body().collect().await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    #[derive(Debug)]
    pub struct WhileAlive<T> {
        #[pin]
        inner: T,
        // `None` until the first check. Boxed, so that this is `Unpin` if `T` is.
        timer: Option<Pin<Box<Sleep>>>,
        watched: Watched,
    }
}

#[derive(Debug)]
struct Watched {
    gate: Gate,
    principal: Principal,
    died: bool,
}

impl<T> WhileAlive<T> {
    /// Wraps a body or stream so that it ends with the key of `principal`.
    ///
    /// Use the gate of the layer, or another gate over the same keys.
    pub fn new(gate: Gate, principal: Principal, inner: T) -> Self {
        Self {
            inner,
            timer: None,
            watched: Watched {
                gate,
                principal,
                died: false,
            },
        }
    }

    /// Returns the wrapped body or stream, for example to send to a WebSocket.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// Checks the key on the first poll, and then whenever the timer fires.
fn has_died(
    watched: &mut Watched,
    timer: &mut Option<Pin<Box<Sleep>>>,
    context: &mut Context<'_>,
) -> bool {
    while !watched.died {
        if let Some(timer) = timer
            && timer.as_mut().poll(context).is_pending()
        {
            break;
        }
        *timer = sleep(Gate::ALIVE_INTERVAL).map(Box::pin);
        // Without a timer nothing would ask again while this waits.
        watched.died = timer.is_none() || !watched.gate.is_alive(&watched.principal);
    }
    watched.died
}

impl<S: Stream> Stream for WhileAlive<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        if has_died(this.watched, this.timer, context) {
            return Poll::Ready(None);
        }
        this.inner.poll_next(context)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, self.inner.size_hint().1)
    }
}

impl<B> Body for WhileAlive<B>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    type Data = B::Data;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let this = self.project();
        if has_died(this.watched, this.timer, context) {
            return Poll::Ready(Some(Err(KeyDied::default().into())));
        }
        let frame = ready!(this.inner.poll_frame(context));
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
