//! Who did what to which key.

use std::time::SystemTime;

use crate::environment::Environment;
use crate::error::named;
use crate::ids::{AccountId, KeyId};
use crate::record::AdminErrorKind;

/// One line of the audit log. A refused call leaves one too, unless that happens
/// [too often](crate::admin::KeyAdmin::unlisted_refusals).
///
/// ```
/// # use keyward::{
/// #     AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Permission, Store,
/// # };
/// # use keyward::record::{AdminErrorKind, AuditAction};
/// # let mut example = std::pin::pin!(async {
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
/// # });
/// # let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
/// # let done = example.as_mut().poll(context);
/// # assert!(matches!(done, std::task::Poll::Ready(Ok(()))), "{done:?}");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEntry {
    /// Its place in the trail; the store sets it. Zero: not stored yet.
    pub number: u64,
    /// When.
    pub at: SystemTime,
    /// Who: `user:` or `operator:` and a name, or `key:` and the id of a key.
    pub actor: String,
    /// What.
    pub action: AuditAction,
    /// In which account, where it was known.
    pub account: Option<AccountId>,
    /// Of which environment the key or endpoint is, where there was one; else of which the key is that
    /// acted.
    ///
    /// A key that reads the audit log sees the lines of its own environment only.
    pub environment: Option<Environment>,
    /// To which key, where there was one.
    pub key: Option<KeyId>,
    /// Why it was refused; `None` when it was done.
    pub refused: Option<AdminErrorKind>,
    /// What was done in particular, such as `environment=live` or `successor=key_…`; and to which
    /// endpoint, `endpoint=whe_…`, also where it was refused.
    pub detail: String,
    /// The reason that was given for a revocation.
    pub reason: String,
}

impl AuditEntry {
    /// A line about something that was done.
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

/// What was done or refused.
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
    /// The first account and key of an empty store.
    Bootstrap,
    /// An account was opened.
    OpenAccount,
    /// An account's status, plan or bound was changed.
    UpdateAccount,
    /// A key was created.
    Create,
    /// A key that was made elsewhere was taken over.
    Import,
    /// Keys or the trail were read; only refusals are noted.
    Read,
    /// A key's name, scopes, origins, limit or metadata were changed.
    Update,
    /// A key was switched off.
    Disable,
    /// A key was switched on.
    Enable,
    /// A key was replaced by a successor.
    Rotate,
    /// A key was revoked.
    Revoke,
    /// A balance of credits was replaced or lifted.
    SetCredits,
    /// Credits were added to a balance.
    AddCredits,
    /// All keys of an account, or of one of its environments, were revoked.
    RevokeAll,
    /// An endpoint of webhooks was made.
    CreateEndpoint,
    /// An endpoint's URL was changed, or it was switched on or off.
    UpdateEndpoint,
    /// An endpoint got a new secret.
    RegenerateSecret,
    /// An endpoint was asked to answer a challenge.
    VerifyEndpoint,
    /// An endpoint was deleted.
    DeleteEndpoint,
    /// Endpoints, or attempts to reach them, were read; only refusals are noted.
    ReadEndpoints,
    /// What had been given up, or a message, was made due again for an endpoint.
    Redeliver,
    /// A message was accepted; only refusals are noted, for the message itself is kept.
    Publish,
    /// The secrets of endpoints were sealed anew, or old messages forgotten.
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
    Maintain = "maintain",
}
