//! Verifies the signatures of incoming webhooks.

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use keyward::clock::unix_time;
use keyward::error::{ParseError, ParseErrorKind};
use keyward::request::RequestHead;
use keyward::secret_text::WrongPrefix;

use crate::error::{WebhookError, WebhookErrorKind};
use crate::signature::scheme::{Claim, Scheme};
use crate::signature::secret::MacKey;
use crate::signature::{WebhookId, WebhookSecret};

/// The maximum number of secrets.
const MAX_SECRETS: usize = 4;

/// Secrets of other schemes, or other secrets of the same service.
const NOT_STRIPE: [WrongPrefix<'_>; 8] = [
    ("v1,", "remove `v1,`"),
    (
        "we_",
        "that is the endpoint's id, its signing secret begins with `whsec_`",
    ),
    ("sk_live_", STRIPE_API_KEY),
    ("sk_test_", STRIPE_API_KEY),
    ("rk_live_", STRIPE_API_KEY),
    ("rk_test_", STRIPE_API_KEY),
    ("pk_live_", STRIPE_API_KEY),
    ("pk_test_", STRIPE_API_KEY),
];
const STRIPE_API_KEY: &str =
    "that is an API key, the endpoint's signing secret begins with `whsec_`";
const NOT_GITHUB: [WrongPrefix<'_>; 9] = [
    ("whsec_", OTHER_FORM),
    ("v1,", OTHER_FORM),
    (
        "sha256=",
        "that is a signature, use the secret of the webhook's settings",
    ),
    ("ghp_", GITHUB_TOKEN),
    ("gho_", GITHUB_TOKEN),
    ("ghu_", GITHUB_TOKEN),
    ("ghs_", GITHUB_TOKEN),
    ("ghr_", GITHUB_TOKEN),
    ("github_pat_", GITHUB_TOKEN),
];
const OTHER_FORM: &str =
    "that is for `WebhookVerifier::standard`, or for `WebhookVerifier::stripe` if Stripe issued it";
const GITHUB_TOKEN: &str = "that is an access token, use the secret of the webhook's settings";

/// Verifies the signatures of one sender, given the headers and the bytes of the body.
///
/// Every entry of a list of signatures is compared with every secret, each in constant time;
/// unknown versions are skipped. A timestamp may be 300 seconds off, either way. A repeated header
/// is refused.
///
/// To use it as middleware, see [`WebhookReceiver`](crate::receive::WebhookReceiver).
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use keyward::testing::TestRequest;
/// use keyward_webhooks::WebhookVerifier;
///
/// let head = TestRequest::new("POST")
///     .header("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
///     .header("webhook-timestamp", "1614265330")
///     .header("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
/// let verifier = WebhookVerifier::standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_614_265_330);
/// let signed = verifier.verify(&head, br#"{"test": 2432232314}"#, now)?;
/// assert_eq!(signed.id().map(|id| id.as_str()), Some("msg_p5jXN8AQM9LWM0D4loKWxJek"));
/// assert_eq!(signed.timestamp(), Some(now));
/// assert!(verifier.verify(&head, br#"{"test": 0}"#, now).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct WebhookVerifier {
    scheme: Scheme,
    keys: Vec<MacKey>,
    tolerance: Duration,
}

