//! Maintenance of the store in memory.

use std::mem;
use std::time::SystemTime;

use crate::credits::CreditOwner;
use crate::ids::{AccountId, KeyId};
use crate::record::{AuditEntry, DeathCause, KeyRecord, KeyState, KeyStatus, Tombstone};
use crate::store::memory::Rows;
use crate::store::{AuditCut, Commit, Maintained, Maintenance, MemoryStore, StoreError};

impl MemoryStore {
    /// Does all of a task at once.
    pub(super) fn maintain_all(
        &self,
        task: Maintenance,
        line: Option<AuditEntry>,
    ) -> Result<Maintained, StoreError> {
        let of_step = task.clone();
        let done = match task {
            Maintenance::PruneKeys { died_before, now } => {
                self.revoke(now, None)?;
                self.rows().prune(died_before, now)
            }
            Maintenance::RollUpUsage { roll_up, .. } => {
                let mut rows = self.rows();
                let before = rows.usage.len();
                let old: Vec<_> = mem::take(&mut rows.usage).into_values().collect();
                for of_key in old.chunk_by(|one, other| one.key == other.key) {
                    let merged = roll_up.merge(of_key.iter().cloned());
                    let merged = merged.into_iter().map(|row| (row.cursor(), row));
                    rows.usage.extend(merged);
                }
                before - rows.usage.len()
            }
            Maintenance::CutAudit(AuditCut { through, .. }) => {
                let mut rows = self.rows();
                let before = rows.audit.len();
                rows.audit.retain(|line| line.number > through);
                before - rows.audit.len()
            }
            Maintenance::EraseAccount {
                account,
                pseudonym,
                now,
            } => {
                self.revoke(now, Some(&account))?;
                self.rows().erase(&account, &pseudonym, now)
            }
        };
        let maintained = Maintained {
            done: done as u64,
            next: None,
        };
        let audit = of_step.line(maintained.done, line).into_iter().collect();
        self.write(Commit {
            audit,
            ..Commit::default()
        })?;
        Ok(maintained)
    }

    /// Revokes the keys of an account, or those that were revoked with all keys of theirs, one by
    /// one.
    fn revoke(&self, now: SystemTime, of: Option<&AccountId>) -> Result<(), StoreError> {
        let keys = self.rows().to_revoke(now, of);
        self.write(Commit {
            keys,
            ..Commit::default()
        })
    }
}

impl Rows {
    fn to_revoke(&self, now: SystemTime, of: Option<&AccountId>) -> Vec<KeyRecord> {
        let is_wanted = |key: &&KeyRecord| {
            if let Some(account) = of {
                return key.account == *account && key.status != KeyStatus::Revoked;
            }
            let account = self.accounts.get(&key.account);
            let state = account.map(|account| key.state(account, now));
            state == Some(KeyState::Revoked) && key.revoked_at.is_none()
        };
        let keys = self.keys.values().filter(is_wanted).cloned();
        keys.map(|mut key| {
            key.status = KeyStatus::Revoked;
            key.revoked_at = key.revoked_at.or(Some(now));
            key
        })
        .collect()
    }

    fn prune(&mut self, died_before: SystemTime, now: SystemTime) -> usize {
        let dead = self.keys.values().filter(|key| {
            let is_before = |at: Option<SystemTime>| at.is_some_and(|at| at <= died_before);
            let revoked = key.status == KeyStatus::Revoked && is_before(key.revoked_at);
            revoked || is_before(key.expires_at)
        });
        let dead: Vec<_> = dead.map(|key| key.id).collect();
        for id in &dead {
            self.bury(*id, now);
        }
        dead.len()
    }

    /// Replaces a key with its tombstone.
    fn bury(&mut self, id: KeyId, now: SystemTime) {
        let Some(key) = self.keys.remove(&id) else {
            return;
        };
        let digest = *key.digest.expose_bytes();
        self.ids.remove(&digest);
        self.barred.insert(digest);
        let mut chain = self.keys.values();
        if !chain.any(|other| other.lineage == key.lineage) {
            self.credits.remove(&CreditOwner::Key(key.lineage));
        }
        let mut tombstone = Tombstone::new(id, key.hint, key.account, key.environment, now);
        tombstone.lineage = key.lineage;
        (tombstone.cause, tombstone.died_at) = if key.status == KeyStatus::Revoked {
            (DeathCause::Revoked, key.revoked_at.unwrap_or(now))
        } else {
            (DeathCause::Expired, key.expires_at.unwrap_or(now))
        };
        tombstone.revoked_for = key.revoked_for;
        tombstone.last_used_at = key.last_used_at;
        self.tombstones.insert(id, tombstone);
    }

    fn erase(&mut self, account: &AccountId, pseudonym: &AccountId, now: SystemTime) -> usize {
        let own = self.keys.values().filter(|key| key.account == *account);
        let own: Vec<_> = own.map(|key| key.id).collect();
        for id in own {
            self.bury(id, now);
        }
        let mut done = 0;
        let stones = self.tombstones.values_mut();
        for stone in stones.filter(|stone| stone.account == *account) {
            stone.account = pseudonym.clone();
            stone.revoked_for.clear();
            done += 1;
        }
        let rows = self.usage.values_mut();
        for row in rows.filter(|row| row.account == *account) {
            row.account = pseudonym.clone();
        }
        let lines = self.audit.iter_mut();
        for line in lines.filter(|line| line.account.as_ref() == Some(account)) {
            line.account = Some(pseudonym.clone());
            if line.actor.starts_with("user:") {
                line.actor = format!("user:{pseudonym}");
            }
            line.detail.clear();
            line.reason.clear();
            done += 1;
        }
        self.tokens.retain(|(owner, _), _| owner != account);
        self.credits.remove(&CreditOwner::Account(account.clone()));
        done + usize::from(self.accounts.remove(account).is_some())
    }
}
