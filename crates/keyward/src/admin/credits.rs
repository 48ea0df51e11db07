//! Reads and changes balances of credits.

use std::collections::HashSet;
use std::fmt::Write;

use crate::admin::authority::Permitted;
use crate::admin::{Actor, AdminError, AuditedCall, KeyAdmin};
use crate::credits::{CreditOwner, Credits};
use crate::environment::Environment;
use crate::ids::KeyId;
use crate::record::{Account, AdminErrorKind, AuditAction, KeyRecord, KeyStatus};
use crate::scope::Permission;
use crate::store::{Commit, CreditChange};

impl KeyAdmin {
    /// Returns the credit balance of an account or a key.
    ///
    /// It is `None` if credits do not limit the owner. Only live keys spend credits: a key of
    /// another environment does not use its account's balance.
    ///
    /// Credits that processes have taken in advance and not yet spent are included: see
    /// [`Credits`].
    ///
    /// # Errors
    /// Returns an error if the actor may not read keys, the account or key does not exist, or the
    /// store fails.
    pub async fn credits(
        &self,
        actor: &Actor,
        owner: impl Into<CreditOwner>,
    ) -> Result<Option<Credits>, AdminError> {
        let call = self.audited(actor, AuditAction::Read);
        let found = self.find_owner(actor, Permission::Read, owner.into()).await;
        let found = call.check(found).await?;
        let environment = found.environment.unwrap_or(Environment::LIVE);
        if !found.has_credits || !found.permitted.sees(environment) {
            return Ok(None);
        }
        let credits = self.store.credits(found.owner).await?;
        Ok(credits.map(|credits| credits.at(self.now())))
    }

    /// Replaces a balance, or removes it with `None` so that credits no longer limit. For
    /// operators.
    ///
    /// Takes effect in this process before it returns, and in others within their poll interval:
    /// credits taken from the old balance become void. A key with a balance of its own spends that
    /// instead of its account's. The first period of a [schedule](crate::credits::RefillSchedule) is
    /// the one in which the balance is set.
    ///
    /// ```
    /// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey};
    /// # use keyward::credits::Credits;
    /// # keyward::testing::block_on(async {
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # admin.bootstrap(&operator, NewKey::new(acme.clone(), Environment::LIVE, "first")).await?;
    /// admin.set_credits(&operator, acme.clone(), Some(Credits::new(1000))).await?;
    /// admin.add_credits(&operator, acme.clone(), 250).await?;
    /// let left = admin.credits(&operator, acme.clone()).await?.map(|credits| credits.left);
    /// assert_eq!(left, Some(1250));
    ///
    /// admin.set_credits(&operator, acme.clone(), None).await?; // as many requests as they like
    /// assert_eq!(admin.credits(&operator, acme).await?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator, the account or key does not exist, or the
    /// store fails.
    pub async fn set_credits(
        &self,
        actor: &Actor,
        owner: impl Into<CreditOwner>,
        credits: Option<Credits>,
    ) -> Result<(), AdminError> {
        let owner = owner.into();
        let call = self.audited_credits(actor, AuditAction::SetCredits, &owner);
        call.run(|| async {
            actor.must_be_operator()?;
            let found = self
                .find_owner(actor, Permission::Update, owner.clone())
                .await?;
            call.amend(|line| {
                line.account = Some(found.account.id.clone());
                line.environment = found.environment;
            });
            let stored = self.store.credits(found.owner.clone()).await?;
            let since = stored.map_or(0, |stored| stored.epoch);
            let epoch = since.saturating_add(1);
            let mut line = call.line();
            // A schedule begins now.
            let credits = credits.clone().map(|credits| credits.at(self.now()));
            line.detail = credits.as_ref().map_or("none".to_owned(), detail);
            let marked = credits.as_ref().map(|_| epoch);
            let own = found.owner;
            let mut commit = Commit {
                credits: credits.map(|to| CreditChange::Set {
                    owner: own,
                    since,
                    to: Credits { epoch, ..to },
                }),
                audit: vec![line],
                ..Commit::default()
            };
            match found.keys {
                None => {
                    let mut account = found.account.clone();
                    account.credits = marked;
                    commit.accounts = vec![account];
                }
                Some(keys) if keys.is_empty() => {
                    return Err(AdminErrorKind::Revoked.into());
                }
                Some(keys) => {
                    let credits = marked;
                    let mark = |key| KeyRecord { credits, ..key };
                    commit.keys = keys.into_iter().map(mark).collect();
                }
            }
            let commit = found.permitted.bind(&found.account, commit);
            Ok(self.store.commit(commit).await?)
        })
        .await
    }

