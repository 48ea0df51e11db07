//! Routes that an API key, a JWT or a session opens; on actix-web.
//!
//! ```text
//! cargo run --example callers-actix
//! PORT=8080 cargo run --example callers-actix
//! ```

use std::env;
use std::error::Error;
use std::fmt;
use std::future::{Ready, ready};
use std::net::TcpListener;

use actix_session::storage::CookieSessionStore;
use actix_session::{Session, SessionExt, SessionMiddleware};
use actix_web::cookie::Key;
use actix_web::dev::Payload;
use actix_web::error::{ErrorInternalServerError, InternalError};
use actix_web::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use actix_web::web::{self, Data, ServiceConfig};
use actix_web::{App, FromRequest, HttpRequest, HttpResponse, HttpServer};
use jsonwebtoken::get_current_timestamp;
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey,
    Requirement,
};
use keyward_actix::{MaybePrincipal, Principal, RequireKey};

use crate::jwt::{CHALLENGE, Jwt};

/// The verified caller of a request.
#[derive(Debug)]
pub enum Caller {
    /// An API key, which the middleware has verified.
    Key(keyward::Principal),
    /// A user with a JWT.
    User(String),
    /// A user with a session.
    Session(String),
}

impl Caller {
    fn of(request: &HttpRequest, payload: &mut Payload) -> Result<Self, actix_web::Error> {
        let MaybePrincipal(key) = MaybePrincipal::from_request(request, payload).into_inner()?;
        if let Some(principal) = key {
            return Ok(Self::Key(principal));
        }
        // Whatever is in `Authorization` must be valid: a session is no excuse for an expired JWT.
        if let Some(value) = request.headers().get(AUTHORIZATION) {
            let jwt = request.app_data::<Data<Jwt>>();
            let jwt = jwt.ok_or_else(|| ErrorInternalServerError("no secret for JWTs"))?;
            let user = jwt.user_of(value.as_bytes());
            return user.map(Self::User).ok_or_else(|| {
                let invalid = HttpResponse::Unauthorized()
                    .insert_header((WWW_AUTHENTICATE, CHALLENGE))
                    .finish();
                InternalError::from_response("the JWT is not valid", invalid).into()
            });
        }
        if let Ok(Some(user)) = request.get_session().get("user") {
            return Ok(Self::Session(user));
        }
        // The same 401 `missing_api_key` as from a middleware that requires a key.
        let key = Principal::from_request(request, payload).into_inner()?;
        Ok(Self::Key(key.into_inner()))
    }
}

impl FromRequest for Caller {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        ready(Self::of(request, payload))
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(principal) => write!(f, "key of {}", principal.account()),
            Self::User(user) => write!(f, "JWT of {user}"),
            Self::Session(user) => write!(f, "session of {user}"),
        }
    }
}

/// What a route admits, by path.
pub fn routes() -> [(&'static str, Requirement); 3] {
    [
        ("/key-or-jwt", Requirement::new().or_other_credential()),
        ("/key-or-session", Requirement::new().optional()),
        ("/any", Requirement::new().or_other_credential().optional()),
    ]
}

/// A service, its key, and what verifies its other credentials.
#[derive(Clone)]
pub struct Service {
    pub gate: Gate,
    pub key: String,
    pub jwt: Data<Jwt>,
    /// Signs and encrypts the cookie that holds the session.
    pub cookie: Key,
}

impl Service {
    /// Creates a service with one key.
    ///
    /// # Errors
    /// If the operating system returns no random bytes.
    pub async fn new() -> Result<Self, Box<dyn Error>> {
        let scheme = KeyScheme::new(KeyFormat::new("demo_{env}_")?);
        let store = MemoryStore::new();
        let new = NewKey::new(AccountId::parse("acme")?, Environment::LIVE, "production");
        let admin = KeyAdmin::new(&store, &scheme);
        let created = admin.bootstrap(&Actor::operator("callers"), new).await?;
        let key = created.key.ok_or("no token, so a key")?;
        Ok(Self {
            gate: Gate::new(&store, &scheme)?,
            key: key.expose_secret().to_owned(),
            jwt: Data::new(Jwt::new()?),
            cookie: Key::generate(),
        })
    }

    /// Adds the routes; `/login` stands for a page where a user logs in.
    pub fn configure(self, app: &mut ServiceConfig) {
        // Without TLS on this machine only.
        let sessions = SessionMiddleware::builder(CookieSessionStore::default(), self.cookie);
        let sessions = sessions.cookie_secure(false).build();
        let whoami = async |caller: Caller| format!("{caller}\n");
        let scope = routes()
            .into_iter()
            .fold(web::scope(""), |scope, (path, requirement)| {
                let layer = RequireKey::new(&self.gate, requirement);
                scope.service(web::resource(path).wrap(layer).get(whoami))
            });
        let scope = scope.route("/login", web::post().to(login)).wrap(sessions);
        app.app_data(self.jwt).service(scope);
    }
}

async fn login(session: Session) -> Result<HttpResponse, actix_web::Error> {
    // A new id, so that nobody can prepare a session for the user (session fixation).
    session.renew();
    session.insert("user", "ann")?;
    Ok(HttpResponse::Ok().finish())
}

/// Serves it at `PORT`.
///
/// # Errors
/// If the port is taken.
///
/// # Panics
/// If the runtime cannot start.
#[actix_web::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::var("PORT").unwrap_or("3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    let at = listener.local_addr()?;
    let service = Service::new().await?;
    let jwt = service.jwt.sign("ann", get_current_timestamp() + 3600)?;
    print!("{}", crate::usage(&at.to_string(), &service.key, &jwt));
    let server = HttpServer::new(move || {
        let service = service.clone();
        App::new().configure(|app| service.configure(app))
    });
    Ok(server.listen(listener)?.run().await?)
}
