//! Manages the keys of a service.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::admin::list::in_whole_millis;
use crate::admin::{Actor, AdminError, CreatePolicy, KeyView};
use crate::ids::KeyId;
use crate::log_limit::Unlogged;
use crate::record::{Account, AdminErrorKind, AuditAction, AuditEntry, KeyRecord};
use crate::scheme::KeyScheme;
use crate::store::{Commit, Store};

/// Manages keys: creates, lists, changes, rotates and revokes them in any store.
///
/// Every call names the [`Actor`] and writes a line to the audit log, including refused calls,
/// unless an actor is refused [too often](Self::unlisted_refusals). A key or account that the actor
/// may not see gets the same error as one that does not exist.
///
/// ```
/// # keyward::testing::block_on(async {
/// use keyward::{
///     AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Permission,
///     Scopes,
/// };
/// use keyward::record::KeyState;
///
/// let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
/// let operator = Actor::operator("sign-up");
/// let acme = AccountId::parse("acme")?;
/// admin.open_account(&operator, &acme).await?;
///
/// let user = Actor::user("ann@acme.example", acme.clone(), Permission::ALL);
/// let new = NewKey::new(acme, Environment::LIVE, "production").scopes(Scopes::parse(["kyc"])?);
/// let created = admin.create(&user, new).await?;
/// let key = created.key.expect("only a repeated create has none");
/// assert!(key.expose_secret().starts_with("vhk_live_")); // shown once, to its owner
///
/// let view = admin.revoke(&user, created.record.id, "posted in a chat").await?;
/// assert_eq!(view.state, KeyState::Revoked);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct KeyAdmin {
    pub(super) store: Arc<dyn Store>,
    pub(super) scheme: KeyScheme,
    pub(super) max_active_keys: u32,
    pub(super) default_lifetime: Option<Duration>,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) policies: Vec<Arc<dyn CreatePolicy>>,
}

impl KeyAdmin {
    /// Creates an admin for the keys of a store.
    ///
    /// Give the same scheme to the [`Gate`](crate::gate::Gate). By default, keys do not expire, and
    /// an account may have 50 active keys.
    #[must_use]
    pub fn new<S: Store + Clone>(store: &S, scheme: &KeyScheme) -> Self {
        Self {
            store: Arc::new(store.clone()),
            scheme: scheme.clone(),
            max_active_keys: 50,
            default_lifetime: None,
            max_lifetime: None,
            policies: Vec::new(),
        }
    }

    /// Returns the scheme of the keys.
    ///
    /// ```
    /// use keyward::{KeyAdmin, KeyFormat, KeyScheme, MemoryStore};
    ///
    /// let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
    /// assert_eq!(format!("{:?}", admin.scheme()), format!("{scheme:?}"));
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    pub fn scheme(&self) -> &KeyScheme {
        &self.scheme
    }

    /// Sets the default maximum number of active keys per account.
    #[must_use]
    pub fn max_active_keys(mut self, bound: u32) -> Self {
        self.max_active_keys = bound;
        self
    }

    /// Sets the default lifetime of new keys.
    #[must_use]
    pub fn default_lifetime(mut self, lifetime: Duration) -> Self {
        self.default_lifetime = Some(lifetime);
        self
    }

