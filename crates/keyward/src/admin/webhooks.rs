//! The life of endpoints, and the acceptance of messages.

use std::sync::Arc;
use std::time::SystemTime;

use crate::admin::admin::ATTEMPTS;
use crate::admin::authority::{Permitted, operator_only};
use crate::clock::unix_time;
use crate::{
    Account, AccountId, Actor, AdminError, AdminErrorKind, AnsweredChallenge, AttemptOutcome,
    AuditAction, AuditEntry, Commit, DeliveryAttempt, EndpointChallenge, EndpointId, EndpointRules,
    EndpointStatus, EndpointUrl, EndpointsAtMost, Environment, Grace, KeyAdmin, KeyFormat,
    Permission, Redelivery, SealingKeys, StoreErrorKind, WebhookCommit, WebhookEndpoint,
    WebhookMessage, WebhookSecret, WebhookStore,
};

/// The largest page of attempts.
const PAGE: usize = 100;

/// Creates, changes and deletes endpoints, and accepts messages for them.
///
/// Like [`KeyAdmin`], every call says who acts and leaves a line in the audit trail, also when it is
/// refused, and what an actor may not see answers like what does not exist. A user or key needs
/// [`ReadWebhooks`](Permission::ReadWebhooks) and [`ManageWebhooks`](Permission::ManageWebhooks); a key
/// acts in its own environment. A sender, such as `keyward_tower::WebhookSender`, does the rest.
///
/// ```
/// # let mut example = std::pin::pin!(async {
/// use std::sync::Arc;
/// use std::time::Duration;
/// use keyward::*;
///
/// let store = Arc::new(MemoryStore::new());
/// let format = KeyFormat::new("vhk_{env}_")?;
/// let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32])?); // from a secret store
/// let operator = Actor::operator("kyc");
/// let acme = AccountId::parse("acme")?;
/// KeyAdmin::new(store.clone(), format.clone()).open_account(&operator, &acme).await?;
///
/// let webhooks = WebhookAdmin::new(store.clone(), format, sealing);
/// let user = Actor::user("ann@acme.example", acme.clone(), Permission::ALL);
/// let url = EndpointUrl::parse("https://acme.example/hook")?;
/// let created = webhooks.create_endpoint(&user, &acme, Environment::LIVE, url).await?;
/// assert!(created.secret.expose_secret().starts_with("whsec_")); // shown once, to its owner
///
/// let id = WebhookId::parse("report-17-done")?;
/// let message = WebhookMessage::new(acme, Environment::LIVE, id, r#"{"type":"report.done"}"#)?;
/// webhooks.publish(&operator, message.clone()).await?; // from here on it will arrive
/// webhooks.publish(&operator, message).await?; // the same again is no other
///
/// let hour = Grace::For(Duration::from_secs(3600)); // both secrets sign for an hour
/// let renewed = webhooks.regenerate_secret(&user, created.endpoint.id(), hour).await?;
/// assert_ne!(renewed.secret, created.secret);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # });
/// # let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
/// # let done = example.as_mut().poll(context);
/// # assert!(matches!(done, std::task::Poll::Ready(Ok(()))), "{done:?}");
/// ```
#[derive(Clone, Debug)]
pub struct WebhookAdmin {
    /// Who may do what, and the audit trail, are those of keys.
    keys: KeyAdmin,
    store: Arc<dyn WebhookStore>,
    sealing: SealingKeys,
    rules: EndpointRules,
    max_endpoints: u32,
}

impl WebhookAdmin {
    /// Endpoints in this store, with secrets sealed by these keys; 16 for each account and environment.
    ///
    /// The format is that of the service's keys, none of which gets into the audit trail.
    #[must_use]
    pub fn new(store: Arc<dyn WebhookStore>, format: KeyFormat, sealing: SealingKeys) -> Self {
        let keys = KeyAdmin::new(Arc::clone(&store) as _, format);
        Self {
            keys,
            store,
            sealing,
            rules: EndpointRules::new(),
            max_endpoints: 16,
        }
    }

    /// Takes endpoints that these rules allow: the same as the sender's.
    #[must_use]
    pub fn rules(mut self, rules: EndpointRules) -> Self {
        self.rules = rules;
        self
    }

    /// How many endpoints an account may have in an environment.
    #[must_use]
    pub fn max_endpoints(mut self, bound: u32) -> Self {
        self.max_endpoints = bound;
        self
    }

