//! Manages endpoints and accepts messages for them.

use std::sync::Arc;

use keyward::admin::{Actor, AdminError, AuditedCall, KeyAdmin, Permitted};
use keyward::record::{Account, AdminErrorKind, AuditAction, AuditEntry};
use keyward::scheme::KeyScheme;
use keyward::scope::Permission;
use keyward::store::Commit;

use crate::sealing::SealingKeys;
use crate::send::{EndpointId, EndpointRules, WebhookEndpoint};
use crate::store::{WebhookCommit, WebhookStore};

/// Manages webhook endpoints and accepts messages for them.
///
/// As with [`KeyAdmin`], every call names the actor and writes a line to the audit log, including
/// refused calls, and resources that the actor may not see get the same error as ones that do not
/// exist. A user or key needs [`ReadWebhooks`](Permission::ReadWebhooks) and
/// [`ManageWebhooks`](Permission::ManageWebhooks); an acting key is limited to its own environment.
/// A sender, such as `keyward_tower::WebhookSender`, delivers the messages.
///
/// ```
/// # keyward::testing::block_on(async {
/// use std::sync::Arc;
/// use std::time::Duration;
/// use keyward::{AccountId, Actor, Environment, Grace, KeyAdmin, KeyFormat, KeyScheme, Permission};
/// use keyward_webhooks::{MemoryWebhooks, WebhookAdmin, WebhookMessage};
/// use keyward_webhooks::send::EndpointUrl;
/// use keyward_webhooks::sealing::{SealingKey, SealingKeys};
/// use keyward_webhooks::signature::WebhookId;
///
/// let store = Arc::new(MemoryWebhooks::new());
/// let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// let sealing = SealingKeys::new(SealingKey::new("2026", &[7; 32])?); // from a secret store
/// let operator = Actor::operator("kyc");
/// let acme = AccountId::parse("acme")?;
/// KeyAdmin::new(&store, &scheme).open_account(&operator, &acme).await?;
///
/// let webhooks = WebhookAdmin::new(store.clone(), &scheme, sealing);
/// let user = Actor::user("ann@acme.example", acme.clone(), Permission::ALL);
/// let url = EndpointUrl::parse("https://acme.example/hook")?;
/// let created = webhooks.create_endpoint(&user, &acme, Environment::LIVE, url).await?;
/// assert!(created.secret.expose_secret().starts_with("whsec_")); // shown once, to its owner
///
/// let id = WebhookId::parse("report-17-done")?;
/// let message = WebhookMessage::new(acme, Environment::LIVE, id, r#"{"type":"report.done"}"#)?;
/// webhooks.publish(&operator, message.clone()).await?; // accepted, will be delivered
/// webhooks.publish(&operator, message).await?; // idempotent
///
/// let hour = Grace::For(Duration::from_secs(3600)); // both secrets sign for an hour
/// let renewed = webhooks.regenerate_secret(&user, created.endpoint.id(), hour).await?;
/// assert_ne!(renewed.secret, created.secret);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct WebhookAdmin {
    /// Permissions and the audit log are those of keys.
    pub(super) keys: KeyAdmin,
    pub(super) store: Arc<dyn WebhookStore>,
    pub(super) sealing: SealingKeys,
    pub(super) rules: EndpointRules,
    pub(super) max_endpoints: u32,
}
impl WebhookAdmin {
    /// Creates an admin for the endpoints of a store, with secrets sealed by these keys.
    ///
    /// An account may have 16 endpoints per environment by default. Pass the scheme of the
    /// service's keys: it is used to keep keys out of the audit log.
    #[must_use]
    pub fn new(store: Arc<dyn WebhookStore>, scheme: &KeyScheme, sealing: SealingKeys) -> Self {
        let keys = KeyAdmin::new(&store, scheme);
        Self {
            keys,
            store,
            sealing,
            rules: EndpointRules::new(),
            max_endpoints: 16,
        }
    }

    /// Sets the rules for endpoint URLs. Give the sender the same rules.
    #[must_use]
    pub fn rules(mut self, rules: EndpointRules) -> Self {
        self.rules = rules;
        self
    }

    /// Sets the maximum number of endpoints per account and environment.
    #[must_use]
    pub fn max_endpoints(mut self, bound: u32) -> Self {
        self.max_endpoints = bound;
        self
    }

    /// Changes one endpoint, with retries until no concurrent commit conflicts.
    pub(super) async fn change(
        &self,
        actor: &Actor,
        action: AuditAction,
        id: EndpointId,
        change: impl Fn(&mut WebhookEndpoint, &Permitted) -> Result<String, AdminError>,
    ) -> Result<WebhookEndpoint, AdminError> {
        let call = self.audited(actor, action, id);
        call.run(|| async {
            let (mut endpoint, owner, permitted) =
                self.find(actor, Permission::ManageWebhooks, id).await?;
            concerns(&call, &endpoint);
            let detail = change(&mut endpoint, &permitted)?;
            let mut line = call.line();
            line.detail = format!("endpoint={id} {detail}");
            let commit = WebhookCommit {
                endpoints: vec![endpoint],
                with: permitted.bind(&owner, noting(line)),
                ..WebhookCommit::default()
            };
            Ok(self.store.commit_webhooks(commit).await?)
        })
        .await?;
        self.stored(id).await
    }

    /// Begins a call about this endpoint, which the audit log names whatever the outcome.
    pub(super) fn audited<'a>(
        &'a self,
        actor: &'a Actor,
        action: AuditAction,
        id: EndpointId,
    ) -> AuditedCall<'a> {
        let call = self.keys.audited(actor, action);
        call.amend(|line| line.detail = format!("endpoint={id}"));
        call
    }

    /// Returns the endpoint and its account, if the actor has the permission there.
    pub(super) async fn find(
        &self,
        actor: &Actor,
        permission: Permission,
        id: EndpointId,
    ) -> Result<(WebhookEndpoint, Account, Permitted), AdminError> {
        // Check permissions first, so that an actor without them learns nothing.
        let permitted = self.keys.permitted(actor, &[permission]).await?;
        let endpoint = self.store.endpoint(id).await?;
        let endpoint = endpoint.filter(|endpoint| {
            permitted.sees(endpoint.environment()) && actor.acts_in(endpoint.account())
        });
        let endpoint = endpoint.ok_or(AdminErrorKind::UnknownEndpoint)?;
        let account = self.keys.account_of(actor, endpoint.account()).await?;
        Ok((endpoint, account, permitted))
    }

    pub(super) async fn stored(&self, id: EndpointId) -> Result<WebhookEndpoint, AdminError> {
        let endpoint = self.store.endpoint(id).await?;
        endpoint.ok_or(AdminErrorKind::UnknownEndpoint.into())
    }
}

pub(super) fn concerns(call: &AuditedCall<'_>, endpoint: &WebhookEndpoint) {
    call.amend(|line| {
        line.account = Some(endpoint.account().clone());
        line.environment = Some(endpoint.environment());
    });
}

pub(super) fn noting(line: AuditEntry) -> Commit {
    Commit {
        audit: vec![line],
        ..Commit::default()
    }
}
