//! Deliveries over real connections: a receiver that goes away, a network that is not to be reached, and a
//! sender that is killed.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use axum::http::StatusCode;
use axum::routing::post;
use axum::{Extension, Router};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::rt::TokioExecutor;
use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme};
use keyward_sqlite::SqliteStore;
use keyward_tower::{PublicOnlyResolver, ReceiveWebhookLayer, WebhookSender};
use keyward_webhooks::receive::WebhookEvent;
use keyward_webhooks::send::{
    AttemptOutcome, DeliveryAttempt, EndpointId, EndpointRules, RetrySchedule,
};
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use keyward_webhooks::{
    WebhookAdmin, WebhookMessage, WebhookReceiver, WebhookStore, WebhookVerifier,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::outbox::{LIVE, TEST, sealing, url};

type Service<R> = Client<HttpConnector<PublicOnlyResolver<R>>, Full<Bytes>>;
type Wait = fn(Duration) -> tokio::time::Sleep;

/// A sender in a file, with retries that come soon.
struct Sending {
    store: Arc<dyn WebhookStore>,
    webhooks: WebhookAdmin,
    operator: Actor,
    acme: AccountId,
    rules: EndpointRules,
}

impl Sending {
    async fn open(file: &Path, rules: EndpointRules) -> Self {
        let store: Arc<dyn WebhookStore> = Arc::new(SqliteStore::open(file).unwrap());
        let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
        let (operator, acme) = (Actor::operator("ops"), AccountId::parse("acme").unwrap());
        let keys = KeyAdmin::new(&store, &scheme);
        keys.open_account(&operator, &acme).await.unwrap();
        let webhooks = WebhookAdmin::new(Arc::clone(&store), &scheme, sealing());
        Self {
            store,
            webhooks: webhooks.rules(rules.clone()),
            operator,
            acme,
            rules,
        }
    }

    fn sender(&self) -> WebhookSender<Service<GaiResolver>, Wait> {
        let resolver = PublicOnlyResolver::new(GaiResolver::new(), self.rules.clone());
        let connector = HttpConnector::new_with_resolver(resolver);
        self.sender_over(Client::builder(TokioExecutor::new()).build(connector))
    }

    fn sender_over<C>(&self, client: C) -> WebhookSender<C, Wait> {
        let timer: Wait = tokio::time::sleep;
        WebhookSender::new(client, Arc::clone(&self.store), sealing(), timer)
            .rules(self.rules.clone())
            .timeout(Duration::from_millis(500))
            .poll_interval(Duration::from_millis(10))
            .schedule(RetrySchedule::new([Duration::from_millis(50); 1000]))
    }

    async fn endpoint(&self, environment: Environment, at: &str) -> (EndpointId, WebhookSecret) {
        let create =
            self.webhooks
                .create_endpoint(&self.operator, &self.acme, environment, url(at));
        let created = create.await.unwrap();
        (created.endpoint.id(), created.secret)
    }

    async fn publish(&self, environment: Environment) -> String {
        let id = WebhookId::random().unwrap();
        let message = WebhookMessage::new(self.acme.clone(), environment, id.clone(), "{}");
        let published = self.webhooks.publish(&self.operator, message.unwrap());
        published.await.unwrap();
        id.to_string()
    }

    async fn attempts(&self, id: EndpointId) -> Vec<DeliveryAttempt> {
        self.webhooks
            .attempts(&self.operator, id, None)
            .await
            .unwrap()
    }
}

/// Both ends on this machine, without TLS.
fn here() -> EndpointRules {
    EndpointRules::new()
        .insecure_http_for_live()
        .insecure_private_host("localhost")
}

/// A service that receives.
#[derive(Clone, Default)]
struct Receiving {
    arrived: Arc<Mutex<Vec<String>>>,
    calls: Arc<AtomicUsize>,
}

impl Receiving {
    /// Serves there until it is aborted. Every third call is answered 503.
    async fn serve(&self, at: SocketAddr, secret: &WebhookSecret) -> (SocketAddr, JoinHandle<()>) {
        let verifier = WebhookVerifier::standard(secret.expose_secret()).unwrap();
        let layer = ReceiveWebhookLayer::new(WebhookReceiver::builder(verifier).build().unwrap());
        let own = self.clone();
        let handle = move |Extension(event): Extension<WebhookEvent>| async move {
            if own.calls.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            let id = event.id().unwrap().to_string();
            own.arrived.lock().unwrap().push(id);
            StatusCode::OK
        };
        let app: Router = Router::new().route("/hook", post(handle)).layer(layer);
        let listener = TcpListener::bind(at).await.unwrap();
        let at = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (at, serving)
    }

    fn arrived(&self) -> HashSet<String> {
        self.arrived.lock().unwrap().iter().cloned().collect()
    }
}

async fn eventually(is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(30), "it never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_goes_away_and_comes_back_misses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let sending = Sending::open(&folder.path().join("keys.db"), here()).await;
    let receiving = Receiving::default();
    let at = TcpListener::bind(ANY).await.unwrap().local_addr().unwrap();
    let hook = format!("http://localhost:{}/hook", at.port());
    let (id, secret) = sending.endpoint(LIVE, &hook).await;
    let running = tokio::spawn(sending.sender().run());
    let mut accepted = HashSet::new();
    for _ in 0..3 {
        let (_, serving) = receiving.serve(at, &secret).await;
        for _ in 0..20 {
            accepted.insert(sending.publish(LIVE).await);
        }
        eventually(|| receiving.arrived().len() * 2 > accepted.len()).await;
        serving.abort();
        drop(serving.await);
        for _ in 0..5 {
            accepted.insert(sending.publish(LIVE).await);
        }
    }
    let (_, _serving) = receiving.serve(at, &secret).await;
    eventually(|| receiving.arrived() == accepted).await;
    running.abort();
    let attempts = sending.attempts(id).await;
    assert!(attempts.iter().any(|attempt| attempt.status == Some(503)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_shows_that_it_works_by_answering() {
    let folder = tempfile::tempdir().unwrap();
    let sending = Sending::open(&folder.path().join("keys.db"), here()).await;
    let echo = Router::<()>::new().route("/hook", post(async |body: Bytes| body));
    let listener = TcpListener::bind(ANY).await.unwrap();
    let echo_at = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, echo).await.unwrap() });
    let receiving = Receiving::default();
    let other = WebhookSecret::random().unwrap();
    let (wrong_at, _wrong) = receiving.serve(ANY, &other).await;
    let closed = TcpListener::bind(ANY).await.unwrap().local_addr().unwrap();
    let unanswered = keyward::record::AdminErrorKind::Unanswered;
    let verify = async |id| {
        let sender = sending.sender();
        let verified = sender
            .verify_endpoint(&sending.webhooks, &sending.operator, id)
            .await;
        verified
            .map(|endpoint| endpoint.is_working())
            .map_err(|error| error.kind())
    };
    for (at, what) in [
        (echo_at, "an echo"),
        (wrong_at, "another secret"),
        (closed, "nobody"),
    ] {
        let (id, _) = sending
            .endpoint(LIVE, &format!("http://localhost:{}/hook", at.port()))
            .await;
        assert_eq!(verify(id).await, Err(unanswered), "{what}");
        assert!(
            !sending
                .webhooks
                .endpoint(&sending.operator, id)
                .await
                .unwrap()
                .is_working()
        );
    }
    let at = TcpListener::bind(ANY).await.unwrap().local_addr().unwrap();
    let (id, secret) = sending
        .endpoint(LIVE, &format!("http://localhost:{}/hook", at.port()))
        .await;
    let (_, _serving) = receiving.serve(at, &secret).await;
    assert_eq!(verify(id).await, Ok(true));
    assert_eq!(
        receiving.calls.load(Ordering::Relaxed),
        0,
        "no handler was called"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_is_made_to_what_is_not_public() {
    let folder = tempfile::tempdir().unwrap();
    let sending = Sending::open(&folder.path().join("keys.db"), EndpointRules::new()).await;
    let listener = TcpListener::bind(ANY).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    // Whatever it is asked: this machine.
    let resolver = tower::service_fn(|_: Name| async {
        let addresses = [
            "127.0.0.1:0",
            "[::1]:0",
            "[::ffff:127.0.0.1]:0",
            "0.0.0.0:0",
        ];
        let addresses = addresses.map(|address| address.parse::<SocketAddr>().unwrap());
        Ok::<_, std::convert::Infallible>(addresses.into_iter())
    });
    let guarded = PublicOnlyResolver::new(resolver, EndpointRules::new());
    let connector = HttpConnector::new_with_resolver(guarded);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let sender = sending.sender_over(client);
    let (id, _) = sending
        .endpoint(TEST, &format!("http://rebound.example:{port}/"))
        .await;
    sending.publish(TEST).await;
    for _ in 0..3 {
        // More than one where a retry, after 50 ms, is due before it ends.
        assert!(sender.deliver_due().await.unwrap() > 0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let attempts = sending.attempts(id).await;
    assert!(
        attempts
            .iter()
            .all(|attempt| attempt.outcome == AttemptOutcome::NotPublic),
        "{attempts:?}"
    );

    // A resolver that is not guarded shows that it is this one that held them back.
    let connector = HttpConnector::new_with_resolver(PublicOnlyResolver::new(
        resolver,
        EndpointRules::new().insecure_private_host("rebound.example"),
    ));
    assert_eq!(connections.load(Ordering::Relaxed), 0);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    assert!(sending.sender_over(client).deliver_due().await.unwrap() > 0);
    assert!(connections.load(Ordering::Relaxed) > 0);
}

/// Tells the child which file is its store.
const FILE: &str = "KEYWARD_TESTS_SENDER_FILE";
/// A child ends even when whoever should kill it is gone.
const LIFETIME: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_arrives_though_the_sender_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let receiving = Receiving::default();
    let sending = Sending::open(&file, here()).await;
    let at = TcpListener::bind(ANY).await.unwrap().local_addr().unwrap();
    let hook = format!("http://localhost:{}/hook", at.port());
    let (_, secret) = sending.endpoint(LIVE, &hook).await;
    let (_, _serving) = receiving.serve(at, &secret).await;
    drop(sending);
    let mut accepted = HashSet::new();
    for _ in 0..20 {
        let file = file.clone();
        let told = tokio::task::spawn_blocking(move || run_and_kill(&file));
        accepted.extend(told.await.unwrap());
    }
    assert!(accepted.len() > 50, "{}", accepted.len());
    let sending = Sending::open(&file, here()).await;
    let running = tokio::spawn(sending.sender().run());
    eventually(|| receiving.arrived().is_superset(&accepted)).await;
    running.abort();
    let all = receiving.arrived.lock().unwrap().len();
    println!("{} accepted, they arrived {all} times", accepted.len());
}

/// The ids that the child has accepted before it was killed.
fn run_and_kill(file: &Path) -> Vec<String> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "sockets::sends_until_it_is_killed",
            "--nocapture",
        ])
        .env(FILE, file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(out.any(|line| line.unwrap() == "ready."), "it cannot send");
    let told = thread::spawn(move || out.map_while(Result::ok).collect::<Vec<_>>());
    let random = RandomState::new().hash_one(0);
    thread::sleep(Duration::from_millis(1 + random % 150));
    child.kill().unwrap();
    child.wait().unwrap();
    let told = told.join().unwrap();
    let whole = told.iter().filter_map(|line| line.strip_suffix('.'));
    whole.map(str::to_owned).collect()
}

/// Not a test of its own: what runs in the child.
#[tokio::test(flavor = "multi_thread")]
async fn sends_until_it_is_killed() {
    let Some(file) = env::var_os(FILE) else {
        return;
    };
    let sending = Sending::open(Path::new(&file), here()).await;
    let running = tokio::spawn(sending.sender().run());
    let began = Instant::now();
    tell("ready").unwrap();
    while began.elapsed() < LIFETIME {
        let id = sending.publish(LIVE).await;
        if tell(&id).is_err() {
            return;
        }
    }
    running.abort();
}

fn tell(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "\n{line}.\n")?;
    out.flush()
}
