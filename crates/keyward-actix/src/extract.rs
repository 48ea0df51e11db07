//! Extractors for handlers.

use std::error::Error;
use std::fmt;
use std::future::{Ready, ready};
use std::ops::Deref;

use actix_web::dev::Payload;
use actix_web::guard::{Guard, fn_guard};
use actix_web::http::StatusCode;
use actix_web::{FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError};
use keyward::Environment;
use keyward::gate::{Access, Anonymous, PerEnvironment};

use crate::head::to_response;

/// An extractor for the authenticated [`keyward::Principal`].
///
/// Behind an [optional](keyward::Requirement::optional) middleware, use [`MaybePrincipal`]. With `Principal`, an
/// anonymous request gets the same 401 `missing_api_key` as from a middleware that requires a key. Without the
/// middleware, the response is a 500, so that a forgotten middleware does not admit anyone.
///
/// Do not use `Option<Principal>`. actix-web turns *every* extractor error into `None`, so that a forgotten
/// middleware would look like an anonymous request. A crate cannot prevent this, but an error is logged.
///
/// ```
/// use keyward_actix::Principal;
///
/// async fn report(principal: Principal) -> String {
///     format!("{} of {}", principal.key_id(), principal.account())
/// }
/// # use actix_web::{App, test::{TestRequest, call_service, init_service}, web};
/// # #[actix_web::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let app = App::new().route("/report", web::get().to(report));
/// # let app = init_service(app).await;
/// # let request = TestRequest::with_uri("/report").to_request();
/// # let response = call_service(&app, request).await;
/// assert_eq!(response.status(), 500); // the middleware was forgotten
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Principal(keyward::Principal);

impl Principal {
    /// Returns the [`keyward::Principal`].
    #[must_use]
    pub fn into_inner(self) -> keyward::Principal {
        self.0
    }
}

impl Deref for Principal {
    type Target = keyward::Principal;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

#[cfg(feature = "testing")]
impl From<keyward::testing::TestPrincipal> for Principal {
    #[track_caller]
    fn from(principal: keyward::testing::TestPrincipal) -> Self {
        Self(principal.build())
    }
}

impl FromRequest for Principal {
    type Error = PrincipalError;
    type Future = Ready<Result<Self, PrincipalError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match access(request) {
            Ok(Access::Principal(principal)) => Ok(Self(principal)),
            Ok(Access::Anonymous(anonymous)) => Err(PrincipalError(Some(anonymous))),
            Err(error) => Err(error),
        })
    }
}

/// An extractor for the principal behind an [optional](keyward::Requirement::optional) middleware.
///
/// It holds `None` if the request has no key. Unlike `Option<Principal>`, it responds with 500 if the
/// middleware was forgotten.
///
/// ```
/// use keyward_actix::MaybePrincipal;
///
/// async fn greet(MaybePrincipal(principal): MaybePrincipal) -> String {
///     principal.map_or("hello".to_owned(), |principal| format!("hello, {}", principal.account()))
/// }
/// # use actix_web::{App, test::{TestRequest, call_service, init_service}, web};
/// # use keyward_actix::RequireKey;
/// # #[actix_web::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use keyward::{Environment, Gate, KeyFormat, KeyScheme, MemoryStore, Requirement};
/// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
/// # let gate = Gate::new(&store, &scheme)?;
///
/// let optional = RequireKey::new(&gate, Requirement::new().optional());
/// let app = init_service(App::new().wrap(optional).route("/", web::get().to(greet))).await;
/// let response = call_service(&app, TestRequest::default().to_request()).await;
/// assert_eq!(response.status(), 200);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a handler takes it apart in its arguments"
)]
pub struct MaybePrincipal(pub Option<keyward::Principal>);

impl FromRequest for MaybePrincipal {
    type Error = PrincipalError;
    type Future = Ready<Result<Self, PrincipalError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(access(request).map(|access| match access {
            Access::Principal(principal) => Self(Some(principal)),
            Access::Anonymous(_) => Self(None),
        }))
    }
}

