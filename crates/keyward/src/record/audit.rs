//! The audit log of key management.

use std::time::SystemTime;

use crate::environment::Environment;
use crate::error::named;
use crate::ids::{AccountId, KeyId};
use crate::record::AdminErrorKind;

/// An entry of the audit log: who did what to which key, and when.
///
/// A refused call is logged too, unless that happens [too
/// often](crate::admin::KeyAdmin::unlisted_refusals).
///
/// ```
/// # use keyward::{
/// #     AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Permission, Store,
/// # };
/// # use keyward::record::{AdminErrorKind, AuditAction};
/// # keyward::testing::block_on(async {
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
/// # let operator = Actor::operator("docs");
/// # let acme = AccountId::parse("acme")?;
/// # let created = admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
/// # let id = created.record.id;
/// let reader = Actor::user("ann", acme.clone(), [Permission::Read]);
/// assert!(admin.revoke(&reader, id, "").await.is_err());
/// let trail = admin.audit(&operator, Some(&acme), None).await?;
/// let line = &trail.entries[0];
/// assert_eq!((&*line.actor, line.action), ("user:ann", AuditAction::Revoke));
/// assert_eq!(line.refused, Some(AdminErrorKind::NotPermitted));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEntry {
    /// The position in the audit log, set by the store. Zero if it is not stored yet.
    pub number: u64,
    /// The time of the action.
    pub at: SystemTime,
    /// The actor: `user:` or `operator:` and a name, or `key:` and a key id.
    pub actor: String,
    /// The action.
    pub action: AuditAction,
    /// The account, if it was known.
    pub account: Option<AccountId>,
    /// The environment of the key or endpoint, if there was one; otherwise that of the acting key.
    ///
    /// A key that reads the audit log sees only the entries of its own environment.
    pub environment: Option<Environment>,
    /// The key that was acted on, if any.
    pub key: Option<KeyId>,
    /// The reason for a refusal; `None` if the action was carried out.
    pub refused: Option<AdminErrorKind>,
    /// Details such as `environment=live` or `successor=key_…`. For an endpoint it contains
    /// `endpoint=whe_…`, even if the call was refused.
    pub detail: String,
    /// The reason given for a revocation.
    pub reason: String,
}

impl AuditEntry {
    /// Creates an entry for an action that was carried out.
    #[must_use]
    pub fn new(at: SystemTime, actor: &str, action: AuditAction) -> Self {
        Self {
            number: 0,
            at,
            actor: actor.to_owned(),
            action,
            account: None,
            environment: None,
            key: None,
            refused: None,
            detail: String::new(),
            reason: String::new(),
        }
    }
}

/// An action in the audit log.
///
/// ```
/// use keyward::record::AuditAction;
///
/// assert_eq!(AuditAction::RevokeAll.as_str(), "revoke_all");
/// assert_eq!(AuditAction::parse("revoke_all")?, AuditAction::RevokeAll);
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditAction {
    /// The first account and key of an empty store were created.
    Bootstrap,
    /// An account was created.
    OpenAccount,
    /// An account's status, plan or key limit was changed.
    UpdateAccount,
    /// A key was created.
    Create,
    /// A key of another system was imported.
    Import,
    /// Keys or the audit log were read. Only refusals are logged.
    Read,
    /// A key's name, scopes, allowlists, rate limits or metadata were changed.
    Update,
    /// A key was disabled.
    Disable,
    /// A key was enabled.
    Enable,
    /// A key was rotated: a successor replaced it.
    Rotate,
    /// A key was revoked.
    Revoke,
    /// A balance of credits was replaced or removed.
    SetCredits,
    /// Credits were added to a balance.
    AddCredits,
    /// All keys of an account, or of one of its environments, were revoked.
    RevokeAll,
    /// A webhook endpoint was created.
    CreateEndpoint,
    /// A webhook endpoint's URL was changed, or it was enabled or disabled.
    UpdateEndpoint,
    /// A webhook endpoint got a new secret.
    RegenerateSecret,
    /// A webhook endpoint was sent a challenge.
    VerifyEndpoint,
    /// A webhook endpoint was deleted.
    DeleteEndpoint,
    /// Webhook endpoints or delivery attempts were read. Only refusals are logged.
    ReadEndpoints,
    /// A message, or everything that had been given up, was scheduled for redelivery.
    Redeliver,
    /// A message was accepted. Only refusals are logged, because the message itself is stored.
    Publish,
    /// Dead keys were deleted, and left tombstones.
    Prune,
    /// The audit log was exported and cut.
    CutAudit,
    /// What was known of an account was removed.
    EraseAccount,
    /// Endpoint secrets were sealed with a new key, or old messages were deleted.
    Maintain,
}

named! {
    AuditAction, "audit action":
    Bootstrap = "bootstrap",
    OpenAccount = "open_account",
    UpdateAccount = "update_account",
    Create = "create",
    Import = "import",
    Read = "read",
    Update = "update",
    Disable = "disable",
    Enable = "enable",
    Rotate = "rotate",
    Revoke = "revoke",
    SetCredits = "set_credits",
    AddCredits = "add_credits",
    RevokeAll = "revoke_all",
    CreateEndpoint = "create_endpoint",
    UpdateEndpoint = "update_endpoint",
    RegenerateSecret = "regenerate_secret",
    VerifyEndpoint = "verify_endpoint",
    DeleteEndpoint = "delete_endpoint",
    ReadEndpoints = "read_endpoints",
    Redeliver = "redeliver",
    Publish = "publish",
    Prune = "prune",
    CutAudit = "cut_audit",
    EraseAccount = "erase_account",
    Maintain = "maintain",
}
