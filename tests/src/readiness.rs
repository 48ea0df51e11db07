//! The inner service is called only when it is ready, and readiness is never kept from others.

use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Empty;
use keyward::record::{Account, KeyRecord};
use keyward::replica::{Replica, Revision};
use keyward::{AccountId, Environment, Gate, KeyFormat, KeyScheme, Requirement};
use keyward_tower::RequireKeyLayer;
use tokio::time::timeout;
use tower::limit::ConcurrencyLimitLayer;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use crate::service;

type Body = Empty<bytes::Bytes>;

fn ask(key: &str) -> Request<()> {
    Request::builder()
        .header("x-api-key", key)
        .body(())
        .unwrap()
}

/// A service that must be asked for readiness before each call.
pub struct Strict<B> {
    ready: bool,
    pub calls: Arc<AtomicUsize>,
    takes: PhantomData<fn(B)>,
}

impl<B> Default for Strict<B> {
    fn default() -> Self {
        Self {
            ready: false,
            calls: Arc::default(),
            takes: PhantomData,
        }
    }
}

impl<B> Clone for Strict<B> {
    fn clone(&self) -> Self {
        let calls = Arc::clone(&self.calls);
        Self {
            calls,
            ..Self::default()
        }
    }
}

impl<B> Service<Request<B>> for Strict<B> {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being ready"
        );
        self.calls.fetch_add(1, Ordering::Relaxed);
        ready(Ok(Response::new(Body::new())))
    }
}

/// A service whose gate waits for the store on every request, and its key.
struct Waiting {
    replica: Replica,
    gate: Gate,
    key: String,
    asked: mpsc::Receiver<()>,
}

impl Waiting {
    fn new() -> Self {
        let replica = Replica::new();
        let format = KeyFormat::new("x_").unwrap();
        let key = format.generate(Environment::LIVE).unwrap();
        let account = Account::new(AccountId::parse("acme").unwrap());
        let mut poll = replica.poll();
        poll.key(&KeyRecord::new(
            keyward::KeyId::random().unwrap(),
            keyward::Peppers::none().digest(&key),
            key.hint().clone(),
            account.id.clone(),
            Environment::LIVE,
            std::time::SystemTime::UNIX_EPOCH,
        ));
        poll.account(account);
        poll.finish(Revision {
            number: 1,
            nonce: 0,
        })
        .unwrap();
        let (ask, asked) = mpsc::channel();
        replica.on_demand(move |_| ask.send(()).is_ok());
        let gate = Gate::builder_from_replica(&replica, &KeyScheme::new(format))
            .max_staleness(Duration::ZERO);
        let key = key.expose_secret().to_owned();
        Self {
            gate: gate.build().unwrap(),
            replica,
            key,
            asked,
        }
    }
}

#[tokio::test]
async fn calls_the_service_that_was_ready() {
    let service = service::Service::new();
    let strict = Strict::<()>::default();
    let layer = RequireKeyLayer::new(&service.routes[0].1, Requirement::new());
    let mut behind = ServiceBuilder::new().layer(layer).service(strict.clone());
    for (key, status) in [
        ("live", 200),
        ("revoked", 401),
        ("live", 200),
        ("live", 200),
    ] {
        let behind = behind.ready().await.unwrap();
        let response = behind.call(ask(&service.keys[key])).await.unwrap();
        assert_eq!(response.status(), status);
    }
    assert_eq!(strict.calls.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_request_that_waits_for_the_store_keeps_the_service_that_was_ready() {
    let world = Waiting::new();
    let strict = Strict::<()>::default();
    let layer = RequireKeyLayer::new(&world.gate, Requirement::new());
    let mut behind = ServiceBuilder::new().layer(layer).service(strict.clone());
    let first = behind.ready().await.unwrap().call(ask(&world.key));
    let second = behind.ready().await.unwrap().call(ask("x_unknown"));
    let third = behind.ready().await.unwrap().call(ask(&world.key));
    let Waiting { replica, asked, .. } = world;
    thread::spawn(move || {
        for () in asked {
            replica
                .poll()
                .finish(Revision {
                    number: 1,
                    nonce: 0,
                })
                .unwrap();
        }
    });
    assert_eq!(first.await.unwrap().status(), 200);
    assert_eq!(second.await.unwrap().status(), 401);
    assert_eq!(third.await.unwrap().status(), 200);
    assert_eq!(strict.calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_refused_request_does_not_keep_the_only_permit() {
    let service = service::Service::new();
    let hello = service_fn(async |_| Ok::<_, tower::BoxError>(Response::new(Body::new())));
    let behind = ServiceBuilder::new()
        .layer(RequireKeyLayer::new(
            &service.routes[0].1,
            Requirement::new(),
        ))
        .layer(ConcurrencyLimitLayer::new(1))
        .service(hello);
    let mut one_connection = behind.clone();
    let mut another = behind;
    for key in ["revoked", "nonsense"] {
        let refused = one_connection
            .ready()
            .await
            .unwrap()
            .call(ask(service.keys.get(key).map_or(key, |key| &**key)));
        assert_eq!(refused.await.unwrap().status(), 401);
        let ready = timeout(Duration::from_secs(5), another.ready()).await;
        let ready = ready.expect("the permit is free").unwrap();
        assert_eq!(
            ready
                .call(ask(&service.keys["live"]))
                .await
                .unwrap()
                .status(),
            200
        );
    }
}

#[tokio::test]
async fn a_cancelled_request_gives_its_permit_back() {
    let world = Waiting::new();
    let hello = service_fn(async |_| Ok::<_, tower::BoxError>(Response::new(Body::new())));
    let mut behind = ServiceBuilder::new()
        .layer(RequireKeyLayer::new(&world.gate, Requirement::new()))
        .layer(ConcurrencyLimitLayer::new(1))
        .service(hello);
    let waiting = behind.ready().await.unwrap().call(ask(&world.key));
    let mut another = behind.clone();
    let busy = timeout(Duration::from_millis(20), another.ready()).await;
    assert!(busy.is_err(), "the waiting request holds the permit");
    drop(waiting);
    timeout(Duration::from_secs(5), another.ready())
        .await
        .expect("the permit is free")
        .unwrap();
}

#[test]
fn where_tokio_has_no_timer_a_request_does_not_wait_for_the_store() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.build().unwrap();
    runtime.block_on(async {
        let world = Waiting::new();
        let layer = RequireKeyLayer::new(&world.gate, Requirement::new());
        let strict = Strict::<()>::default();
        let mut behind = ServiceBuilder::new().layer(layer).service(strict);
        let behind = behind.ready().await.unwrap();
        let too_old = behind.call(ask(&world.key)).await.unwrap();
        assert_eq!(too_old.status(), 503);
    });
}
