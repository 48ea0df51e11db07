//! With what Helium Id's webhooks come: a key, beside the signature.

use std::error::Error;
use std::time::SystemTime;

use crate::{Records, post};
use keyward::AccountId;
use keyward_webhooks::WebhookSigner;
use keyward_webhooks::sealing::{SealedSecret, SealingKeys};
use keyward_webhooks::send::WebhookEndpoint;
use keyward_webhooks::signature::{WebhookId, WebhookSecret};
use serde_json::json;

/// The key of an account: sealed, for a stolen database must not be able to speak for Helium Id.
pub(crate) fn key_of(
    account: &AccountId,
    records: &Records,
    sealing: &SealingKeys,
) -> Result<WebhookSecret, Box<dyn Error>> {
    let place = account.as_str();
    let stored = records.all(place, "hook key")?;
    if let Some(sealed) = stored.first().and_then(|line| line["sealed"].as_str()) {
        return Ok(sealing.open(&SealedSecret::parse(sealed)?, place)?);
    }
    let sealed = sealing.seal(&WebhookSecret::random()?, place)?;
    records.add(place, "hook key", json!({ "sealed": sealed.to_string() }))?;
    key_of(account, records, sealing)
}

/// Sends a webhook once, with something wrong about it: the status it gets, if anybody is there.
///
/// The outbox would send it again for days.
pub(crate) async fn test(
    endpoint: &WebhookEndpoint,
    signer: &WebhookSigner,
    key: &WebhookSecret,
    wrong: &str,
    now: SystemTime,
) -> Result<Option<u16>, Box<dyn Error>> {
    let event = match wrong {
        "json" => "{\"type\":",
        _ => "{\"type\":\"ping\"}",
    };
    let body = if wrong == "signature" { "{}" } else { event };
    let id = WebhookId::random()?;
    let mut fields = signer.headers(&id, now, body.as_bytes()).to_vec();
    let key = key.expose_secret();
    fields.push(match wrong {
        "key" => ("x-api-key", key.chars().rev().collect()),
        _ => ("x-api-key", key.to_owned()),
    });
    let answer = post(endpoint.url.as_str(), &fields, event).await;
    Ok(answer.map(|(status, _)| status))
}

/// Whether a customer's server has done right: what is not to be believed is refused, and nothing breaks.
pub(crate) fn is_right(wrong: &str, status: u16) -> bool {
    match wrong {
        "nothing" => (200..300).contains(&status),
        "json" => (200..500).contains(&status),
        _ => (400..500).contains(&status),
    }
}