impl WebhookVerifier {
    /// Verifies [Standard Webhooks] `v1`: `webhook-id`, `webhook-timestamp` and `webhook-signature`.
    ///
    /// If all three are absent, it reads `svix-id`, `svix-timestamp` and `svix-signature` instead,
    /// the names used by Svix and services that send through it. The two families are never mixed.
    ///
    /// # Errors
    /// Returns an error if the text is not a [`WebhookSecret`].
    ///
    /// ```
    /// use keyward::error::ParseErrorKind;
    /// use keyward_webhooks::WebhookVerifier;
    ///
    /// let error = WebhookVerifier::standard("v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap_err();
    /// assert_eq!(error.kind(), ParseErrorKind::WrongPrefix);
    /// assert_eq!(error.to_string(), "invalid webhook secret: has the wrong prefix; remove `v1,`");
    /// ```
    ///
    /// [Standard Webhooks]: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    pub fn standard(secret: &str) -> Result<Self, ParseError> {
        Self::new(Scheme::Standard, secret)
    }

    /// Verifies Stripe's `Stripe-Signature: t=<seconds>,v1=<hex>`, signed with the secret's text.
    ///
    /// # Errors
    /// Returns an error if the text does not have 16 to 256 bytes, is surrounded by extra
    /// characters, or is an API key.
    ///
    /// ```
    /// let error = keyward_webhooks::WebhookVerifier::stripe("\"whsec_of_an_endpoint\"").unwrap_err();
    /// assert_eq!(error.to_string(), "invalid webhook secret: stands in quotation marks");
    /// ```
    pub fn stripe(secret: &str) -> Result<Self, ParseError> {
        Self::new(Scheme::Stripe, secret)
    }

    /// Verifies GitHub's `X-Hub-Signature-256: sha256=<hex>`, signed with the secret's text.
    ///
    /// GitHub signs only the body, neither a timestamp nor the id in `X-GitHub-Delivery`. A
    /// recorded delivery stays valid forever, so only the receiver's replay memory can detect it.
    ///
    /// # Errors
    /// Returns an error if the text does not have 16 to 256 bytes, is surrounded by extra
    /// characters, or is the secret of another sender or an access token.
    ///
    /// ```
    /// use keyward::error::ParseErrorKind;
    /// use keyward_webhooks::WebhookVerifier;
    ///
    /// let file = "It's a Secret to Everybody\n"; // as `echo` writes it
    /// assert_eq!(WebhookVerifier::github(file).unwrap_err().kind(), ParseErrorKind::Newline);
    /// assert!(WebhookVerifier::github(file.trim_end()).is_ok());
    /// ```
    pub fn github(secret: &str) -> Result<Self, ParseError> {
        Self::new(Scheme::GitHub, secret)
    }

    /// Accepts another secret as well, for key rotation at the sender.
    ///
    /// # Errors
    /// Returns an error if it is not a secret of this scheme, or a fifth one.
    ///
    /// ```
    /// use keyward_webhooks::WebhookVerifier;
    /// use keyward_webhooks::signature::WebhookSecret;
    ///
    /// let [new, old] = [WebhookSecret::random()?, WebhookSecret::random()?];
    /// let verifier = WebhookVerifier::standard(new.expose_secret())?.or(old.expose_secret())?;
    /// assert!(verifier.or("").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn or(mut self, secret: &str) -> Result<Self, ParseError> {
        if self.keys.len() == MAX_SECRETS {
            return Err(ParseError::new("webhook secrets", ParseErrorKind::TooMany));
        }
        self.keys.push(match self.scheme {
            Scheme::Standard => WebhookSecret::parse(secret)?.key().clone(),
            Scheme::Stripe => MacKey::of_text(secret, &NOT_STRIPE)?,
            Scheme::GitHub => MacKey::of_text(secret, &NOT_GITHUB)?,
        });
        Ok(self)
    }

    /// Verifies a complete request, body included, at this time.
    ///
    /// # Errors
    /// Returns an error if it is not signed with one of the secrets, within the tolerance. See
    /// [`WebhookErrorKind`].
    pub fn verify<R: RequestHead>(
        &self,
        head: &R,
        body: &[u8],
        now: SystemTime,
    ) -> Result<SignedWebhook, WebhookError> {
        self.prove(self.read(head, now)?, body)
    }

    /// Reads the claims in the headers, if they could be true.
    pub(crate) fn read<R: RequestHead>(
        &self,
        head: &R,
        now: SystemTime,
    ) -> Result<Claim, WebhookError> {
        let claim = Claim::read(self.scheme, head)?;
        let (now, tolerance) = (unix_time(now).as_secs(), self.tolerance.as_secs());
        match &claim.timestamp {
            Some(at) if at.seconds < now.saturating_sub(tolerance) => {
                Err(WebhookError::new(WebhookErrorKind::TooOld))
            }
            Some(at) if at.seconds > now.saturating_add(tolerance) => {
                Err(WebhookError::new(WebhookErrorKind::TooNew))
            }
            _ => Ok(claim),
        }
    }

    pub(crate) fn prove(&self, claim: Claim, body: &[u8]) -> Result<SignedWebhook, WebhookError> {
        let code = claim.prove(&self.keys, body)?;
        let at = claim.timestamp.as_ref().map(|at| at.seconds);
        let at = at.and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at)));
        Ok(SignedWebhook {
            scheme: claim.scheme,
            id: claim.id,
            timestamp: at,
            code,
        })
    }

    /// Returns the maximum difference between a timestamp and the present time.
    pub(crate) fn tolerance(&self) -> Duration {
        self.tolerance
    }

    fn new(scheme: Scheme, secret: &str) -> Result<Self, ParseError> {
        let verifier = Self {
            scheme,
            keys: Vec::new(),
            tolerance: Duration::from_secs(300),
        };
        verifier.or(secret)
    }
}

impl fmt::Debug for WebhookVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookVerifier({:?}, ..)", self.scheme)
    }
}

/// A message with a verified signature, returned by [`WebhookVerifier::verify`].
#[derive(Clone, Debug)]
pub struct SignedWebhook {
    scheme: Scheme,
    id: Option<WebhookId>,
    timestamp: Option<SystemTime>,
    code: [u8; 32],
}

impl SignedWebhook {
    /// Returns the id of the message: `webhook-id`, `svix-id`, or `X-GitHub-Delivery`, which is not
    /// signed.
    ///
    /// It is `None` for Stripe, which has the id in the body.
    #[must_use]
    pub fn id(&self) -> Option<&WebhookId> {
        self.id.as_ref()
    }

    /// Returns the time at which this attempt was signed; `None` for GitHub.
    #[must_use]
    pub fn timestamp(&self) -> Option<SystemTime> {
        self.timestamp
    }

    /// Returns the key that identifies the message in a replay memory.
    ///
    /// It is the id if that is signed. Otherwise it is the signature, which cannot be changed,
    /// while an unsigned id could be replaced in each replay.
    pub(crate) fn replay_key(&self) -> String {
        match (self.scheme, &self.id) {
            (Scheme::Standard, Some(id)) => id.to_string(),
            _ => BASE64_STANDARD.encode(self.code),
        }
    }
}
