//! Creates, changes, deletes and verifies endpoints.

use keyward::admin::{Actor, AdminError, Permitted};
use keyward::environment::Environment;
use keyward::ids::AccountId;
use keyward::record::{Account, AdminErrorKind, AuditAction, DisabledBy};
use keyward::scope::Permission;

use crate::admin::WebhookAdmin;
use crate::admin::admin::{concerns, noting};
use crate::send::{
    AnsweredChallenge, AttemptOutcome, EndpointChallenge, EndpointId, EndpointStatus, EndpointUrl,
    WebhookEndpoint,
};
use crate::signature::WebhookSecret;
use crate::store::{EndpointLimit, WebhookCommit};

impl WebhookAdmin {
    /// Creates an endpoint. Its secret is returned once and cannot be retrieved later.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the account is unknown or has reached
    /// its limit of endpoints, the URL is not allowed, or the store fails.
    pub async fn create_endpoint(
        &self,
        actor: &Actor,
        account: &AccountId,
        environment: Environment,
        url: EndpointUrl,
    ) -> Result<CreatedEndpoint, AdminError> {
        let call = self.keys.audited(actor, AuditAction::CreateEndpoint);
        if actor.acts_in(account) {
            call.amend(|line| {
                line.account = Some(account.clone());
                line.environment.get_or_insert(environment);
            });
        }
        let (secret, id) = call
            .run(|| async {
                let (created, owner, permitted) = self
                    .prepare(actor, account, environment, url.clone())
                    .await?;
                let id = created.endpoint.id();
                let mut line = call.line();
                line.detail = format!(
                    "endpoint={id} environment={environment} host={}",
                    url.host()
                );
                let commit = WebhookCommit {
                    endpoints: vec![created.endpoint],
                    at_most: Some(EndpointLimit {
                        account: account.clone(),
                        environment,
                        at_most: self.max_endpoints,
                    }),
                    with: permitted.bind(&owner, noting(line)),
                    ..WebhookCommit::default()
                };
                self.store.commit_webhooks(commit).await?;
                Ok((created.secret, id))
            })
            .await?;
        Ok(CreatedEndpoint {
            secret,
            endpoint: self.stored(id).await?,
        })
    }

    /// Lists an account's endpoints, optionally of one environment, in the order of creation.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the account is unknown, or the store
    /// fails.
    pub async fn endpoints(
        &self,
        actor: &Actor,
        account: &AccountId,
        environment: Option<Environment>,
    ) -> Result<Vec<WebhookEndpoint>, AdminError> {
        let call = self.keys.audited(actor, AuditAction::ReadEndpoints);
        let permitted = self
            .keys
            .permit_in(actor, Permission::ReadWebhooks, account)
            .await;
        let (account, permitted) = call.check(permitted).await?;
        let mut found = self.store.endpoints(Some(account.id), environment).await?;
        found.retain(|endpoint| permitted.sees(endpoint.environment()));
        Ok(found)
    }

    /// Returns an endpoint of the actor's account.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the endpoint does not exist, or the
    /// store fails.
    pub async fn endpoint(
        &self,
        actor: &Actor,
        id: EndpointId,
    ) -> Result<WebhookEndpoint, AdminError> {
        let call = self.audited(actor, AuditAction::ReadEndpoints, id);
        let found = self.find(actor, Permission::ReadWebhooks, id).await;
        Ok(call.check(found).await?.0)
    }

    /// Changes an endpoint. Pending deliveries use the new settings from the next attempt on.
    ///
    /// After a change of URL, the endpoint must answer a challenge again. An endpoint that is
    /// enabled again gets the messages accepted before it was disabled, but none of those published
    /// meanwhile.
    ///
    /// An endpoint that an operator disabled can be enabled only by an operator. One that was
    /// disabled because it answered 410 can be enabled by its owner.
    ///
    /// # Errors
    /// Returns [`NotPermitted`](AdminErrorKind::NotPermitted) if an operator disabled the endpoint
    /// to be enabled. Also returns an error if the actor lacks the permission, the endpoint does
    /// not exist, the URL is not allowed, or the store fails.
    pub async fn update_endpoint(
        &self,
        actor: &Actor,
        id: EndpointId,
        change: EndpointChange,
    ) -> Result<WebhookEndpoint, AdminError> {
        self.change(
            actor,
            AuditAction::UpdateEndpoint,
            id,
            |endpoint, permitted| {
                if let Some(url) = &change.url {
                    self.check_url(endpoint.environment(), url)?;
                    if *url != endpoint.url {
                        endpoint.verified_at = None;
                    }
                    endpoint.url = url.clone();
                }
                let is_disabled = endpoint.status == EndpointStatus::Disabled;
                match change.enabled {
                    None => {}
                    Some(true) => {
                        let by_operator = DisabledBy::is_operator(endpoint.disabled_by);
                        if is_disabled && by_operator && !permitted.is_operator() {
                            return Err(AdminErrorKind::NotPermitted.into());
                        }
                        endpoint.status = EndpointStatus::Enabled;
                        endpoint.disabled_by = None;
                    }
                    Some(false) => {
                        // The first actor to disable it is recorded, unless an operator does so
                        // later.
                        if !is_disabled || permitted.is_operator() {
                            endpoint.disabled_by = Some(actor.class());
                        }
                        endpoint.status = EndpointStatus::Disabled;
                    }
                }
                let (status, host) = (endpoint.status.as_str(), endpoint.url.host());
                Ok(format!("status={status} host={host}"))
            },
        )
        .await
    }