    /// Makes an endpoint. Its secret is in the answer, for its owner, and can be shown by nothing again.
    ///
    /// # Errors
    /// When the actor may not, the account is unknown or has enough endpoints, the URL is not allowed, or
    /// the store fails.
    pub async fn create_endpoint(
        &self,
        actor: &Actor,
        account: &AccountId,
        environment: Environment,
        url: EndpointUrl,
    ) -> Result<CreatedEndpoint, AdminError> {
        let mut line = self.keys.line(actor, AuditAction::CreateEndpoint);
        if actor.acts_in(account) {
            line.account = Some(account.clone());
        }
        for _ in 0..ATTEMPTS {
            let prepared = self.prepare(actor, account, environment, url.clone()).await;
            let (created, owner, permitted) = self.or_note(line.clone(), prepared).await?;
            let id = created.endpoint.id();
            line.detail = format!(
                "endpoint={id} environment={environment} host={}",
                url.host()
            );
            let commit = WebhookCommit {
                endpoints: vec![created.endpoint],
                at_most: Some(EndpointsAtMost {
                    account: account.clone(),
                    environment,
                    at_most: self.max_endpoints,
                }),
                with: permitted.bind(&owner, noting(line.clone())),
                ..WebhookCommit::default()
            };
            let done = self.try_commit(commit).await;
            line.detail.clear();
            if self.or_note(line.clone(), done).await? {
                return Ok(CreatedEndpoint {
                    secret: created.secret,
                    endpoint: self.stored(id).await?,
                });
            }
        }
        self.give_up(line).await
    }

    /// The endpoints of an account, in the order of their making; all, or those of an environment.
    ///
    /// # Errors
    /// When the actor may not, the account is unknown or the store fails.
    pub async fn endpoints(
        &self,
        actor: &Actor,
        account: &AccountId,
        environment: Option<Environment>,
    ) -> Result<Vec<WebhookEndpoint>, AdminError> {
        let line = self.keys.line(actor, AuditAction::ReadEndpoints);
        let permitted = self
            .keys
            .permit_in(actor, Permission::ReadWebhooks, account)
            .await;
        let (account, permitted) = self.or_note(line, permitted).await?;
        let mut found = self.store.endpoints(Some(account.id), environment).await?;
        if let Some(holder) = permitted.holder() {
            found.retain(|endpoint| endpoint.environment() == holder.environment);
        }
        Ok(found)
    }

    /// An endpoint of the actor's account.
    ///
    /// # Errors
    /// When the actor may not, there is no such endpoint or the store fails.
    pub async fn endpoint(
        &self,
        actor: &Actor,
        id: EndpointId,
    ) -> Result<WebhookEndpoint, AdminError> {
        let line = about(self.keys.line(actor, AuditAction::ReadEndpoints), id);
        let found = self.find(actor, Permission::ReadWebhooks, id).await;
        Ok(self.or_note(line, found).await?.0)
    }

    /// Changes an endpoint. What waits for it goes to where it is then, from the next attempt on.
    ///
    /// Another URL has to answer a challenge anew. One that was switched off gets what had been accepted
    /// for it before, and nothing of what was published meanwhile.
    ///
    /// # Errors
    /// When the actor may not, there is no such endpoint, the URL is not allowed, or the store fails.
    pub async fn update_endpoint(
        &self,
        actor: &Actor,
        id: EndpointId,
        change: EndpointChange,
    ) -> Result<WebhookEndpoint, AdminError> {
        self.change(actor, AuditAction::UpdateEndpoint, id, |endpoint| {
            if let Some(url) = &change.url {
                self.rules.check(endpoint.environment(), url)?;
                if *url != endpoint.url {
                    endpoint.verified_at = None;
                }
                endpoint.url = url.clone();
            }
            endpoint.status = match change.enabled {
                Some(true) => EndpointStatus::Enabled,
                Some(false) => EndpointStatus::Disabled,
                None => endpoint.status,
            };
            let (status, host) = (endpoint.status.as_str(), endpoint.url.host());
            Ok(format!("status={status} host={host}"))
        })
        .await
    }

