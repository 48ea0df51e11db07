//! An extractor for axum handlers of webhooks.

use axum_core::body::Body;
use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use keyward_webhooks::receive::WebhookEvent;
use serde_core::de::DeserializeOwned;

use crate::head::to_response;

/// An extractor for the JSON of a verified webhook.
///
/// The JSON is parsed from the verified bytes, not from the request's body, which a layer in between may have
/// changed. The extractor therefore need not be the last argument. To get the bytes, the ID and the
/// timestamp, use axum's `Extension<keyward_webhooks::receive::WebhookEvent>`. Without a
/// [`ReceiveWebhookLayer`](crate::ReceiveWebhookLayer) the response is a 500.
///
/// ```
/// # use axum::{Router, body::Body, routing::post};
/// # use tower::ServiceExt;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::SystemTime;
/// # use keyward_webhooks::{WebhookReceiver, WebhookSigner, WebhookVerifier};
/// # use keyward_webhooks::signature::{WebhookId, WebhookSecret};
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
/// #     for (name, value) in WebhookSigner::new(&secret).headers(&id, SystemTime::now(), body.as_bytes()) {
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
                "a handler extracts a webhook, but no keyward layer covers its route"
            );
            return Err(VerifiedJsonRejection(None));
        };
        let json = event.json().map(Self);
        json.map_err(|_| VerifiedJsonRejection(Some(event.clone())))
    }
}

/// The rejection of [`VerifiedJson`].
///
/// If the signed body is not the JSON that the handler expects, the response is:
///
/// ```text
/// HTTP/1.1 400 Bad Request
/// cache-control: no-store
/// content-type: application/problem+json
///
/// {"type":"about:blank","title":"Bad Request","status":400,"detail":"The body is not the JSON that is expected here.","code":"invalid_webhook_json"}
/// ```
///
/// If there is no layer, the response is a 500 with no headers and no body, and an error is logged.
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
