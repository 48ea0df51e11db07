//! What an axum handler receives of a delivery.

use axum_core::body::Body;
use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use keyward::WebhookEvent;
use serde_core::de::DeserializeOwned;

use crate::head::to_response;

/// The JSON of a verified delivery, as an argument of a handler.
///
/// It is read from the bytes that were verified, not from the request's body, which a layer between
/// may have changed; so it need not be the last argument. For the bytes, the id and the time take
/// axum's `Extension<keyward::WebhookEvent>`. Without a
/// [`ReceiveWebhookLayer`](crate::ReceiveWebhookLayer) it is a 500.
///
/// ```
/// # use axum::{Router, body::Body, routing::post};
/// # use tower::ServiceExt;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::SystemTime;
/// # use keyward::{WebhookId, WebhookReceiver, WebhookSecret, WebhookSigner, WebhookVerifier};
/// # use keyward_tower::ReceiveWebhookLayer;
/// # let secret = WebhookSecret::random()?;
/// # let verifier = WebhookVerifier::standard(secret.expose_secret())?;
/// # let receiver = WebhookReceiver::builder(verifier).build()?;
/// use std::collections::HashMap;
/// use keyward_tower::VerifiedJson;
///
/// async fn handler(VerifiedJson(scores): VerifiedJson<HashMap<String, u32>>) -> String {
///     format!("{scores:?}")
/// }
///
/// let hook = post(handler).layer(ReceiveWebhookLayer::new(receiver));
/// let app = Router::<()>::new().route("/hook", hook).route("/forgotten", post(handler));
/// # let signed = |path: &str, body: &'static str| {
/// #     let id = WebhookId::random()?;
/// #     let mut request = http::Request::post(path);
/// #     for (name, value) in WebhookSigner::new(&secret).fields(&id, SystemTime::now(), body.as_bytes()) {
/// #         request = request.header(name, value);
/// #     }
/// #     Ok::<_, Box<dyn std::error::Error>>(request.body(Body::from(body))?)
/// # };
/// assert_eq!(app.clone().oneshot(signed("/hook", r#"{"a":1}"#)?).await?.status(), 200);
/// assert_eq!(app.clone().oneshot(signed("/hook", r#"{"a":"#)?).await?.status(), 400);
/// assert_eq!(app.oneshot(signed("/forgotten", r#"{"a":1}"#)?).await?.status(), 500);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a handler takes it apart in its arguments"
)]
pub struct VerifiedJson<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for VerifiedJson<T> {
    type Rejection = VerifiedJsonRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let event = parts.extensions.get::<WebhookEvent>();
        let Some(event) = event else {
            tracing::error!(
                method = %parts.method,
                path = parts.uri.path(),
                "a handler takes a webhook, but no layer of keyward covers its route"
            );
            return Err(VerifiedJsonRejection(None));
        };
        let json = event.json().map(Self);
        json.map_err(|_| VerifiedJsonRejection(Some(event.clone())))
    }
}

/// Why a handler gets no JSON.
///
/// What is signed is not the JSON that the handler takes:
///
/// ```text
/// HTTP/1.1 400 Bad Request
/// cache-control: no-store
/// content-type: application/problem+json
///
/// {"type":"about:blank","title":"Bad Request","status":400,"detail":"The body is not the JSON that is expected here.","code":"invalid_webhook_json"}
/// ```
///
/// Where there is no layer, it is a 500 with no field and no body, and the error is logged. See
/// [`VerifiedJson`].
#[derive(Clone, Debug)]
pub struct VerifiedJsonRejection(Option<WebhookEvent>);

impl IntoResponse for VerifiedJsonRejection {
    fn into_response(self) -> Response {
        match self.0 {
            Some(event) => to_response(event.invalid_json().clone()).map(Body::from),
            None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}
