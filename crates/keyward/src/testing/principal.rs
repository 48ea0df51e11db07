//! A principal that no gate has let in.

use std::mem;
use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::{ManualClock, unix_time};
use crate::credits::{CreditOwner, Credits};
use crate::environment::Environment;
use crate::gate::Principal;
use crate::gate::charging::Cost;
use crate::gate::principal::NO_GATE;
use crate::gate::refund::RefundFlag;
use crate::ids::{AccountId, KeyId};
use crate::key::{KeyFormat, KeyKind, Peppers};
use crate::limit::Quota;
use crate::record::{Account, KeyRecord, Metadata};
use crate::replica::cached_key::{AccountState, Budget, CachedKey, Grant};
use crate::replica::credit_cache::Amount;
use crate::replica::key_buckets::KeyBuckets;
use crate::scope::Scopes;
use crate::store::{Commit, CreditChange, MemoryStore, Store};
use crate::testing::block_on;

/// Starts a principal of this account, for the unit test of a handler.
///
/// It has a live secret key without scopes. No gate accepts it: a layer that finds it in the extensions of a
/// request still demands a key.
///
/// ```
/// use keyward::{Environment, Principal, testing};
///
/// fn greeting(caller: &Principal) -> String {
///     format!("hello, {} in {}", caller.account(), caller.environment())
/// }
///
/// let caller = testing::principal("acme").scope("kyc").environment(Environment::TEST);
/// assert_eq!(greeting(&caller.into()), "hello, acme in test");
/// ```
///
/// # Panics
/// If the account's id is not valid.
#[track_caller]
pub fn principal(account: &str) -> TestPrincipal {
    TestPrincipal {
        account: AccountId::parse(account).unwrap(),
        environment: Environment::LIVE,
        kind: KeyKind::Secret,
        scopes: Vec::new(),
        expires_at: None,
        has_details: false,
        name: String::new(),
        metadata: Metadata::default(),
        created_by: None,
        quota: None,
        credits: None,
    }
}

/// A builder of a principal for the unit test of a handler; see [`principal`].
///
/// It converts into [`keyward::Principal`](Principal), and into the extractors of the adapters with their own
/// feature `testing`.
#[derive(Clone, Debug)]
#[must_use]
pub struct TestPrincipal {
    account: AccountId,
    environment: Environment,
    kind: KeyKind,
    scopes: Vec<String>,
    expires_at: Option<SystemTime>,
    has_details: bool,
    name: String,
    metadata: Metadata,
    created_by: Option<String>,
    quota: Option<Quota>,
    credits: Option<u64>,
}

impl TestPrincipal {
    /// Grants a scope, or several with a wildcard such as `reports.*`.
    ///
    /// ```
    /// use keyward::scope::Scope;
    /// use keyward::testing;
    ///
    /// let caller = testing::principal("acme").scope("kyc").scope("reports.*").build();
    /// assert!(caller.holds(&Scope::parse("reports.read")?));
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    pub fn scope(mut self, scope: &str) -> Self {
        self.scopes.push(scope.to_owned());
        self
    }

    /// Sets the environment. The default is [`Environment::LIVE`].
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Sets the kind of key. The default is [`KeyKind::Secret`].
    ///
    /// ```
    /// use keyward::{KeyKind, testing};
    ///
    /// let caller = testing::principal("acme").kind(KeyKind::Publishable).build();
    /// assert_eq!(caller.kind(), KeyKind::Publishable);
    /// ```
    pub fn kind(mut self, kind: KeyKind) -> Self {
        self.kind = kind;
        self
    }

    /// Sets the expiry. By default the key does not expire.
    pub fn expires_at(mut self, at: SystemTime) -> Self {
        self.expires_at = Some(at);
        self
    }

