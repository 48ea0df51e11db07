//! Clients, and the count of what they were answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::Failure;
use crate::node::Node;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The answers of one process.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) allowed: AtomicU64,
    pub(crate) limited: AtomicU64,
    pub(crate) unavailable: AtomicU64,
    /// 401 for a valid key: must never happen.
    pub(crate) unauthorized: AtomicU64,
    pub(crate) unanswered: AtomicU64,
}

impl Load {
    fn count(&self, status: StatusCode) {
        let counter = match status {
            StatusCode::OK => &self.allowed,
            StatusCode::TOO_MANY_REQUESTS => &self.limited,
            StatusCode::UNAUTHORIZED => &self.unauthorized,
            _ => &self.unavailable,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection to a process.
pub(crate) struct Client(http1::SendRequest<Body>);

impl Client {
    pub(crate) async fn connect(node: &Node) -> Result<Self, Failure> {
        let (_, address) = node.alive().ok_or("the process has ended")?;
        let stream = TokioIo::new(TcpStream::connect(address).await?);
        let (sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Connects to a process, and waits until it knows a new key.
    pub(crate) async fn once_accepted(node: &Node, key: &str) -> Result<Self, Failure> {
        let mut client = Self::connect(node).await?;
        while client.get("/", key).await?.0 != StatusCode::OK {
            sleep(Duration::from_millis(1)).await;
        }
        Ok(client)
    }

    /// Sends a request, and returns the status and the body.
    pub(crate) async fn get(
        &mut self,
        path: &str,
        key: &str,
    ) -> Result<(StatusCode, String), Failure> {
        let request = Request::get(path)
            .header("host", "cluster")
            .header("x-api-key", key);
        let request = request.body(Body::empty())?;
        let answer = async {
            self.0.ready().await?;
            let response = self.0.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body = axum::body::to_bytes(Body::new(body), 4096).await?;
            Ok((head.status, String::from_utf8(body.into())?))
        };
        timeout(PATIENCE, answer).await?
    }
}

/// Sends requests with one key to one process, at a steady pace, until it is told to stop.
pub(crate) async fn send(
    node: Node,
    load: Arc<Load>,
    key: String,
    every: Duration,
    stop: Arc<AtomicBool>,
) {
    let mut pace = interval(every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut client) = Client::connect(&node).await {
            while !stop.load(Ordering::Relaxed) {
                pace.tick().await;
                match client.get("/", &key).await {
                    Ok((status, _)) => load.count(status),
                    Err(_) => break,
                }
            }
        } else {
            sleep(Duration::from_millis(100)).await;
        }
        if !stop.load(Ordering::Relaxed) {
            load.unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }
}
