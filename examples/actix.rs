//! Protects an actix-web scope with API keys.
//!
//! ```text
//! cargo run --example actix
//! ```

use std::error::Error;

use actix_web::{App, HttpServer, web};
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, NewKey, Requirement,
    Scopes,
};
use keyward_actix::{Principal, RequireKey};
use keyward_sqlite::SqliteStore;

async fn whoami(caller: Principal) -> String {
    format!("{} calls with {}\n", caller.account(), caller.hint())
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = SqliteStore::open("keys.db")?;
    let scheme = KeyScheme::new(KeyFormat::new("acme_{env}_")?);
    let gate = Gate::new(&store, &scheme)?;

    // At sign-up: open an account and create its first key, which is shown once.
    let admin = KeyAdmin::new(&store, &scheme);
    let operator = Actor::operator("sign-up");
    let account = AccountId::parse("customer-1")?;
    admin.open_account(&operator, &account).await?;
    let new = NewKey::new(account, Environment::LIVE, "production").scopes(Scopes::parse(["kyc"])?);
    let created = admin.create(&operator, new).await?;
    let key = created.key.ok_or("the key was created before")?;

    println!(
        "curl -i localhost:3000/v1/whoami -H 'x-api-key: {}'",
        key.expose_secret()
    );
    // The gate is built once: the closure runs for every worker.
    let server = HttpServer::new(move || {
        let api = web::scope("/v1")
            .wrap(RequireKey::new(&gate, Requirement::new().scope("kyc")))
            .route("/whoami", web::get().to(whoami));
        App::new().service(api)
    });
    Ok(server.bind(("127.0.0.1", 3000))?.run().await?)
}
