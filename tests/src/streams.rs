//! What is open when a key dies ends, on both stacks: events, a WebSocket, a download.

use std::convert::Infallible;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use actix_web::body::BodyStream;
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{App, HttpResponse, HttpServer};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::get;
use bytes::Bytes;
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyId, KeyScheme, MemoryStore,
    NewKey, Requirement,
};
use keyward_actix::RequireKey;
use keyward_tower::RequireKeyLayer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};
use tokio_stream::wrappers::IntervalStream;
use tokio_stream::{Stream, StreamExt};

/// How long it may take on a busy machine until an end is seen; on one that is not, 250 ms.
pub const SOON: Duration = Duration::from_secs(5);

/// Serves the example of a stack; its port and its key.
pub async fn serve_example(stack: &str) -> (u16, String) {
    if stack == "axum" {
        let (app, key) = streams::axum::service().await.unwrap();
        (serve_axum(app), key)
    } else {
        let (routes, key) = streams::actix::service().await.unwrap();
        (serve_actix(routes), key)
    }
}

fn serve_axum(app: Router) -> u16 {
    let (listener, port) = listen();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    port
}

fn serve_actix(routes: impl FnOnce(&mut ServiceConfig) + Clone + Send + 'static) -> u16 {
    let (listener, port) = listen();
    thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let server = HttpServer::new(move || App::new().configure(routes.clone()));
            let server = server.workers(1).disable_signals().listen(listener);
            server.unwrap().run().await.unwrap();
        });
    });
    port
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A connection that has sent a request.
async fn ask(port: u16, line: &str, fields: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head = format!("{line} HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Reads on until the bytes are there.
async fn read_until(stream: &mut TcpStream, read: &mut Vec<u8>, wanted: &[u8]) {
    let reading = async {
        while !read.windows(wanted.len()).any(|window| window == wanted) {
            assert_ne!(stream.read_buf(read).await.unwrap(), 0, "{read:?}");
        }
    };
    timeout(SOON, reading).await.expect("it comes");
}

/// Reads to the end, in whichever way that comes.
async fn read_to_end(stream: &mut TcpStream, read: &mut Vec<u8>) {
    let reading = async { while let Ok(1..) = stream.read_buf(read).await {} };
    timeout(SOON, reading).await.expect("it ends");
}

async fn revoke(port: u16) {
    let mut read = Vec::new();
    let mut revoking = ask(port, "POST /revoke", "content-length: 0\r\n").await;
    read_until(&mut revoking, &mut read, b"204 No Content").await;
}

/// The end of a chunked body that is whole.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn events_end_when_their_key_is_revoked_and_the_next_call_is_refused() {
    for stack in ["axum", "actix"] {
        let (port, key) = serve_example(stack).await;
        let key = format!("x-client-key: {key}\r\n");
        let mut events = ask(port, "GET /events", &key).await;
        let mut read = Vec::new();
        read_until(&mut events, &mut read, b"data: tick").await;
        assert!(read.starts_with(b"HTTP/1.1 200 OK"), "{stack}");
        revoke(port).await;
        let since = Instant::now();
        read_until(&mut events, &mut read, LAST_CHUNK).await;
        println!("{stack}: the events ended after {:?}", since.elapsed());
        let (mut again, mut read) = (ask(port, "GET /events", &key).await, Vec::new());
        read_until(&mut again, &mut read, b"401 Unauthorized").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_is_closed_when_its_key_is_revoked_and_says_why() {
    for stack in ["axum", "actix"] {
        let (port, key) = serve_example(stack).await;
        let fields = format!(
            "x-client-key: {key}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        let mut socket = ask(port, "GET /socket", &fields).await;
        let mut read = Vec::new();
        read_until(&mut socket, &mut read, b"\r\n\r\n").await;
        assert!(read.starts_with(b"HTTP/1.1 101 "), "{stack}");
        // A text of two letters, masked with zeros; and its echo, which is not masked.
        let text = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
        socket.write_all(&text).await.unwrap();
        read_until(&mut socket, &mut read, &[0x81, 2, b'h', b'i']).await;
        // Quiet for longer than the interval, and still open.
        tokio::time::sleep(2 * Gate::ALIVE_INTERVAL).await;
        socket.write_all(&text).await.unwrap();
        read.clear();
        read_until(&mut socket, &mut read, &[0x81, 2, b'h', b'i']).await;
        revoke(port).await;
        let since = Instant::now();
        read_until(&mut socket, &mut read, b"the API key has died").await;
        println!("{stack}: the socket was closed after {:?}", since.elapsed());
        // Close, 22 bytes, 1008.
        let close = [0x88, 22, 0x03, 0xF0];
        assert!(read.windows(4).any(|window| window == close), "{read:?}");
        let (mut again, mut read) = (ask(port, "GET /socket", &fields).await, Vec::new());
        read_until(&mut again, &mut read, b"401 Unauthorized").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_takes_its_key_as_a_subprotocol_and_selects_another() {
    for stack in ["axum", "actix"] {
        let (port, key) = serve_example(stack).await;
        for (offered, status, selected) in [
            (&["bearer, KEY"][..], "101", Some("bearer")),
            (&["chat, bearer, KEY"], "101", Some("chat")),
            (&["bearer", "KEY", "chat"], "101", Some("chat")),
            (&["news, bearer, KEY"], "101", Some("bearer")),
            (&["bearer, demo_test_wrong"], "401", None),
            (&["bearer, KEY, KEY"], "400", None),
            (&["chat"], "401", None),
        ] {
            let lines = offered.iter().map(|line| line.replace("KEY", &key));
            let lines = lines.map(|line| format!("sec-websocket-protocol: {line}\r\n"));
            let fields = format!(
                "{}connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\norigin: http://localhost:{port}\r\n",
                lines.collect::<String>(),
            );
            let (mut socket, mut read) = (ask(port, "GET /socket", &fields).await, Vec::new());
            read_until(&mut socket, &mut read, b"\r\n\r\n").await;
            let head = String::from_utf8_lossy(&read).to_lowercase();
            assert!(
                head.starts_with(&format!("http/1.1 {status} ")),
                "{stack} {offered:?}: {head}"
            );
            let lines = head
                .lines()
                .filter_map(|line| line.strip_prefix("sec-websocket-protocol: "));
            assert!(lines.eq(selected), "{stack} {offered:?}: {head}");
            assert!(!head.contains(&key.to_lowercase()), "{stack} {offered:?}");
        }
    }
}

/// A table that never ends.
fn rows() -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    IntervalStream::new(interval(Duration::from_millis(10))).map(|_| Ok(Bytes::from("row,")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_broken_off_so_that_nobody_takes_it_for_the_whole() {
    let (admin, gate, key, id) = one_key().await;
    let on_axum = async |State(gate): State<Gate>, principal: keyward_tower::Principal| {
        let rows = Body::from_stream(rows());
        let principal = principal.into_inner();
        Body::new(keyward_tower::WhileAlive::new(gate, principal, rows))
    };
    let app = Router::new()
        .route("/export", get(on_axum))
        .layer(RequireKeyLayer::new(&gate, Requirement::new()))
        .with_state(gate.clone());
    let on_actix = async |gate: Data<Gate>, principal: keyward_actix::Principal| {
        let (gate, principal) = (gate.get_ref().clone(), principal.into_inner());
        let rows = BodyStream::new(rows());
        HttpResponse::Ok().body(keyward_actix::WhileAlive::new(gate, principal, rows))
    };
    let routes = move |app: &mut ServiceConfig| {
        let export = web::resource("/export").wrap(RequireKey::new(&gate, Requirement::new()));
        app.app_data(Data::new(gate)).service(export.get(on_actix));
    };
    let mut downloads = Vec::new();
    for port in [serve_axum(app), serve_actix(routes)] {
        let mut download = ask(port, "GET /export", &format!("x-api-key: {key}\r\n")).await;
        let mut read = Vec::new();
        read_until(&mut download, &mut read, b"row,").await;
        downloads.push((download, read));
    }
    admin
        .revoke(&Actor::operator("test"), id, "")
        .await
        .unwrap();
    for (mut download, mut read) in downloads {
        read_to_end(&mut download, &mut read).await;
        assert!(!read.ends_with(LAST_CHUNK));
    }
}

async fn one_key() -> (KeyAdmin, Gate, String, KeyId) {
    let store = std::sync::Arc::new(MemoryStore::new());
    let scheme = KeyScheme::new(KeyFormat::new("x_").unwrap());
    let gate = Gate::builder(&store, &scheme);
    let gate = gate.build().unwrap();
    let admin = KeyAdmin::new(&store, &scheme);
    let new = NewKey::new(AccountId::parse("acme").unwrap(), Environment::LIVE, "test");
    let created = admin
        .bootstrap(&Actor::operator("test"), new)
        .await
        .unwrap();
    let key = created.key.unwrap().expose_secret().to_owned();
    (admin, gate, key, created.record.id)
}