    /// Sets the maximum lifetime of keys, which is also the default if none is set.
    #[must_use]
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.max_lifetime = Some(lifetime);
        self
    }

    pub(super) async fn stored(&self, id: KeyId) -> Result<KeyRecord, AdminError> {
        let record = self.store.key(id).await?;
        record.ok_or(AdminErrorKind::UnknownKey.into())
    }

    pub(super) fn view(&self, record: KeyRecord, account: &Account) -> KeyView {
        KeyView {
            state: record.state(account, self.now()),
            last_used_at: self
                .store
                .replica()
                .last_used(&record)
                .max(record.last_used_at),
            last_network: self
                .store
                .replica()
                .last_network(&record)
                .or(record.last_network),
            record,
        }
    }

    /// Returns the time by the store's clock, to the millisecond.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        in_whole_millis(SystemTime::UNIX_EPOCH + self.store.replica().clock().unix())
    }

    /// Returns the name of an actor as the audit log and the records of keys hold it.
    pub(super) fn name_of(&self, actor: &Actor) -> String {
        // The service chooses this name: it may be too long or contain a key.
        let name: String = actor
            .name()
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect();
        match self.check_text(&name) {
            Ok(()) => name,
            Err(_) => "(a name that holds a key)".to_owned(),
        }
    }

    pub(super) fn line(&self, actor: &Actor, action: AuditAction) -> AuditEntry {
        let mut line = AuditEntry::new(self.now(), &self.name_of(actor), action);
        line.account = actor.account().cloned();
        line.environment = actor.environment();
        line
    }

    /// Adds a refused call to the audit log. See [`unlisted_refusals`](Self::unlisted_refusals).
    pub(super) async fn note_refusal(&self, actor: &Actor, line: AuditEntry) {
        let replica = self.store.replica();
        let (refusals, now) = (replica.refusals(), replica.clock().boot());
        if self.may_do_something(actor).await {
            return self
                .write_lines(refusals.list(actor.account(), actor.environment(), line, now))
                .await;
        }
        // An actor that merely holds a key or an account must not be able to grow the audit log.
        refusals.count();
        if let Some(Unlogged(unlogged)) = refusals.log.admit(&line.actor, now) {
            let action = line.action.as_str();
            let reason = line.refused.map_or("", AdminErrorKind::as_str);
            tracing::info!(
                actor = line.actor,
                action,
                reason,
                unlogged,
                "refused a call by an actor without any permission"
            );
        }
    }

    /// Writes the summary lines of refused calls for hours that have passed.
    pub(super) async fn write_left(&self) {
        let replica = self.store.replica();
        let left = replica.refusals().left(replica.clock().boot());
        self.write_lines(left).await;
    }

    /// Adds lines to the audit log. If the store fails, the failure is only logged.
    async fn write_lines(&self, audit: Vec<AuditEntry>) {
        if audit.is_empty() {
            return;
        }
        let commit = Commit {
            audit,
            ..Commit::default()
        };
        if let Err(error) = self.store.commit(commit).await {
            let error: &dyn std::error::Error = &error;
            let replica = self.store.replica();
            let now = replica.clock().boot();
            if let Some(Unlogged(unlogged)) = replica.refusals().log.admit("", now) {
                tracing::error!(
                    error,
                    unlogged,
                    "failed to write refused calls to the audit log"
                );
            }
        }
    }

    /// Returns the number of refused calls that the audit log does not list.
    ///
    /// The audit log never shrinks, so no client may be able to fill it. A refused call by an actor
    /// without any [`Permission`](crate::scope::Permission), such as a key without a scope for it,
    /// is counted here and logged with `tracing`, at most ten times a minute, but not listed. For
    /// any other actor, 20 refused calls an hour are listed. Further ones are counted here and
    /// summarized in one line once the hour is over, with `followed=` and their number as its
    /// detail. That line is written with the next refused call, or before the audit log is read
    /// next; a process that ends first does not write it. Beyond 1,000 actors in an hour, the
    /// remaining ones are counted together.
    ///
    /// The count is that of this process since it opened the store, over all admins. Use it for
    /// metrics.
    ///
    /// ```
    /// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey};
    /// # keyward::testing::block_on(async {
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
    /// # let id = created.record.id;
    /// let guest = Actor::user("guest", acme.clone(), []);
    /// for _ in 0..1000 {
    ///     assert!(admin.revoke(&guest, id, "").await.is_err());
    /// }
    /// assert_eq!(admin.unlisted_refusals(), 1000);
    /// assert_eq!(admin.audit(&operator, Some(&acme), None).await?.entries.len(), 1); // the bootstrap
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn unlisted_refusals(&self) -> u64 {
        self.store.replica().refusals().unlisted()
    }
}
