//! The tower layer.

use keyward_webhooks::WebhookReceiver;
use tower_layer::Layer;

use crate::ReceiveWebhook;
use crate::head::FieldNames;

/// A layer that verifies incoming webhooks.
///
/// It reads the body up to the receiver's limit and verifies the signature. The inner service gets the same
/// bytes as its body, and a [`WebhookEvent`](keyward_webhooks::receive::WebhookEvent) in the request's extensions. A rejected
/// delivery never reaches the service; the response has the [`WebhookError`](keyward_webhooks::error::WebhookError) in its
/// extensions.
///
/// The layer does not change the type of the body. The type must implement `From<Bytes>`, as axum's `Body` and
/// `http_body_util::Full<Bytes>` do. In front of a service of hyper's `Incoming`, map the body to such a type
/// first. Trailers are dropped because they are not signed.
///
/// A body that takes longer than the receiver's
/// [`body_timeout`](keyward_webhooks::receive::WebhookReceiverBuilder::body_timeout) is answered 408. Without a tokio timer,
/// a body that has not arrived yet is answered 503 at once. An axum handler that takes `Bytes` or `String`
/// is held to axum's own limit, 2 MB, as well. The rest of the body of a rejected delivery is
/// [drained](crate#rejected-uploads).
///
/// A rejected delivery gets this response, unless the receiver has [`Replies`](keyward::Replies) of its own:
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
/// If the sender also sends an API key, there are two ways to verify it. The receiver checks a
/// [fixed key](keyward_webhooks::receive::WebhookReceiverBuilder::api_key); for keys that this service issues, add a
/// [`RequireKeyLayer`](crate::RequireKeyLayer) outside of this layer.
///
/// ```
/// # use axum::{Router, body::Body, routing::post};
/// # use http_body_util::BodyExt;
/// # use tower::ServiceExt;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::SystemTime;
/// use keyward_webhooks::{WebhookReceiver, WebhookSigner, WebhookVerifier};
/// use keyward_webhooks::signature::{WebhookId, WebhookSecret};
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
/// for (name, value) in WebhookSigner::new(&secret).headers(&WebhookId::random()?, SystemTime::now(), b"{}") {
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
    /// Creates a layer that verifies webhooks with `receiver`.
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
