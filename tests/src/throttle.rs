//! The throttle counts by the addresses of real connections, in every stack alike.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use actix_web::{App, HttpResponse, HttpServer, web};
use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use keyward::denial::DenialKind;
use keyward::gate::GateBuilder;
use keyward::throttle::AuthFailureLimiter;
use keyward::{Gate, KeyFormat, KeyScheme, RateLimit, Requirement};
use keyward_actix::{PeerFromRequest, RequireKey};
use keyward_tower::{PeerFromExtensions, RequireKeyLayer};
use tokio::net::{TcpListener, TcpSocket, UnixStream};
use tower::{ServiceBuilder, service_fn};

use crate::service::Service;
use crate::stacks::{Answer, Ask, collect, everywhere};

/// The last number of the address that it comes from, its fields, the status.
type Call<'a> = (u8, &'a [(&'a str, &'a str)], u16);

/// A gate that allows three failures at once, behind the proxy 127.0.0.9.
fn builder(service: &Service) -> GateBuilder {
    let throttle = AuthFailureLimiter::new(RateLimit::parse("10/60;3").unwrap());
    let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
    Gate::builder(&service.store, &scheme)
        .failure_throttle(throttle)
        .trusted_proxies(["127.0.0.9"])
        .unwrap()
}

fn gate(service: &Service) -> Gate {
    builder(service).build().unwrap()
}

async fn serve_axum(gate: Gate) -> SocketAddr {
    let layer = RequireKeyLayer::new(&gate, Requirement::new());
    let handler = async || Response::new(axum::body::Body::from("reached"));
    let app = Router::new().route("/", get(handler)).layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

async fn serve_hyper(gate: Gate) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let service = ServiceBuilder::new()
                .map_request(move |mut request: Request<hyper::body::Incoming>| {
                    request.extensions_mut().insert(peer);
                    request
                })
                .layer(RequireKeyLayer::new(&gate, Requirement::new()))
                .service(service_fn(async |_| {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("reached"))))
                }));
            let connection = hyper::server::conn::http1::Builder::new();
            let service = TowerToHyperService::new(service);
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// The address, and what stops the server.
fn serve_actix(gate: Gate) -> (SocketAddr, impl FnOnce()) {
    let (tell, told) = mpsc::channel();
    let thread = thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let app = move || {
                let reached = async || HttpResponse::Ok().body("reached");
                App::new()
                    .wrap(RequireKey::new(&gate, Requirement::new()))
                    .route("/", web::get().to(reached))
            };
            let server = HttpServer::new(app).workers(1).disable_signals();
            let server = server.bind("127.0.0.1:0").unwrap();
            let address = server.addrs()[0];
            let server = server.run();
            tell.send((address, server.handle())).unwrap();
            server.await.unwrap();
        });
    });
    let (address, handle) = told.recv().unwrap();
    let stop = move || {
        drop(handle.stop(false));
        thread.join().unwrap();
    };
    (address, stop)
}

/// A request over a connection of its own from 127.0.0.`from`.
async fn send(server: SocketAddr, from: u8, fields: &[(&str, &str)]) -> Answer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, from], 0).into()).unwrap();
    let stream = TokioIo::new(socket.connect(server).await.unwrap());
    let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().uri("/").header("host", "localhost");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let mut answer = collect(client.send_request(request).await.unwrap()).await;
    answer.fields.remove("date"); // the servers' own
    answer
}

