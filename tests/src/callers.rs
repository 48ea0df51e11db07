//! Keys beside JWTs and sessions: nobody passes without one valid credential, on any stack.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use actix_web::App;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::IntoResponse;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use callers::axum::Caller;
use callers::jwt::Jwt;
use http::Request;
use keyward::gate::Denial;
use keyward::{Environment, KeyFormat};
use keyward_tower::RequireKeyLayer;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use crate::stacks::{Answer, answer, collect};

const X: &str = "x-api-key";
const A: &str = "authorization";
const C: &str = "cookie";

/// A header line, in which a name in braces stands for a credential.
type Line = (&'static str, &'static str);

const IN_X: &[&str] = &["{key}", "{unknown}", "{mistyped}", "nonsense", "{jwt}", ""];

const IN_A: &[&str] = &[
    "Bearer {key}",
    "bearer   {key}",
    "Bearer {unknown}",
    "Bearer {mistyped}",
    "Bearer {jwt}",
    "BEARER   {jwt}",
    "Bearer {expired}",
    "Bearer {of another secret}",
    "Bearer {alg none}",
    "Bearer {alg none, signed}",
    "Bearer {jwt}x",
    "Bearer x.y.z",
    "Bearer garbage",
    "Bearer \"{jwt}\"",
    "Bearer \t{jwt}",
    "Bearer",
    "Bearer   ",
    "Basic dTpw",
    "Basic {key}",
    "Token {key}",
    "Token {jwt}",
    "Digest username=\"{key}\"",
    "Digest username=\"a, b\", nc=1",
    "Bearer {jwt}, Bearer {key}",
    "Bearer {key}, Bearer {jwt}",
    "Bearer {jwt}, Bearer {jwt}",
    "Basic dTpw, Bearer {jwt}",
    "{jwt}",
    "{key}",
    "",
];

const IN_C: &[&str] = &[
    "id={session}",
    "id=garbage",
    "id={key}",
    "api_key={key}",
    "theme=dark",
];

