//! A small API behind keys, on actix-web and a `SQLite` file.
//!
//! ```text
//! cargo run -p quickstart-actix
//! PORT=8080 DATABASE_URL=sqlite:///var/lib/demo/keys.db cargo run -p quickstart-actix
//! ```

use std::env;
use std::error::Error;
use std::net::TcpListener;
use std::sync::Arc;

use actix_web::web::{self, Data, Json, ServiceConfig};
use actix_web::{App, HttpResponse, HttpServer};
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, NewKey, Requirement,
    Scopes,
};
use keyward_actix::{Principal, RequireKey};
use keyward_sqlite::SqliteStore;
use serde_json::{Value, json};

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let port = env::var("PORT").unwrap_or("3000".into());
    let database = env::var("DATABASE_URL").unwrap_or("sqlite://quickstart.db".into());
    let database = database
        .strip_prefix("sqlite://")
        .filter(|path| !path.is_empty() && !path.contains(['?', ':']))
        .ok_or("DATABASE_URL must be sqlite://path, without options")?;

    let (routes, admin) = service(database)?;
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    println!(
        "{} is open. Try, each with the status it gets:\n",
        listener.local_addr()?
    );
    for line in try_these(&admin, &listener.local_addr()?.to_string()).await? {
        println!("{line}");
    }
    println!("\nThe keys are in {database}, by their digest only: this is the one time they are");
    println!("shown. The next start makes new ones; these go on working until they are revoked.");
    let server = HttpServer::new(move || App::new().configure(routes.clone()));
    Ok(server.listen(listener)?.run().await?)
}

/// Opens the store, and creates the routes behind a gate and the admin that creates keys.
fn service(
    database: &str,
) -> Result<(impl FnOnce(&mut ServiceConfig) + Clone + use<>, KeyAdmin), Box<dyn Error>> {
    let scheme = KeyScheme::new(KeyFormat::new("demo_{env}_")?);
    let store = Arc::new(SqliteStore::open(database)?);
    let gate = Gate::new(&store, &scheme)?;
    let admin = KeyAdmin::new(&store, &scheme).max_active_keys(1000);

    let state = Data::new(admin.clone());
    let routes = move |app: &mut ServiceConfig| {
        // By default, a route requires a live key.
        let key = |requirement| RequireKey::new(&gate, requirement);
        let any = key(Requirement::new().any_environment());
        app.app_data(state)
            .service(web::resource("/whoami").wrap(any).get(whoami))
            .service(
                web::resource("/charges")
                    .wrap(key(Requirement::new().scope("charges")))
                    .post(charge),
            )
            .service(
                web::resource("/reports")
                    .wrap(key(Requirement::new().scope("reports.read")))
                    .get(report),
            )
            .service(
                web::resource("/key")
                    .wrap(key(Requirement::new()))
                    .delete(revoke),
            )
            .service(web::resource("/health").get(async || "ok"));
    };
    Ok((routes, admin))
}

async fn whoami(principal: Principal) -> Json<Value> {
    Json(json!({
        "account": principal.account().as_str(),
        "environment": principal.environment().as_str(),
        "key": principal.hint().to_string(),
        "scopes": principal.scopes().iter().collect::<Vec<_>>(),
    }))
}

async fn charge(principal: Principal) -> HttpResponse {
    HttpResponse::Created().json(json!({ "charged": principal.account().as_str() }))
}

async fn report() -> Json<Value> {
    Json(json!({ "charges": 1 }))
}

/// Revokes the caller's own key: the next request with it is rejected.
async fn revoke(principal: Principal, admin: Data<KeyAdmin>) -> HttpResponse {
    let actor = Actor::key(&principal);
    match admin.revoke(&actor, principal.key_id(), "by itself").await {
        Ok(_) => HttpResponse::NoContent().finish(),
        Err(_) => HttpResponse::ServiceUnavailable().finish(),
    }
}

/// Creates a live and a test key, and the lines to try with them.
async fn try_these(admin: &KeyAdmin, address: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let account = AccountId::parse("acme")?;
    let operator = Actor::operator("quickstart");
    admin.open_account(&operator, &account).await?;
    let make = async |environment| {
        let new = NewKey::new(account.clone(), environment, "quickstart");
        let new = new.scopes(Scopes::parse(["charges", "api_keys.revoke"])?);
        let created = admin.create(&operator, new).await?;
        created
            .key
            .ok_or_else(|| Box::<dyn Error>::from("no token, so a key"))
    };
    let live = make(Environment::LIVE).await?;
    let test = make(Environment::TEST).await?;
    let (live, test) = (live.expose_secret(), test.expose_secret());
    Ok(vec![
        format!("curl -i {address}/health  # 200 no key needed"),
        format!("curl -i {address}/whoami -H 'X-API-Key: {live}'  # 200"),
        format!("curl -i {address}/whoami -H 'Authorization: Bearer {test}'  # 200"),
        format!("curl -i {address}/charges -X POST -H 'X-API-Key: {live}'  # 201"),
        format!("curl -i {address}/charges -X POST -H 'X-API-Key: {test}'  # 401 a test key"),
        format!("curl -i {address}/reports -H 'X-API-Key: {live}'  # 403 scope missing"),
        format!("curl -i {address}/whoami  # 401 no key"),
        format!("curl -i {address}/whoami -H 'X-API-Key: {live}x'  # 401 mistyped"),
        format!("curl -i {address}/whoami -H 'X-API-Key: {live}' -H 'X-API-Key: {live}'  # 400"),
        format!("curl -i {address}/key -X DELETE -H 'X-API-Key: {live}'  # 204 revoked"),
        format!("curl -i {address}/whoami -H 'X-API-Key: {live}'  # 401 dead at once"),
    ])
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Returns the status that a line's curl gets, and the one in its comment.
    fn run(line: &str) -> (String, String) {
        let (command, comment) = line.split_once("  # ").unwrap();
        let command = format!("{command} -s -o /dev/null -w '%{{http_code}}'");
        let output = Command::new("sh")
            .args(["-c", &command])
            .output()
            .expect("curl is installed");
        let status = String::from_utf8(output.stdout).unwrap();
        (status, comment[..3].to_owned())
    }

    #[actix_web::test]
    async fn every_printed_line_gets_the_status_it_says_and_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("quickstart.db");
        for _ in 0..2 {
            let (routes, admin) = service(database.to_str().unwrap()).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let server = HttpServer::new(move || App::new().configure(routes.clone()));
            let server = server.workers(1).listen(listener).unwrap().run();
            let handle = server.handle();
            actix_web::rt::spawn(server);
            let lines = try_these(&admin, &address).await.unwrap();
            for line in lines {
                let again = line.clone();
                let (status, said) = web::block(move || run(&again)).await.unwrap();
                assert_eq!(status, said, "{line}");
            }
            handle.stop(false).await;
        }
    }
}