    /// Gives an endpoint a new secret; the old one goes on signing beside it for so long.
    ///
    /// Without a grace the receiver does not know yet what signs, and has to answer a challenge anew.
    ///
    /// # Errors
    /// When the actor may not, there is no such endpoint, the grace has no end
    /// ([`Expiry`](AdminErrorKind::Expiry)), or the store fails.
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

    /// Gives an endpoint a secret that was made elsewhere; the old one goes on signing beside it for so
    /// long. For an operator.
    ///
    /// So receivers keep theirs when a service moves here, and endpoints may share one. Who has it can
    /// sign for all of those: unless that is wanted, [`regenerate_secret`](Self::regenerate_secret) makes
    /// each its own.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::*;
    /// # let mut example = std::pin::pin!(async {
    /// # let (store, format) = (Arc::new(MemoryStore::new()), KeyFormat::new("vhk_{env}_")?);
    /// # let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # KeyAdmin::new(store.clone(), format.clone()).open_account(&operator, &acme).await?;
    /// # let webhooks = WebhookAdmin::new(store, format, sealing.clone());
    /// # let url = EndpointUrl::parse("https://acme.example/hook")?;
    /// # let live = Environment::LIVE;
    /// # let id = webhooks.create_endpoint(&operator, &acme, live, url).await?.endpoint.id();
    /// let known = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
    /// let endpoint = webhooks.import_secret(&operator, id, &known, Grace::None).await?;
    /// # let (now, id) = (std::time::SystemTime::now(), WebhookId::random()?);
    /// let signature = endpoint.signer(&sealing, now)?.sign(&id, now, b"{}");
    /// assert_eq!(signature, WebhookSigner::new(&known).sign(&id, now, b"{}"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # });
    /// # let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
    /// # let done = example.as_mut().poll(context);
    /// # assert!(matches!(done, std::task::Poll::Ready(Ok(()))), "{done:?}");
    /// ```
    ///
    /// # Errors
    /// When the actor is no operator, and as `regenerate_secret`.
    pub async fn import_secret(
        &self,
        actor: &Actor,
        id: EndpointId,
        secret: &WebhookSecret,
        grace: Grace,
    ) -> Result<WebhookEndpoint, AdminError> {
        let line = about(self.keys.line(actor, AuditAction::RegenerateSecret), id);
        self.or_note(line, operator_only(actor)).await?;
        self.replace_secret(actor, id, secret, grace).await
    }

    /// Deletes an endpoint, with what waits for it and what was noted of its attempts.
    ///
    /// # Errors
    /// When the actor may not, there is no such endpoint or the store fails.
    pub async fn delete_endpoint(&self, actor: &Actor, id: EndpointId) -> Result<(), AdminError> {
        let mut line = about(self.keys.line(actor, AuditAction::DeleteEndpoint), id);
        for _ in 0..ATTEMPTS {
            let found = self.find(actor, Permission::ManageWebhooks, id).await;
            let (endpoint, owner, permitted) = self.or_note(line.clone(), found).await?;
            line.account = Some(owner.id.clone());
            let commit = WebhookCommit {
                deleted: Some((id, endpoint.revision)),
                with: permitted.bind(&owner, noting(line.clone())),
                ..WebhookCommit::default()
            };
            if self.try_commit(commit).await? {
                return Ok(());
            }
        }
        self.give_up(line).await
    }

