//! Delivers webhooks from one process to another, and kills the receiver meanwhile.
//!
//! The sender accepts thirty events, one after the other, and delivers them from its outbox. The receiver
//! is killed twice, with what it has in hand, and started again a second later. Every event arrives.
//!
//! ```text
//! cargo run --example killed-receiver
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::rt::TokioExecutor;
use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme};
use keyward_sqlite::SqliteStore;
use keyward_tower::{PublicOnlyResolver, ReceiveWebhookLayer, VerifiedJson, WebhookSender};
use keyward_webhooks::WebhookMessage;
use keyward_webhooks::WebhookVerifier;
use keyward_webhooks::sealing::{SealingKey, SealingKeys};
use keyward_webhooks::send::{EndpointRules, EndpointUrl, RetrySchedule};
use keyward_webhooks::signature::WebhookId;
use keyward_webhooks::{WebhookAdmin, WebhookReceiver};
use serde_json::{Value, json};

/// Tells a child what it is: `send` or `receive`.
const ROLE: &str = "KEYWARD_EXAMPLE_ROLE";
/// Tells both which port the receiver has.
const PORT: &str = "KEYWARD_EXAMPLE_PORT";
/// Tells the sender where its store is.
const DATABASE: &str = "KEYWARD_EXAMPLE_DATABASE";

const EVENTS: usize = 30;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    if env::var_os(ROLE).is_some() {
        return play();
    }
    let folder = tempfile::tempdir()?;
    let counts = deliver_under_fire(&folder.path().join("webhooks.db"))?;
    println!(
        "\n{} events accepted, {} arrived",
        counts.accepted, counts.arrived
    );
    if counts.accepted == EVENTS && counts.arrived == EVENTS {
        Ok(())
    } else {
        Err("not every event has arrived".into())
    }
}

/// What the child is there for, on a runtime of its own.
fn play() -> Result<(), Failure> {
    let role = env::var(ROLE)?;
    let port: u16 = env::var(PORT)?.parse()?;
    let runtime = tokio::runtime::Runtime::new()?;
    match &*role {
        "send" => runtime.block_on(send(Path::new(&env::var(DATABASE)?), port)),
        _ => runtime.block_on(receive(port)),
    }
}

