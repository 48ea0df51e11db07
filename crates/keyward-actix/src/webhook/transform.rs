//! The middleware.

use std::future::{Ready, ready};

use actix_web::body::EitherBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};
use keyward_webhooks::WebhookReceiver;

use crate::ReceiveWebhookMiddleware;

/// A middleware that verifies incoming webhooks.
///
/// It reads the body up to the receiver's limit and verifies the signature. The inner service gets the same
/// bytes as its body, and a [`WebhookEvent`](keyward_webhooks::receive::WebhookEvent) in the request's extensions. A rejected
/// delivery never reaches the service; the response has the [`WebhookError`](keyward_webhooks::error::WebhookError) in its
/// extensions.
///
/// A body that takes longer than the receiver's
/// [`body_timeout`](keyward_webhooks::receive::WebhookReceiverBuilder::body_timeout) is answered 408. A handler that takes
/// `Bytes` or `String` is also subject to actix-web's own limit, 256 kB; the event and its JSON are not.
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
/// [fixed key](keyward_webhooks::receive::WebhookReceiverBuilder::api_key); for keys that this service issues, wrap a
/// [`RequireKey`](crate::RequireKey) around this middleware.
///
/// Build the receiver once, outside of the closure that runs for every worker, because each receiver has its
/// own replay memory.
///
/// ```
/// # use actix_web::{App, test::{TestRequest, call_service, init_service}, web};
/// # #[actix_web::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::SystemTime;
/// use keyward_webhooks::{WebhookReceiver, WebhookSigner, WebhookVerifier};
/// use keyward_webhooks::signature::{WebhookId, WebhookSecret};
/// use keyward_actix::ReceiveWebhook;
///
/// let secret = WebhookSecret::random()?; // the sender's
/// let verifier = WebhookVerifier::standard(secret.expose_secret())?;
/// let receiver = WebhookReceiver::builder(verifier).build()?;
/// let hook = web::resource("/hook")
///     .wrap(ReceiveWebhook::new(receiver))
///     .post(async |body: String| body);
/// let app = init_service(App::new().service(hook)).await;
///
/// let mut delivery = TestRequest::post().uri("/hook").set_payload("{}");
/// for field in WebhookSigner::new(&secret).headers(&WebhookId::random()?, SystemTime::now(), b"{}") {
///     delivery = delivery.insert_header(field);
/// }
/// assert_eq!(call_service(&app, delivery.to_request()).await.status(), 200);
///
/// let unsigned = TestRequest::post().uri("/hook").set_payload("{}");
/// assert_eq!(call_service(&app, unsigned.to_request()).await.status(), 401);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ReceiveWebhook {
    receiver: WebhookReceiver,
}

impl ReceiveWebhook {
    /// Creates a middleware that verifies webhooks with `receiver`.
    pub fn new(receiver: WebhookReceiver) -> Self {
        Self { receiver }
    }
}

impl<S, B> Transform<S, ServiceRequest> for ReceiveWebhook
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>>,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = S::Error;
    type Transform = ReceiveWebhookMiddleware<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        let receiver = self.receiver.clone();
        ready(Ok(ReceiveWebhookMiddleware::new(service, receiver)))
    }
}
