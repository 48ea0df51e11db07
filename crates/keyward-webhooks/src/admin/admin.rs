//! The life of endpoints, and the acceptance of messages.

use std::sync::Arc;

use keyward::admin::{Actor, AdminError, AuditedCall, KeyAdmin, Permitted};
use keyward::record::{Account, AdminErrorKind, AuditAction, AuditEntry};
use keyward::scheme::KeyScheme;
use keyward::scope::Permission;
use keyward::store::Commit;

use crate::sealing::SealingKeys;
use crate::send::{EndpointId, EndpointRules, WebhookEndpoint};
use crate::store::{WebhookCommit, WebhookStore};

/// Creates, changes and deletes endpoints, and accepts messages for them.
///
/// Like [`KeyAdmin`], every call says who acts and leaves a line in the audit trail, also when it is
/// refused, and what an actor may not see answers like what does not exist. A user or key needs
/// [`ReadWebhooks`](Permission::ReadWebhooks) and [`ManageWebhooks`](Permission::ManageWebhooks); a key
/// acts in its own environment. A sender, such as `keyward_tower::WebhookSender`, does the rest.
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
/// webhooks.publish(&operator, message.clone()).await?; // from here on it will arrive
/// webhooks.publish(&operator, message).await?; // the same again is no other
///
/// let hour = Grace::For(Duration::from_secs(3600)); // both secrets sign for an hour
/// let renewed = webhooks.regenerate_secret(&user, created.endpoint.id(), hour).await?;
/// assert_ne!(renewed.secret, created.secret);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct WebhookAdmin {
    /// Who may do what, and the audit trail, are those of keys.
    pub(super) keys: KeyAdmin,
    pub(super) store: Arc<dyn WebhookStore>,
    pub(super) sealing: SealingKeys,
    pub(super) rules: EndpointRules,
    pub(super) max_endpoints: u32,
}
impl WebhookAdmin {
    /// Endpoints in this store, with secrets sealed by these keys; 16 for each account and environment.
    ///
    /// The scheme is that of the service's keys, none of which gets into the audit log.
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

    /// Changes one endpoint, as often as it takes to meet nobody else.
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

    /// A call about this endpoint: the audit log names it, whatever comes of the call.
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

    /// The endpoint and its account, for an actor that has the permission there.
    pub(super) async fn find(
        &self,
        actor: &Actor,
        permission: Permission,
        id: EndpointId,
    ) -> Result<(WebhookEndpoint, Account, Permitted), AdminError> {
        // Permission first: who may do nothing learns nothing.
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
