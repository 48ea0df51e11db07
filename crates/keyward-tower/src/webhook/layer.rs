//! The layer.

use keyward::WebhookReceiver;
use tower_layer::Layer;

use crate::ReceiveWebhook;
use crate::head::FieldNames;

/// Puts a receiver of webhooks in front of a service.
///
/// It reads the body up to the receiver's limit and verifies it. The service gets the same bytes as
/// its body, and a [`WebhookEvent`](keyward::WebhookEvent) in the request's extensions. A delivery
/// that is refused never reaches it; the [`WebhookError`](keyward::WebhookError) is in the extensions
/// of the response.
///
/// The body's type stays what it is: it must be one that bytes can be turned into, such as axum's
/// `Body` or `http_body_util::Full<Bytes>`. In front of a service of hyper's `Incoming`, map the body
/// to such a type first. Trailers are dropped, for they are not signed.
///
/// A body that takes longer than the receiver's
/// [`body_timeout`](keyward::WebhookReceiverBuilder::body_timeout) is answered 408. Without a tokio timer,
/// a body that has not arrived yet is answered 503 at once. An axum handler that takes `Bytes` or `String`
/// is held to axum's own limit, 2 MB, as well. The rest of the body of a rejected delivery is
/// [drained](crate#rejected-uploads).
///
/// A refusal looks like this, unless the receiver words it otherwise:
///
/// ```text
/// HTTP/1.1 401 Unauthorized
/// cache-control: no-store
/// content-type: application/problem+json
/// www-authenticate: WebhookSignature realm="webhook"
///
/// {"type":"about:blank","title":"Unauthorized","status":401,"detail":"Sign the delivery: it needs its id, its timestamp and its signature, as the docs say.","code":"missing_webhook_signature"}
/// ```
///
/// Where a sender has an API key too: one that is fixed is
/// [the receiver's to check](keyward::WebhookReceiverBuilder::api_key), one of the service's own is
/// checked by a [`RequireKeyLayer`](crate::RequireKeyLayer) outside of this one.
///
/// ```
/// # use axum::{Router, body::Body, routing::post};
/// # use http_body_util::BodyExt;
/// # use tower::ServiceExt;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::SystemTime;
/// use keyward::{WebhookId, WebhookReceiver, WebhookSecret, WebhookSigner, WebhookVerifier};
/// use keyward_tower::ReceiveWebhookLayer;
///
/// let secret = WebhookSecret::random()?; // the sender's
/// let verifier = WebhookVerifier::standard(secret.expose_secret())?;
/// let receiver = WebhookReceiver::builder(verifier).build()?;
/// let app = Router::<()>::new()
///     .route("/hook", post(async |body: String| body))
///     .layer(ReceiveWebhookLayer::new(receiver));
///
/// let mut delivery = http::Request::post("/hook");
/// for (name, value) in WebhookSigner::new(&secret).fields(&WebhookId::random()?, SystemTime::now(), b"{}") {
///     delivery = delivery.header(name, value);
/// }
/// let response = app.clone().oneshot(delivery.body(Body::from("{}"))?).await?;
/// assert_eq!(response.status(), 200);
/// assert_eq!(response.into_body().collect().await?.to_bytes(), "{}");
///
/// let unsigned = http::Request::post("/hook").body(Body::from("{}"))?;
/// let response = app.oneshot(unsigned).await?;
/// assert_eq!(response.status(), 401);
/// # let fields: Vec<_> = response.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default())).collect();
/// # assert_eq!(fields[..3], ["cache-control: no-store", "content-type: application/problem+json", r#"www-authenticate: WebhookSignature realm="webhook""#]);
/// # assert_eq!(response.into_body().collect().await?.to_bytes(), r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"Sign the delivery: it needs its id, its timestamp and its signature, as the docs say.","code":"missing_webhook_signature"}"#);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ReceiveWebhookLayer {
    receiver: WebhookReceiver,
    names: FieldNames,
}

impl ReceiveWebhookLayer {
    /// Puts this in front.
    pub fn new(receiver: WebhookReceiver) -> Self {
        let names = FieldNames::of(receiver.locations());
        Self { receiver, names }
    }
}

impl<S> Layer<S> for ReceiveWebhookLayer {
    type Service = ReceiveWebhook<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ReceiveWebhook::new(inner, self.receiver.clone(), self.names.clone())
    }
}
