//! Extractors for axum handlers.

use std::ops::Deref;

use axum_core::body::Body;
use axum_core::extract::{FromRef, FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use keyward::gate::{Anonymous, PerEnvironment};

use crate::head::to_response;

/// An extractor for the authenticated [`keyward::Principal`].
///
/// Behind an [optional](keyward::Requirement::optional) layer, use `Option<Principal>`. With `Principal`,
/// an anonymous request gets the same 401 `missing_api_key` as from a layer that requires a key. Without a
/// layer, both forms respond with 500, so that a forgotten layer does not admit anyone.
///
/// ```
/// use keyward_tower::Principal;
///
/// async fn report(principal: Principal) -> String {
///     format!("{} of {}", principal.key_id(), principal.account())
/// }
///
/// async fn greet(principal: Option<Principal>) -> String {
///     principal.map_or("hello".to_owned(), |principal| format!("hello, {}", principal.account()))
/// }
/// # use axum::{Router, body::Body, routing::get};
/// # use keyward_tower::RequireKeyLayer;
/// # use tower::ServiceExt;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use keyward::{Environment, Gate, KeyFormat, KeyScheme, MemoryStore, Requirement};
/// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
/// # let gate = Gate::new(&store, &scheme)?;
///
/// let layer = RequireKeyLayer::new(&gate, Requirement::new().optional());
/// let app = Router::<()>::new().route("/report", get(report)).route("/", get(greet)).layer(layer);
/// let anonymous = |path: &str| http::Request::get(path).body(Body::empty());
/// assert_eq!(app.clone().oneshot(anonymous("/report")?).await?.status(), 401);
/// assert_eq!(app.oneshot(anonymous("/")?).await?.status(), 200);
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

impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = PrincipalRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        match <Self as OptionalFromRequestParts<S>>::from_request_parts(parts, state).await? {
            Some(principal) => Ok(principal),
            None => Err(PrincipalRejection(parts.extensions.get().cloned())),
        }
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Principal {
    type Rejection = PrincipalRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        let principal = parts.extensions.get::<keyward::Principal>();
        if principal.is_none() && parts.extensions.get::<Anonymous>().is_none() {
            tracing::error!(
                method = %parts.method,
                path = parts.uri.path(),
                "a handler extracts a principal, but no keyward layer covers its route"
            );
            return Err(PrincipalRejection(None));
        }
        Ok(principal.cloned().map(Self))
    }
}

/// An extractor for the resource of the key's environment, such as its database.
///
/// The resource comes from a [`PerEnvironment`] in the router's state. The handler cannot reach the resource
/// of another environment. If there is no resource for the environment, the response is a 500 with no headers
/// and no body, and an error is logged. Anonymous requests, and requests without a layer, get the same
/// response as from [`Principal`].
///
/// ```
/// # use axum::{Router, body::Body, extract::FromRef, routing::get};
/// # use keyward_tower::{InEnvironment, RequireKeyLayer};
/// # use tower::ServiceExt;
/// # #[tokio::main(flavor = "current_thread")]
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
/// let layer = RequireKeyLayer::new(&gate, Requirement::new().any_environment());
/// let app = Router::new().route("/history", get(history)).layer(layer).with_state(databases);
///
/// let request = http::Request::get("/history").header("x-api-key", test_key.expose_secret());
/// let response = app.oneshot(request.body(Body::empty())?).await?;
/// assert_eq!(axum::body::to_bytes(response.into_body(), 100).await?, "test.db");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a handler takes it apart in its arguments"
)]
pub struct InEnvironment<T>(pub T);

impl<T, S> FromRequestParts<S> for InEnvironment<T>
where
    T: Clone,
    S: Sync,
    PerEnvironment<T>: FromRef<S>,
{
    type Rejection = PrincipalRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let principal =
            <Principal as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        let all = PerEnvironment::<T>::from_ref(state);
        let own = all.of(&principal).cloned().map(Self);
        own.ok_or_else(|| {
            let environment = principal.environment();
            tracing::error!(%environment, "no resource is configured for the environment of a request");
            PrincipalRejection(None)
        })
    }
}

/// The rejection of [`Principal`] and [`InEnvironment`].
///
/// Behind an optional layer, the response is the gate's own to a request without a key:
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
/// If there is no layer, or no resource for the environment, the response is a 500 with no headers and no
/// body, and an error is logged:
///
/// ```
/// # use axum::{Router, body::Body, routing::get};
/// # use keyward_tower::Principal;
/// # use tower::ServiceExt;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let app = Router::<()>::new().route("/", get(async |_: Principal| "in"));
/// let response = app.oneshot(http::Request::new(Body::empty())).await?;
/// assert_eq!(response.status(), 500);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PrincipalRejection(Option<Anonymous>);

impl IntoResponse for PrincipalRejection {
    fn into_response(self) -> Response {
        match self.0 {
            Some(anonymous) => to_response(anonymous.missing_key().clone()).map(Body::from),
            None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use axum::{Extension, Router};
    use http::Request;
    use keyward::Requirement;
    use keyward::testing::{World, principal};
    use tower::ServiceExt;

    use super::*;
    use crate::RequireKeyLayer;

    #[tokio::test]
    async fn no_layer_accepts_the_principal_of_a_test() {
        let world = World::new();
        let forged = Extension(principal("acme").scope("kyc").build());
        let who = async |principal: Option<Principal>| match principal {
            Some(principal) => principal.account().to_string(),
            None => "nobody".to_owned(),
        };
        let demanded = Requirement::new().scope("kyc");
        for (requirement, status, body) in [
            (demanded.clone(), 401, None),
            (demanded.optional(), 200, Some("nobody")),
        ] {
            let layer = RequireKeyLayer::new(world.gate(), requirement);
            let app = Router::<()>::new()
                .route("/", get(who))
                .layer(layer)
                .layer(forged.clone());
            let request = Request::new(Body::empty());
            let response = app.oneshot(request).await.unwrap();
            assert_eq!(response.status(), status);
            if let Some(body) = body {
                let whole = axum::body::to_bytes(response.into_body(), 100).await;
                assert_eq!(whole.unwrap(), body);
            }
        }
    }
}
