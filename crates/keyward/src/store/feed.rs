//! What the entries of a replica share, and what only its feed touches.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::limit::meter::Meter;
use crate::limit::purse::Purse;
use crate::store::entry::{Budget, Grant, Group};
use crate::{
    Account, AccountId, BucketOwner, Clock, CreditOwner, Environment, KeyId, KeyRecord, Revision,
};

/// What only the feed touches.
#[derive(Default)]
pub(crate) struct Feed {
    pub(crate) revision: Option<Revision>,
    /// Boxed, as a table has room for more than it holds.
    accounts: HashMap<AccountId, Box<Known>>,
    grants: HashSet<Arc<Grant>>,
    /// The buckets of every chain of rotations, by its first key.
    meters: HashMap<KeyId, Arc<Meter>>,
    purses: HashMap<CreditOwner, Arc<Purse>>,
}

/// What is known of an account.
#[derive(Default)]
struct Known {
    /// None where it is gone, or has not come yet.
    account: Option<Account>,
    groups: SmallVec<[Arc<Group>; 1]>,
}

impl Feed {
    pub(crate) fn group(&mut self, record: &KeyRecord, clock: &Arc<dyn Clock>) -> Arc<Group> {
        let (environment, prefix) = (record.environment, &record.hint.prefix);
        let known = self.accounts.entry(record.account.clone()).or_default();
        let Known { account, groups } = &mut **known;
        let same = |group: &&Arc<Group>| is_of(group, environment, prefix);
        if let Some(group) = groups.iter().find(same) {
            return Arc::clone(group);
        }
        // The account's own name, where it is there already: a record's is a copy.
        let id = account.as_ref().map_or(&record.account, |own| &own.id);
        // Keys of another form share their limits with these.
        let sibling = groups.iter().find(|group| group.environment == environment);
        let meter = sibling.map_or_else(
            || {
                let owner = BucketOwner::Account(id.clone(), environment);
                Arc::new(Meter::new(owner, Arc::clone(clock)))
            },
            |sibling| Arc::clone(&sibling.meter),
        );
        let group = Group::closed(id.clone(), environment, prefix.clone(), meter);
        let account = account.as_ref();
        group.follow(account, budget(&mut self.purses, account));
        let group = Arc::new(group);
        groups.push(Arc::clone(&group));
        group
    }

    /// What the key may: one for all that are equal.
    pub(crate) fn grant(&mut self, record: &KeyRecord) -> Arc<Grant> {
        let grant = Grant::of(record);
        if let Some(known) = self.grants.get(&grant) {
            return Arc::clone(known);
        }
        let new = Arc::new(grant);
        self.grants.insert(Arc::clone(&new));
        new
    }

    /// The buckets of a chain of rotations; `make` where none are known.
    pub(crate) fn meter(
        &mut self,
        lineage: KeyId,
        make: impl FnOnce() -> Arc<Meter>,
    ) -> Arc<Meter> {
        Arc::clone(self.meters.entry(lineage).or_insert_with(make))
    }

    /// The credits that this process has taken from a balance.
    pub(crate) fn purse(&mut self, owner: CreditOwner) -> Arc<Purse> {
        purse(&mut self.purses, owner)
    }

    pub(crate) fn known_purse(&self, owner: &CreditOwner) -> Option<Arc<Purse>> {
        self.purses.get(owner).cloned()
    }

    pub(crate) fn purses(&self) -> Vec<Arc<Purse>> {
        self.purses.values().cloned().collect()
    }

    pub(crate) fn close(&self, accounts: &[Account]) {
        for account in accounts {
            let known = self.accounts.get(&account.id);
            for group in known.into_iter().flat_map(|known| &known.groups) {
                group.close(account);
            }
        }
    }

    pub(crate) fn follow(&mut self, accounts: Vec<Account>, restarted: bool) {
        if restarted {
            self.accounts
                .values_mut()
                .for_each(|known| known.account = None);
        }
        for account in accounts {
            let budget = budget(&mut self.purses, Some(&account));
            let known = self.accounts.entry(account.id.clone()).or_default();
            for group in &known.groups {
                group.follow(Some(&account), budget.clone());
            }
            known.account = Some(account);
        }
        if restarted {
            let known = self.accounts.values();
            let gone = known.filter(|known| known.account.is_none());
            gone.flat_map(|known| &known.groups)
                .for_each(|group| group.follow(None, None));
        }
    }
}

/// The credits of all keys of an account that have none of their own.
fn budget(
    purses: &mut HashMap<CreditOwner, Arc<Purse>>,
    account: Option<&Account>,
) -> Option<Budget> {
    let account = account?;
    Some(Budget {
        epoch: account.credits?,
        purse: purse(purses, CreditOwner::Account(account.id.clone())),
    })
}

fn purse(purses: &mut HashMap<CreditOwner, Arc<Purse>>, owner: CreditOwner) -> Arc<Purse> {
    let known = purses.entry(owner.clone());
    Arc::clone(known.or_insert_with(|| Arc::new(Purse::new(owner))))
}

fn is_of(group: &Group, environment: Environment, prefix: &str) -> bool {
    group.environment == environment && *group.prefix == *prefix
}
