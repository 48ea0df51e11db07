//! Bodies and streams that end when their key is revoked or expires.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use actix_web::rt::time::{Sleep, sleep};
use actix_web::web::Bytes;
use futures_core::Stream;
use keyward::gate::KeyDied;
use keyward::{Gate, Principal};
use pin_project_lite::pin_project;

pin_project! {
    /// A body or stream that ends when its key is revoked or expires.
    ///
    /// A request is authenticated once, when it arrives, so a streaming response outlives its key unless the
    /// handler wraps it in this type. It calls [`Gate::is_alive`] when it is first polled and then every
    /// 250 ms, both while it waits and between items.
    ///
    /// - A body ([`MessageBody`]) ends with the error [`KeyDied`], which aborts the transfer, so that a client
    ///   does not mistake half a download for a complete one. Over HTTP/1 the connection is closed before the
    ///   end of the body; over HTTP/2 the stream is reset.
    /// - A [`Stream`] of items ends without an error. Inside
    ///   [`streaming`](actix_web::HttpResponseBuilder::streaming), for example for server-sent events, the
    ///   response ends as if there were no more items, and a client that reconnects gets a 401. Around the
    ///   messages of a WebSocket, the handler sees the end of the stream and closes the session, with code
    ///   1008 (policy violation).
    ///
    /// While nothing polls it, for example because the client does not read, the key is not checked, and
    /// nothing is taken from the wrapped value either. Data that was passed on before the key was revoked may
    /// still arrive.
    ///
    /// ```
    /// # use actix_web::{App, HttpResponse, body::to_bytes, test::{TestRequest, call_service, init_service}};
    /// # use actix_web::web::{self, Data};
    /// # use keyward_actix::RequireKey;
    /// # #[actix_web::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use keyward::{AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Requirement};
    /// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
    /// # let gate = Gate::new(&store, &scheme)?;
    /// # let admin = KeyAdmin::new(&store, &scheme);
    /// # let (actor, acme) = (Actor::operator("docs"), AccountId::parse("acme")?);
    /// # let created = admin.bootstrap(&actor, NewKey::new(acme, Environment::LIVE, "key")).await?;
    /// # let (id, key) = (created.record.id, created.key.unwrap());
    /// use keyward_actix::{Principal, WhileAlive};
    ///
    /// async fn export(gate: Data<Gate>, principal: Principal) -> HttpResponse {
    ///     let rows = "a long table".to_owned();
    ///     let gate = gate.get_ref().clone();
    ///     HttpResponse::Ok().body(WhileAlive::new(gate, principal.into_inner(), rows))
    /// }
    ///
    /// let app = App::new()
    ///     .app_data(Data::new(gate.clone()))
    ///     .wrap(RequireKey::new(&gate, Requirement::new()))
    ///     .route("/", web::get().to(export));
    /// let app = init_service(app).await;
    /// let request = || TestRequest::default().insert_header(("x-api-key", key.expose_secret()));
    /// let whole = call_service(&app, request().to_request()).await;
    /// assert_eq!(to_bytes(whole.into_body()).await.unwrap(), "a long table");
    ///
    /// let broken_off = call_service(&app, request().to_request()).await;
    /// admin.revoke(&actor, id, "laptop stolen").await?;
    /// assert!(to_bytes(broken_off.into_body()).await.is_err());
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
    /// Use the gate of the middleware, or another gate over the same keys.
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

    /// Returns the wrapped body or stream.
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
        watched.died = !watched.gate.is_alive(&watched.principal);
        *timer = Some(Box::pin(sleep(Gate::ALIVE_INTERVAL)));
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

impl<B> MessageBody for WhileAlive<B>
where
    B: MessageBody<Error: Into<Box<dyn Error>>>,
{
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        self.inner.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.project();
        if has_died(this.watched, this.timer, context) {
            return Poll::Ready(Some(Err(KeyDied::default().into())));
        }
        let bytes = ready!(this.inner.poll_next(context));
        Poll::Ready(bytes.map(|bytes| bytes.map_err(Into::into)))
    }
}