    /// A challenge to an endpoint; a sender asks it, and gives the answer to [`verify`](Self::verify).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::*;
    /// # let mut example = std::pin::pin!(async {
    /// # let (store, format) = (Arc::new(MemoryStore::new()), KeyFormat::new("vhk_{env}_")?);
    /// # let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # let webhooks = WebhookAdmin::new(store.clone(), format.clone(), sealing);
    /// # let url = EndpointUrl::parse("https://acme.example/hook")?;
    /// let keys = KeyAdmin::new(store.clone(), format).require_working_endpoint(store);
    /// # keys.open_account(&operator, &acme).await?;
    /// # let live = Environment::LIVE;
    /// # let id = webhooks.create_endpoint(&operator, &acme, live, url).await?.endpoint.id();
    /// let new = NewKey::new(acme, Environment::LIVE, "production");
    /// let error = keys.create(&operator, new.clone()).await.unwrap_err();
    /// assert_eq!(error.kind(), AdminErrorKind::NoWorkingEndpoint);
    ///
    /// let challenge = webhooks.challenge(&operator, id).await?;
    /// # let question = String::from_utf8(challenge.delivery().message().payload().to_vec())?;
    /// # let body = question.split('"').nth(7).expect("it is the challenge").as_bytes();
    /// let answered = challenge.answered(200, body); // what a sender does
    /// let endpoint = webhooks.verify(&operator, id, answered).await?;
    /// assert!(endpoint.is_working());
    /// assert!(keys.create(&operator, new).await.is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # });
    /// # let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
    /// # let done = example.as_mut().poll(context);
    /// # assert!(matches!(done, std::task::Poll::Ready(Ok(()))), "{done:?}");
    /// ```
    ///
    /// # Errors
    /// When the actor may not, there is no such endpoint or the store fails.
    pub async fn challenge(
        &self,
        actor: &Actor,
        id: EndpointId,
    ) -> Result<EndpointChallenge, AdminError> {
        let line = about(self.keys.line(actor, AuditAction::VerifyEndpoint), id);
        let found = self.find(actor, Permission::ManageWebhooks, id).await;
        let (endpoint, ..) = self.or_note(line, found).await?;
        Ok(EndpointChallenge::new(endpoint)?)
    }

    /// Notes that an endpoint has answered its challenge, or that it has not.
    ///
    /// # Errors
    /// [`Unanswered`](AdminErrorKind::Unanswered) when it has not, or has another URL or secret by now;
    /// when the actor may not, there is no such endpoint or the store fails.
    pub async fn verify(
        &self,
        actor: &Actor,
        id: EndpointId,
        answer: Result<AnsweredChallenge, AttemptOutcome>,
    ) -> Result<WebhookEndpoint, AdminError> {
        self.change(actor, AuditAction::VerifyEndpoint, id, |endpoint| {
            match &answer {
                Ok(answered) if answered.endpoint() != id => {}
                Ok(answered) if answered.note(endpoint, self.keys.now()) => {
                    return Ok("answered".to_owned());
                }
                _ => {}
            }
            Err(AdminErrorKind::Unanswered.into())
        })
        .await
    }

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
        let mut line = self.keys.line(actor, AuditAction::Publish);
        line.account = Some(message.account().clone());
        self.or_note(line.clone(), operator_only(actor)).await?;
        let message = message.accepted_at(self.keys.now());
        let commit = WebhookCommit {
            message: Some(message.clone()),
            ..WebhookCommit::default()
        };
        if self.try_commit(commit).await? {
            return Ok(());
        }
        let known = self.keys.account_of(actor, message.account()).await;
        self.or_note(line.clone(), known).await?;
        let (account, id) = (message.account().clone(), message.id().clone());
        let stored = self
            .store
            .message(account, message.environment(), id)
            .await?;
        let stored = stored.map(|stored| stored.accepted_at(message.created_at()));
        if stored == Some(message) {
            return Ok(());
        }
        self.give_up(line).await
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
    /// # use keyward::*;
    /// # let mut example = std::pin::pin!(async {
    /// # let (store, format) = (Arc::new(MemoryStore::new()), KeyFormat::new("vhk_{env}_")?);
    /// # let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # KeyAdmin::new(store.clone(), format.clone()).open_account(&operator, &acme).await?;
    /// # let webhooks = WebhookAdmin::new(store, format, sealing);
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
    /// # });
    /// # let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
    /// # let done = example.as_mut().poll(context);
    /// # assert!(matches!(done, std::task::Poll::Ready(Ok(()))), "{done:?}");
    /// ```
    pub async fn redeliver(
        &self,
        actor: &Actor,
        id: EndpointId,
        what: Redelivery,
    ) -> Result<(), AdminError> {
        let mut line = about(self.keys.line(actor, AuditAction::Redeliver), id);
        for _ in 0..ATTEMPTS {
            let found = self.find(actor, Permission::ManageWebhooks, id).await;
            let (endpoint, owner, permitted) = self.or_note(line.clone(), found).await?;
            line.account = Some(owner.id.clone());
            let mut noted = line.clone();
            noted.detail = match &what {
                Redelivery::Message(message) => {
                    let (account, environment) = (owner.id.clone(), endpoint.environment());
                    let stored = self.store.message(account, environment, message.clone());
                    let stored = stored.await?.ok_or(AdminErrorKind::UnknownMessage.into());
                    self.or_note(line.clone(), stored).await?;
                    format!("{} message={message}", line.detail)
                }
                Redelivery::FailedSince(since) => {
                    format!(
                        "{} failed_since={}",
                        line.detail,
                        unix_time(*since).as_secs()
                    )
                }
            };
            let commit = WebhookCommit {
                again: Some((id, what.clone())),
                with: permitted.bind(&owner, noting(noted)),
                ..WebhookCommit::default()
            };
            if self.try_commit(commit).await? {
                return Ok(());
            }
        }
        self.give_up(line).await
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
        let line = self.keys.line(actor, AuditAction::Maintain);
        self.or_note(line, operator_only(actor)).await?;
        Ok(self.store.forget_messages(before).await?)
    }

