//! A small API behind keys, on axum and a `SQLite` file.
//!
//! ```text
//! cargo run -p quickstart
//! PORT=8080 DATABASE_URL=sqlite:///var/lib/demo/keys.db cargo run -p quickstart
//! ```

use std::env;
use std::error::Error;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, NewKey, Requirement,
    Scopes,
};
use keyward_sqlite::SqliteStore;
use keyward_tower::{Principal, RequireKeyLayer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
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

    let mut terminate = signal(SignalKind::terminate())?;
    let (app, admin) = service(database)?;
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!(
        "{} is open. Try, each with the status it gets:\n",
        listener.local_addr()?
    );
    for line in try_these(&admin, &listener.local_addr()?.to_string()).await? {
        println!("{line}");
    }
    println!("\nThe keys are in {database}, by their digest only: this is the one time they are");
    println!("shown. The next start makes new ones; these go on working until they are revoked.");
    // The store is dropped at the end: it writes its counters, and completes its file.
    let end = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let server = axum::serve(listener, app).with_graceful_shutdown(end);
    Ok(server.await?)
}

/// Opens the store, and creates the routes behind a gate and the admin that creates keys.
fn service(database: &str) -> Result<(Router, KeyAdmin), Box<dyn Error>> {
    let scheme = KeyScheme::new(KeyFormat::new("demo_{env}_")?);
    let store = Arc::new(SqliteStore::open(database)?);
    let gate = Gate::new(&store, &scheme)?;
    let admin = KeyAdmin::new(&store, &scheme).max_active_keys(1000);

    // By default, a route requires a live key.
    let key = |requirement| RequireKeyLayer::new(&gate, requirement);
    let app = Router::new()
        .route(
            "/whoami",
            get(whoami).layer(key(Requirement::new().any_environment())),
        )
        .route(
            "/charges",
            post(charge).layer(key(Requirement::new().scope("charges"))),
        )
        .route(
            "/reports",
            get(report).layer(key(Requirement::new().scope("reports.read"))),
        )
        .route("/key", delete(revoke).layer(key(Requirement::new())))
        .route("/health", get(async || "ok"))
        .with_state(admin.clone());
    Ok((app, admin))
}

async fn whoami(principal: Principal) -> Json<Value> {
    Json(json!({
        "account": principal.account().as_str(),
        "environment": principal.environment().as_str(),
        "key": principal.hint().to_string(),
        "scopes": principal.scopes().iter().collect::<Vec<_>>(),
    }))
}

async fn charge(principal: Principal) -> (StatusCode, Json<Value>) {
    (
        StatusCode::CREATED,
        Json(json!({ "charged": principal.account().as_str() })),
    )
}

async fn report() -> Json<Value> {
    Json(json!({ "charges": 1 }))
}

/// Revokes the caller's own key: the next request with it is rejected.
async fn revoke(principal: Principal, State(admin): State<KeyAdmin>) -> StatusCode {
    let actor = Actor::key(&principal);
    match admin.revoke(&actor, principal.key_id(), "by itself").await {
        Ok(_) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
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
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

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

    /// Not a test of its own: it runs in the child process.
    #[test]
    fn serves_until_it_is_told_to_end() {
        if env::var_os("QUICKSTART_IN_A_CHILD").is_some() {
            main().unwrap();
        }
    }

    #[test]
    fn sigterm_ends_it_with_a_complete_file() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("quickstart.db");
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "tests::serves_until_it_is_told_to_end",
                "--nocapture",
            ])
            .env("QUICKSTART_IN_A_CHILD", "1")
            .env("PORT", "0")
            .env("DATABASE_URL", format!("sqlite://{}", database.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The last line that is printed before it serves. The keys in the others are shown nowhere.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().starts_with("shown.")));
        let log = folder.path().join("quickstart.db-wal");
        assert!(log.exists(), "it is in use");
        let told = Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status();
        assert!(told.unwrap().success());
        lines.for_each(drop);
        assert!(child.wait().unwrap().success());
        assert!(!log.exists(), "it was closed");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_printed_line_gets_the_status_it_says_and_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("quickstart.db");
        for _ in 0..2 {
            let (app, admin) = service(database.to_str().unwrap()).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let server = tokio::spawn(async { axum::serve(listener, app).await });
            let lines = try_these(&admin, &address).await.unwrap();
            for line in lines {
                let (status, said) = tokio::task::spawn_blocking({
                    let line = line.clone();
                    move || run(&line)
                })
                .await
                .unwrap();
                assert_eq!(status, said, "{line}");
            }
            server.abort();
        }
    }
}
