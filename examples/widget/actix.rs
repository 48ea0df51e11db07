//! A widget on the pages of customers, which calls with a publishable key; on actix-web.
//!
//! ```text
//! cargo run --example widget-actix
//! PORT=8080 cargo run --example widget-actix
//! ```
//!
//! Open the address it prints: two pages hold the widget, and the key's list names one of them.

use std::env;
use std::error::Error;
use std::net::TcpListener;
use std::sync::Arc;

use actix_web::http::header::{ContentType, HOST, ORIGIN};
use actix_web::web::{self, Data, Json, ServiceConfig};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use keyward::{
    AccountId, Actor, Cors, Environment, Gate, KeyAdmin, KeyFormat, KeyId, KeyKind, KeyLocation,
    KeyScheme, MemoryStore, NewKey, OriginPolicy, Requirement,
};
use keyward_actix::{Principal, RequireKey};
use serde_json::{Value, json};

/// Serves it at `PORT`.
///
/// # Errors
/// If the port is taken.
///
/// # Panics
/// If the runtime cannot start.
#[actix_web::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let port = env::var("PORT").unwrap_or("3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    let port = listener.local_addr()?.port();

    let (routes, lines) = service(port).await?;
    println!("Open http://localhost:{port} and click. Or try, each with the status it gets:\n");
    for line in lines {
        println!("{line}");
    }
    let server = HttpServer::new(move || App::new().configure(routes.clone()));
    Ok(server.listen(listener)?.run().await?)
}

/// What the pages and the revocation need to know.
struct Demo {
    admin: KeyAdmin,
    key: KeyId,
    stage: String,
    page: String,
}

/// The service and the pages of its customers, told apart by their host; and what to try in a shell.
///
/// # Errors
/// If the operating system returns no random bytes.
pub async fn service(
    port: u16,
) -> Result<
    (
        impl FnOnce(&mut ServiceConfig) + Clone + Send + use<>,
        Vec<String>,
    ),
    Box<dyn Error>,
> {
    let scheme = KeyScheme::new(KeyFormat::new("demo_{env}_")?);
    let store = Arc::new(MemoryStore::new());
    let gate = Gate::builder(&store, &scheme)
        .location(KeyLocation::x_api_key())
        .location(KeyLocation::client_key())
        .location(KeyLocation::x_client_key())
        .cors(Cors::new())
        .build()?;
    let admin = KeyAdmin::new(&store, &scheme);

    // `http://` may stand in the list of a test key only.
    let [shop, copycat, api] =
        ["shop", "copycat", "api"].map(|host| format!("http://{host}.localhost:{port}"));
    let account = AccountId::parse("vine-and-barrel")?;
    let operator = Actor::operator("widget");
    admin.open_account(&operator, &account).await?;
    let make = async |name, kind, origins| {
        let new = NewKey::new(account.clone(), Environment::TEST, name);
        let new = new.kind(kind).origins(origins);
        admin.create(&operator, new).await
    };
    let listed = OriginPolicy::listed([&shop])?;
    let publishable = make("widget", KeyKind::Publishable, listed).await?;
    let secret = make("server", KeyKind::Secret, OriginPolicy::Any).await?;
    let (Some(key), Some(secret)) = (&publishable.key, &secret.key) else {
        return Err("no token, so a key".into());
    };
    let (key, secret) = (key.expose_secret(), secret.expose_secret());

    let demo = Data::new(Demo {
        admin: admin.clone(),
        key: publishable.record.id,
        stage: include_str!("stage.html")
            .replace("{shop}", &shop)
            .replace("{copycat}", &copycat)
            .replace("{hint}", &publishable.record.hint.to_string())
            .replace("{port}", &port.to_string()),
        page: include_str!("page.html")
            .replace("{api}", &api)
            .replace("{key}", key),
    });
    let routes = move |app: &mut ServiceConfig| {
        let widget = RequireKey::new(
            &gate,
            Requirement::new()
                .environment(Environment::TEST)
                .kinds([KeyKind::Publishable]),
        );
        app.app_data(demo)
            .service(web::resource("/check").wrap(widget).post(check))
            .service(web::resource("/").get(page))
            .service(web::resource("/widget.js").get(script))
            .service(web::resource("/revoke").post(revoke));
    };

    let at = format!("127.0.0.1:{port}");
    let lines = vec![
        format!(
            "curl -i {at}/check -X POST -H 'X-Client-Key: {key}' -H 'Origin: {copycat}'  # 403"
        ),
        format!("curl -i {at}/check -X POST -H 'X-Client-Key: {key}'  # 403 no origin"),
        format!(
            "curl -i {at}/check -X POST -H 'X-Client-Key: {key}' -H 'Origin: {shop}'  # 200 curl is no browser"
        ),
        format!(
            "curl -i {at}/check -X POST -H 'X-API-Key: {key}' -H 'Origin: {shop}'  # 403 no place for it"
        ),
        format!(
            "curl -i {at}/check -X POST -H 'X-Client-Key: {secret}' -H 'Origin: {shop}'  # 403 a leak"
        ),
        format!(
            "curl -i {at}/check -X OPTIONS -H 'Origin: {copycat}' -H 'Access-Control-Request-Method: POST'  # 204"
        ),
        format!("curl -i {at}/revoke -X POST  # 204"),
        format!(
            "curl -i {at}/check -X POST -H 'X-Client-Key: {key}' -H 'Origin: {shop}'  # 401 revoked"
        ),
    ];
    Ok((routes, lines))
}

async fn check(principal: Principal) -> Json<Value> {
    Json(json!({ "over_18": true, "asked_by": principal.account().as_str() }))
}

/// The page of this host: one of a customer's, or the one that shows both.
async fn page(demo: Data<Demo>, request: HttpRequest) -> HttpResponse {
    let host = request.headers().get(HOST);
    let host = host.map_or(&b""[..], |host| host.as_bytes());
    let page = if host.starts_with(b"shop.") {
        demo.page.replace("{name}", "Vine &amp; Barrel")
    } else if host.starts_with(b"copycat.") {
        demo.page.replace("{name}", "Vine &amp; Barrel, copied")
    } else {
        demo.stage.clone()
    };
    HttpResponse::Ok()
        .content_type(ContentType::html())
        .body(page)
}

async fn script() -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response.content_type("text/javascript; charset=utf-8");
    response.body(include_str!("widget.js"))
}

/// Stands for the service's key page, where somebody has logged in. No page but ours may call it.
async fn revoke(demo: Data<Demo>, request: HttpRequest) -> HttpResponse {
    let is_ours = |origin: &[u8]| origin.starts_with(b"http://localhost:");
    let origin = request.headers().get(ORIGIN);
    if origin.is_some_and(|origin| !is_ours(origin.as_bytes())) {
        return HttpResponse::Forbidden().finish();
    }
    let operator = Actor::operator("key page");
    match demo.admin.revoke(&operator, demo.key, "by a click").await {
        Ok(_) => HttpResponse::NoContent().finish(),
        Err(_) => HttpResponse::ServiceUnavailable().finish(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The status that a line's curl gets, and the one that its comment says.
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
    async fn every_printed_line_gets_the_status_it_says() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (routes, lines) = service(port).await.unwrap();
        let server = HttpServer::new(move || App::new().configure(routes.clone()));
        actix_web::rt::spawn(server.workers(1).listen(listener).unwrap().run());
        for line in lines {
            let again = line.clone();
            let (status, said) = web::block(move || run(&again)).await.unwrap();
            assert_eq!(status, said, "{line}");
        }
    }
}
