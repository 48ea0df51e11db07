//! The bench of limits that Redis counts, with the crate limitador beside it in the same run.
//!
//! ```text
//! cargo run --release --manifest-path tests/limitador/Cargo.toml -- --bench
//! ```
//!
//! limitador reads the counter first and adds to it in a second trip, and documents that it may let
//! more pass than the limit.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use limitador::AsyncRateLimiter;
use limitador::limit::{Limit, Namespace};
use limitador::storage::redis::AsyncRedisStorage;

use self::limiter::Peer;

#[path = "../../benches/limiter.rs"]
#[expect(dead_code, reason = "the main function of the bench")]
mod limiter;

fn main() {
    limiter::run(Some(("limitador 0.5", connect)));
}

fn connect(url: &str) -> Pin<Box<dyn Future<Output = Peer> + Send>> {
    let url = url.to_owned();
    Box::pin(async move {
        let storage = AsyncRedisStorage::new(&url).await.unwrap();
        let limiter = AsyncRateLimiter::new_with_storage(Box::new(storage));
        // As many a second as no run reaches.
        let none: [&str; 0] = [];
        limiter.add_limit(Limit::new("keyward", 100_000_000, 1, none, ["key"]));
        let limiter = Arc::new(limiter);
        let peer: Peer = Arc::new(move |key| {
            let limiter = Arc::clone(&limiter);
            Box::pin(async move {
                let values = HashMap::from([("key".to_owned(), format!("key_{key:012}"))]);
                let namespace = Namespace::from("keyward");
                let asked = limiter.check_rate_limited_and_update(&namespace, &values, 1, false);
                !asked.await.unwrap().limited
            })
        });
        peer
    })
}
