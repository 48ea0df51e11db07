//! Routes that an API key, a JWT or a session opens; on axum.
//!
//! ```text
//! cargo run --example callers
//! PORT=8080 cargo run --example callers
//! ```

use std::env;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{Extensions, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use jsonwebtoken::get_current_timestamp;
use keyward::{
    AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey,
    Requirement,
};
use keyward_tower::{Principal, RequireKeyLayer};
use tokio::net::TcpListener;
use tower_sessions::{Session, SessionManagerLayer};

use crate::jwt::{CHALLENGE, Jwt};

/// The verified caller of a request.
#[derive(Debug)]
pub enum Caller {
    /// An API key, which the layer has verified.
    Key(Principal),
    /// A user with a JWT.
    User(String),
    /// A user with a session.
    Session(String),
}

impl FromRequestParts<Arc<Jwt>> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, jwt: &Arc<Jwt>) -> Result<Self, Response> {
        let key = <Principal as OptionalFromRequestParts<_>>::from_request_parts(parts, jwt).await;
        if let Some(principal) = key.map_err(IntoResponse::into_response)? {
            return Ok(Self::Key(principal));
        }
        // Whatever is in `Authorization` must be valid: a session is no excuse for an expired JWT.
        if let Some(value) = parts.headers.get(AUTHORIZATION) {
            let invalid = || (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, CHALLENGE)]);
            let user = jwt.user_of(value.as_bytes());
            return user
                .map(Self::User)
                .ok_or_else(|| invalid().into_response());
        }
        if let Some(user) = user_of_session(&parts.extensions).await {
            return Ok(Self::Session(user));
        }
        // The same 401 `missing_api_key` as from a layer that requires a key.
        let key = <Principal as FromRequestParts<_>>::from_request_parts(parts, jwt).await;
        key.map(Self::Key).map_err(IntoResponse::into_response)
    }
}

async fn user_of_session(extensions: &Extensions) -> Option<String> {
    let session = extensions.get::<Session>()?;
    session.get("user").await.ok()?
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
pub struct Service {
    pub gate: Gate,
    pub key: String,
    pub jwt: Arc<Jwt>,
    pub sessions: SessionManagerLayer<tower_sessions::MemoryStore>,
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
        // Without TLS on this machine only.
        let sessions = SessionManagerLayer::new(tower_sessions::MemoryStore::default());
        Ok(Self {
            gate: Gate::new(&store, &scheme)?,
            key: key.expose_secret().to_owned(),
            jwt: Arc::new(Jwt::new()?),
            sessions: sessions.with_secure(false),
        })
    }

    /// Returns the routes; `/login` stands for a page where a user logs in.
    pub fn router(&self) -> Router {
        let app = routes()
            .into_iter()
            .fold(Router::new(), |app, (path, requirement)| {
                let layer = RequireKeyLayer::new(&self.gate, requirement);
                app.route(
                    path,
                    get(async |caller: Caller| format!("{caller}\n")).layer(layer),
                )
            });
        app.route("/login", post(login))
            .layer(self.sessions.clone())
            .with_state(Arc::clone(&self.jwt))
    }
}

async fn login(session: Session) -> Result<(), StatusCode> {
    // A new id, so that nobody can prepare a session for the user (session fixation).
    let renewed = session.cycle_id().await;
    let inserted = session.insert("user", "ann").await;
    renewed
        .and(inserted)
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

/// Serves it at `PORT`.
///
/// # Errors
/// If the port is taken.
///
/// # Panics
/// If the runtime cannot start.
#[tokio::main]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::var("PORT").unwrap_or("3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let at = listener.local_addr()?;
    let service = Service::new().await?;
    let jwt = service.jwt.sign("ann", get_current_timestamp() + 3600)?;
    print!("{}", crate::usage(&at.to_string(), &service.key, &jwt));
    Ok(axum::serve(listener, service.router()).await?)
}
