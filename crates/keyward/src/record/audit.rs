//! Who did what to which key.

use std::time::SystemTime;

use crate::error::named;
use crate::{AccountId, AdminErrorKind, KeyId};

/// One line of the audit trail. A refused call leaves one too.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEntry {
    /// Its place in the trail; the store sets it. Zero: not stored yet.
    pub number: u64,
    /// When.
    pub at: SystemTime,
    /// Who: the name of an actor, or `key:` and the id of a key.
    pub actor: String,
    /// What.
    pub action: AuditAction,
    /// In which account, where it was known.
    pub account: Option<AccountId>,
    /// To which key, where there was one.
    pub key: Option<KeyId>,
    /// Why it was refused; `None` when it was done.
    pub refused: Option<AdminErrorKind>,
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
            key: None,
            refused: None,
            reason: String::new(),
        }
    }
}

/// What was done or refused.
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
    /// All keys of an account, or of one of its environments, were revoked.
    RevokeAll,
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
    RevokeAll = "revoke_all",
}