#[tokio::test]
async fn every_stack_counts_by_the_address_of_the_connection() {
    const X: &str = "x-api-key";
    const FORWARDED: &str = "x-forwarded-for";
    let service = Service::new();
    let key = |name: &str| &*service.keys[name];
    let (good, unknown) = (key("live"), key("unknown"));
    let proxied = |key, client| [(X, key), (FORWARDED, client)];
    let calls: &[Call] = &[
        (1, &[(X, good)], 200),
        (1, &[(X, unknown)], 401),
        (1, &[(X, key("revoked"))], 401),
        (1, &[(X, good)], 200),
        (1, &[(X, "malformed")], 401),
        (1, &[(X, good)], 429),
        (1, &[(X, unknown)], 429),
        (1, &[(X, "malformed")], 401),
        (1, &[], 401),
        (1, &proxied(good, "192.0.2.1"), 429),
        (2, &[(X, good)], 200),
        // Behind the proxy.
        (9, &proxied(unknown, "192.0.2.1"), 401),
        (9, &proxied(unknown, "[::ffff:192.0.2.1]:4711"), 401),
        (
            9,
            &proxied(unknown, "203.0.113.1, 192.0.2.1, 127.0.0.9"),
            401,
        ),
        (9, &proxied(good, "192.0.2.1"), 429),
        (
            9,
            &[
                (X, good),
                (FORWARDED, "192.0.2.2"),
                (FORWARDED, "192.0.2.1"),
            ],
            429,
        ),
        (
            9,
            &[
                (X, good),
                (FORWARDED, "192.0.2.1"),
                (FORWARDED, "192.0.2.2"),
            ],
            200,
        ),
        (9, &[(X, good)], 200),
        // A key with an allowlist of addresses.
        (3, &[(X, key("local"))], 200),
        (4, &[(X, key("local"))], 403),
        (4, &proxied(key("local"), "127.0.0.3"), 403),
        (9, &proxied(key("local"), "127.0.0.3"), 200),
        (9, &proxied(key("local"), "127.0.0.3, 127.0.0.4"), 403),
    ];
    let (actix, stop) = serve_actix(gate(&service));
    let of_axum = PeerFromExtensions::new(|extensions| {
        Some(extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip())
    });
    let axum = serve_axum(builder(&service).peer(of_axum).build().unwrap()).await;
    let hyper = serve_hyper(gate(&service)).await;
    for (from, fields, status) in calls {
        let answer = send(axum, *from, fields).await;
        assert_eq!(answer.status, *status, "{from} {fields:?}: {answer:?}");
        assert_eq!(
            answer,
            send(hyper, *from, fields).await,
            "axum and hyper, {from} {fields:?}"
        );
        assert_eq!(
            answer,
            send(actix, *from, fields).await,
            "axum and actix, {from} {fields:?}"
        );
        if *status == 429 {
            assert_eq!(answer.fields["retry-after"], ["6"]);
            assert_eq!(answer.fields["cache-control"], ["no-store"]);
            assert!(answer.body.ends_with(r#","code":"too_many_failures"}"#));
        }
    }
    stop();
}

/// The status of a request with an unknown key, over a Unix socket, from a client behind a proxy.
async fn status_over_unix(socket: &Path, key: &str, client: &str) -> u16 {
    let stream = TokioIo::new(UnixStream::connect(socket).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().uri("/").header("host", "localhost");
    let request = request.header("x-api-key", key);
    let request = request.header("x-forwarded-for", client);
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap());
    response.await.unwrap().status().as_u16()
}

#[tokio::test]
async fn over_a_unix_socket_the_proxy_is_given_an_address_or_all_is_refused() {
    let service = Service::new();
    let throttle = AuthFailureLimiter::new(RateLimit::parse("10/60;2").unwrap());
    let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
    let gate = || {
        Gate::builder(&service.store, &scheme)
            .failure_throttle(throttle.clone())
            .trusted_proxies(["127.0.0.1"])
            .unwrap()
    };
    let local = PeerFromRequest::new(|_| Some(Ipv4Addr::LOCALHOST.into()));
    let with = gate().peer(local).build().unwrap();
    let without = gate().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [told, untold] = ["told", "untold"].map(|name| folder.path().join(name));
    let (tell, ready) = mpsc::channel();
    let sockets = (told.clone(), untold.clone());
    let thread = thread::spawn(move || {
        let [with, without] =
            [with, without].map(|gate| RequireKey::new(&gate, Requirement::new()));
        let app = |layer: RequireKey| {
            move || {
                let reached = web::get().to(async || HttpResponse::Ok());
                App::new().wrap(layer.clone()).route("/", reached)
            }
        };
        actix_web::rt::System::new().block_on(async move {
            let with = HttpServer::new(app(with)).workers(1).disable_signals();
            let with = with.bind_uds(sockets.0).unwrap().run();
            let without = HttpServer::new(app(without)).workers(1).disable_signals();
            let without = without.bind_uds(sockets.1).unwrap().run();
            tell.send((with.handle(), without.handle())).unwrap();
            let (one, other) = tokio::join!(with, without);
            one.and(other).unwrap();
        });
    });
    let handles = ready.recv().unwrap();
    let (good, unknown) = (&service.keys["live"], &service.keys["unknown"]);
    for (key, client, status) in [
        (good, "192.0.2.1", 200),
        (unknown, "192.0.2.1", 401),
        (unknown, "192.0.2.1", 401),
        (good, "192.0.2.1", 429),
        (good, "192.0.2.2", 200),
    ] {
        assert_eq!(status_over_unix(&told, key, client).await, status);
        assert_eq!(status_over_unix(&untold, key, client).await, 500);
    }
    drop((handles.0.stop(false), handles.1.stop(false)));
    thread.join().unwrap();
}

#[test]
fn without_a_peer_address_every_stack_refuses_alike() {
    let mut service = Service::new();
    service.peer = None;
    let throttled = gate(&service);
    service
        .routes
        .push(("/throttled", throttled, Requirement::new()));
    let ask = |key: &str| Ask {
        method: "GET",
        path: "/throttled".to_owned(),
        fields: vec![("x-api-key", service.keys[key].clone().into())],
    };
    let asks = [ask("live"), ask("unknown")];
    let listed = Ask {
        path: "/live".to_owned(),
        ..ask("office")
    };
    let service = Arc::new(service);
    for answer in everywhere(&service, &[listed]) {
        assert_eq!(answer.denial, Some(DenialKind::AddressUnknown));
        assert_eq!(answer.status, 403);
        assert!(answer.body.ends_with(r#""code":"address_not_allowed"}"#));
    }
    for answer in everywhere(&service, &asks) {
        assert_eq!(answer.status, 500);
        assert_eq!(answer.fields["cache-control"], ["no-store"]);
        assert_eq!(
            answer.body,
            r#"{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"The service cannot check API keys as it is set up.","code":"internal_error"}"#
        );
    }
}
