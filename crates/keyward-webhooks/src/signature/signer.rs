//! Signs outgoing webhooks.

use std::fmt;
use std::time::SystemTime;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use keyward::clock::unix_time;

use crate::signature::secret::MacKey;
use crate::signature::{WebhookId, WebhookSecret};

/// Signs messages according to [Standard Webhooks], with one secret or two.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use keyward_webhooks::WebhookSigner;
/// use keyward_webhooks::signature::{WebhookId, WebhookSecret};
///
/// let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// let id = WebhookId::parse("msg_p5jXN8AQM9LWM0D4loKWxJek")?;
/// let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_614_265_330);
/// let signer = WebhookSigner::new(&secret);
/// assert_eq!(
///     signer.headers(&id, at, br#"{"test": 2432232314}"#),
///     [
///         ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned()),
///         ("webhook-timestamp", "1614265330".to_owned()),
///         ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_owned()),
///     ]
/// );
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
///
/// [Standard Webhooks]: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
#[derive(Clone)]
#[must_use]
pub struct WebhookSigner {
    current: MacKey,
    previous: Option<MacKey>,
}

impl WebhookSigner {
    /// Creates a signer with this secret.
    pub fn new(secret: &WebhookSecret) -> Self {
        Self {
            current: secret.key().clone(),
            previous: None,
        }
    }

    /// Signs with the previous secret as well.
    ///
    /// Receivers that do not know the new secret yet can then still verify.
    pub fn and(mut self, previous: &WebhookSecret) -> Self {
        self.previous = Some(previous.key().clone());
        self
    }

    /// Returns the value of `webhook-signature`: `v1,` and base64 for each secret, the newest
    /// first.
    ///
    /// `id` is that of the message, `at` the time of the attempt, in whole seconds.
    #[must_use]
    pub fn sign(&self, id: &WebhookId, at: SystemTime, body: &[u8]) -> String {
        let at = unix_time(at).as_secs().to_string();
        self.sign_text(id, &at, body)
    }

    /// Returns the three headers of a delivery, with lower case names.
    #[must_use]
    pub fn headers(
        &self,
        id: &WebhookId,
        at: SystemTime,
        body: &[u8],
    ) -> [(&'static str, String); 3] {
        let at = unix_time(at).as_secs().to_string();
        let signature = self.sign_text(id, &at, body);
        [
            ("webhook-id", id.to_string()),
            ("webhook-timestamp", at),
            ("webhook-signature", signature),
        ]
    }

    fn sign_text(&self, id: &WebhookId, at: &str, body: &[u8]) -> String {
        let parts = [id.as_str().as_bytes(), b".", at.as_bytes(), b".", body];
        let mut text = String::new();
        for key in [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
        {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str("v1,");
            BASE64_STANDARD.encode_string(key.sign(&parts), &mut text);
        }
        text
    }
}

impl fmt::Debug for WebhookSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSigner(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn two_secrets_sign_side_by_side_the_newer_first() {
        let [new, old] = [0, 1].map(|_| WebhookSecret::random().unwrap());
        let id = WebhookId::random().unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_999);
        let alone = |secret| WebhookSigner::new(secret).sign(&id, at, b"\xff\0");
        let both = WebhookSigner::new(&new).and(&old);
        let expected = format!("{} {}", alone(&new), alone(&old));
        assert_eq!(both.sign(&id, at, b"\xff\0"), expected);
        let [_, (_, time), (_, signature)] = both.headers(&id, at, b"\xff\0");
        assert_eq!((&*time, signature), ("1700000000", expected));
    }
}