    /// Deletes an endpoint with its pending deliveries and its recorded attempts.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the endpoint does not exist, or the
    /// store fails.
    pub async fn delete_endpoint(&self, actor: &Actor, id: EndpointId) -> Result<(), AdminError> {
        let call = self.audited(actor, AuditAction::DeleteEndpoint, id);
        call.run(|| async {
            let (endpoint, owner, permitted) =
                self.find(actor, Permission::ManageWebhooks, id).await?;
            concerns(&call, &endpoint);
            let commit = WebhookCommit {
                deleted: Some((id, endpoint.revision)),
                with: permitted.bind(&owner, noting(call.line())),
                ..WebhookCommit::default()
            };
            Ok(self.store.commit_webhooks(commit).await?)
        })
        .await
    }

    /// Creates a challenge for a sender to deliver; pass its answer to [`verify`](Self::verify).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, NewKey};
    /// # use keyward_webhooks::{MemoryWebhooks, WebhookAdmin};
    /// # use keyward_webhooks::admin::RequireWorkingEndpoint;
    /// # use keyward_webhooks::send::EndpointUrl;
    /// # use keyward_webhooks::WebhookStore;
    /// # use keyward::record::AdminErrorKind;
    /// # use keyward_webhooks::sealing::{SealingKey, SealingKeys};
    /// # keyward::testing::block_on(async {
    /// # let (store, scheme) = (Arc::new(MemoryWebhooks::new()), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
    /// # let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32])?);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # let webhooks = WebhookAdmin::new(store.clone(), &scheme, sealing);
    /// # let url = EndpointUrl::parse("https://acme.example/hook")?;
    /// let policy = RequireWorkingEndpoint::new(store.clone());
    /// let keys = KeyAdmin::new(&store, &scheme).create_policy(policy);
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
    /// let answered = challenge.answered(200, body); // done by a sender
    /// let endpoint = webhooks.verify(&operator, id, answered).await?;
    /// assert!(endpoint.is_working());
    /// assert!(keys.create(&operator, new).await.is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the endpoint does not exist, or the
    /// store fails.
    pub async fn challenge(
        &self,
        actor: &Actor,
        id: EndpointId,
    ) -> Result<EndpointChallenge, AdminError> {
        let call = self.audited(actor, AuditAction::VerifyEndpoint, id);
        let found = self.find(actor, Permission::ManageWebhooks, id).await;
        let (endpoint, ..) = call.check(found).await?;
        Ok(EndpointChallenge::new(endpoint)?)
    }

    /// Records whether an endpoint has answered its challenge.
    ///
    /// # Errors
    /// Returns [`Unanswered`](AdminErrorKind::Unanswered) if it has not, or its URL or secret has
    /// changed since. Also returns an error if the actor lacks the permission, the endpoint does
    /// not exist, or the store fails.
    pub async fn verify(
        &self,
        actor: &Actor,
        id: EndpointId,
        answer: Result<AnsweredChallenge, AttemptOutcome>,
    ) -> Result<WebhookEndpoint, AdminError> {
        self.change(actor, AuditAction::VerifyEndpoint, id, |endpoint, _| {
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

    fn check_url(&self, environment: Environment, url: &EndpointUrl) -> Result<(), AdminError> {
        self.rules.check(environment, url)?;
        // A customer's API key in the URL would be stored, and sent to the server there.
        Ok(self.keys.check_text(url.as_str())?)
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
        if !permitted.sees(environment) {
            return Err(AdminErrorKind::TooWide.into());
        }
        self.check_url(environment, &url)?;
        let secret = WebhookSecret::random()?;
        let (account, now) = (account.clone(), self.keys.now());
        let endpoint =
            WebhookEndpoint::new(account, environment, url, &secret, &self.sealing, now)?;
        Ok((CreatedEndpoint { secret, endpoint }, owner, permitted))
    }
}

/// A created endpoint and its secret. See [`WebhookAdmin`].
#[derive(Debug)]
#[non_exhaustive]
pub struct CreatedEndpoint {
    /// The secret, to be shown to its owner once.
    pub secret: WebhookSecret,
    /// The stored endpoint.
    pub endpoint: WebhookEndpoint,
}

/// A change to an endpoint. Whatever is not set stays as it is.
///
/// ```
/// # use std::sync::Arc;
/// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme};
/// # use keyward_webhooks::{MemoryWebhooks, WebhookAdmin};
/// # use keyward_webhooks::admin::EndpointChange;
/// # use keyward_webhooks::send::{EndpointStatus, EndpointUrl};
/// # use keyward::record::{AdminErrorKind, DisabledBy};
/// # use keyward_webhooks::sealing::{SealingKey, SealingKeys};
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
/// let url = EndpointUrl::parse("https://hooks.acme.example/")?;
/// let change = EndpointChange::new().url(url).enabled(false);
/// let endpoint = webhooks.update_endpoint(&operator, id, change).await?;
/// assert_eq!(endpoint.status, EndpointStatus::Disabled);
/// assert_eq!(endpoint.disabled_by, Some(DisabledBy::Operator));
///
/// let metadata = EndpointUrl::parse("http://169.254.169.254/")?;
/// let error = webhooks.update_endpoint(&operator, id, EndpointChange::new().url(metadata)).await;
/// assert_eq!(error.unwrap_err().kind(), AdminErrorKind::Url);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct EndpointChange {
    url: Option<EndpointUrl>,
    enabled: Option<bool>,
}

impl EndpointChange {
    /// Creates an empty change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the URL.
    pub fn url(mut self, url: EndpointUrl) -> Self {
        self.url = Some(url);
        self
    }

    /// Enables or disables the endpoint, including one that answered 410.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = Some(enabled);
        self
    }
}
