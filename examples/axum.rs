//! Protects an axum router with API keys.
//!
//! ```text
//! cargo run --example axum
//! ```

use std::error::Error;

use axum::{Router, routing::get};
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, NewKey, Requirement,
    Scopes,
};
use keyward_sqlite::SqliteStore;
use keyward_tower::{Principal, RequireKeyLayer};
use tokio::net::TcpListener;

async fn whoami(caller: Principal) -> String {
    format!("{} calls with {}\n", caller.account(), caller.hint())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = SqliteStore::open("keys.db")?;
    let scheme = KeyScheme::new(KeyFormat::new("acme_{env}_")?);
    let gate = Gate::new(&store, &scheme)?;

    // At sign-up: open an account and create its first key, which is shown once. The token makes
    // that idempotent, so that this program can be started again.
    let admin = KeyAdmin::new(&store, &scheme);
    let operator = Actor::operator("sign-up");
    let account = AccountId::parse("customer-1")?;
    admin.open_account(&operator, &account).await?;
    let new = NewKey::new(account, Environment::LIVE, "production")
        .scopes(Scopes::parse(["kyc"])?)
        .token("first-key");
    if let Some(key) = admin.create(&operator, new).await?.key {
        let key = key.expose_secret();
        println!("curl -i localhost:3000/whoami -H 'x-api-key: {key}'");
    }

    let app = Router::new()
        .route("/whoami", get(whoami))
        .layer(RequireKeyLayer::new(&gate, Requirement::new().scope("kyc")))
        .route("/health", get(async || "ok\n")); // after the layer: needs no key
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, app).await?)
}
