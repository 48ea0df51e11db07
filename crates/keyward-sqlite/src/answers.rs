//! Answers that wait until their change is in the main file.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use keyward::store::StoreError;

use crate::file::KeyFile;

/// The maximum time that an answer waits for its change to reach the main file.
const CHECKPOINT: Duration = Duration::from_millis(100);

/// Answers that wait until their change is in the main file.
///
/// A commit is first written to the log beside the file. If the file alone is mounted, copied or
/// restored, an acknowledged revocation would be lost. Therefore a change that takes power away is
/// answered after a checkpoint, one for all changes written together.
pub(crate) struct Answers {
    waiting: Vec<Box<dyn FnOnce() + Send>>,
    since: Instant,
    /// Set while the main file lacks an acknowledged change.
    behind: bool,
}

impl Answers {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Vec::new(),
            since: Instant::now(),
            behind: false,
        }
    }

    /// Sends an answer, now or after the next checkpoint.
    pub(crate) fn give(&mut self, checkpoint_first: bool, answer: impl FnOnce() + Send + 'static) {
        if !checkpoint_first {
            return answer();
        }
        if self.waiting.is_empty() {
            self.since = Instant::now();
        }
        self.waiting.push(Box::new(answer));
    }

    /// Makes one checkpoint for all waiting answers, and sends them.
    pub(crate) fn release(&mut self, file: &mut KeyFile) {
        if self.waiting.is_empty() {
            return;
        }
        // If the log is known to be held, do not wait for it again.
        let patience = if self.behind {
            Duration::ZERO
        } else {
            CHECKPOINT
        };
        let copied = file.checkpoint(self.since + patience);
        self.note(&copied);
        self.waiting.drain(..).for_each(|answer| answer());
    }

    /// Retries what could not be copied before.
    pub(crate) fn catch_up(&mut self, file: &mut KeyFile) {
        if self.behind {
            let copied = file.checkpoint(Instant::now());
            self.note(&copied);
        }
    }

    /// Leaves a main file that needs no log, unless another process holds the log.
    pub(crate) fn complete(&mut self, file: &mut KeyFile) {
        let copied = file.checkpoint(Instant::now() + CHECKPOINT);
        self.note(&copied);
    }

    /// Logs once why the main file is incomplete, and once when it is complete again.
    fn note(&mut self, copied: &Result<bool, StoreError>) {
        match copied {
            Ok(true) if self.behind => tracing::info!("the main file is complete again"),
            Ok(false) if !self.behind => tracing::warn!(
                "the last changes are only in the write-ahead log, which a reader holds; \
                 a copy of the main file alone lacks them"
            ),
            Err(error) if !self.behind => {
                let error: &(dyn Error + 'static) = error;
                tracing::error!(
                    error,
                    "the last changes are only in the write-ahead log; \
                     a copy of the main file alone lacks them"
                );
            }
            _ => {}
        }
        self.behind = !matches!(copied, Ok(true));
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("waiting", &self.waiting.len())
            .field("behind", &self.behind)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, mpsc};

    use keyward::admin::{AccountChange, KeyChange};
    use keyward::denial::DenialKind;
    use keyward::record::{AccountStatus, KeyRecord, KeyStatus};
    use keyward::testing::block_on;
    use keyward::{Actor, ApiKey, Environment, Grace, KeyAdmin, OriginPolicy};
    use rusqlite::Connection;

    use super::*;
    use crate::SqliteStore;
    use crate::fixture::{Fixture, add, ask, commit, eventually, scheme};

    type Take<'a> = &'a dyn Fn(&KeyRecord);

    /// Returns the decision of a gate over a copy of the main file alone.
    fn ask_copy(fixture: &Fixture, key: &ApiKey) -> Result<(), DenialKind> {
        let copy = fixture.at("copy.db");
        fs::copy(fixture.path(), &copy).unwrap();
        let answer = ask(&SqliteStore::open(&copy).unwrap(), key);
        fs::remove_file(copy).unwrap();
        answer
    }

    #[test]
    fn what_takes_power_away_is_in_the_main_file_once_it_is_acknowledged() {
        let fixture = Fixture::new();
        let store = Arc::new(fixture.open_slow());
        let admin = KeyAdmin::new(&store, &scheme());
        let operator = Actor::operator("test");
        let ways: [(&str, Take<'_>, DenialKind); 7] = [
            (
                "revoke",
                &|key| {
                    drop(block_on(admin.revoke(&operator, key.id, "")).unwrap());
                },
                DenialKind::Revoked,
            ),
            (
                "revoke-all",
                &|key| {
                    block_on(admin.revoke_all(&operator, &key.account, None, "")).unwrap();
                },
                DenialKind::Revoked,
            ),
            (
                "revoke-all-live",
                &|key| {
                    let live = Some(Environment::LIVE);
                    block_on(admin.revoke_all(&operator, &key.account, live, "")).unwrap();
                },
                DenialKind::Revoked,
            ),
            (
                "suspend",
                &|key| {
                    let change = AccountChange::new().status(AccountStatus::Suspended);
                    drop(block_on(admin.update_account(&operator, &key.account, change)).unwrap());
                },
                DenialKind::AccountInactive,
            ),
            (
                "disable",
                &|key| {
                    drop(block_on(admin.disable(&operator, key.id)).unwrap());
                },
                DenialKind::Disabled,
            ),
            (
                "rotate",
                &|key| {
                    let rotated = admin.rotate(&operator, key.id, Grace::None);
                    drop(block_on(rotated).unwrap());
                },
                DenialKind::Revoked,
            ),
            (
                "narrow",
                &|key| {
                    let listed = OriginPolicy::listed(["shop.example"]).unwrap();
                    let change = KeyChange::new().origins(listed);
                    drop(block_on(admin.update(&operator, key.id, change)).unwrap());
                },
                DenialKind::OriginMissing,
            ),
        ];
        for (name, take, answer) in ways {
            let (secret, record) = add(&store, name);
            fixture.type_in("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
            assert_eq!(ask_copy(&fixture, &secret), Ok(()), "{name}");
            take(&record);
            assert_eq!(ask(&store, &secret), Err(answer), "{name}");
            assert_eq!(ask_copy(&fixture, &secret), Err(answer), "{name}");
        }
    }

    #[test]
    fn a_reader_of_the_log_delays_the_main_file_and_no_answer() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, mut record) = add(&store, "acme");
        fixture.type_in("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let reader = Connection::open(fixture.path()).unwrap();
        reader
            .execute_batch("BEGIN; SELECT * FROM keyward_key")
            .unwrap();
        record.status = KeyStatus::Revoked;
        commit(&store, vec![], vec![record]).unwrap();
        assert_eq!(ask(&store, &secret), Err(DenialKind::Revoked));
        assert_eq!(ask_copy(&fixture, &secret), Ok(()), "the reader holds it");
        reader.execute_batch("COMMIT").unwrap();
        eventually(|| ask_copy(&fixture, &secret) == Err(DenialKind::Revoked));
    }

    #[test]
    fn what_waits_together_shares_a_checkpoint() {
        let fixture = Fixture::new();
        let store = fixture.open_slow();
        drop(add(&store, "acme"));
        let mut file = KeyFile::open(&fixture.path(), false).unwrap();
        let (tell, told) = mpsc::channel();
        let mut answers = Answers::new();
        for checkpoint_first in [true, false, true] {
            let tell = tell.clone();
            answers.give(checkpoint_first, move || {
                tell.send(checkpoint_first).unwrap();
            });
        }
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [false]);
        answers.release(&mut file);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [true, true]);
    }
}