    /// Seals anew what was sealed with a retired key, and tells how many endpoints. For an operator.
    ///
    /// Thereafter that key can go.
    ///
    /// # Errors
    /// When the actor is no operator, a secret cannot be opened, or the store fails. What was sealed anew
    /// until then stays so.
    pub async fn reseal(&self, actor: &Actor) -> Result<u64, AdminError> {
        let line = self.keys.line(actor, AuditAction::Maintain);
        self.or_note(line, operator_only(actor)).await?;
        let mut count = 0;
        for endpoint in self.store.endpoints(None, None).await? {
            let previous = endpoint.previous.as_ref().map(|(sealed, _)| sealed);
            let mut all = std::iter::once(&endpoint.secret).chain(previous);
            if all.all(|sealed| self.sealing.is_current(sealed)) {
                continue;
            }
            self.change(actor, AuditAction::Maintain, endpoint.id(), |endpoint| {
                let place = endpoint.place();
                let secret = self.sealing.open(&endpoint.secret, &place)?;
                endpoint.secret = self.sealing.seal(&secret, &place)?;
                if let Some((sealed, until)) = &endpoint.previous {
                    let secret = self.sealing.open(sealed, &place)?;
                    endpoint.previous = Some((self.sealing.seal(&secret, &place)?, *until));
                }
                Ok("resealed".to_owned())
            })
            .await?;
            count += 1;
        }
        Ok(count)
    }

    async fn prepare(
        &self,
        actor: &Actor,
        account: &AccountId,
        environment: Environment,
        url: EndpointUrl,
    ) -> Result<(CreatedEndpoint, Account, Permitted), AdminError> {
        let permission = Permission::ManageWebhooks;
        let (owner, permitted) = self.keys.permit_in(actor, permission, account).await?;
        let holder = permitted.holder();
        if holder.is_some_and(|holder| holder.environment != environment) {
            return Err(AdminErrorKind::TooWide.into());
        }
        self.rules.check(environment, &url)?;
        let secret = WebhookSecret::random()?;
        let (account, now) = (account.clone(), self.keys.now());
        let endpoint =
            WebhookEndpoint::new(account, environment, url, &secret, &self.sealing, now)?;
        Ok((CreatedEndpoint { secret, endpoint }, owner, permitted))
    }

