//! Refused management calls that the audit log lists.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::environment::Environment;
use crate::ids::AccountId;
use crate::log_limit::LogLimit;
use crate::record::AuditEntry;

/// The number of refused calls per actor and hour that are listed.
const LISTED: u64 = 20;

const HOUR: Duration = Duration::from_secs(3600);

/// The number of actors that are counted separately. All others are counted together.
const ACTORS: usize = 1000;

/// The refused management calls of a process, bounded in memory and in output.
///
/// There is no timer: the summary of an hour is written with the first refused call, or before the
/// first read of the audit log, after that hour.
#[derive(Default)]
pub(crate) struct Refusals {
    /// The windows by account and actor. The entry without either counts all other actors.
    actors: Mutex<HashMap<(Option<AccountId>, String), Window>>,
    unlisted: AtomicU64,
    /// The limit for the log lines about unlisted refusals.
    pub(crate) log: LogLimit,
}

/// An hour in which calls of an actor were refused.
struct Window {
    began: Duration,
    refused: u64,
    /// The last refused call that was not listed.
    last: Option<AuditEntry>,
}

impl Refusals {
    /// Returns the entries to write for a refused call: its own, unless there were too many in the
    /// last hour, and the summaries of past hours.
    pub(crate) fn list(
        &self,
        account: Option<&AccountId>,
        environment: Option<Environment>,
        line: AuditEntry,
        now: Duration,
    ) -> Vec<AuditEntry> {
        let mut lines = self.left(now);
        let mut actors = self.actors.lock().unwrap_or_else(PoisonError::into_inner);
        let mut whose = (account.cloned(), line.actor.clone());
        let is_beyond = actors.len() >= ACTORS && !actors.contains_key(&whose);
        if is_beyond {
            whose = (None, String::new());
        }
        let window = actors.entry(whose).or_insert(Window {
            began: now,
            refused: 0,
            last: None,
        });
        window.refused += 1;
        if window.refused <= LISTED {
            lines.push(line);
            return lines;
        }
        // The following calls may concern several keys and environments.
        let mut last = AuditEntry::new(line.at, &line.actor, line.action);
        last.refused = line.refused;
        if is_beyond {
            "(several)".clone_into(&mut last.actor);
        } else {
            last.account = account.cloned();
            last.environment = environment;
        }
        window.last = Some(last);
        drop(actors);
        self.count();
        lines
    }

    /// Returns the summaries of past hours: for each actor an entry with the number of unlisted
    /// calls.
    pub(crate) fn left(&self, now: Duration) -> Vec<AuditEntry> {
        let mut lines = Vec::new();
        let mut actors = self.actors.lock().unwrap_or_else(PoisonError::into_inner);
        actors.retain(|_, window| {
            let is_over = now.saturating_sub(window.began) >= HOUR;
            if is_over && let Some(mut line) = window.last.take() {
                line.detail = format!("followed={}", window.refused - LISTED);
                lines.push(line);
            }
            !is_over
        });
        lines
    }

    /// Counts a refused call that is not listed.
    pub(crate) fn count(&self) {
        self.unlisted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unlisted(&self) -> u64 {
        self.unlisted.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusals")
            .field("unlisted", &self.unlisted())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::record::{AdminErrorKind, AuditAction};

    fn refuse(refusals: &Refusals, name: &str, now: u64) -> Vec<AuditEntry> {
        let account = AccountId::parse("acme").unwrap();
        let actor = format!("user:{name}");
        let mut line = AuditEntry::new(SystemTime::UNIX_EPOCH, &actor, AuditAction::Read);
        line.refused = Some(AdminErrorKind::UnknownKey);
        refusals.list(Some(&account), None, line, Duration::from_secs(now))
    }

    #[test]
    fn memory_and_output_are_bounded_for_any_number_of_actors() {
        let refusals = Refusals::default();
        let mut lines = 0;
        for number in 0..100_000_u32 {
            lines += refuse(&refusals, &number.to_string(), 0).len();
        }
        assert_eq!(refusals.actors.lock().unwrap().len(), ACTORS + 1);
        assert_eq!(lines, ACTORS + 20);
        let left = refuse(&refusals, "0", 3600);
        let [several, own] = &left[..] else {
            panic!("{left:?}")
        };
        let followed = format!("followed={}", 100_000 - ACTORS - 20);
        assert_eq!((&*several.actor, &several.detail), ("(several)", &followed));
        assert_eq!(own.actor, "user:0");
        assert_eq!(refusals.actors.lock().unwrap().len(), 1);
    }
}
