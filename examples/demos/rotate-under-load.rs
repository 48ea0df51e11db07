//! Replaces a key under load without one refused request.
//!
//! Four clients call an API as fast as they can with the key in their configuration. Meanwhile the key
//! is rotated again and again: each successor is made, put into the configuration, and the old key
//! dies a second later, when nobody uses it any more.
//!
//! ```text
//! cargo run --example rotate-under-load
//! ```

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use keyward::admin::KeyFilter;
use keyward::{
    AccountId, Actor, Environment, Gate, Grace, KeyAdmin, KeyFormat, KeyScheme, NewKey, Permission,
    Requirement,
};
use keyward_sqlite::SqliteStore;
use keyward_tower::RequireKeyLayer;
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let counts =
        rotate_under_load(&folder.path().join("rotate.db"), 5, Duration::from_secs(1)).await?;
    println!(
        "\n{} requests, {} of them refused",
        counts.sent, counts.refused
    );
    if counts.refused > 0 {
        Err("a rotation refused requests".into())
    } else {
        Ok(())
    }
}

type Failure = Box<dyn Error + Send + Sync>;

/// What the clients have seen.
#[derive(Debug, Default)]
struct Counts {
    sent: u64,
    refused: u64,
}

async fn rotate_under_load(
    database: &std::path::Path,
    rotations: usize,
    grace: Duration,
) -> Result<Counts, Failure> {
    let scheme = KeyScheme::new(KeyFormat::new("demo_{env}_")?);
    let store = Arc::new(SqliteStore::open(database)?);
    let gate = Gate::new(&store, &scheme)?;
    let app = Router::new()
        .route("/", get(async || "ok"))
        .layer(RequireKeyLayer::new(&gate, Requirement::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(async { axum::serve(listener, app).await });

    let admin = KeyAdmin::new(&store, &scheme);
    let account = AccountId::parse("acme")?;
    admin
        .open_account(&Actor::operator("sign-up"), &account)
        .await?;
    let owner = Actor::user("ann", account.clone(), Permission::ALL);
    let new = NewKey::new(account.clone(), Environment::LIVE, "production");
    let first = admin.create(&owner, new).await?;
    let text = |key: Option<keyward::ApiKey>| {
        key.map(|key| key.expose_secret().to_owned())
            .ok_or("a new key has a text")
    };

    // The clients' configuration, in which the key is replaced while they run.
    let key = Arc::new(RwLock::new(text(first.key)?));
    let stop = Arc::new(AtomicBool::new(false));
    let client = || tokio::spawn(call(address, Arc::clone(&key), Arc::clone(&stop)));
    let clients: Vec<_> = (0..4).map(|_| client()).collect();

    let mut current = first.record.id;
    for _ in 0..rotations {
        let began = Instant::now();
        let successor = admin.rotate(&owner, current, Grace::For(grace)).await?;
        println!(
            "{current} -> {} in {:?}",
            successor.record.id,
            began.elapsed()
        );
        current = successor.record.id;
        let text = text(successor.key)?;
        *key.write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = text;
        tokio::time::sleep(grace + Duration::from_secs(1)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut counts = Counts::default();
    for client in clients {
        let own = client.await??;
        counts.sent += own.sent;
        counts.refused += own.refused;
    }

    // Is the traffic on the new key? The store knows, key by key.
    let span = SystemTime::UNIX_EPOCH..SystemTime::now() + Duration::from_secs(3600);
    let usage = admin.usage(&owner, &account, None, span).await?;
    for view in admin.keys(&owner, &account, KeyFilter::new()).await?.keys {
        let own = usage.iter().filter(|hour| hour.key == view.record.id);
        let requests: u64 = own.map(|hour| hour.counts.admitted).sum();
        println!(
            "{} {:8} {requests:>8} requests",
            view.record.id,
            view.state.as_str()
        );
    }
    server.abort();
    Ok(counts)
}

/// Calls until it is told to stop, on one connection, with whatever key is configured.
async fn call(
    address: std::net::SocketAddr,
    key: Arc<RwLock<String>>,
    stop: Arc<AtomicBool>,
) -> Result<Counts, Failure> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = http1::handshake(stream).await?;
    tokio::spawn(connection);
    let mut counts = Counts::default();
    while !stop.load(Ordering::Relaxed) {
        let key = key
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        let request = Request::builder()
            .uri("/")
            .header("host", "localhost")
            .header("x-api-key", key);
        sender.ready().await?;
        let response = sender.send_request(request.body(Body::empty())?).await?;
        counts.sent += 1;
        counts.refused += u64::from(response.status() != StatusCode::OK);
        axum::body::to_bytes(Body::new(response.into_body()), 1024).await?;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn no_request_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let counts = rotate_under_load(&folder.path().join("rotate.db"), 1, Duration::from_secs(3))
            .await
            .unwrap();
        assert!(counts.sent > 100 && counts.refused == 0, "{counts:?}");
    }
}