/// An extractor for the resource of the key's environment, such as its database.
///
/// The resource comes from a [`PerEnvironment`] in the application data. The handler cannot reach the
/// resource of another environment. If there is no resource for the environment, or no such application data,
/// the response is a 500 and an error is logged. Anonymous requests, and requests without a middleware, get
/// the same response as from [`Principal`].
///
/// ```
/// # use actix_web::{App, test::{TestRequest, call_and_read_body, init_service}, web};
/// # use keyward_actix::{InEnvironment, RequireKey};
/// # #[actix_web::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use keyward::Environment;
/// use keyward::gate::PerEnvironment;
/// # use keyward::{AccountId, Actor, Gate, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Requirement};
/// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
/// # let gate = Gate::new(&store, &scheme)?;
/// # let admin = KeyAdmin::new(&store, &scheme);
/// # let (actor, acme) = (Actor::operator("docs"), AccountId::parse("acme")?);
/// # let test_key = admin.bootstrap(&actor, NewKey::new(acme, Environment::TEST, "key")).await?.key.unwrap();
///
/// #[derive(Clone)]
/// struct Database(&'static str);
///
/// async fn history(InEnvironment(database): InEnvironment<Database>) -> &'static str {
///     database.0
/// }
///
/// let databases = PerEnvironment::new(Database("live.db"), Database("test.db"));
/// let app = App::new()
///     .app_data(databases)
///     .wrap(RequireKey::new(&gate, Requirement::new().any_environment()))
///     .route("/history", web::get().to(history));
///
/// let app = init_service(app).await;
/// let request = TestRequest::with_uri("/history");
/// let request = request.insert_header(("x-api-key", test_key.expose_secret()));
/// assert_eq!(call_and_read_body(&app, request.to_request()).await, "test.db");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a handler takes it apart in its arguments"
)]
pub struct InEnvironment<T>(pub T);

impl<T: Clone + 'static> FromRequest for InEnvironment<T> {
    type Error = PrincipalError;
    type Future = Ready<Result<Self, PrincipalError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let principal = Principal::from_request(request, payload).into_inner();
        ready(principal.and_then(|principal| {
            let all = request.app_data::<PerEnvironment<T>>();
            let own = all.and_then(|all| all.of(&principal)).cloned().map(Self);
            own.ok_or_else(|| {
                let environment = principal.environment();
                tracing::error!(%environment, "no resource is configured for the environment of a request");
                PrincipalError(None)
            })
        }))
    }
}

/// Creates a guard that accepts only requests of this environment.
///
/// It lets each environment have routes of its own. The guard sees the principal only if the middleware wraps
/// an outer level, that is the scope or the application. A request that no route accepts gets the default
/// response of the scope, a 404 unless configured otherwise.
///
/// ```
/// # use actix_web::{App, test::{TestRequest, call_and_read_body, init_service}, web};
/// # use keyward_actix::{RequireKey, in_environment};
/// # #[actix_web::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use keyward::Environment;
/// # use keyward::{AccountId, Actor, Gate, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Requirement};
/// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
/// # let gate = Gate::new(&store, &scheme)?;
/// # let admin = KeyAdmin::new(&store, &scheme);
/// # let (actor, acme) = (Actor::operator("docs"), AccountId::parse("acme")?);
/// # let test_key = admin.bootstrap(&actor, NewKey::new(acme, Environment::TEST, "key")).await?.key.unwrap();
///
/// let steered = web::scope("/verify")
///     .wrap(RequireKey::new(&gate, Requirement::new().any_environment()))
///     .route("", web::get().guard(in_environment(Environment::LIVE)).to(async || "by a person"))
///     .route("", web::get().guard(in_environment(Environment::TEST)).to(async || "simulated"));
///
/// let app = init_service(App::new().service(steered)).await;
/// let request = TestRequest::with_uri("/verify");
/// let request = request.insert_header(("x-api-key", test_key.expose_secret()));
/// assert_eq!(call_and_read_body(&app, request.to_request()).await, "simulated");
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn in_environment(environment: Environment) -> impl Guard {
    fn_guard(move |context| {
        let extensions = context.req_data();
        let principal = extensions.get::<keyward::Principal>();
        principal.is_some_and(|principal| principal.environment() == environment)
    })
}

/// Returns what the innermost middleware has left in the request's extensions.
fn access(request: &HttpRequest) -> Result<Access, PrincipalError> {
    let extensions = request.extensions();
    if let Some(principal) = extensions.get().cloned() {
        return Ok(Access::Principal(principal));
    }
    let anonymous = extensions.get().cloned().map(Access::Anonymous);
    anonymous.ok_or_else(|| {
        tracing::error!(
            method = %request.method(),
            path = request.path(),
            route = request.match_pattern(),
            "a handler extracts a principal, but no keyward middleware covers its route"
        );
        PrincipalError(None)
    })
}

