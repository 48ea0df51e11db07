//! Keys that are revoked while every process accepts them, and the time for which they still work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use keyward::{AccountId, Actor, Environment, KeyAdmin, NewKey};
use tokio::time::sleep;

use crate::load::Client;
use crate::node::Node;
use crate::{Failure, MAX_STALENESS, whole};

/// The times from the start of a revocation to the last answer that accepted the key.
#[derive(Debug, Default)]
pub(crate) struct Revocations(Mutex<Vec<Duration>>);

impl Revocations {
    fn all(&self) -> Vec<Duration> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn worst(&self) -> Duration {
        self.all().into_iter().max().unwrap_or_default()
    }

    pub(crate) fn summary(&self) -> String {
        let mut times = self.all();
        let Some(&last) = times.last() else {
            return "no key was revoked yet".into();
        };
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        format!(
            "{} keys revoked; from revoke to the last acceptance anywhere: last {last:.1?}, \
             median {:.1?}, worst {:.1?} (bound {MAX_STALENESS:?})",
            times.len(),
            at(50),
            at(100),
        )
    }
}

/// Creates a key, has it accepted by all processes, and revokes it; every half second.
pub(crate) async fn again_and_again(
    admin: KeyAdmin,
    customer: AccountId,
    nodes: Vec<Node>,
    revocations: Arc<Revocations>,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::Relaxed) {
        // While the database or a process is away there is nothing to measure.
        if let Ok(time) = once(&admin, &customer, &nodes).await {
            let mut times = revocations.0.lock().unwrap_or_else(PoisonError::into_inner);
            times.push(time);
        }
        sleep(Duration::from_millis(500)).await;
    }
}

async fn once(admin: &KeyAdmin, customer: &AccountId, nodes: &[Node]) -> Result<Duration, Failure> {
    let operator = Actor::operator("cluster");
    let new = NewKey::new(customer.clone(), Environment::LIVE, "leaked");
    let created = admin.create(&operator, new).await?;
    let key = whole(created.key)?;
    // Each has been accepted once before the key is revoked.
    let mut clients = Vec::new();
    for node in nodes {
        clients.push(Client::once_accepted(node, &key).await?);
    }
    let began = Instant::now();
    let users: Vec<_> = clients
        .into_iter()
        .map(|client| tokio::spawn(use_until_refused(client, key.clone(), began)))
        .collect();
    sleep(Duration::from_millis(5)).await;
    let revoked = Instant::now();
    admin.revoke(&operator, created.record.id, "leaked").await?;
    let mut last = began;
    for user in users {
        last = last.max(user.await?);
    }
    Ok(last.saturating_duration_since(revoked))
}

/// Returns when the last answer came that accepted the key.
async fn use_until_refused(mut client: Client, key: String, began: Instant) -> Instant {
    let mut last = began;
    while let Ok((status, _)) = client.get("/", &key).await {
        match status {
            StatusCode::OK => last = Instant::now(),
            StatusCode::UNAUTHORIZED => break,
            _ => sleep(Duration::from_millis(1)).await, // 503: it does not know
        }
        sleep(Duration::from_micros(500)).await;
    }
    last
}