/// The credentials of a stack, by name.
struct Credentials(Vec<(&'static str, String)>);

impl Credentials {
    fn new(key: &str, jwt: &Jwt, session: String) -> Self {
        let format = KeyFormat::new("demo_{env}_").unwrap();
        let unknown = format.generate(Environment::LIVE).unwrap();
        let later = 4_000_000_000;
        let valid = jwt.sign("ann", later).unwrap();
        let base64 = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
        let (head, claims) = (
            base64(r#"{"alg":"none"}"#),
            valid.split('.').nth(1).unwrap(),
        );
        let signature = valid.rsplit('.').next().unwrap();
        let mistyped = &key[..key.len() - 1];
        let last = if key.ends_with('x') { 'y' } else { 'x' };
        Self(vec![
            ("{unknown}", unknown.expose_secret().to_owned()),
            ("{mistyped}", format!("{mistyped}{last}")),
            ("{expired}", jwt.sign("ann", 1_700_000_000).unwrap()),
            (
                "{of another secret}",
                Jwt::new().unwrap().sign("ann", later).unwrap(),
            ),
            ("{alg none}", format!("{head}.{claims}.")),
            ("{alg none, signed}", format!("{head}.{claims}.{signature}")),
            ("{key}", key.to_owned()),
            ("{jwt}", valid),
            ("{session}", session),
        ])
    }

    fn fill(&self, line: &str) -> String {
        let names = self.0.iter();
        names.fold(line.to_owned(), |line, (name, text)| {
            line.replace(name, text)
        })
    }
}

fn session_of(cookie: &str) -> String {
    let session = cookie.strip_prefix("id=").unwrap();
    session.split(';').next().unwrap().to_owned()
}

fn request(path: &str, lines: &[Line], credentials: &Credentials) -> Request<Body> {
    let mut request = Request::get(path);
    for (name, line) in lines {
        request = request.header(*name, credentials.fill(line));
    }
    request.body(Body::empty()).unwrap()
}

/// The layer in axum, and in plain tower with the same extractor.
struct OnTower {
    service: callers::axum::Service,
    credentials: Credentials,
}

impl OnTower {
    async fn new() -> Self {
        let service = callers::axum::Service::new().await.unwrap();
        let login = Request::post("/login").body(Body::empty()).unwrap();
        let response = service.router().oneshot(login).await.unwrap();
        let session = session_of(response.headers()["set-cookie"].to_str().unwrap());
        let credentials = Credentials::new(&service.key, &service.jwt, session);
        Self {
            service,
            credentials,
        }
    }

    async fn axum(&self, path: &str, lines: &[Line]) -> Answer {
        let request = request(path, lines, &self.credentials);
        collect(self.service.router().oneshot(request).await.unwrap()).await
    }

    async fn plain(&self, path: &str, lines: &[Line]) -> Answer {
        let jwt = Arc::clone(&self.service.jwt);
        let inner = service_fn(move |request: Request<Body>| {
            let jwt = Arc::clone(&jwt);
            async move {
                let (mut parts, _) = request.into_parts();
                let caller = Caller::from_request_parts(&mut parts, &jwt).await;
                let response = caller.map(|caller| format!("{caller}\n").into_response());
                Ok::<_, Infallible>(response.unwrap_or_else(|refused| refused))
            }
        });
        let mut routes = callers::axum::routes().into_iter();
        let (_, requirement) = routes.find(|(own, _)| *own == path).unwrap();
        let service = ServiceBuilder::new()
            .layer(self.service.sessions.clone())
            .layer(RequireKeyLayer::new(&self.service.gate, requirement))
            .service(inner);
        let request = request(path, lines, &self.credentials);
        collect(service.oneshot(request).await.unwrap()).await
    }
}

async fn actix(
    service: &callers::actix::Service,
    credentials: Option<&Credentials>,
    method: &str,
    path: &str,
    lines: &[Line],
) -> Answer {
    let app = App::new().configure(|app| service.clone().configure(app));
    let app = init_service(app).await;
    let mut request = TestRequest::with_uri(path).method(method.parse().unwrap());
    for (name, line) in lines {
        request = request.append_header((*name, credentials.unwrap().fill(line)));
    }
    let response = call_service(&app, request.to_request()).await;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let denial = response.response().extensions().get().map(Denial::kind);
    let body = read_body(response).await;
    let fields = headers.iter();
    let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
    Answer {
        denial,
        ..answer(status, fields, body)
    }
}

/// The only credential that lets a request pass, and what the handler then says.
const CLEAN: [(&str, &str, &str); 6] = [
    (X, "{key}", "key of acme\n"),
    (A, "Bearer {key}", "key of acme\n"),
    (A, "bearer   {key}", "key of acme\n"),
    (A, "Bearer {jwt}", "JWT of ann\n"),
    (A, "BEARER   {jwt}", "JWT of ann\n"),
    (C, "id={session}", "session of ann\n"),
];

/// Asserts that who passes has sent the credential that the handler names, and nothing that is wrong.
fn assert_deserved(path: &str, lines: &[Line], answer: &Answer) {
    let is_taken = |says: &str| match path {
        "/key-or-jwt" => !says.starts_with("session"),
        "/key-or-session" => !says.starts_with("JWT"),
        _ => true,
    };
    let sent = |name: &str| -> Vec<&str> {
        let lines = lines.iter().filter(|(own, _)| *own == name);
        lines.map(|(_, line)| *line).collect()
    };
    let (in_x, in_a, in_c) = (sent(X), sent(A), sent(C));
    if answer.status == 200 {
        let says = &*answer.body;
        assert!(is_taken(says), "{path} {lines:?}: {says}");
        let mut clean = CLEAN.iter().filter(|(.., own)| *own == says);
        let deserved = clean.any(|(name, line, _)| match *name {
            // Where no other credential is accepted, other schemes beside a key are ignored.
            X => in_x == [*line] && (in_a.is_empty() || path == "/key-or-session"),
            A => in_a == [*line] && in_x.iter().all(|line| line.is_empty()),
            _ => in_c == [*line] && in_x.is_empty() && in_a.is_empty(),
        });
        assert!(deserved, "{path} {lines:?}: {says}");
    } else {
        assert!(
            matches!(answer.status, 400 | 401),
            "{path} {lines:?}: {answer:?}"
        );
        assert!(
            !answer.body.contains(" of a"),
            "{path} {lines:?}: {answer:?}"
        );
    }
    let alone = CLEAN.iter().find(|(name, line, _)| {
        let others = |(own, _): &&(&str, &str)| own != name && *own != C;
        sent(name) == [*line] && !lines.iter().any(|line| others(&line))
    });
    if let Some((.., says)) = alone
        && is_taken(says)
    {
        assert_eq!(
            (answer.status, &*answer.body),
            (200, *says),
            "{path} {lines:?}"
        );
    }
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    let line = |name, lines: &'static [&'static str]| (Just(name), select(lines));
    let x = prop::collection::vec(line(X, IN_X), 0..2);
    let x = prop_oneof![4 => x, 1 => prop::collection::vec(line(X, IN_X), 2)];
    let a = prop::collection::vec(line(A, IN_A), 0..2);
    let a = prop_oneof![4 => a, 1 => prop::collection::vec(line(A, IN_A), 2)];
    // Session libraries differ about two cookies of one name.
    let c = prop::collection::vec(line(C, IN_C), 0..2);
    let all = (x, a, c).prop_map(|(x, a, c)| [x, a, c].concat());
    all.prop_shuffle()
}

#[test]
fn nobody_passes_without_one_valid_credential_and_every_stack_answers_alike() {
    let tokio = tokio::runtime::Runtime::new().unwrap();
    let on_tower = tokio.block_on(OnTower::new());
    let system = actix_web::rt::System::new();
    let on_actix = system.block_on(callers::actix::Service::new()).unwrap();
    let login = actix(&on_actix, None, "POST", "/login", &[]);
    let session = session_of(&system.block_on(login).fields["set-cookie"][0]);
    let credentials = Credentials::new(&on_actix.key, &on_actix.jwt, session);

    let passed = RefCell::new(HashMap::<String, u32>::new());
    let paths = callers::axum::routes().map(|(path, _)| path).to_vec();
    let cases = (select(paths), lines());
    let mut runner = TestRunner::new(Config {
        cases: 2000,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&cases, |(path, lines)| {
        let mut answers = [
            tokio.block_on(on_tower.axum(path, &lines)),
            tokio.block_on(on_tower.plain(path, &lines)),
            system.block_on(actix(&on_actix, Some(&credentials), "GET", path, &lines)),
        ];
        for answer in &mut answers {
            // What the session libraries say of a cookie that they do not know.
            answer.fields.remove("set-cookie");
        }
        let [axum, tower, actix] = answers;
        assert_eq!(axum, tower, "{path} {lines:?}");
        assert_eq!(axum, actix, "{path} {lines:?}");
        assert_deserved(path, &lines, &axum);
        *passed.borrow_mut().entry(axum.body).or_default() += 1;
        Ok(())
    });
    outcome.unwrap();
    let passed = passed.into_inner();
    for (.., says) in CLEAN {
        assert!(passed[says] > 10, "{passed:?}");
    }
}

#[test]
fn both_stacks_have_the_same_routes() {
    assert_eq!(callers::axum::routes(), callers::actix::routes());
}