/// The error of [`Principal`], [`MaybePrincipal`] and [`InEnvironment`].
///
/// Behind an optional middleware, the response is the gate's own to a request without a key:
///
/// ```text
/// HTTP/1.1 401 Unauthorized
/// cache-control: no-store
/// content-type: application/problem+json
/// www-authenticate: ApiKey realm="api"
/// www-authenticate: Bearer realm="api"
///
/// {"type":"about:blank","title":"Unauthorized","status":401,"detail":"Send an API key as `x-api-key: <key>` or `Authorization: Bearer <key>`.","code":"missing_api_key"}
/// ```
///
/// If there is no middleware, or no resource for the environment, the response is a 500 with no headers and
/// no body, and an error is logged. See [`Principal`].
#[derive(Clone, Debug)]
pub struct PrincipalError(Option<Anonymous>);

impl fmt::Display for PrincipalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Some(_) => "an API key is required",
            None => "no keyward middleware covers the route",
        })
    }
}

impl Error for PrincipalError {}

impl ResponseError for PrincipalError {
    fn status_code(&self) -> StatusCode {
        self.error_response().status()
    }

    fn error_response(&self) -> HttpResponse {
        match &self.0 {
            Some(anonymous) => to_response(anonymous.missing_key().clone()),
            None => HttpResponse::new(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::{TestRequest, call_service, init_service, read_body};
    use actix_web::{App, web};
    use keyward::Requirement;
    use keyward::testing::{World, principal};

    use super::*;
    use crate::RequireKey;
    use crate::fixture::{Fixture, answer};

    #[actix_web::test]
    async fn a_handler_that_needs_a_key_answers_like_a_gate_that_does() {
        let fixture = Fixture::new().await;
        let layer = |requirement| RequireKey::new(&fixture.gate(), requirement);
        let needs = async |principal: Principal| principal.account().to_string();
        let optional = App::new()
            .wrap(layer(Requirement::new().optional()))
            .route("/", web::get().to(needs));
        let by_handler = answer(optional, TestRequest::default()).await;
        let by_gate = answer(
            App::new().wrap(layer(Requirement::new())),
            TestRequest::default(),
        )
        .await;
        assert_eq!(by_handler.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(by_handler.status(), by_gate.status());
        for field in ["www-authenticate", "content-type", "cache-control"] {
            let lines = by_gate.headers().get_all(field);
            assert!(by_handler.headers().get_all(field).eq(lines));
        }
        // If a key is optional, the response depends on its presence.
        assert!(by_handler.headers().contains_key("vary"));
        assert_eq!(by_handler.headers().len(), by_gate.headers().len() + 1);
        assert_eq!(read_body(by_handler).await, read_body(by_gate).await);
    }

    #[actix_web::test]
    async fn no_middleware_accepts_the_principal_of_a_test() {
        let world = World::new();
        let who = async |MaybePrincipal(principal): MaybePrincipal| match principal {
            Some(principal) => principal.account().to_string(),
            None => "nobody".to_owned(),
        };
        let demanded = Requirement::new().scope("kyc");
        for (requirement, status, body) in [
            (demanded.clone(), 401, None),
            (demanded.optional(), 200, Some("nobody")),
        ] {
            let layer = RequireKey::new(world.gate(), requirement);
            let app = App::new().wrap(layer).route("/", web::get().to(who));
            let app = init_service(app).await;
            let request = TestRequest::default().to_request();
            let forged = principal("acme").scope("kyc").build();
            request.extensions_mut().insert(forged);
            let response = call_service(&app, request).await;
            assert_eq!(response.status(), status);
            if let Some(body) = body {
                assert_eq!(read_body(response).await, body);
            }
        }
    }

    #[actix_web::test]
    async fn without_a_middleware_no_request_is_admitted() {
        let app = App::new()
            .route("/", web::get().to(async |_: Principal| "in"))
            .route("/maybe", web::get().to(async |_: MaybePrincipal| "in"));
        let app = init_service(app).await;
        for path in ["/", "/maybe"] {
            let request = TestRequest::with_uri(path).to_request();
            let response = call_service(&app, request).await;
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(response.headers().len(), 0);
            assert!(read_body(response).await.is_empty());
        }
    }
}
