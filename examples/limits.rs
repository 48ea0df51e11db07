//! Limits a key to a few requests and shows what its client sees.
//!
//! ```text
//! cargo run --example limits
//! ```

use std::error::Error;

use axum::body::Body;
use axum::http::Request;
use axum::{Router, routing::get};
use keyward::credits::Credits;
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey,
    RateLimit, Requirement,
};
use keyward_tower::RequireKeyLayer;
use tower::ServiceExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = MemoryStore::new();
    let scheme = KeyScheme::new(KeyFormat::new("acme_{env}_")?);
    let gate = Gate::builder(&store, &scheme)
        .rate_limits(Environment::LIVE, RateLimit::per_minute(60).burst(5)) // unless a plan or key has its own
        .build()?;
    // A request counts as 2 and costs 3 credits.
    let expensive = Requirement::new().cost(2).credits(3);
    let app = Router::new()
        .route("/report", get(async || "done"))
        .layer(RequireKeyLayer::new(&gate, expensive));

    let admin = KeyAdmin::new(&store, &scheme);
    let operator = Actor::operator("sign-up");
    let account = AccountId::parse("customer-1")?;
    admin.open_account(&operator, &account).await?;
    admin
        .set_credits(&operator, account.clone(), Some(Credits::new(1000)))
        .await?;
    let new = NewKey::new(account, Environment::LIVE, "production");
    let key = admin.create(&operator, new).await?.key.ok_or("no key")?;

    for _ in 0..3 {
        let request = Request::get("/report").header("x-api-key", key.expose_secret());
        let response = app.clone().oneshot(request.body(Body::empty())?).await?;
        println!("{}", response.status()); // 200, 200, 429
        for name in ["ratelimit", "ratelimit-policy", "retry-after"] {
            println!("  {name}: {:?}", response.headers().get(name));
        }
    }
    Ok(())
}