/// The sender: a service that accepts events and delivers them.
async fn send(database: &Path, port: u16) -> Result<(), Failure> {
    let store = Arc::new(SqliteStore::open(database)?);
    let scheme = KeyScheme::new(KeyFormat::new("demo_{env}_")?);
    let sealing = SealingKeys::new(SealingKey::new("demo", &[7; 32])?); // from a secret store
    // Here both are on one machine, without TLS. A service leaves the rules as they are.
    let rules = EndpointRules::new()
        .insecure_http_for_live()
        .insecure_private_host("localhost");

    let resolver = PublicOnlyResolver::new(GaiResolver::new(), rules.clone());
    let connector = HttpConnector::new_with_resolver(resolver);
    let client: Client<_, Body> = Client::builder(TokioExecutor::new()).build(connector);
    let sender = WebhookSender::new(client, store.clone(), sealing.clone(), tokio::time::sleep)
        .rules(rules.clone())
        .timeout(Duration::from_secs(2))
        .poll_interval(Duration::from_millis(100))
        .schedule(RetrySchedule::new([Duration::from_millis(300); 100])); // the default takes days
    let webhooks = WebhookAdmin::new(store.clone(), &scheme, sealing).rules(rules);

    let (operator, live) = (Actor::operator("demo"), Environment::LIVE);
    let acme = AccountId::parse("acme")?;
    KeyAdmin::new(&store, &scheme)
        .open_account(&operator, &acme)
        .await?;
    let url = EndpointUrl::parse(&format!("http://localhost:{port}/hook"))?;
    let created = webhooks
        .create_endpoint(&operator, &acme, live, url)
        .await?;
    tell("secret", created.secret.expose_secret())?;

    // Does it work? It answers a signed challenge.
    while let Err(error) = sender
        .verify_endpoint(&webhooks, &operator, created.endpoint.id())
        .await
    {
        if error.kind() != keyward::record::AdminErrorKind::Unanswered {
            return Err(error.into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tell("verified", &created.endpoint.id().to_string())?;

    let delivering = tokio::spawn(sender.run());
    for number in 1..=EVENTS {
        let id = WebhookId::parse(&format!("report-{number}"))?;
        let payload = json!({ "type": "report.done", "report": number }).to_string();
        let message = WebhookMessage::new(acme.clone(), live, id.clone(), payload)?;
        webhooks.publish(&operator, message).await?;
        tell("accepted", id.as_str())?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    delivering.await?;
    Ok(())
}

/// The receiver: one layer in front of a handler.
async fn receive(port: u16) -> Result<(), Failure> {
    async fn report(VerifiedJson(event): VerifiedJson<Value>) -> String {
        // It takes a while, so that some are in hand when the process is killed.
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(tell("arrived", &format!("report-{}", event["report"])));
        String::new()
    }

    let mut secret = String::new();
    io::stdin().read_line(&mut secret)?;
    let verifier = WebhookVerifier::standard(secret.trim())?;
    let layer = ReceiveWebhookLayer::new(WebhookReceiver::builder(verifier).build()?);
    let app = Router::new().route("/hook", post(report)).layer(layer);
    let listener = tokio::net::TcpListener::bind(("localhost", port)).await?;
    Ok(axum::serve(listener, app).await?)
}

/// A line of its own, for the parent.
fn tell(what: &str, value: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "\n{what} {value}")?;
    out.flush()
}

/// What the two processes have told.
#[derive(Debug, Default)]
struct Counts {
    accepted: usize,
    arrived: usize,
}

/// Starts both, kills the receiver twice, and waits until every event is there.
fn deliver_under_fire(database: &Path) -> Result<Counts, Failure> {
    let port = TcpListener::bind("localhost:0")?.local_addr()?.port();
    let (lines, told) = mpsc::channel();
    let sender = start("send", port, database, &lines)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut secret = String::new();
    let mut receiver: Option<Process> = None;
    let mut restart_at = None;
    let mut kills_left = vec![20, 8];
    let mut accepted = BTreeSet::new();
    let mut arrived: BTreeMap<String, u32> = BTreeMap::new();
    while Instant::now() < deadline && !(accepted.len() == EVENTS && arrived.len() == EVENTS) {
        if restart_at.is_some_and(|at| Instant::now() >= at) {
            restart_at = None;
            println!("the receiver starts");
            receiver = Some(start_receiver(port, database, &lines, &secret)?);
        }
        let line = match told.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        match line.split_once(' ') {
            Some(("secret", value)) => {
                value.clone_into(&mut secret);
                restart_at = Some(Instant::now());
            }
            Some(("verified", id)) => println!("{id} has answered its challenge"),
            Some(("accepted", id)) => {
                accepted.insert(id.to_owned());
            }
            Some(("arrived", id)) => {
                let count = arrived.entry(id.to_owned()).or_default();
                *count += 1;
                println!("{id}{}", if *count > 1 { " again" } else { "" });
                if kills_left.last().is_some_and(|at| arrived.len() >= *at)
                    && let Some(killed) = receiver.take()
                {
                    kills_left.pop();
                    drop(killed);
                    println!("the receiver is killed");
                    restart_at = Some(Instant::now() + Duration::from_secs(1));
                }
            }
            _ => {}
        }
    }
    drop((sender, receiver));
    Ok(Counts {
        accepted: accepted.len(),
        arrived: arrived.keys().filter(|id| accepted.contains(*id)).count(),
    })
}

fn start_receiver(
    port: u16,
    database: &Path,
    lines: &Sender<String>,
    secret: &str,
) -> Result<Process, Failure> {
    let mut receiver = start("receive", port, database, lines)?;
    let mut input = receiver
        .0
        .stdin
        .take()
        .ok_or("the receiver takes no input")?;
    writeln!(input, "{secret}")?;
    Ok(receiver)
}

/// This program again, in another role.
fn start(
    role: &str,
    port: u16,
    database: &Path,
    lines: &Sender<String>,
) -> Result<Process, Failure> {
    // Under test this program is the harness.
    let arguments: &[&str] = if cfg!(test) {
        &["--exact", "tests::plays_its_role", "--nocapture"]
    } else {
        &[]
    };
    let mut child = Command::new(env::current_exe()?)
        .args(arguments)
        .env(ROLE, role)
        .env(PORT, port.to_string())
        .env(DATABASE, database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().ok_or("the child tells nothing")?;
    let lines = lines.clone();
    thread::spawn(move || {
        let told = BufReader::new(out).lines().map_while(Result::ok);
        told.for_each(|line| drop(lines.send(line)));
    });
    Ok(Process(child))
}

/// A process that is killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_arrives() {
        let folder = tempfile::tempdir().unwrap();
        let counts = deliver_under_fire(&folder.path().join("webhooks.db")).unwrap();
        assert_eq!((counts.accepted, counts.arrived), (EVENTS, EVENTS));
    }

    /// Not a test of its own: what runs in the children.
    #[test]
    fn plays_its_role() {
        if env::var_os(ROLE).is_some() {
            play().unwrap();
        }
    }
}
