//! Signs a webhook and verifies it in a layer before the handler sees it.
//!
//! ```text
//! cargo run --example webhooks
//! ```

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::{Router, routing::post};
use keyward_tower::{ReceiveWebhookLayer, VerifiedJson};
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use keyward_webhooks::{WebhookReceiver, WebhookSigner, WebhookVerifier};
use serde_json::Value;
use tower::ServiceExt;

async fn report(VerifiedJson(event): VerifiedJson<Value>) -> StatusCode {
    println!("received {event}");
    StatusCode::NO_CONTENT
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    // The receiver: a layer in front of a handler.
    let receiver = WebhookReceiver::builder(WebhookVerifier::standard(secret)?).build()?;
    let app = Router::new()
        .route("/hook", post(report))
        .layer(ReceiveWebhookLayer::new(receiver));

    // The sender: `WebhookSender` does this from an outbox, with retries.
    let (id, body) = (
        WebhookId::parse("report-17-done")?,
        r#"{"type":"report.done"}"#,
    );
    let now = SystemTime::now();
    let signature =
        WebhookSigner::new(&WebhookSecret::parse(secret)?).sign(&id, now, body.as_bytes());
    let request = || {
        Request::post("/hook")
            .header("webhook-id", id.as_str())
            .header(
                "webhook-timestamp",
                now.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
            )
            .header("webhook-signature", &signature)
    };
    let genuine = request().body(Body::from(body))?;
    println!("{}", app.clone().oneshot(genuine).await?.status()); // 204 No Content
    let forged = request().body(Body::from(r#"{"type":"report.paid"}"#))?;
    println!("{}", app.oneshot(forged).await?.status()); // 401 Unauthorized
    Ok(())
}
