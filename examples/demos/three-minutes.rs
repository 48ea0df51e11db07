//! What a client sees of a rate limit, over three minutes that pass at once.
//!
//! The service allows 100 requests a minute with bursts up to 200, and the account has 350 credits,
//! which are replaced by 40 after two and a half minutes. A client sends five requests a second, which is
//! more than it may.
//!
//! ```text
//! cargo run --example three-minutes
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response};
use axum::routing::get;
use keyward::clock::ManualClock;
use keyward::credits::{Credits, Refill};
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, NewKey, RateLimit,
    Requirement,
};
use keyward_sqlite::SqliteOptions;
use keyward_tower::RequireKeyLayer;
use serde_json::Value;
use tower::ServiceExt;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let lines = three_minutes(&folder.path().join("limits.db")).await?;
    println!("second  passed  refused  last answer");
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

type Failure = Box<dyn Error + Send + Sync>;

async fn three_minutes(database: &std::path::Path) -> Result<Vec<String>, Failure> {
    // A clock that is told what time it is, for the service and all it keeps.
    let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let clock = Arc::new(ManualClock::at(start));
    let options = SqliteOptions::new().clock(Arc::<ManualClock>::clone(&clock));
    let store = Arc::new(options.open(database)?);
    let scheme = KeyScheme::new(KeyFormat::new("demo_{env}_")?);
    let gate = Gate::builder(&store, &scheme)
        .rate_limits(Environment::LIVE, RateLimit::per_minute(100).burst(200))
        .max_staleness(Duration::MAX) // three minutes pass between two polls
        .build()?;

    let admin = KeyAdmin::new(&store, &scheme);
    let operator = Actor::operator("limits");
    let account = AccountId::parse("customer-1")?;
    admin.open_account(&operator, &account).await?;
    let refill_at = SystemTime::UNIX_EPOCH + start + Duration::from_secs(150);
    let credits = Credits::new(350).refill(Refill::once(refill_at, 40));
    admin
        .set_credits(&operator, account.clone(), Some(credits))
        .await?;
    let new = NewKey::new(account, Environment::LIVE, "client");
    let key = admin.create(&operator, new).await?.key.ok_or("no key")?;

    let app = Router::new()
        .route("/", get(async || "done"))
        .layer(RequireKeyLayer::new(&gate, Requirement::new()));
    let mut lines = Vec::new();
    let (mut passed, mut refused) = (0, 0);
    for fifth in 0..=5 * 180 {
        let request = Request::get("/").header("x-api-key", key.expose_secret());
        let response = app.clone().oneshot(request.body(Body::empty())?).await?;
        if response.status() == 200 {
            passed += 1;
        } else {
            refused += 1;
        }
        if fifth % 50 == 0 {
            let (second, told) = (fifth / 5, told(response).await?);
            lines.push(format!("{second:6}  {passed:6}  {refused:7}  {told}"));
            (passed, refused) = (0, 0);
        }
        clock.advance(Duration::from_millis(200));
    }
    Ok(lines)
}

/// What the response tells its client, on one line.
async fn told(response: Response<Body>) -> Result<String, Failure> {
    let (head, body) = response.into_parts();
    let body = to_bytes(body, 1024).await?;
    let code = serde_json::from_slice::<Value>(&body).ok();
    let code = code.and_then(|body| Some(body.get("code")?.as_str()?.to_owned()));
    let mut told = vec![head.status.as_u16().to_string()];
    told.extend(code);
    for name in ["retry-after", "ratelimit"] {
        if let Some(value) = head.headers.get(name) {
            told.push(format!("{name}: {}", value.to_str()?));
        }
    }
    Ok(told.join("  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn never_more_passes_than_the_limit_and_the_credits_allow() {
        let folder = tempfile::tempdir().unwrap();
        let lines = three_minutes(&folder.path().join("test.db")).await.unwrap();
        let passed = |lines: &[String]| -> u32 {
            let second = |line: &String| line.split_whitespace().nth(1).unwrap().parse::<u32>();
            lines.iter().map(|line| second(line).unwrap()).sum()
        };
        assert_eq!(lines.len(), 19);
        // A whole bucket and what a minute brings to it; then no more than comes back.
        assert_eq!(passed(&lines[..=6]), 300);
        assert!(
            lines[7].contains("429  rate_limited  retry-after: 1"),
            "{}",
            lines[7]
        );
        assert_eq!(passed(&lines[..=9]), 350);
        assert!(
            lines[10].ends_with("429  credits_exhausted  retry-after: 50"),
            "{}",
            lines[10]
        );
        assert_eq!(passed(&lines[10..=15]), 1, "the first after the refill");
        assert_eq!(passed(&lines[16..]), 39);
        assert!(
            lines[0].ends_with(r#"200  ratelimit: "minute";r=199"#),
            "{}",
            lines[0]
        );
    }
}
