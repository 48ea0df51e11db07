//! A thousand endpoints that accept connections and never answer, on real sockets.
//!
//! It takes a few timeouts. `STARVATION=7 cargo test -p tests starvation` goes on for seven minutes, past
//! the second retry of the default schedule.

use std::convert::Infallible;
use std::env;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyward::{AccountId, Actor, KeyAdmin, KeyFormat, KeyScheme};
use keyward_tower::WebhookSender;
use keyward_webhooks::send::{EndpointRules, RetrySchedule};
use keyward_webhooks::signature::WebhookId;
use keyward_webhooks::{MemoryWebhooks, WebhookAdmin, WebhookMessage, WebhookStore};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::outbox::{LIVE, sealing, url};

const TIMEOUT: Duration = Duration::from_secs(3);
const HANGING: usize = 1000;

struct Sending {
    webhooks: WebhookAdmin,
    operator: Actor,
    acme: AccountId,
}

impl Sending {
    async fn endpoint(&self, at: String) {
        let create = self
            .webhooks
            .create_endpoint(&self.operator, &self.acme, LIVE, url(&at));
        create.await.unwrap();
    }

    async fn publish(&self) -> WebhookId {
        let id = WebhookId::random().unwrap();
        let message = WebhookMessage::new(self.acme.clone(), LIVE, id.clone(), "{}");
        let publish = self.webhooks.publish(&self.operator, message.unwrap());
        publish.await.unwrap();
        id
    }
}

/// Accepts connections, reads, and never answers. Gives its port.
async fn hanging() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    port
}

/// Answers 200 and tells the path and the id of what has arrived. Gives its port.
async fn answering(arrived: mpsc::UnboundedSender<(String, String)>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let arrived = arrived.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                let arrived = arrived.clone();
                async move {
                    let (head, body) = request.into_parts();
                    drop(body.collect().await);
                    let id = head.headers["webhook-id"].to_str().unwrap().to_owned();
                    drop(arrived.send((head.uri.path().to_owned(), id)));
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), answer));
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sockets_that_never_answer_delay_a_proven_endpoint_by_one_timeout_at_most() {
    let minutes: Option<u64> = env::var("STARVATION")
        .ok()
        .map(|text| text.parse().unwrap());
    let store = Arc::new(MemoryWebhooks::new());
    let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
    let rules = EndpointRules::new()
        .insecure_http_for_live()
        .insecure_private_host("127.0.0.1");
    let sending = Sending {
        webhooks: WebhookAdmin::new(Arc::clone(&store) as _, &scheme, sealing())
            .rules(rules.clone())
            .max_endpoints(2 * u32::try_from(HANGING).unwrap()),
        operator: Actor::operator("ops"),
        acme: AccountId::parse("acme").unwrap(),
    };
    let keys = KeyAdmin::new(&store, &scheme);
    keys.open_account(&sending.operator, &sending.acme)
        .await
        .unwrap();
    let (arrived, mut arriving) = mpsc::unbounded_channel();
    let port = answering(arrived).await;
    sending
        .endpoint(format!("http://127.0.0.1:{port}/proven"))
        .await;

    let client =
        Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(HttpConnector::new());
    // Whatever hangs comes again and again, unless it takes minutes anyway.
    let schedule = minutes.map_or_else(
        || RetrySchedule::new([TIMEOUT / 2; 100]),
        |_| RetrySchedule::default(),
    );
    let sender = WebhookSender::new(
        client,
        Arc::clone(&store) as Arc<dyn WebhookStore>,
        sealing(),
        tokio::time::sleep,
    );
    let sender = sender.rules(rules).timeout(TIMEOUT).schedule(schedule);
    let running = tokio::spawn(sender.run());

    let mut wait_for = async |path: &str, id: &WebhookId| {
        let began = Instant::now();
        loop {
            let (at, got) = arriving.recv().await.unwrap();
            if at == path && got == id.as_str() {
                return began.elapsed();
            }
        }
    };
    wait_for("/proven", &sending.publish().await).await;
    let hanging = hanging().await;
    for number in 0..HANGING {
        sending
            .endpoint(format!("http://127.0.0.1:{hanging}/{number}"))
            .await;
    }

    let began = Instant::now();
    let (rounds, pause) = match minutes {
        Some(minutes) => (minutes * 60 / 10, Duration::from_secs(10)),
        None => (6, TIMEOUT / 2),
    };
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let took = wait_for("/proven", &sending.publish().await).await;
        assert!(took < TIMEOUT, "{took:?} in round {round}");
        slowest = slowest.max(took);
        tokio::time::sleep(pause).await;
    }
    println!(
        "the slowest of {rounds} took {slowest:?} in {:?}",
        began.elapsed()
    );

    // One that is new waits for a round of those that are not proven over the 256 places, at most.
    sending
        .endpoint(format!("http://127.0.0.1:{port}/new"))
        .await;
    let took = wait_for("/new", &sending.publish().await).await;
    let most = u32::try_from(HANGING.div_ceil(256)).unwrap();
    assert!(took < TIMEOUT * (most + 1), "{took:?}");
    running.abort();
}
