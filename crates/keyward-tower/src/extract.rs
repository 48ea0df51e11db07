//! What an axum handler receives.

use std::ops::Deref;

use axum_core::body::Body;
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use keyward::Anonymous;

use crate::head::to_response;

/// Who calls, as an argument of a handler; a [`keyward::Principal`].
///
/// Behind an [optional](crate::RequireKeyLayer::optional) layer take `Option<Principal>`: a handler
/// that takes `Principal` answers an anonymous request like a layer that needs a key, 401
/// `missing_api_key`. Without any layer either is a 500: a forgotten layer must not let anyone in.
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
/// # let app: axum::Router = axum::Router::new()
/// #     .route("/report", axum::routing::get(report))
/// #     .route("/", axum::routing::get(greet));
/// ```
#[derive(Clone, Debug)]
pub struct Principal(keyward::Principal);

impl Principal {
    /// The principal itself.
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
                "a handler takes a principal, but no layer of keyward covers its route"
            );
            return Err(PrincipalRejection(None));
        }
        Ok(principal.cloned().map(Self))
    }
}

/// Why a handler gets no principal: 401 where a key is optional, 500 where there is no layer.
#[derive(Clone, Debug)]
pub struct PrincipalRejection(Option<Anonymous>);

impl IntoResponse for PrincipalRejection {
    fn into_response(self) -> Response {
        match self.0 {
            Some(anonymous) => to_response(anonymous.missing_key()).map(Body::from),
            None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}
