//! Accepts messages, and tells what came of them.

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

/// The largest page of attempts.
const PAGE: usize = 100;

impl WebhookAdmin {
    /// Accepts a message: from now on it reaches each endpoint of its account and environment that is
    /// enabled, at least once, whatever happens to this process. For an operator.
    ///
    /// The same message again is no other: so a caller that has got no answer just repeats. The message
    /// is kept until it is [forgotten](Self::forget_messages).
    ///
    /// # Errors
    /// When the actor is no operator, there is no such account, another message has this id
    /// ([`Conflict`](AdminErrorKind::Conflict)), or the store fails.
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

    /// Delivers again: a message, whatever came of it, or all that was given up. Each is tried as often as
    /// the schedule allows anew.
    ///
    /// A message keeps its id, by which the receiver knows what it has handled. One that was
    /// [forgotten](Self::forget_messages) cannot be delivered again.
    ///
    /// # Errors
    /// When the actor may not, there is no such endpoint or message
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
    /// // What it lost, its disk or a week of events, comes again.
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

    /// The attempts to reach an endpoint, newest first, 100 a page.
    ///
    /// `before` is the [`number`](DeliveryAttempt::number) of the last of an earlier page.
    ///
    /// # Errors
    /// When the actor may not, there is no such endpoint or the store fails.
    pub async fn attempts(
        &self,
        actor: &Actor,
        id: EndpointId,
        before: Option<u64>,
    ) -> Result<Vec<DeliveryAttempt>, AdminError> {
        self.endpoint(actor, id).await?;
        Ok(self.store.attempts(id, before, PAGE).await?)
    }

    /// Forgets messages accepted before this moment, as far as none waits. For an operator.
    ///
    /// And tells how many. One that waits for an endpoint that is switched off waits on.
    ///
    /// # Errors
    /// When the actor is no operator or the store fails.
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