    async fn replace_secret(
        &self,
        actor: &Actor,
        id: EndpointId,
        secret: &WebhookSecret,
        grace: Grace,
    ) -> Result<WebhookEndpoint, AdminError> {
        self.change(actor, AuditAction::RegenerateSecret, id, |endpoint| {
            let sealed = self.sealing.seal(secret, &endpoint.place())?;
            let old = std::mem::replace(&mut endpoint.secret, sealed);
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

    /// Changes one endpoint, as often as it takes to meet nobody else.
    async fn change(
        &self,
        actor: &Actor,
        action: AuditAction,
        id: EndpointId,
        change: impl Fn(&mut WebhookEndpoint) -> Result<String, AdminError>,
    ) -> Result<WebhookEndpoint, AdminError> {
        let mut line = about(self.keys.line(actor, action), id);
        for _ in 0..ATTEMPTS {
            let found = self.find(actor, Permission::ManageWebhooks, id).await;
            let (mut endpoint, owner, permitted) = self.or_note(line.clone(), found).await?;
            line.account = Some(owner.id.clone());
            let changed = change(&mut endpoint);
            let detail = self.or_note(line.clone(), changed).await?;
            let mut noted = line.clone();
            noted.detail = format!("endpoint={id} {detail}");
            let commit = WebhookCommit {
                endpoints: vec![endpoint],
                with: permitted.bind(&owner, noting(noted)),
                ..WebhookCommit::default()
            };
            if self.try_commit(commit).await? {
                return self.stored(id).await;
            }
        }
        self.give_up(line).await
    }

    /// The endpoint and its account, for an actor that has the permission there.
    async fn find(
        &self,
        actor: &Actor,
        permission: Permission,
        id: EndpointId,
    ) -> Result<(WebhookEndpoint, Account, Permitted), AdminError> {
        // Permission first: who may do nothing learns nothing.
        let permitted = self.keys.permitted(actor, &[permission]).await?;
        let endpoint = self.store.endpoint(id).await?;
        let endpoint = endpoint.filter(|endpoint| {
            let holder = permitted.holder();
            let own = holder.is_none_or(|own| own.environment == endpoint.environment());
            own && actor.acts_in(endpoint.account())
        });
        let endpoint = endpoint.ok_or(AdminErrorKind::UnknownEndpoint)?;
        let account = self.keys.account_of(actor, endpoint.account()).await?;
        Ok((endpoint, account, permitted))
    }

    async fn stored(&self, id: EndpointId) -> Result<WebhookEndpoint, AdminError> {
        let endpoint = self.store.endpoint(id).await?;
        endpoint.ok_or(AdminErrorKind::UnknownEndpoint.into())
    }

    async fn try_commit(&self, commit: WebhookCommit) -> Result<bool, AdminError> {
        match self.store.commit_webhooks(commit).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn or_note<T>(
        &self,
        line: AuditEntry,
        outcome: Result<T, AdminError>,
    ) -> Result<T, AdminError> {
        self.keys.or_note(line, outcome).await
    }

    async fn give_up<T>(&self, line: AuditEntry) -> Result<T, AdminError> {
        self.keys.give_up(line).await
    }
}

/// An endpoint, and the secret that was made for it. See [`WebhookAdmin`].
#[derive(Debug)]
#[non_exhaustive]
pub struct CreatedEndpoint {
    /// The secret, for its owner.
    pub secret: WebhookSecret,
    /// What is kept.
    pub endpoint: WebhookEndpoint,
}

/// What shall be different about an endpoint; what is not named stays.
///
/// ```
/// # use std::sync::Arc;
/// # use keyward::*;
/// # let mut example = std::pin::pin!(async {
/// # let (store, format) = (Arc::new(MemoryStore::new()), KeyFormat::new("vhk_{env}_")?);
/// # let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
/// # let operator = Actor::operator("docs");
/// # let acme = AccountId::parse("acme")?;
/// # KeyAdmin::new(store.clone(), format.clone()).open_account(&operator, &acme).await?;
/// # let webhooks = WebhookAdmin::new(store, format, sealing);
/// # let url = EndpointUrl::parse("https://acme.example/hook")?;
/// # let live = Environment::LIVE;
/// # let id = webhooks.create_endpoint(&operator, &acme, live, url).await?.endpoint.id();
/// let url = EndpointUrl::parse("https://hooks.acme.example/")?;
/// let change = EndpointChange::new().url(url).enabled(false);
/// let endpoint = webhooks.update_endpoint(&operator, id, change).await?;
/// assert_eq!(endpoint.status, EndpointStatus::Disabled);
///
/// let metadata = EndpointUrl::parse("http://169.254.169.254/")?;
/// let error = webhooks.update_endpoint(&operator, id, EndpointChange::new().url(metadata)).await;
/// assert_eq!(error.unwrap_err().kind(), AdminErrorKind::Url);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # });
/// # let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
/// # let done = example.as_mut().poll(context);
/// # assert!(matches!(done, std::task::Poll::Ready(Ok(()))), "{done:?}");
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct EndpointChange {
    url: Option<EndpointUrl>,
    enabled: Option<bool>,
}

impl EndpointChange {
    /// No change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another URL.
    pub fn url(mut self, url: EndpointUrl) -> Self {
        self.url = Some(url);
        self
    }

    /// Whether it gets messages; also one that was gone.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = Some(enabled);
        self
    }
}

fn about(mut line: AuditEntry, id: EndpointId) -> AuditEntry {
    line.detail = format!("endpoint={id}");
    line
}

fn noting(line: AuditEntry) -> Commit {
    Commit {
        audit: vec![line],
        ..Commit::default()
    }
}
