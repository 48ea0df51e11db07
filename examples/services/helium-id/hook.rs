//! With what Helium Id's webhooks come: a key and a signature.

use std::error::Error;

use keyward::{SealedSecret, SealingKey, SealingKeys, WebhookSecret};
use serde_json::json;
use services::Records;

/// The key and the secret of a customer's webhooks.
pub(crate) struct Hook {
    pub(crate) key: WebhookSecret,
    pub(crate) secret: WebhookSecret,
}

impl Hook {
    /// Those of an account: sealed, for a stolen database must not be able to speak for Helium Id.
    pub(crate) fn of(records: &Records, account: &str) -> Result<Self, Box<dyn Error>> {
        // A real service reads this key from where it keeps its secrets: not from its code.
        let sealing = SealingKeys::new(SealingKey::new("example", &[7; 32])?);
        let one = |kind: &str| -> Result<WebhookSecret, Box<dyn Error>> {
            let place = format!("{account}/{kind}");
            let stored = records.all(account, kind)?;
            if let Some(sealed) = stored.last().and_then(|line| line["sealed"].as_str()) {
                return Ok(sealing.open(&SealedSecret::parse(sealed)?, &place)?);
            }
            let secret = WebhookSecret::random()?;
            let sealed = json!({ "sealed": sealing.seal(&secret, &place)?.to_string() });
            records.add(account, kind, sealed)?;
            Ok(secret)
        };
        Ok(Self {
            key: one("hook key")?,
            secret: one("hook secret")?,
        })
    }
}
