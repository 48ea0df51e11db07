//! Deletes and merges old rows, in steps.

use std::time::SystemTime;

use crate::ids::{AccountId, KeyId};
use crate::record::{AuditEntry, Tombstone};
use crate::usage::UsageRollUp;

/// A part of the maintenance of a store. See [`Store::maintain`](crate::store::Store::maintain).
///
/// Each may be stopped or killed at any time and begun again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a store must handle every case, so a new one must not be missed"
)]
pub enum Maintenance {
    /// Deletes dead keys, each of which leaves a [`Tombstone`](crate::record::Tombstone).
    ///
    /// A key that was revoked with all keys of its account counts as revoked at `now`: its record
    /// is given that time, and it is deleted later. The digest of a deleted key is never accepted
    /// again, and its create token stays taken. Its usage stays. A process that has not read yet
    /// that the key is dead, because it was frozen for example, must read everything anew.
    PruneKeys {
        /// Keys that were revoked or had expired at this time are deleted.
        died_before: SystemTime,
        /// The present time.
        now: SystemTime,
    },
    /// Merges usage into days and months.
    RollUpUsage {
        /// The hours before which usage is merged.
        roll_up: UsageRollUp,
        /// The last key whose usage is merged already.
        after: Option<KeyId>,
    },
    /// Deletes the audit log up to a line, and records the cut for good.
    CutAudit(AuditCut),
    /// Removes what is known of an account and its keys; see
    /// [`KeyAdmin::erase_account`](crate::admin::KeyAdmin::erase_account).
    EraseAccount {
        /// The account.
        account: AccountId,
        /// The name that takes the place of the account's, unless its erasure has begun already.
        pseudonym: AccountId,
        /// The present time.
        now: SystemTime,
    },
}

/// A cut of the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must keep every part, so a new one must not be missed"
)]
pub struct AuditCut {
    /// The number of the last line that is deleted.
    pub through: u64,
    /// The number of deleted lines.
    pub lines: u64,
    /// The SHA-256 of the exported lines.
    pub sha256: [u8; 32],
    /// The time of the cut.
    pub at: SystemTime,
}

/// The result of a step of maintenance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it")]
pub struct Maintained {
    /// The number of keys, rows or lines that were deleted or merged.
    pub done: u64,
    /// The task of the next step; `None` if nothing is left to do.
    pub next: Option<Maintenance>,
}

impl Maintenance {
    /// Returns the audit log line of a step that has done so much; `None` if it has done nothing.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use keyward::record::{AuditAction, AuditEntry};
    /// use keyward::store::Maintenance;
    ///
    /// let now = SystemTime::now();
    /// let task = Maintenance::PruneKeys { died_before: now, now };
    /// let line = Some(AuditEntry::new(now, "operator:ops", AuditAction::Prune));
    /// assert_eq!(task.line(7, line.clone()).map(|line| line.detail), Some("count=7".into()));
    /// assert_eq!(task.line(0, line), None);
    /// ```
    #[must_use]
    pub fn line(&self, done: u64, line: Option<AuditEntry>) -> Option<AuditEntry> {
        let mut line = line.filter(|_| done > 0)?;
        let count = match self {
            Self::CutAudit(cut) => cut.lines,
            _ => done,
        };
        if !line.detail.is_empty() {
            line.detail.push(' ');
        }
        line.detail.push_str("count=");
        line.detail.push_str(&count.to_string());
        Some(line)
    }
}

/// A query for tombstones. See [`Store::tombstones`](crate::store::Store::tombstones).
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must handle every part, so a new one must not be missed"
)]
pub struct TombstoneQuery {
    /// The account; `None` for all.
    pub account: Option<AccountId>,
    /// The id of the key; `None` for all.
    pub id: Option<KeyId>,
    /// The hint of the key as it is displayed, such as `vhk_live_…Tz7x`; `None` for all.
    pub hint: Option<String>,
    /// The id after which the list begins.
    pub after: Option<KeyId>,
    /// The maximum number of tombstones.
    pub limit: usize,
}

impl TombstoneQuery {
    /// Returns whether a tombstone matches, disregarding the limit.
    #[must_use]
    pub fn wants(&self, tombstone: &Tombstone) -> bool {
        let hint = self.hint.as_ref();
        self.account
            .as_ref()
            .is_none_or(|account| *account == tombstone.account)
            && self.id.is_none_or(|id| id == tombstone.id)
            && hint.is_none_or(|hint| *hint == tombstone.hint.to_string())
            && self.after.is_none_or(|after| tombstone.id > after)
    }
}
