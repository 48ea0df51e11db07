//! JSON of endpoints and attempts for a management API, in the same style as [`keyward`].

use std::time::SystemTime;

use keyward::clock::unix_time;
use keyward::record::DisabledBy;
use serde_core::ser::{Serialize, SerializeStruct, Serializer};

use crate::send::{DeliveryAttempt, WebhookEndpoint};

/// Serializes the endpoint without its secrets, not even sealed ones.
///
/// `previous_until` is the time at which the previous secret stops signing.
///
/// ```
/// use std::time::SystemTime;
/// use keyward::{AccountId, Environment};
/// use keyward_webhooks::send::{EndpointUrl, WebhookEndpoint};
/// use keyward_webhooks::sealing::{SealingKey, SealingKeys};
/// use keyward_webhooks::signature::WebhookSecret;
/// use serde_json::json;
///
/// let keys = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
/// let url = EndpointUrl::parse("https://acme.example/hook")?;
/// let (acme, live) = (AccountId::parse("acme")?, Environment::LIVE);
/// let secret = WebhookSecret::random()?;
/// let made = SystemTime::UNIX_EPOCH;
/// let endpoint = WebhookEndpoint::new(acme, live, url, &secret, &keys, made)?;
/// let expected = json!({
///     "id": endpoint.id().to_string(),
///     "account": "acme",
///     "environment": "live",
///     "url": "https://acme.example/hook",
///     "status": "enabled",
///     "disabled_by": null,
///     "is_working": false,
///     "previous_until": null,
///     "verified_at": null,
///     "created_at": 0,
/// });
/// assert_eq!(serde_json::to_value(&endpoint)?, expected);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Serialize for WebhookEndpoint {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let previous_until = self.previous.as_ref().map(|(_, until)| millis(*until));
        let mut to = to.serialize_struct("WebhookEndpoint", 10)?;
        to.serialize_field("id", &self.id().to_string())?;
        to.serialize_field("account", self.account().as_str())?;
        to.serialize_field("environment", self.environment().as_str())?;
        to.serialize_field("url", self.url.as_str())?;
        to.serialize_field("status", self.status.as_str())?;
        to.serialize_field("disabled_by", &self.disabled_by.map(DisabledBy::as_str))?;
        to.serialize_field("is_working", &self.is_working())?;
        to.serialize_field("previous_until", &previous_until)?;
        to.serialize_field("verified_at", &self.verified_at.map(millis))?;
        to.serialize_field("created_at", &millis(self.created_at))?;
        to.end()
    }
}

/// Serializes the attempt; `took` is in milliseconds.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use keyward_webhooks::send::{AttemptOutcome, DeliveryAttempt, EndpointId};
/// use keyward_webhooks::signature::WebhookId;
/// use serde_json::json;
///
/// let attempt = DeliveryAttempt {
///     number: 7,
///     message: WebhookId::parse("msg_1")?,
///     endpoint: EndpointId::parse("whe_0123456789ab")?,
///     attempt: 1,
///     at: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
///     took: Duration::from_millis(83),
///     outcome: AttemptOutcome::of_status(503),
///     status: Some(503),
///     last: false,
/// };
/// let expected = json!({
///     "number": 7,
///     "message": "msg_1",
///     "endpoint": "whe_0123456789ab",
///     "attempt": 1,
///     "at": 1000,
///     "took": 83,
///     "outcome": "refused",
///     "status": 503,
///     "last": false,
/// });
/// assert_eq!(serde_json::to_value(&attempt)?, expected);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Serialize for DeliveryAttempt {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let took = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        let mut to = to.serialize_struct("DeliveryAttempt", 9)?;
        to.serialize_field("number", &self.number)?;
        to.serialize_field("message", self.message.as_str())?;
        to.serialize_field("endpoint", &self.endpoint.to_string())?;
        to.serialize_field("attempt", &self.attempt)?;
        to.serialize_field("at", &millis(self.at))?;
        to.serialize_field("took", &took)?;
        to.serialize_field("outcome", self.outcome.as_str())?;
        to.serialize_field("status", &self.status)?;
        to.serialize_field("last", &self.last)?;
        to.end()
    }
}

fn millis(time: SystemTime) -> u64 {
    u64::try_from(unix_time(time).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyward::{AccountId, Environment};
    use serde_json::to_value;

    use super::*;
    use crate::sealing::{SealingKey, SealingKeys};
    use crate::send::EndpointUrl;
    use crate::signature::WebhookSecret;

    #[test]
    fn nothing_that_is_written_of_an_endpoint_is_a_secret() {
        let keys = SealingKeys::new(SealingKey::new("2026", &[7; 32]).unwrap());
        let url = EndpointUrl::parse("https://acme.example/hook").unwrap();
        let account = AccountId::parse("acme").unwrap();
        let (secret, now) = (WebhookSecret::random().unwrap(), SystemTime::UNIX_EPOCH);
        let endpoint = WebhookEndpoint::new(account, Environment::LIVE, url, &secret, &keys, now);
        let mut endpoint = endpoint.unwrap();
        let until = now + Duration::from_secs(2);
        endpoint.previous = Some((endpoint.secret.clone(), until));
        endpoint.disabled_by = Some(DisabledBy::Operator);
        let written = to_value(&endpoint).unwrap();
        assert_eq!(written["previous_until"], 2000);
        assert_eq!(written["disabled_by"], "operator");
        let text = written.to_string();
        assert!(!text.contains(&endpoint.secret.to_string()), "{text}");
    }
}
