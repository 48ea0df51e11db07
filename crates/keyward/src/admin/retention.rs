//! Retention: deletes dead keys, merges old usage, cuts the audit log and erases accounts.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::admin::{Actor, AdminError, KeyAdmin};
use crate::clock::unix_time;
use crate::ids::{AccountId, KeyId};
use crate::record::{AdminErrorKind, AuditAction, AuditEntry, Tombstone};
use crate::store::{AuditCut, AuditQuery, Commit, Maintenance, TombstoneQuery};
use crate::usage::UsageRollUp;

/// The shortest time for which a dead key is kept, so that every process has seen that it is dead.
const SHORTEST: Duration = Duration::from_secs(3600);

/// The number of lines that are exported at a time.
const LINES: usize = 1000;

/// The retention of a service: what is deleted or merged, and at what age. By default, nothing is.
///
/// See [`KeyAdmin::maintain`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Retention {
    dead_keys: Option<Duration>,
    usage_hours: Option<Duration>,
    usage_days: Option<Duration>,
}

impl Retention {
    /// Creates a retention that keeps everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Deletes keys that have been revoked or expired for at least this time, an hour or more.
    pub fn dead_keys(mut self, kept: Duration) -> Self {
        self.dead_keys = Some(kept.max(SHORTEST));
        self
    }

    /// Keeps the usage of each hour for at least this time, and then that of each day (UTC).
    pub fn usage_hours(mut self, kept: Duration) -> Self {
        self.usage_hours = Some(kept);
        self
    }

    /// Keeps the usage of each day for at least this time, and then that of each month (UTC).
    pub fn usage_days(mut self, kept: Duration) -> Self {
        self.usage_days = Some(kept);
        self
    }
}

/// The work that [`KeyAdmin::maintain`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaintenanceReport {
    /// The number of deleted keys.
    pub pruned_keys: u64,
    /// The number of rows of usage that were merged into others.
    pub merged_usage: u64,
}

/// An export of the audit log, which permits to cut it. See [`KeyAdmin::export_audit`].
#[derive(Debug)]
#[must_use = "cut the log once the export is durable"]
pub struct AuditExport {
    first: u64,
    through: u64,
    lines: u64,
    sha256: [u8; 32],
}

impl AuditExport {
    /// Returns the number of exported lines.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Returns the SHA-256 of the exported bytes.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }
}

impl KeyAdmin {
    /// Deletes and merges what the retention no longer keeps. For operators.
    ///
    /// Nothing calls it but the service, for example once a day. It works in short steps, between
    /// which the store serves others; if it is stopped, the next call goes on.
    ///
    /// A deleted key leaves a [`Tombstone`], which [`tombstones`](Self::tombstones) finds. Its
    /// secret never works again, not even if it is imported, its create token creates no other key
    /// ([`Pruned`](AdminErrorKind::Pruned)), its usage stays, and what belongs to its rotation
    /// chain, such as credits, stays with the keys of the chain that are left. A key that was
    /// revoked with all keys of its account counts as revoked when this first sees it. Each step
    /// that deletes keys is a line of the audit log.
    ///
    /// Usage that is merged keeps its sums, and belongs to the first hour of its day or month.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey};
    /// # use keyward::clock::ManualClock;
    /// # use std::sync::Arc;
    /// use keyward::admin::Retention;
    ///
    /// # keyward::testing::block_on(async {
    /// # let clock = Arc::new(ManualClock::at(Duration::from_secs(1_800_000_000)));
    /// # let store = MemoryStore::with_clock(Arc::<ManualClock>::clone(&clock));
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let admin = KeyAdmin::new(&store, &scheme);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # let created = admin.bootstrap(&operator, NewKey::new(acme, Environment::LIVE, "first")).await?;
    /// # let id = created.record.id;
    /// admin.revoke(&operator, id, "posted in a chat").await?;
    /// # clock.advance(Duration::from_secs(91 * 24 * 3600));
    /// // 91 days later:
    /// let day = Duration::from_secs(24 * 3600);
    /// let retention = Retention::new().dead_keys(90 * day).usage_hours(90 * day).usage_days(800 * day);
    /// assert_eq!(admin.maintain(&operator, &retention).await?.pruned_keys, 1);
    /// assert!(admin.key(&operator, id).await.is_err());
    /// let tombstone = admin.tombstone(&operator, id).await?.expect("it was pruned");
    /// assert_eq!(tombstone.revoked_for, "posted in a chat");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator or the store fails.
    pub async fn maintain(
        &self,
        actor: &Actor,
        retention: &Retention,
    ) -> Result<MaintenanceReport, AdminError> {
        let call = self.audited(actor, AuditAction::Prune);
        call.check(actor.must_be_operator()).await?;
        let now = self.now();
        let mut report = MaintenanceReport::default();
        if let Some(kept) = retention.dead_keys {
            let died_before = now.checked_sub(kept).unwrap_or(SystemTime::UNIX_EPOCH);
            let task = Maintenance::PruneKeys { died_before, now };
            // Last uses that are not written yet would be missing in tombstones.
            self.store.flush().await?;
            report.pruned_keys = self.maintain_until_done(task, Some(call.line())).await?;
        }
        let Retention {
            usage_hours,
            usage_days,
            ..
        } = *retention;
        if usage_hours.is_some() || usage_days.is_some() {
            let before = |kept: Option<Duration>| {
                let kept = kept.map_or(u64::MAX, |kept| kept.as_secs());
                unix_time(now).as_secs().saturating_sub(kept) / 3600
            };
            let months = before(usage_days);
            let roll_up = UsageRollUp::before(before(usage_hours).max(months), months);
            let after = None;
            let task = Maintenance::RollUpUsage { roll_up, after };
            report.merged_usage = self.maintain_until_done(task, None).await?;
        }
        Ok(report)
    }

