//! Rotates the secrets of endpoints.

use std::mem;

use keyward::admin::{Actor, AdminError, Grace};
use keyward::record::{AdminErrorKind, AuditAction};

use crate::admin::{CreatedEndpoint, WebhookAdmin};
use crate::sealing::{SealError, SealErrorKind};
use crate::send::{EndpointId, WebhookEndpoint};
use crate::signature::WebhookSecret;

impl WebhookAdmin {
    /// Generates a new secret for an endpoint.
    ///
    /// The old secret also signs for the grace period. Without a grace period the receiver does not
    /// know the new secret yet, so it must answer a challenge again.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the endpoint does not exist, the grace
    /// period is too long to be represented ([`Expiry`](AdminErrorKind::Expiry)), or the store
    /// fails.
    pub async fn regenerate_secret(
        &self,
        actor: &Actor,
        id: EndpointId,
        grace: Grace,
    ) -> Result<CreatedEndpoint, AdminError> {
        let secret = WebhookSecret::random()?;
        let endpoint = self.replace_secret(actor, id, &secret, grace).await?;
        Ok(CreatedEndpoint { secret, endpoint })
    }

    /// Replaces an endpoint's secret by an existing one. For operators.
    ///
    /// The old secret also signs for the grace period. Importing lets receivers keep their secrets
    /// when a service migrates, and lets endpoints share one. A holder of a shared secret can sign
    /// for all of those endpoints; use [`regenerate_secret`](Self::regenerate_secret) to give each
    /// its own.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::{AccountId, Actor, Environment, Grace, KeyAdmin, KeyFormat, KeyScheme};
    /// # use keyward_webhooks::{MemoryWebhooks, WebhookAdmin};
    /// # use keyward_webhooks::send::EndpointUrl;
    /// # use keyward_webhooks::sealing::{SealingKey, SealingKeys};
    /// # use keyward_webhooks::WebhookSigner;
    /// # use keyward_webhooks::signature::{WebhookId, WebhookSecret};
    /// # keyward::testing::block_on(async {
    /// # let (store, scheme) = (Arc::new(MemoryWebhooks::new()), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
    /// # let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # KeyAdmin::new(&store, &scheme).open_account(&operator, &acme).await?;
    /// # let webhooks = WebhookAdmin::new(store, &scheme, sealing.clone());
    /// # let url = EndpointUrl::parse("https://acme.example/hook")?;
    /// # let live = Environment::LIVE;
    /// # let id = webhooks.create_endpoint(&operator, &acme, live, url).await?.endpoint.id();
    /// let known = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
    /// let endpoint = webhooks.import_secret(&operator, id, &known, Grace::None).await?;
    /// # let (now, id) = (std::time::SystemTime::now(), WebhookId::random()?);
    /// let signature = endpoint.signer(&sealing, now)?.sign(&id, now, b"{}");
    /// assert_eq!(signature, WebhookSigner::new(&known).sign(&id, now, b"{}"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator; otherwise as
    /// [`regenerate_secret`](Self::regenerate_secret).
    pub async fn import_secret(
        &self,
        actor: &Actor,
        id: EndpointId,
        secret: &WebhookSecret,
        grace: Grace,
    ) -> Result<WebhookEndpoint, AdminError> {
        self.audited(actor, AuditAction::RegenerateSecret, id)
            .check(actor.must_be_operator())
            .await?;
        self.replace_secret(actor, id, secret, grace).await
    }

    /// Seals secrets again that a retired key sealed, and returns the number of endpoints. For
    /// operators.
    ///
    /// Afterwards the retired key can be removed.
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator, a secret cannot be opened, or the store
    /// fails. Secrets that were sealed again until then stay so.
    pub async fn reseal(&self, actor: &Actor) -> Result<u64, AdminError> {
        self.keys
            .audited(actor, AuditAction::Maintain)
            .check(actor.must_be_operator())
            .await?;
        let mut count = 0;
        for endpoint in self.store.endpoints(None, None).await? {
            let previous = endpoint.previous.as_ref().map(|(sealed, _)| sealed);
            let mut all = std::iter::once(&endpoint.secret).chain(previous);
            if all.all(|sealed| self.sealing.is_current(sealed)) {
                continue;
            }
            self.change(
                actor,
                AuditAction::Maintain,
                endpoint.id(),
                |endpoint, _| {
                    let place = endpoint.place();
                    let secret = self.sealing.open(&endpoint.secret, &place)?;
                    endpoint.secret = self.sealing.seal(&secret, &place)?;
                    if let Some((sealed, until)) = &endpoint.previous {
                        let secret = self.sealing.open(sealed, &place)?;
                        endpoint.previous = Some((self.sealing.seal(&secret, &place)?, *until));
                    }
                    Ok("resealed".to_owned())
                },
            )
            .await?;
            count += 1;
        }
        Ok(count)
    }

    async fn replace_secret(
        &self,
        actor: &Actor,
        id: EndpointId,
        secret: &WebhookSecret,
        grace: Grace,
    ) -> Result<WebhookEndpoint, AdminError> {
        self.change(actor, AuditAction::RegenerateSecret, id, |endpoint, _| {
            let sealed = self.sealing.seal(secret, &endpoint.place())?;
            let old = mem::replace(&mut endpoint.secret, sealed);
            endpoint.previous = match grace {
                Grace::None => {
                    endpoint.verified_at = None;
                    None
                }
                Grace::For(length) => {
                    let until = self.keys.now().checked_add(length);
                    Some((old, until.ok_or(AdminErrorKind::Expiry)?))
                }
            };
            Ok(match grace {
                Grace::None => "grace=0".to_owned(),
                Grace::For(length) => format!("grace={}", length.as_secs()),
            })
        })
        .await
    }
}

impl From<SealError> for AdminError {
    fn from(error: SealError) -> Self {
        let kind = match error.kind() {
            SealErrorKind::Random => AdminErrorKind::Random,
            SealErrorKind::UnknownKey | SealErrorKind::Refused => AdminErrorKind::Sealed,
        };
        Self::from(kind).with_source(error)
    }
}