    /// Adds credits to a balance. For operators.
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator, the account or key does not exist, it has
    /// no balance ([`Conflict`](AdminErrorKind::Conflict)), or the store fails.
    pub async fn add_credits(
        &self,
        actor: &Actor,
        owner: impl Into<CreditOwner>,
        amount: u64,
    ) -> Result<(), AdminError> {
        let owner = owner.into();
        let call = self.audited_credits(actor, AuditAction::AddCredits, &owner);
        let added = async {
            actor.must_be_operator()?;
            let found = self.find_owner(actor, Permission::Update, owner).await?;
            if !found.has_credits {
                return Err(AdminErrorKind::Conflict.into());
            }
            let owner = found.owner;
            let mut line = call.line();
            line.account = Some(found.account.id);
            line.environment = found.environment;
            line.detail = format!("added={amount}");
            let commit = Commit {
                credits: Some(CreditChange::Add { owner, amount }),
                audit: vec![line],
                ..Commit::default()
            };
            Ok(self.store.commit(commit).await?)
        };
        call.check(added.await).await
    }

    fn audited_credits<'a>(
        &'a self,
        actor: &'a Actor,
        action: AuditAction,
        owner: &CreditOwner,
    ) -> AuditedCall<'a> {
        let call = self.audited(actor, action);
        call.amend(|line| match owner {
            CreditOwner::Account(id) if actor.acts_in(id) => line.account = Some(id.clone()),
            CreditOwner::Account(_) => {}
            CreditOwner::Key(id) => line.key = Some(*id),
        });
        call
    }

    async fn find_owner(
        &self,
        actor: &Actor,
        permission: Permission,
        owner: CreditOwner,
    ) -> Result<FoundOwner, AdminError> {
        match owner {
            CreditOwner::Account(id) => {
                let (account, permitted) = self.permit_in(actor, permission, &id).await?;
                Ok(FoundOwner {
                    owner: CreditOwner::Account(id),
                    has_credits: account.credits.is_some(),
                    account,
                    environment: None,
                    permitted,
                    keys: None,
                })
            }
            CreditOwner::Key(id) => {
                let (record, account, permitted) = self.find(actor, &[permission], id).await?;
                Ok(FoundOwner {
                    owner: CreditOwner::Key(record.lineage),
                    has_credits: record.credits.is_some(),
                    account,
                    environment: Some(record.environment),
                    permitted,
                    keys: Some(self.chain_of(record).await?),
                })
            }
        }
    }

    /// Returns a key with its predecessors and successors that are not revoked.
    ///
    /// A revoked key can be between two working ones, as its predecessor has a grace period of its
    /// own.
    async fn chain_of(&self, record: KeyRecord) -> Result<Vec<KeyRecord>, AdminError> {
        let ways: [fn(&KeyRecord) -> Option<KeyId>; 2] =
            [|key| key.predecessor, |key| key.successor];
        let mut seen = HashSet::from([record.id]);
        let mut chain = vec![record.clone()];
        for next_of in ways {
            let mut next = next_of(&record);
            // Rows may have been deleted or edited by hand: stop where the chain is broken.
            while let Some(id) = next.filter(|id| seen.insert(*id)) {
                let Some(record) = self.store.key(id).await? else {
                    break;
                };
                next = next_of(&record);
                chain.push(record);
            }
        }
        chain.retain(|key| key.status != KeyStatus::Revoked);
        Ok(chain)
    }
}

/// Describes a balance in the audit log.
fn detail(credits: &Credits) -> String {
    let mut detail = format!("left={} refill={}", credits.left, credits.refill.is_some());
    if let Some(schedule) = credits
        .refill
        .as_ref()
        .and_then(|refill| refill.schedule.as_ref())
    {
        _ = write!(detail, " schedule=\"{schedule}\"");
    }
    if let Some(refill) = &credits.refill {
        _ = write!(detail, " to={}", refill.to);
        if let Some(cap) = refill.roll_over {
            _ = write!(detail, " roll_over={cap}");
        }
    }
    if credits.warn_below > 0 {
        _ = write!(detail, " warn_below={}", credits.warn_below);
    }
    detail
}

/// The owner of a credit balance.
struct FoundOwner {
    owner: CreditOwner,
    has_credits: bool,
    account: Account,
    /// The environment of the key, if the balance is a key's.
    environment: Option<Environment>,
    permitted: Permitted,
    /// The keys that share the balance; `None` if it is the account's.
    keys: Option<Vec<KeyRecord>>,
}
