//! The endpoint to which messages of an account and environment are sent.

use std::fmt;
use std::time::SystemTime;

use keyward::__named as named;
use keyward::environment::Environment;
use keyward::error::ParseError;
use keyward::ids::AccountId;
use keyward::ids::PublicName;
use keyward::key::RandomError;
use keyward::record::DisabledBy;

use crate::sealing::{SealError, SealedSecret, SealingKeys};
use crate::send::EndpointUrl;
use crate::signature::{WebhookSecret, WebhookSigner};

const PREFIX: &str = "whe_";

/// The public id of an endpoint: `whe_` and 12 random base62 characters. It is not secret.
///
/// ```
/// use keyward_webhooks::send::EndpointId;
///
/// let id = EndpointId::random()?;
/// assert_eq!(EndpointId::parse(&id.to_string())?, id);
/// assert!(EndpointId::parse("key_0123456789ab").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(PublicName);

impl EndpointId {
    /// Generates a new id.
    ///
    /// # Errors
    /// Returns an error if the operating system returns no random bytes.
    pub fn random() -> Result<Self, RandomError> {
        PublicName::random().map(Self)
    }

    /// Parses the output of `Display`.
    ///
    /// # Errors
    /// Returns an error if it is not `whe_` and 12 letters and digits.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        PublicName::parse(text, PREFIX, "endpoint id").map(Self)
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointId({self})")
    }
}

/// An endpoint that receives the messages of one account and environment, as stored.
///
/// ```
/// use std::time::SystemTime;
/// use keyward::{AccountId, Environment, Store};
/// use keyward_webhooks::send::{EndpointStatus, EndpointUrl, WebhookEndpoint};
/// use keyward_webhooks::sealing::{SealingKey, SealingKeys};
/// use keyward_webhooks::signature::WebhookSecret;
///
/// let keys = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
/// let url = EndpointUrl::parse("https://acme.example/hook")?;
/// let acme = AccountId::parse("acme")?;
/// let secret = WebhookSecret::random()?;
/// let now = SystemTime::now();
/// let live = WebhookEndpoint::new(acme, Environment::LIVE, url, &secret, &keys, now)?;
/// assert_eq!(live.status, EndpointStatus::Enabled);
/// assert!(live.signer(&keys, now).is_ok());
///
/// // A secret is sealed for its endpoint, account and environment, and cannot be opened elsewhere.
/// let WebhookEndpoint { url, secret, .. } = live.clone();
/// let test = (live.id(), live.account().clone(), Environment::TEST);
/// let moved = WebhookEndpoint::stored(test.0, test.1, test.2, url, secret, now);
/// assert!(moved.signer(&keys, now).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebhookEndpoint {
    id: EndpointId,
    /// The revision, set by the store. Zero: not stored yet.
    pub revision: u64,
    account: AccountId,
    environment: Environment,
    /// The URL to which messages are sent.
    pub url: EndpointUrl,
    /// The status. Only an enabled endpoint receives messages.
    pub status: EndpointStatus,
    /// The class of the actor that disabled the endpoint.
    ///
    /// `None` for a disabled endpoint means unknown, for instance disabled by an older version or
    /// by hand. It counts as an operator: only an operator can enable the endpoint.
    pub disabled_by: Option<DisabledBy>,
    /// The signing secret.
    pub secret: SealedSecret,
    /// The previous secret and the time until which it also signs.
    pub previous: Option<(SealedSecret, SystemTime)>,
    /// The time of the last answered challenge, at this URL and with this secret.
    pub verified_at: Option<SystemTime>,
    /// The time of creation.
    pub created_at: SystemTime,
}

impl WebhookEndpoint {
    /// Creates an enabled endpoint that has not answered a challenge yet.
    ///
    /// # Errors
    /// Returns an error if the operating system returns no random bytes.
    pub fn new(
        account: AccountId,
        environment: Environment,
        url: EndpointUrl,
        secret: &WebhookSecret,
        keys: &SealingKeys,
        now: SystemTime,
    ) -> Result<Self, SealError> {
        let id = EndpointId::random().map_err(SealError::random)?;
        let sealed = keys.seal(secret, &place(id, &account, environment))?;
        Ok(Self::stored(id, account, environment, url, sealed, now))
    }

    /// Recreates a stored endpoint. Set the remaining fields afterwards.
    #[must_use]
    pub fn stored(
        id: EndpointId,
        account: AccountId,
        environment: Environment,
        url: EndpointUrl,
        secret: SealedSecret,
        created_at: SystemTime,
    ) -> Self {
        Self {
            id,
            revision: 0,
            account,
            environment,
            url,
            status: EndpointStatus::Enabled,
            disabled_by: None,
            secret,
            previous: None,
            verified_at: None,
            created_at,
        }
    }

    /// Returns the id.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Returns the account whose messages it receives. It never changes.
    #[must_use]
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// Returns the environment. It never changes.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// Returns whether the endpoint is enabled and has answered a challenge.
    #[must_use]
    pub fn is_working(&self) -> bool {
        self.status == EndpointStatus::Enabled && self.verified_at.is_some()
    }

    /// Returns the signer with the secrets that sign at this time.
    ///
    /// # Errors
    /// Returns an error if a secret cannot be opened.
    pub fn signer(&self, keys: &SealingKeys, now: SystemTime) -> Result<WebhookSigner, SealError> {
        let signer = WebhookSigner::new(&keys.open(&self.secret, &self.place())?);
        match &self.previous {
            Some((previous, until)) if now < *until => {
                Ok(signer.and(&keys.open(previous, &self.place())?))
            }
            _ => Ok(signer),
        }
    }

    /// Returns the place for which its secrets are sealed.
    pub(crate) fn place(&self) -> String {
        place(self.id, &self.account, self.environment)
    }
}

fn place(id: EndpointId, account: &AccountId, environment: Environment) -> String {
    // None of them contains a space.
    format!("{id} {account} {environment}")
}

/// The status of an endpoint. See [`WebhookEndpoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointStatus {
    /// The endpoint receives messages.
    Enabled,
    /// The endpoint was [disabled](WebhookEndpoint::disabled_by). Messages accepted before that
    /// wait.
    Disabled,
    /// The endpoint answered 410 Gone. Its owner may enable it. Messages accepted before that wait.
    Gone,
}

named!(
    EndpointStatus, "endpoint status": Enabled = "enabled", Disabled = "disabled", Gone = "gone"
);
