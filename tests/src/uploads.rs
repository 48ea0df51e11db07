//! Uploads that are refused before their body is read, over real connections: what a client gets to see.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use actix_web::{App, HttpServer, web};
use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyward::Requirement;
use keyward::gate::BodyDrain;
use keyward_actix::{ReceiveWebhook, RequireKey};
use keyward_tower::{ReceiveWebhookLayer, RequireKeyLayer};
use keyward_webhooks::WebhookReceiver;
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use keyward_webhooks::{WebhookSigner, WebhookVerifier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::service::Service;

/// The places in which bodies are drained are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Sends uploads without a key over connections that are kept alive, and prints how each ended.
const NODE: &str = r"
const http = require('node:http');
const [port, size, calls] = process.argv.slice(1, 4).map(Number);
const path = process.argv[4];
const headers = JSON.parse(process.argv[5]);
const agent = new http.Agent({ keepAlive: true });
const call = () => new Promise(done => {
  const options = { agent, port, host: '127.0.0.1', path, method: 'POST', headers };
  const request = http.request(options, response => {
    let text = '';
    response.on('data', data => { text += data; });
    response.on('end', () => done(`${response.statusCode} ${JSON.parse(text).code}`));
    response.on('error', error => done(error.code));
  });
  request.on('error', error => done(error.code));
  request.end(Buffer.alloc(size));
});
(async () => {
  for (let i = 0; i < calls; i++) console.log(await call());
  process.exit(0);
})();
";

/// Takes bodies of 100 kB.
fn receiver() -> WebhookReceiver {
    let verifier = WebhookVerifier::standard(SECRET).unwrap();
    let receiver = WebhookReceiver::builder(verifier).body_limit(100_000);
    receiver
        .body_timeout(Duration::from_secs(2))
        .build()
        .unwrap()
}

/// The headers of a delivery that nobody has signed, but whose signature has its form.
fn signed_wrongly() -> serde_json::Value {
    let secret = WebhookSecret::parse(SECRET).unwrap();
    let id = WebhookId::random().unwrap();
    let headers = WebhookSigner::new(&secret).headers(&id, SystemTime::now(), b"other bytes");
    let headers = headers.map(|(name, value)| (name.to_owned(), value.into()));
    headers
        .into_iter()
        .collect::<serde_json::Map<_, _>>()
        .into()
}

async fn axum() -> SocketAddr {
    let layer = RequireKeyLayer::new(&Service::new().routes[0].1, Requirement::new());
    let receiver = ReceiveWebhookLayer::new(receiver());
    let hook = post(async || "handled").layer(receiver);
    let app: Router = Router::new()
        .route("/upload", post(async |body: Bytes| body.len().to_string()))
        .layer(layer)
        .route("/hook", hook);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

/// The address, and what stops the server.
fn actix() -> (SocketAddr, impl FnOnce()) {
    let gate = Service::new().routes[0].1.clone();
    let receiver = receiver();
    let (tell, told) = mpsc::channel();
    let thread = thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let app = move || {
                let upload = web::post().to(async |body: Bytes| body.len().to_string());
                let layer = RequireKey::new(&gate, Requirement::new());
                let upload = web::resource("/upload").wrap(layer).route(upload);
                let hook = web::resource("/hook").wrap(ReceiveWebhook::new(receiver.clone()));
                App::new()
                    .service(upload)
                    .service(hook.post(async || "handled"))
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

/// How each of the calls of the client in Node ended.
async fn node(server: SocketAddr, size: usize, calls: usize) -> Vec<String> {
    let length = serde_json::json!({ "content-length": size });
    node_with(server, size, calls, ("/upload", &length)).await
}

async fn node_with(
    server: SocketAddr,
    size: usize,
    calls: usize,
    (path, headers): (&str, &serde_json::Value),
) -> Vec<String> {
    let numbers = [server.port().into(), size, calls].map(|number| number.to_string());
    let output = Command::new("node")
        .args(["-e", NODE, "--"])
        .args(numbers)
        .args([path, &headers.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .await
        .expect("node is installed, as by scripts/test");
    let output = String::from_utf8(output.stdout).unwrap();
    output.lines().map(str::to_owned).collect()
}

async fn connect(server: SocketAddr, head: &str) -> TcpStream {
    connect_to(server, "/upload", head).await
}

async fn connect_to(server: SocketAddr, path: &str, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{head}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Reads until the server has closed, in whichever way.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(1..) = stream
        .read(&mut buffer)
        .await
        .inspect(|n| read.extend(&buffer[..*n]))
    {}
    String::from_utf8(read).unwrap()
}

/// Sends a body by the byte, and sees that the answer does not wait for it, but the end of the connection.
async fn reads_on_after_the_answer(server: SocketAddr, path: &str, head: &str, status: &str) {
    let mut open = Vec::new();
    // A busy machine may read an answer late.
    while open.len() < 5 {
        let mut slow = connect_to(server, path, head).await;
        let (mut reading, mut writing) = slow.split();
        let drip = async {
            while writing.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let read = async {
            let mut answer = vec![0; 4096];
            let first = reading.read(&mut answer).await.unwrap();
            let since = Instant::now();
            let answered = str::from_utf8(&answer[..first]).unwrap();
            assert!(answered.starts_with(status), "{answered}");
            assert!(answered.contains("\r\nconnection: close\r\n"), "{answered}");
            assert!(!matches!(reading.read(&mut answer).await, Ok(1..)));
            since.elapsed()
        };
        let both = async {
            tokio::select! { time = read => time, () = drip => panic!("not read") }
        };
        open.push(timeout(Duration::from_secs(30), both).await.unwrap());
        if open.last() >= Some(&(BodyDrain::MAX_TIME / 2)) {
            return;
        }
    }
    panic!("closed at once: {open:?}");
}

fn is_refusal(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 401 ")
        && answer.contains("\r\nconnection: close\r\n")
        && answer.ends_with(r#""code":"missing_api_key"}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_connections_sees_each_refusal_of_an_upload() {
    let _alone = ALONE.lock().await;
    let (actix, stop) = actix();
    for (server, stack) in [(axum().await, "axum"), (actix, "actix")] {
        for size in [0, 1, 100_000, 1_000_000] {
            let seen = node(server, size, 12).await;
            assert_eq!(seen, ["401 missing_api_key"; 12], "{size} bytes, {stack}");
        }
    }
    stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_of_webhooks_that_keeps_connections_sees_each_refusal() {
    let _alone = ALONE.lock().await;
    let (actix, stop) = actix();
    for (server, stack) in [(axum().await, "axum"), (actix, "actix")] {
        // By its head alone: without a signature, and with too long a body.
        let length = |size| serde_json::json!({ "content-length": size });
        let seen = node_with(server, 90_000, 12, ("/hook", &length(90_000))).await;
        assert_eq!(seen, ["401 missing_webhook_signature"; 12], "{stack}");
        let mut headers = signed_wrongly();
        headers["content-length"] = 1_000_000.into();
        let seen = node_with(server, 1_000_000, 12, ("/hook", &headers)).await;
        assert_eq!(seen, ["413 webhook_too_large"; 12], "{stack}");
        // When a part of the body has been read.
        let mut headers = signed_wrongly();
        headers["transfer-encoding"] = "chunked".into();
        let seen = node_with(server, 500_000, 12, ("/hook", &headers)).await;
        assert_eq!(seen, ["413 webhook_too_large"; 12], "{stack}");
    }
    stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_webhook_that_takes_too_long_is_drained_within_the_same_bounds() {
    let _alone = ALONE.lock().await;
    let server = axum().await;
    let headers = signed_wrongly();
    let headers = headers.as_object().unwrap().iter();
    let line =
        |(name, value): (_, &serde_json::Value)| format!("{name}: {}\r\n", value.as_str().unwrap());
    let head = headers.map(line).collect::<String>() + "content-length: 90000";
    reads_on_after_the_answer(server, "/hook", &head, "HTTP/1.1 408 ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actix_reads_an_endless_body_for_no_longer_than_its_disconnect_timeout() {
    let (server, stop) = actix();
    for head in ["content-length: 107374182400", "transfer-encoding: chunked"] {
        let mut stream = connect(server, head).await;
        let block = [b"ffff\r\n", &vec![b'x'; 0xffff][..], b"\r\n"].concat();
        let write = async { while stream.write_all(&block).await.is_ok() {} };
        let closed = timeout(Duration::from_secs(30), write).await;
        assert!(closed.is_ok(), "{head}: it still reads");
    }
    stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn actix_closes_by_itself_and_leaves_nothing_of_a_body_for_the_next_request() {
    let (server, stop) = actix();
    for head in ["content-length: 100000", "transfer-encoding: chunked"] {
        let mut stream = connect(server, head).await;
        let mut answer = vec![0; 4096];
        let first = stream.read(&mut answer).await.unwrap();
        let answer = str::from_utf8(&answer[..first]).unwrap();
        assert!(is_refusal(answer), "{head}: {answer}");
    }
    stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_after_it_has_sent_all_sees_the_refusal() {
    let _alone = ALONE.lock().await;
    let (actix, stop) = actix();
    for (server, stack) in [(axum().await, "axum"), (actix, "actix")] {
        for (path, code) in [
            ("/upload", "missing_api_key"),
            ("/hook", "missing_webhook_signature"),
        ] {
            for _ in 0..10 {
                let mut stream = connect_to(server, path, "content-length: 900000").await;
                stream.write_all(&vec![b'x'; 900_000]).await.unwrap();
                let answer = read_all(&mut stream).await;
                assert!(answer.contains(code), "{stack} {path}: {answer:?}");
            }
        }
    }
    stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_waited_for_no_longer_than_a_second() {
    let _alone = ALONE.lock().await;
    let (server, head) = (axum().await, "content-length: 100000");
    reads_on_after_the_answer(server, "/upload", head, "HTTP/1.1 401 ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_endless_body_no_more_is_read_than_a_mebibyte() {
    let _alone = ALONE.lock().await;
    for head in ["content-length: 10737418240", "transfer-encoding: chunked"] {
        let mut stream = connect(axum().await, head).await;
        let (mut reading, mut writing) = stream.split();
        let block = [b"fff\r\n", &[b'x'; 0xfff][..], b"\r\n"].concat();
        let mut sent = 0;
        let write = async {
            while writing.write_all(&block).await.is_ok() {
                sent += block.len();
            }
        };
        let read = async {
            let mut answer = vec![0; 4096];
            let first = reading.read(&mut answer).await.unwrap_or(0);
            String::from_utf8(answer[..first].to_vec()).unwrap()
        };
        let both = timeout(Duration::from_secs(30), async { tokio::join!(write, read) });
        let ((), answer) = both.await.expect("the connection is closed");
        // A client that looks for an answer while it sends finds it, unless the reset is faster.
        assert!(answer.is_empty() || is_refusal(&answer), "{answer}");
        // What the sockets of both sides hold comes on top.
        assert!(sent < 16 * BodyDrain::MAX_BYTES, "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_before_it_sends_is_told_no_and_not_waited_for() {
    let _alone = ALONE.lock().await;
    let server = axum().await;
    let since = Instant::now();
    for _ in 0..10 {
        let head = "content-length: 100000\r\nexpect: 100-continue";
        let mut stream = connect(server, head).await;
        let answer = read_all(&mut stream).await;
        assert!(is_refusal(&answer), "{answer}");
    }
    assert!(since.elapsed() < 10 * BodyDrain::MAX_TIME, "it drained");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_beyond_the_hundredth_are_closed_and_hold_nothing() {
    let _alone = ALONE.lock().await;
    let server = axum().await;
    let mut streams = Vec::new();
    for _ in 0..200 {
        streams.push(connect(server, "content-length: 100000").await);
    }
    let reading = streams.into_iter().map(|mut stream| {
        tokio::spawn(async move {
            let since = Instant::now();
            let answer = timeout(Duration::from_secs(30), read_all(&mut stream)).await;
            assert!(is_refusal(&answer.expect("it is closed")));
            since.elapsed()
        })
    });
    let mut held = 0;
    for closed in reading.collect::<Vec<_>>() {
        held += usize::from(closed.await.unwrap() > BodyDrain::MAX_TIME / 2);
    }
    assert!(held <= BodyDrain::MAX_AT_ONCE, "{held} were held");
    // All places are free again.
    assert_eq!(node(server, 100_000, 3).await, ["401 missing_api_key"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_has_no_connection_to_close() {
    let layer = RequireKeyLayer::new(&Service::new().routes[0].1, Requirement::new());
    let app: Router = Router::new()
        .route("/upload", post(async || "reached"))
        .layer(layer);
    let (client, server) = tokio::io::duplex(1 << 16);
    let app = hyper_util::service::TowerToHyperService::new(app);
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    tokio::spawn(builder.serve_connection(TokioIo::new(server), app));
    let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client));
    let (mut client, connection) = client.await.unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let upload = Request::post("http://localhost/upload").header("content-length", "7");
        let upload = upload.body(Full::<Bytes>::from("uploads")).unwrap();
        let response = client.send_request(upload).await.unwrap();
        assert_eq!(response.status(), 401);
        assert!(!response.headers().contains_key("connection"));
        response.collect().await.unwrap();
    }
}
