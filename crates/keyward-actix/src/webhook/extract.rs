//! An extractor for handlers of webhooks.

use std::error::Error;
use std::fmt;
use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::{FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError};
use keyward_webhooks::receive::WebhookEvent;
use serde_core::de::DeserializeOwned;

use crate::head::to_response;

/// An extractor for the JSON of a verified webhook.
///
/// The JSON is parsed from the verified bytes, not from the request's body, which a middleware in between may
/// have changed. To get the bytes, the ID and the timestamp, use actix-web's
/// `web::ReqData<keyward_webhooks::receive::WebhookEvent>`. Without a [`ReceiveWebhook`](crate::ReceiveWebhook) the response is a
/// 500.
///
/// Do not use `Option<VerifiedJson<T>>`: actix-web turns *every* extractor error into `None`.
///
/// ```
/// # use actix_web::{App, test::{TestRequest, call_service, init_service}, web};
/// # #[actix_web::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::SystemTime;
/// # use keyward_webhooks::{WebhookReceiver, WebhookSigner, WebhookVerifier};
/// # use keyward_webhooks::signature::{WebhookId, WebhookSecret};
/// # use keyward_actix::ReceiveWebhook;
/// # let secret = WebhookSecret::random()?;
/// # let verifier = WebhookVerifier::standard(secret.expose_secret())?;
/// # let receiver = WebhookReceiver::builder(verifier).build()?;
/// use std::collections::HashMap;
/// use keyward_actix::VerifiedJson;
///
/// async fn handler(VerifiedJson(scores): VerifiedJson<HashMap<String, u32>>) -> String {
///     format!("{scores:?}")
/// }
///
/// let app = App::new()
///     .service(web::resource("/hook").wrap(ReceiveWebhook::new(receiver)).post(handler))
///     .route("/forgotten", web::post().to(handler));
/// let app = init_service(app).await;
/// # let signed = |path: &str, body: &'static str| {
/// #     let id = WebhookId::random()?;
/// #     let mut request = TestRequest::post().uri(path).set_payload(body);
/// #     for field in WebhookSigner::new(&secret).headers(&id, SystemTime::now(), body.as_bytes()) {
/// #         request = request.insert_header(field);
/// #     }
/// #     Ok::<_, keyward::key::RandomError>(request.to_request())
/// # };
/// assert_eq!(call_service(&app, signed("/hook", r#"{"a":1}"#)?).await.status(), 200);
/// assert_eq!(call_service(&app, signed("/hook", r#"{"a":"#)?).await.status(), 400);
/// assert_eq!(call_service(&app, signed("/forgotten", r#"{"a":1}"#)?).await.status(), 500);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a handler takes it apart in its arguments"
)]
pub struct VerifiedJson<T>(pub T);

impl<T: DeserializeOwned> FromRequest for VerifiedJson<T> {
    type Error = VerifiedJsonError;
    type Future = Ready<Result<Self, VerifiedJsonError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let extensions = request.extensions();
        let Some(event) = extensions.get::<WebhookEvent>() else {
            tracing::error!(
                method = %request.method(),
                path = request.path(),
                route = request.match_pattern(),
                "a handler extracts a webhook, but no keyward middleware covers its route"
            );
            return ready(Err(VerifiedJsonError(None)));
        };
        let json = event.json().map(Self);
        ready(json.map_err(|_| VerifiedJsonError(Some(event.clone()))))
    }
}

/// The error of [`VerifiedJson`].
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
/// If there is no middleware, the response is a 500 with no headers and no body, and an error is logged.
#[derive(Clone, Debug)]
pub struct VerifiedJsonError(Option<WebhookEvent>);

impl fmt::Display for VerifiedJsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Some(_) => "the body is not the expected JSON",
            None => "no keyward middleware covers the route",
        })
    }
}

impl Error for VerifiedJsonError {}

impl ResponseError for VerifiedJsonError {
    fn status_code(&self) -> StatusCode {
        self.error_response().status()
    }

    fn error_response(&self) -> HttpResponse {
        match &self.0 {
            Some(event) => to_response(event.invalid_json().clone()),
            None => HttpResponse::new(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}
