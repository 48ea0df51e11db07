//! Deliveries whose bodies do not come to an end, over real connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};
use std::{fs, thread};

use actix_web::{App, HttpResponse, HttpServer, web};
use axum::Router;
use axum::routing::post;
use keyward_actix::ReceiveWebhook;
use keyward_tower::ReceiveWebhookLayer;
use keyward_webhooks::WebhookReceiver;
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use keyward_webhooks::{WebhookSigner, WebhookVerifier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// For a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);

/// The same receiver on each stack.
async fn stacks(body_timeout: Duration, total: usize) -> [(&'static str, SocketAddr); 2] {
    let receiver = || {
        let verifier = WebhookVerifier::standard(SECRET).unwrap();
        let receiver = WebhookReceiver::builder(verifier).body_timeout(body_timeout);
        receiver.total_body_limit(total).build().unwrap()
    };
    let layer = ReceiveWebhookLayer::new(receiver());
    let app = Router::<()>::new().route("/hook", post(async || "handled").layer(layer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let axum = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await.unwrap() });

    let receiver = receiver();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let actix = listener.local_addr().unwrap();
    thread::spawn(move || {
        let app = move || {
            let handled = post_handler();
            App::new().service(handled.wrap(ReceiveWebhook::new(receiver.clone())))
        };
        let server = HttpServer::new(app).workers(1).listen(listener).unwrap();
        let server = server.disable_signals().run();
        actix_web::rt::System::new().block_on(server).unwrap();
    });
    [("axum", axum), ("actix", actix)]
}

fn post_handler() -> actix_web::Resource {
    web::resource("/hook").post(async || HttpResponse::Ok().body("handled"))
}

/// The head of a delivery that is signed, with a length of its body, or without one.
fn head(body: &[u8], length: Option<usize>) -> String {
    let secret = WebhookSecret::parse(SECRET).unwrap();
    let id = WebhookId::random().unwrap();
    let fields = WebhookSigner::new(&secret).headers(&id, SystemTime::now(), body);
    let mut head = "POST /hook HTTP/1.1\r\nhost: localhost\r\n".to_owned();
    for (name, value) in fields {
        head += &format!("{name}: {value}\r\n");
    }
    head + &match length {
        Some(length) => format!("content-length: {length}\r\n\r\n"),
        None => "transfer-encoding: chunked\r\n\r\n".to_owned(),
    }
}

/// All that the server says until it closes, to a head and the same bytes again and again, each after a
/// pause; what a reset has cut off is gone.
async fn talk(server: SocketAddr, head: String, again: &'static [u8], pause: Duration) -> String {
    let (mut read, mut write) = TcpStream::connect(server).await.unwrap().into_split();
    let writing = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await?;
        loop {
            sleep(pause).await;
            write.write_all(again).await?;
        }
        #[expect(unreachable_code, reason = "the type of the error")]
        Ok::<_, std::io::Error>(())
    });
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = read.read(&mut chunk).await {
        said.extend_from_slice(&chunk[..count]);
    }
    writing.abort();
    String::from_utf8(said).unwrap()
}

/// Status, fields and body, without those that are the server's own.
fn parts(answer: &str) -> (u16, Vec<String>, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").expect(answer);
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let of_server = ["date:", "connection:", "content-length:"];
    let lines = lines.map(str::to_ascii_lowercase);
    let mut fields: Vec<_> = lines
        .filter(|line| !of_server.iter().any(|own| line.starts_with(own)))
        .collect();
    fields.sort();
    (status.parse().unwrap(), fields, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_or_stalls_is_answered_408_on_both_stacks() {
    let limit = Duration::from_millis(500);
    let stacks = stacks(limit, 1 << 20).await;
    let often = Duration::from_millis(20);
    let cases: [(&str, Option<usize>, &[u8], Duration); 4] = [
        ("trickles", Some(100_000), b"x", often),
        ("stalls", Some(100_000), b"x", PATIENCE),
        ("trickles in chunks", None, b"1\r\nx\r\n", often),
        ("stalls before a chunk", None, b"1\r\nx\r\n", PATIENCE),
    ];
    for (about, length, again, pause) in cases {
        let mut answers = Vec::new();
        for (stack, server) in stacks {
            let began = Instant::now();
            let said = timeout(PATIENCE, talk(server, head(b"", length), again, pause));
            let said = said
                .await
                .unwrap_or_else(|_| panic!("{stack} goes on: {about}"));
            assert!(began.elapsed() >= limit, "{stack}: {about}");
            answers.push(said);
        }
        let [axum, actix] = [parts(&answers[0]), parts(&answers[1])];
        assert_eq!(axum, actix, "{about}");
        assert_eq!(axum.0, 408, "{about}");
        assert!(axum.2.contains(r#""code":"webhook_timeout""#), "{}", axum.2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_bodies_that_stall_hold_no_more_than_their_limit() {
    static MUCH: [u8; 900_000] = [b'x'; 900_000];

    let total = 8 << 20;
    for (stack, server) in stacks(Duration::from_secs(3), total).await {
        let before = memory();
        let talks: Vec<_> = (0..300)
            .map(|_| tokio::spawn(talk_once(server, head(b"", Some(1_000_000)), &MUCH)))
            .collect();
        let mut answered = [0; 3];
        for talk in talks {
            let said = timeout(PATIENCE, talk).await;
            let said = said.unwrap_or_else(|_| panic!("{stack} goes on")).unwrap();
            let at = match said.split(' ').nth(1) {
                Some("408") => 0,
                Some("503") => 1,
                None => 2, // reset while it was sending
                Some(_) => panic!("{stack}: {said}"),
            };
            answered[at] += 1;
        }
        let grown = memory().saturating_sub(before) / 1024;
        println!("{stack}: 408, 503, reset: {answered:?}; {grown} MiB at most");
        assert!(
            answered[1] + answered[2] > 300 - 50,
            "{stack}: {answered:?}"
        );

        // What they held is free again.
        let good = talk_once(server, head(b"{}", Some(2)), b"{}");
        let said = timeout(PATIENCE, good).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 200"), "{stack}: {said}");
    }
}

/// The beginning of what the server says, to a head and these bytes and then nothing.
async fn talk_once(server: SocketAddr, head: String, bytes: &'static [u8]) -> String {
    let (mut read, mut write) = TcpStream::connect(server).await.unwrap().into_split();
    let writing = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await?;
        write.write_all(bytes).await?;
        Ok::<_, std::io::Error>(write)
    });
    let mut chunk = [0; 4096];
    let count = read.read(&mut chunk).await.unwrap_or(0);
    drop(writing.await);
    String::from_utf8(chunk[..count].to_vec()).unwrap()
}

/// The most memory that the process has had, in KiB.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.map_or(0, |number| number.parse().unwrap())
}
