//! The middleware, as it is wrapped around a service.

use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::body::EitherBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};
use keyward::{AccountId, Environment, Gate, KeyKind, Requirement};

use crate::RequireKeyMiddleware;

/// Puts a gate, and what the routes demand, in front of a service.
///
/// Unless told otherwise: a live, secret key of any account, with any scopes. The methods are those
/// of [`Requirement`].
///
/// A refusal looks like this, unless the gate words it otherwise:
///
/// ```text
/// HTTP/1.1 403 Forbidden
/// cache-control: no-store
/// content-type: application/problem+json
/// www-authenticate: ApiKey realm="api", error="insufficient_scope", scope="kyc"
/// www-authenticate: Bearer realm="api", error="insufficient_scope", scope="kyc"
///
/// {"type":"about:blank","title":"Forbidden","status":403,"detail":"The API key lacks a scope that is required here: kyc.","code":"insufficient_scope"}
/// ```
///
/// ```
/// # use actix_web::{App, test::{TestRequest, call_service, init_service}, web};
/// # use actix_web::HttpResponse;
/// # use keyward_actix::RequireKey;
/// # #[actix_web::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use keyward::{Environment, Gate, KeyFormat, MemoryStore, Store};
/// # let (store, format) = (MemoryStore::new(), KeyFormat::new("vhk_{env}_")?);
/// # let gate = Gate::builder(store.replica()).format(format).build()?;
/// # let submit = || async { HttpResponse::Created() };
/// let live = RequireKey::new(gate.clone()).scope("kyc");
/// let test = RequireKey::new(gate).scope("kyc").environment(Environment::TEST);
/// let app = App::new()
///     .service(web::resource("/live/cases").wrap(live).post(submit))
///     .service(web::resource("/test/cases").wrap(test).post(submit));
///
/// let app = init_service(app).await;
/// let without_key = TestRequest::post().uri("/live/cases").to_request();
/// assert_eq!(call_service(&app, without_key).await.status(), 401);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RequireKey {
    gate: Gate,
    requirement: Arc<Requirement>,
}

impl RequireKey {
    /// Demands a live, secret key.
    pub fn new(gate: Gate) -> Self {
        let requirement = Arc::default();
        Self { gate, requirement }
    }

    /// Demands this, instead of what was demanded so far.
    ///
    /// # Panics
    /// When no key could meet it: [`Gate::assert_meetable`].
    pub fn requirement(mut self, requirement: Requirement) -> Self {
        self.gate.assert_meetable(&requirement);
        self.requirement = Arc::new(requirement);
        self
    }

    /// Also demands this scope.
    ///
    /// # Panics
    /// When it is not a scope, or the gate has a catalog that does not know it.
    pub fn scope(self, scope: &str) -> Self {
        self.also(|requirement| requirement.scope(scope))
    }

    /// Also demands one of these scopes.
    ///
    /// # Panics
    /// As [`scope`](Self::scope), and when there is none.
    pub fn any_scope<I>(self, scopes: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        self.also(|requirement| requirement.any_scope(scopes))
    }

    /// Serves this environment only, instead of `live`.
    pub fn environment(self, environment: Environment) -> Self {
        self.also(|requirement| requirement.environment(environment))
    }

    /// Serves these environments, instead of `live`.
    ///
    /// # Panics
    /// When there is none.
    pub fn environments(self, environments: impl IntoIterator<Item = Environment>) -> Self {
        self.also(|requirement| requirement.environments(environments))
    }

    /// Serves every environment; the handler must tell them apart.
    pub fn any_environment(self) -> Self {
        self.also(Requirement::any_environment)
    }

    /// Accepts these kinds of keys, instead of secret ones.
    ///
    /// # Panics
    /// When there is none.
    pub fn kinds(self, kinds: impl IntoIterator<Item = KeyKind>) -> Self {
        self.also(|requirement| requirement.kinds(kinds))
    }

    /// Accepts only keys of this account; any other is answered like an unknown one.
    pub fn account(self, account: AccountId) -> Self {
        self.also(|requirement| requirement.account(account))
    }

    /// Reports keys that do not meet the demands, and lets them pass: [`Requirement::report_only`].
    pub fn report_only(self) -> Self {
        self.also(Requirement::report_only)
    }

    /// Refuses gRPC calls in the form of gRPC, on routes of a gRPC server: [`Requirement::grpc`].
    pub fn grpc(self) -> Self {
        self.also(Requirement::grpc)
    }

    /// Counts for so many requests in the key's rate limits, instead of one. 0 is free.
    ///
    /// # Panics
    /// When it is more than a limit of the gate's lets pass at once.
    pub fn cost(self, cost: u32) -> Self {
        self.also(|requirement| requirement.cost(cost))
    }

    /// Spends so many credits of a live key, instead of one. 0 is free.
    pub fn credits(self, credits: u32) -> Self {
        self.also(|requirement| requirement.credits(credits))
    }

    /// Lets a request without any key pass as anonymous. A key that is there must be good.
    pub fn optional(self) -> Self {
        self.also(Requirement::optional)
    }

    fn also(self, change: impl FnOnce(Requirement) -> Requirement) -> Self {
        let requirement = Requirement::clone(&self.requirement);
        self.requirement(change(requirement))
    }
}

impl<S, B> Transform<S, ServiceRequest> for RequireKey
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>>,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = S::Error;
    type Transform = RequireKeyMiddleware<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        let (gate, requirement) = (self.gate.clone(), Arc::clone(&self.requirement));
        ready(Ok(RequireKeyMiddleware::new(service, gate, requirement)))
    }
}