    /// Repeats steps until nothing is left to do. Each step adds the line to the audit log.
    async fn maintain_until_done(
        &self,
        task: Maintenance,
        line: Option<AuditEntry>,
    ) -> Result<u64, AdminError> {
        let (mut task, mut done) = (Some(task), 0);
        while let Some(step) = task {
            let maintained = self.store.maintain(step, line.clone()).await?;
            done += maintained.done;
            task = maintained.next;
        }
        Ok(done)
    }

    /// Returns the tombstone of a pruned key. For operators.
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator or the store fails.
    pub async fn tombstone(
        &self,
        actor: &Actor,
        id: KeyId,
    ) -> Result<Option<Tombstone>, AdminError> {
        let query = TombstoneQuery {
            id: Some(id),
            ..every_tombstone()
        };
        Ok(self.tombstones(actor, query).await?.pop())
    }

    /// Returns the tombstones of pruned keys, sorted by id. For operators.
    ///
    /// ```
    /// # use keyward::testing::{World, block_on};
    /// use keyward::store::TombstoneQuery;
    ///
    /// # let world = World::new();
    /// # let (admin, operator) = (world.admin(), world.operator());
    /// let hint = Some("vhk_live_…Tz7x".to_owned()); // as it was displayed
    /// let query = TombstoneQuery { account: None, id: None, hint, after: None, limit: 100 };
    /// assert!(block_on(admin.tombstones(&operator, query))?.is_empty()); // no such key was pruned
    /// # Ok::<(), keyward::admin::AdminError>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator or the store fails.
    pub async fn tombstones(
        &self,
        actor: &Actor,
        query: TombstoneQuery,
    ) -> Result<Vec<Tombstone>, AdminError> {
        self.audited(actor, AuditAction::Read)
            .check(actor.must_be_operator())
            .await?;
        Ok(self.store.tombstones(query).await?)
    }

    /// Exports the lines of the audit log that are older than a time, newest first. For operators.
    ///
    /// Each is a line of JSON with the members `number`, `at` (milliseconds since the Unix epoch),
    /// `actor`, `action`, `account`, `environment`, `key`, `refused`, `detail` and `reason`. The
    /// newest of them is found by its time, and all lines with a lower number are exported.
    /// Returns `None` if there are none. Nothing is deleted until the export is handed to
    /// [`cut_audit`](Self::cut_audit); drop it to keep the lines.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use keyward::testing::{World, block_on};
    /// # let world = World::new();
    /// # let (admin, operator) = (world.admin(), world.operator());
    /// # let key = world.key("kyc");
    /// # let tomorrow = admin.now() + Duration::from_secs(24 * 3600);
    /// let mut file = Vec::new(); // a `std::fs::File`
    /// let export = block_on(admin.export_audit(&operator, tomorrow, &mut file))?;
    /// let export = export.expect("a key was created");
    /// // file.sync_all()?; // now it is durable
    /// block_on(admin.cut_audit(&operator, export))?;
    /// let left = block_on(admin.audit(&operator, None, None))?.entries;
    /// assert_eq!((left.len(), left[0].action.as_str()), (1, "cut_audit"));
    /// # Ok::<(), keyward::admin::AdminError>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator, the store fails, or the writer fails
    /// ([`Store`](AdminErrorKind::Store), with the error of the writer as the source).
    pub async fn export_audit<W: Write>(
        &self,
        actor: &Actor,
        older_than: SystemTime,
        out: &mut W,
    ) -> Result<Option<AuditExport>, AdminError> {
        self.audited(actor, AuditAction::CutAudit)
            .check(actor.must_be_operator())
            .await?;
        self.write_left().await;
        let mut query = AuditQuery::newest(LINES);
        let mut export: Option<AuditExport> = None;
        let mut hash = Sha256::new();
        loop {
            let lines = self.store.audit(query.clone()).await?;
            query.before = lines.last().map(|line| line.number);
            let is_last = lines.len() < LINES;
            for line in lines {
                if export.is_none() && line.at >= older_than {
                    continue;
                }
                let number = line.number;
                let text = json_line(&line);
                hash.update(text.as_bytes());
                let written = out.write_all(text.as_bytes());
                written
                    .map_err(|error| AdminError::from(AdminErrorKind::Store).with_source(error))?;
                let export = export.get_or_insert(AuditExport {
                    first: number,
                    through: number,
                    lines: 0,
                    sha256: [0; 32],
                });
                export.first = number;
                export.lines += 1;
            }
            if is_last {
                break;
            }
        }
        let flushed: io::Result<()> = out.flush();
        flushed.map_err(|error| AdminError::from(AdminErrorKind::Store).with_source(error))?;
        if let Some(export) = &mut export {
            export.sha256 = hash.finalize().into();
        }
        Ok(export)
    }

