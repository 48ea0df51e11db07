//! The middleware.

use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::Error;
use actix_web::body::EitherBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};
use keyward::{Gate, Requirement};

use crate::head::{Peer, peer_addr};
use crate::{PeerFromRequest, RequireKeyMiddleware};

/// A middleware that requires an API key for every request.
///
/// The [`Requirement`] says which keys it admits: by default live, secret keys of any account.
///
/// A rejected request gets this response, unless the gate has [`Replies`](keyward::Replies) of its own:
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
/// # Clones of the request in other middleware
///
/// The middleware removes the key from the headers of the request. actix-web panics if the headers are changed
/// while a clone of the [`HttpRequest`](actix_web::HttpRequest) exists. Therefore, a middleware that is wrapped
/// *after* this one must not hold a clone while it calls the inner service. If it does, the handler is not
/// called, an error is logged, and the response is a 500 with `cache-control: no-store` and no body. The panic
/// is caught, although the panic hook prints it. With `panic = "abort"` in the profile it cannot be caught, and
/// each such request **ends the process**. Drop the clone before the call, or copy the parts that are needed.
/// A gate with [`insecure_forward_key`](keyward::gate::GateBuilder::insecure_forward_key) does not avoid the problem,
/// because it marks the header as sensitive.
///
/// # Wrapping a single method
///
/// Responses are the same as with the other adapters if the middleware covers whole paths: an app, a scope or a
/// resource. Around a single route, as in `web::get().to(…).wrap(…)`, it sees only requests that match the
/// route's guards. Any other method, including `OPTIONS`, is answered by actix-web or by other routes of the
/// resource: **no key is required, and the middleware does not answer CORS preflight requests** (404 in an app's
/// route, 405 in a resource). If browsers call the service, wrap the resource. If only some methods need a key,
/// add a resource guard, or an [`actix_cors::Cors`](https://docs.rs/actix-cors) outside, which answers preflight
/// requests.
///
/// ```
/// # use actix_web::{App, test::{TestRequest, call_service, init_service}, web};
/// # use actix_web::HttpResponse;
/// # use keyward_actix::RequireKey;
/// # #[actix_web::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use keyward::{Environment, Gate, KeyFormat, KeyScheme, MemoryStore, Requirement};
/// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
/// # let gate = Gate::new(&store, &scheme)?;
/// # let submit = || async { HttpResponse::Created() };
/// let live = RequireKey::new(&gate, Requirement::new().scope("kyc"));
/// let test = RequireKey::new(&gate, Requirement::new().scope("kyc").environment(Environment::TEST));
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
    peer: Peer,
}

impl RequireKey {
    /// Creates a middleware that admits the requests which meet a requirement.
    ///
    /// # Panics
    /// Panics if no key can meet the requirement, see [`Gate::assert_meetable`].
    #[track_caller]
    pub fn new(gate: &Gate, requirement: Requirement) -> Self {
        gate.assert_meetable(&requirement);
        Self {
            gate: gate.clone(),
            requirement: Arc::new(requirement),
            peer: gate.peer().map_or(peer_addr, |PeerFromRequest(own)| *own),
        }
    }
}

impl<S, B> Transform<S, ServiceRequest> for RequireKey
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Transform = RequireKeyMiddleware<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        let (gate, requirement) = (self.gate.clone(), Arc::clone(&self.requirement));
        let middleware = RequireKeyMiddleware::new(service, gate, requirement, self.peer);
        ready(Ok(middleware))
    }
}
