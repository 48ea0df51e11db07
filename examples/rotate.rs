//! Replaces a key without an outage: the old key works until its grace period ends.
//!
//! ```text
//! cargo run --example rotate
//! ```

use std::error::Error;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::{Router, routing::get};
use keyward::{
    AccountId, Actor, ApiKey, Environment, Gate, Grace, KeyAdmin, KeyFormat, KeyScheme,
    MemoryStore, NewKey, Requirement,
};
use keyward_tower::RequireKeyLayer;
use tower::ServiceExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = MemoryStore::new();
    let scheme = KeyScheme::new(KeyFormat::new("acme_{env}_")?);
    let gate = Gate::new(&store, &scheme)?;
    let app = Router::new()
        .route("/", get(async || "ok"))
        .layer(RequireKeyLayer::new(&gate, Requirement::new()));

    let admin = KeyAdmin::new(&store, &scheme);
    let account = AccountId::parse("customer-1")?;
    let operator = Actor::operator("sign-up");
    admin.open_account(&operator, &account).await?;
    let new = NewKey::new(account, Environment::LIVE, "production");
    let old = admin.create(&operator, new).await?;

    let grace = Grace::For(Duration::from_secs(2));
    let successor = admin.rotate(&operator, old.record.id, grace).await?;
    let (old, new) = (old.key.ok_or("no key")?, successor.key.ok_or("no key")?);
    println!("{} {}", call(&app, &old).await?, call(&app, &new).await?); // 200 OK 200 OK
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("{} {}", call(&app, &old).await?, call(&app, &new).await?); // 401, 200
    Ok(())
}

async fn call(app: &Router, key: &ApiKey) -> Result<StatusCode, Box<dyn Error>> {
    let request = Request::get("/").header("x-api-key", key.expose_secret());
    Ok(app
        .clone()
        .oneshot(request.body(Body::empty())?)
        .await?
        .status())
}