    /// Deletes the exported lines of the audit log, once the export is durable. For operators.
    ///
    /// The cut is a line of the audit log itself, with the range, the number of lines and the
    /// SHA-256 of the export. If the call is interrupted, some of the lines may be left; the next
    /// export then includes them again.
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator or the store fails.
    pub async fn cut_audit(&self, actor: &Actor, export: AuditExport) -> Result<(), AdminError> {
        let call = self.audited(actor, AuditAction::CutAudit);
        call.check(actor.must_be_operator()).await?;
        let AuditExport {
            first,
            through,
            lines,
            sha256,
        } = export;
        let hex = hex(&sha256);
        call.amend(|line| line.detail = format!("from={first} through={through} sha256={hex}"));
        let cut = AuditCut {
            through,
            lines,
            sha256,
            at: self.now(),
        };
        let first = Maintenance::CutAudit(cut);
        let step = self.store.maintain(first, Some(call.line())).await?;
        if let Some(next) = step.next {
            self.maintain_until_done(next, None).await?;
        }
        Ok(())
    }

    /// Removes what is known of an account (right to erasure), and returns its pseudonym. For
    /// operators.
    ///
    /// All of its keys are revoked and deleted. They leave tombstones with the hint, the
    /// environment and the times, under the pseudonym, and their secrets never work again. Lines of
    /// the audit log get the pseudonym in place of the account and of its users, and lose their
    /// detail and reason. Usage stays, under the pseudonym, as bills are made from it. Names,
    /// metadata, create tokens, credits, webhook endpoints and messages are deleted, and the account
    /// itself at last. If the call is interrupted, call it again.
    ///
    /// A later account of the same id is a new one: no old key works in it. Stores with a database
    /// read all keys anew after an erasure, and until they have, the keys of such an account are
    /// refused as revoked.
    ///
    /// ```
    /// # use keyward::{AccountId, Actor};
    /// # use keyward::testing::{World, block_on};
    /// # let world = World::new();
    /// # let (admin, operator) = (world.admin(), world.operator());
    /// # let key = world.key("kyc");
    /// let acme = AccountId::parse("acme")?;
    /// let pseudonym = block_on(admin.erase_account(&operator, &acme))?;
    /// assert!(block_on(admin.account_of(&operator, &acme)).is_err());
    /// let lines = block_on(admin.audit(&operator, None, None))?.entries;
    /// assert!(lines.iter().all(|line| line.account.as_ref() != Some(&acme)));
    /// assert_eq!(lines[0].account, Some(pseudonym)); // the line of the erasure
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator, the account does not exist, or the store
    /// fails.
    pub async fn erase_account(
        &self,
        actor: &Actor,
        account: &AccountId,
    ) -> Result<AccountId, AdminError> {
        let call = self.audited(actor, AuditAction::EraseAccount);
        let permitted = async {
            actor.must_be_operator()?;
            self.account_of(actor, account).await
        };
        call.check(permitted.await).await?;
        // In force everywhere before anything is deleted.
        self.revoke_all(actor, account, None, "").await?;
        self.store.flush().await?;
        let random = KeyId::random()?.to_string();
        let pseudonym =
            AccountId::parse(&random.replace("key_", "erased-")).map_err(AdminError::from)?;
        let mut task = Some(Maintenance::EraseAccount {
            account: account.clone(),
            pseudonym: pseudonym.clone(),
            now: self.now(),
        });
        let mut pseudonym = pseudonym;
        while let Some(step) = task {
            task = self.store.maintain(step, None).await?.next;
            if let Some(Maintenance::EraseAccount { pseudonym: own, .. }) = &task {
                pseudonym = own.clone();
            }
        }
        let mut line = call.line();
        line.account = Some(pseudonym.clone());
        let audit = vec![line];
        self.store
            .commit(Commit {
                audit,
                ..Commit::default()
            })
            .await?;
        Ok(pseudonym)
    }
}

fn every_tombstone() -> TombstoneQuery {
    TombstoneQuery {
        account: None,
        id: None,
        hint: None,
        after: None,
        limit: usize::MAX,
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default();
    let digits = bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    digits.collect()
}

/// Returns an entry as a line of JSON.
fn json_line(entry: &AuditEntry) -> String {
    let at = u64::try_from(unix_time(entry.at).as_millis()).unwrap_or(u64::MAX);
    let entry = json!({
        "number": entry.number,
        "at": at,
        "actor": entry.actor,
        "action": entry.action.as_str(),
        "account": entry.account.as_ref().map(AccountId::as_str),
        "environment": entry.environment.map(|own| own.to_string()),
        "key": entry.key.map(|key| key.to_string()),
        "refused": entry.refused.map(AdminErrorKind::as_str),
        "detail": entry.detail,
        "reason": entry.reason,
    });
    format!("{entry}\n")
}
