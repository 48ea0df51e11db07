//! Accepts messages, and lists and repeats their deliveries.

use std::time::SystemTime;

use keyward::admin::{Actor, AdminError};
use keyward::clock::unix_time;
use keyward::record::{AdminErrorKind, AuditAction};
use keyward::scope::Permission;
use keyward::store::StoreErrorKind;

use crate::admin::WebhookAdmin;
use crate::admin::admin::{concerns, noting};
use crate::send::{DeliveryAttempt, EndpointId, WebhookMessage};
use crate::store::{Redelivery, WebhookCommit};

/// The page size of attempts.
const PAGE: usize = 100;

impl WebhookAdmin {
    /// Accepts a message for delivery to the enabled endpoints of its account and environment. For
    /// operators.
    ///
    /// It is delivered at least once to each endpoint, even if this process ends. Publishing the
    /// same message again has no effect, so a caller that got no response can just retry. The
    /// message is kept until it is [forgotten](Self::forget_messages).
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator, the account does not exist, another
    /// message has this id ([`Conflict`](AdminErrorKind::Conflict)), or the store fails.
    pub async fn publish(&self, actor: &Actor, message: WebhookMessage) -> Result<(), AdminError> {
        let call = self.keys.audited(actor, AuditAction::Publish);
        call.amend(|line| {
            line.account = Some(message.account().clone());
            line.environment.get_or_insert(message.environment());
        });
        let published = async {
            actor.must_be_operator()?;
            let message = message.accepted_at(self.keys.now());
            let commit = WebhookCommit {
                message: Some(message.clone()),
                ..WebhookCommit::default()
            };
            match self.store.commit_webhooks(commit).await {
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                done => return Ok(done?),
            }
            self.keys.account_of(actor, message.account()).await?;
            let (account, id) = (message.account().clone(), message.id().clone());
            let stored = self.store.message(account, message.environment(), id);
            let stored = stored.await?;
            let stored = stored.map(|stored| stored.accepted_at(message.created_at()));
            if stored == Some(message) {
                return Ok(());
            }
            Err(AdminErrorKind::Conflict.into())
        };
        call.check(published.await).await
    }

    /// Redelivers a message, or all that was given up, with a fresh retry schedule.
    ///
    /// A single message is redelivered even if it had arrived. It keeps its id, by which the
    /// receiver recognizes what it has already handled. A [forgotten](Self::forget_messages)
    /// message cannot be redelivered.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the endpoint or message does not exist
    /// ([`UnknownMessage`](AdminErrorKind::UnknownMessage)), or the store fails.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, Permission};
    /// # use keyward_webhooks::{MemoryWebhooks, WebhookAdmin, WebhookMessage};
    /// # use keyward_webhooks::send::EndpointUrl;
    /// # use keyward_webhooks::store::Redelivery;
    /// # use keyward_webhooks::sealing::{SealingKey, SealingKeys};
    /// # use keyward_webhooks::signature::WebhookId;
    /// # keyward::testing::block_on(async {
    /// # let (store, scheme) = (Arc::new(MemoryWebhooks::new()), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
    /// # let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # KeyAdmin::new(&store, &scheme).open_account(&operator, &acme).await?;
    /// # let webhooks = WebhookAdmin::new(store, &scheme, sealing);
    /// # let url = EndpointUrl::parse("https://acme.example/hook")?;
    /// # let live = Environment::LIVE;
    /// # let id = webhooks.create_endpoint(&operator, &acme, live, url).await?.endpoint.id();
    /// # let user = Actor::user("ann@acme.example", acme.clone(), Permission::ALL);
    /// # let began = std::time::SystemTime::now();
    /// let message = WebhookMessage::new(acme, live, WebhookId::parse("report-17-done")?, "{}")?;
    /// webhooks.publish(&operator, message.clone()).await?;
    ///
    /// // Redelivers what the endpoint lost, such as a week of events.
    /// webhooks.redeliver(&user, id, Redelivery::Message(message.id().clone())).await?;
    /// webhooks.redeliver(&user, id, Redelivery::FailedSince(began)).await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn redeliver(
        &self,
        actor: &Actor,
        id: EndpointId,
        what: Redelivery,
    ) -> Result<(), AdminError> {
        let call = self.audited(actor, AuditAction::Redeliver, id);
        call.run(|| async {
            let (endpoint, owner, permitted) =
                self.find(actor, Permission::ManageWebhooks, id).await?;
            concerns(&call, &endpoint);
            let mut line = call.line();
            line.detail = match &what {
                Redelivery::Message(message) => {
                    let (account, environment) = (owner.id.clone(), endpoint.environment());
                    let stored = self.store.message(account, environment, message.clone());
                    stored.await?.ok_or(AdminErrorKind::UnknownMessage)?;
                    format!("endpoint={id} message={message}")
                }
                Redelivery::FailedSince(since) => {
                    let since = unix_time(*since).as_secs();
                    format!("endpoint={id} failed_since={since}")
                }
            };
            let commit = WebhookCommit {
                again: Some((id, what.clone())),
                with: permitted.bind(&owner, noting(line)),
                ..WebhookCommit::default()
            };
            Ok(self.store.commit_webhooks(commit).await?)
        })
        .await
    }

    /// Lists the attempts to reach an endpoint, newest first, 100 per page.
    ///
    /// `before` is the [`number`](DeliveryAttempt::number) of the last attempt of the previous
    /// page.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the endpoint does not exist, or the
    /// store fails.
    pub async fn attempts(
        &self,
        actor: &Actor,
        id: EndpointId,
        before: Option<u64>,
    ) -> Result<Vec<DeliveryAttempt>, AdminError> {
        self.endpoint(actor, id).await?;
        Ok(self.store.attempts(id, before, PAGE).await?)
    }

    /// Deletes messages accepted before this time that no endpoint waits for. For operators.
    ///
    /// Returns their number. A message that waits for a disabled endpoint is kept.
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator or the store fails.
    pub async fn forget_messages(
        &self,
        actor: &Actor,
        before: SystemTime,
    ) -> Result<u64, AdminError> {
        self.keys
            .audited(actor, AuditAction::Maintain)
            .check(actor.must_be_operator())
            .await?;
        Ok(self.store.forget_messages(before).await?)
    }
}
