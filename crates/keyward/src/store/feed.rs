//! What the entries of a replica share, and what only its feed touches.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use crate::store::entry::Group;
use crate::{Account, AccountId, Environment, KeyRecord, OriginPolicy, Revision, Scopes};

/// What only the feed touches.
#[derive(Default)]
pub(crate) struct Feed {
    pub(crate) revision: Option<Revision>,
    accounts: HashMap<AccountId, Account>,
    groups: HashMap<AccountId, Vec<Arc<Group>>>,
    scopes: HashSet<Arc<Scopes>>,
    origins: HashSet<Arc<OriginPolicy>>,
}

impl Feed {
    pub(crate) fn group(&mut self, record: &KeyRecord) -> Arc<Group> {
        let (environment, prefix) = (record.environment, &record.hint.prefix);
        let groups = self.groups.entry(record.account.clone()).or_default();
        let same = |group: &&Arc<Group>| is_of(group, environment, prefix);
        if let Some(group) = groups.iter().find(same) {
            return Arc::clone(group);
        }
        let group = Group::closed(record.account.clone(), environment, prefix.clone());
        group.follow(self.accounts.get(&record.account));
        let group = Arc::new(group);
        groups.push(Arc::clone(&group));
        group
    }

    pub(crate) fn scopes(&mut self, scopes: &Scopes) -> Arc<Scopes> {
        share(&mut self.scopes, scopes)
    }

    pub(crate) fn origins(&mut self, origins: &OriginPolicy) -> Option<Arc<OriginPolicy>> {
        match origins {
            OriginPolicy::Any => None,
            listed @ OriginPolicy::Listed(_) => Some(share(&mut self.origins, listed)),
        }
    }

    pub(crate) fn close(&self, accounts: &[Account]) {
        for account in accounts {
            for group in self.groups.get(&account.id).into_iter().flatten() {
                group.close(account);
            }
        }
    }

    pub(crate) fn follow(&mut self, accounts: Vec<Account>, restarted: bool) {
        if restarted {
            self.accounts.clear();
        }
        for account in accounts {
            for group in self.groups.get(&account.id).into_iter().flatten() {
                group.follow(Some(&account));
            }
            self.accounts.insert(account.id.clone(), account);
        }
        if restarted {
            let gone = self
                .groups
                .iter()
                .filter(|(id, _)| !self.accounts.contains_key(id));
            gone.flat_map(|(_, groups)| groups)
                .for_each(|group| group.follow(None));
        }
    }
}

fn is_of(group: &Group, environment: Environment, prefix: &str) -> bool {
    group.environment == environment && *group.prefix == *prefix
}

/// One allocation for all that are equal.
fn share<T: Clone + Eq + Hash>(known: &mut HashSet<Arc<T>>, new: &T) -> Arc<T> {
    if let Some(known) = known.get(new) {
        return Arc::clone(known);
    }
    let new = Arc::new(new.clone());
    known.insert(Arc::clone(&new));
    new
}
