//! Where messages of an account and environment go.

use std::fmt;
use std::time::SystemTime;

use crate::named::named;
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

/// The public name of an endpoint: `whe_` and 12 random base62 characters. No secret.
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
    /// A new name.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn random() -> Result<Self, RandomError> {
        PublicName::random().map(Self)
    }

    /// Parses what `Display` writes.
    ///
    /// # Errors
    /// When it is not `whe_` and 12 letters and digits.
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

/// Where the messages of one account and one environment go, as a store keeps it.
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
/// // A secret is sealed for its endpoint, account and environment: elsewhere it does not open.
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
    /// Which version this is; the store sets it. Zero: not stored yet.
    pub revision: u64,
    account: AccountId,
    environment: Environment,
    /// Where they go.
    pub url: EndpointUrl,
    /// Whether it gets messages.
    pub status: EndpointStatus,
    /// Who disabled it.
    ///
    /// `None` of a disabled endpoint stands for somebody unknown, such as a version or a tool that does not
    /// write it down. It counts as an operator: only an operator enables the endpoint.
    pub disabled_by: Option<DisabledBy>,
    /// The secret that signs.
    pub secret: SealedSecret,
    /// The secret before it, and until when that signs too.
    pub previous: Option<(SealedSecret, SystemTime)>,
    /// When it answered a challenge last, at this URL and with this secret.
    pub verified_at: Option<SystemTime>,
    /// When it was made.
    pub created_at: SystemTime,
}

impl WebhookEndpoint {
    /// A new one, enabled, that has answered no challenge yet.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
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

    /// One that a store has kept; what is not named here is to be set.
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

    /// Its name.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Whose messages it gets. It never changes.
    #[must_use]
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// Of which environment. It never changes.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// Whether it is enabled and has answered a challenge.
    #[must_use]
    pub fn is_working(&self) -> bool {
        self.status == EndpointStatus::Enabled && self.verified_at.is_some()
    }

    /// What signs for it now.
    ///
    /// # Errors
    /// When a secret cannot be opened.
    pub fn signer(&self, keys: &SealingKeys, now: SystemTime) -> Result<WebhookSigner, SealError> {
        let signer = WebhookSigner::new(&keys.open(&self.secret, &self.place())?);
        match &self.previous {
            Some((previous, until)) if now < *until => {
                Ok(signer.and(&keys.open(previous, &self.place())?))
            }
            _ => Ok(signer),
        }
    }

    /// What its secrets are sealed for.
    pub(crate) fn place(&self) -> String {
        place(self.id, &self.account, self.environment)
    }
}

fn place(id: EndpointId, account: &AccountId, environment: Environment) -> String {
    // None of them holds a space.
    format!("{id} {account} {environment}")
}

/// Whether an endpoint gets messages. See [`WebhookEndpoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointStatus {
    /// It does.
    Enabled,
    /// It was [switched off](WebhookEndpoint::disabled_by). What had been accepted for it waits.
    Disabled,
    /// It has answered 410, that it is gone. Its owner may enable it. What had been accepted for it waits.
    Gone,
}

named!(
    EndpointStatus, "endpoint status": Enabled = "enabled", Disabled = "disabled", Gone = "gone"
);