    /// Sets the name of the key.
    ///
    /// With a name, metadata or creator, the principal is one of a store that holds details in memory.
    ///
    /// ```
    /// use keyward::testing;
    ///
    /// let caller = testing::principal("acme").name("nightly build").build();
    /// assert_eq!(caller.metadata().unwrap().as_str(), "{}");
    /// ```
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self.has_details = true;
        self
    }

    /// Sets the metadata of the key, as [`name`](Self::name) does its name.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self.has_details = true;
        self
    }

    /// Sets the name of the actor that created the key, as [`name`](Self::name) does its name.
    pub fn created_by(mut self, actor: &str) -> Self {
        self.created_by = Some(actor.to_owned());
        self.has_details = true;
        self
    }

    /// Sets what is left of the rate limit. By default there is no limit.
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quota = Some(quota);
        self
    }

    /// Sets the credits of the account, which [`Principal::charge`] spends. By default they do not
    /// limit it.
    ///
    /// The balance takes some memory until the process ends.
    ///
    /// ```
    /// use keyward::testing;
    ///
    /// # testing::block_on(async {
    /// let caller = testing::principal("acme").credits(5).build();
    /// assert!(caller.charge(6).await.is_err());
    /// assert!(caller.charge(5).await.is_ok());
    /// assert_eq!(caller.credits().map(|credits| credits.left), Some(0));
    /// # });
    /// ```
    pub fn credits(mut self, left: u64) -> Self {
        self.credits = Some(left);
        self
    }

    /// Builds the principal, with a random key id.
    ///
    /// # Panics
    /// If a scope is not valid.
    #[must_use]
    #[track_caller]
    pub fn build(self) -> Principal {
        let (id, now) = (KeyId::random().unwrap(), SystemTime::now());
        let format = KeyFormat::new("vhk_{env}_").unwrap();
        let key = format.generate(self.environment).unwrap();
        let (digest, hint) = (Peppers::none().digest(&key), key.hint().clone());
        let prefix = hint.prefix.clone();
        let account = self.account.clone();
        let mut record = KeyRecord::new(id, digest, hint, account, self.environment, now);
        record.kind = self.kind;
        record.expires_at = self.expires_at;
        record.name = self.name;
        record.metadata = self.metadata;
        record.created_by = self.created_by;
        record.scopes = Scopes::parse(&self.scopes).unwrap();
        let clock = Arc::new(ManualClock::at(unix_time(now)));
        let buckets = Arc::new(KeyBuckets::of_account(clock));
        let account_state = AccountState::closed(self.account, self.environment, prefix, buckets);
        if let Some(left) = self.credits {
            let (account, budget) = with_credits(account_state.account.clone(), left);
            account_state.follow(Some(&account), budget, unix_time(now));
        }
        let (account_state, grant) = (
            Arc::new(account_state),
            Arc::new(Grant::of(&record, self.has_details)),
        );
        Principal {
            entry: Arc::new(CachedKey::new(
                &record,
                account_state,
                grant,
                unix_time(now),
            )),
            gate: NO_GATE,
            location: usize::MAX,
            paid: Cost::default(),
            quota: self.quota,
            refund: Some(RefundFlag::new()),
            label: None,
        }
    }
}

/// Creates a store in which an account has this many credits.
fn with_credits(id: AccountId, left: u64) -> (Account, Option<Budget>) {
    let (store, epoch) = (MemoryStore::new(), 1);
    let owner = CreditOwner::Account(id.clone());
    let mut account = Account::new(id);
    account.credits = Some(epoch);
    let to = Credits {
        epoch,
        ..Credits::new(left)
    };
    let commit = Commit {
        accounts: vec![account.clone()],
        credits: Some(CreditChange::Set {
            owner: owner.clone(),
            since: 0,
            to,
        }),
        ..Commit::default()
    };
    block_on(store.commit(commit)).unwrap();
    let replica = store.replica().clone();
    let budget = replica.credit_cache(&owner).map(|credit_cache| Budget {
        epoch,
        credit_cache,
    });
    if let Some(budget) = &budget {
        // The balance is known from now on.
        let credit_cache = Arc::clone(&budget.credit_cache);
        block_on(credit_cache.fetch(Amount::All(0), epoch, replica)).unwrap();
    }
    // The principal itself does not keep its store alive.
    mem::forget(store);
    (account, budget)
}

impl From<TestPrincipal> for Principal {
    #[track_caller]
    fn from(principal: TestPrincipal) -> Self {
        principal.build()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::denial::DenialKind;
    use crate::gate::{Requirement, Verdict};
    use crate::testing::{TestRequest, World, decided};

    #[test]
    fn no_gate_accepts_a_principal_of_a_test() {
        let world = World::new();
        // Whatever number a gate has.
        let gates: Vec<_> = (0..3).map(|_| world.builder().build().unwrap()).collect();
        let forged = principal("acme").scope("kyc").build();
        let requirement = Arc::new(Requirement::new().scope("kyc"));
        for gate in &gates {
            let request = TestRequest::get();
            match decided(gate.check(&request, &requirement, Some(&forged))) {
                Verdict::Refuse(refusal) => {
                    assert_eq!(refusal.denial.unwrap().kind(), DenialKind::Missing);
                }
                Verdict::Admit(admitted) => panic!("{admitted:?}"),
            }
            assert!(!gate.is_alive(&forged));
        }
    }
}
