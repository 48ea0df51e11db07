//! Opens and changes accounts.

use crate::admin::{AccountChange, Actor, AdminError, CreatedKey, KeyAdmin, NewKey};
use crate::ids::AccountId;
use crate::record::{Account, AuditAction};
use crate::store::Commit;

impl KeyAdmin {
    /// Creates the first account and its first key, in an empty store. For operators.
    ///
    /// This creates the first key that can manage others: give it the scope `api_keys.*`. An empty
    /// store never lets any request through by itself.
    ///
    /// ```
    /// # use keyward::{AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Scopes};
    /// # use keyward::record::AdminErrorKind;
    /// # keyward::testing::block_on(async {
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let admin = KeyAdmin::new(&MemoryStore::new(), &scheme);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// let new = NewKey::new(acme, Environment::LIVE, "first").scopes(Scopes::parse(["api_keys.*"])?);
    /// assert!(admin.bootstrap(&operator, new.clone()).await?.key.is_some());
    /// let again = admin.bootstrap(&operator, new).await.unwrap_err();
    /// assert_eq!(again.kind(), AdminErrorKind::Conflict);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Returns [`Conflict`](crate::record::AdminErrorKind::Conflict) if any account exists;
    /// otherwise as [`create`](Self::create).
    pub async fn bootstrap(&self, actor: &Actor, new: NewKey) -> Result<CreatedKey, AdminError> {
        let account = Account::new(new.account.clone());
        let call = self.audited(actor, AuditAction::Bootstrap);
        call.amend(|line| {
            line.account = Some(new.account.clone());
            line.environment.get_or_insert(new.environment);
        });
        let done = async {
            actor.must_be_operator()?;
            self.check_new(&new)?;
            let (key, record) = self.make(actor, &new, &account, None)?;
            let id = record.id;
            let mut line = call.line();
            line.key = Some(id);
            let commit = Commit {
                accounts: vec![account],
                keys: vec![record],
                credits: self.first_credits(&new, id),
                first: true,
                audit: vec![line],
                ..Commit::default()
            };
            self.store.commit(commit).await?;
            Ok((key, id))
        };
        let (key, id) = call.check(done.await).await?;
        Ok(CreatedKey {
            key: Some(key),
            record: self.stored(id).await?,
        })
    }

    /// Returns the account with this id, and opens it if it does not exist. For operators.
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator or the store fails.
    pub async fn open_account(&self, actor: &Actor, id: &AccountId) -> Result<Account, AdminError> {
        let call = self.audited(actor, AuditAction::OpenAccount);
        call.amend(|line| line.account = Some(id.clone()));
        call.run(|| async {
            actor.must_be_operator()?;
            if self.store.account(id.clone()).await?.is_some() {
                return Ok(());
            }
            let commit = Commit {
                accounts: vec![Account::new(id.clone())],
                audit: vec![call.line()],
                ..Commit::default()
            };
            Ok(self.store.commit(commit).await?)
        })
        .await?;
        self.account_of(actor, id).await
    }

    /// Changes the status, plan or limits of an account. For operators.
    ///
    /// The change is in effect when this returns.
    ///
    /// # Errors
    /// Returns an error if the actor is not an operator, the account does not exist, or the store
    /// fails.
    pub async fn update_account(
        &self,
        actor: &Actor,
        id: &AccountId,
        change: AccountChange,
    ) -> Result<Account, AdminError> {
        let call = self.audited(actor, AuditAction::UpdateAccount);
        call.amend(|line| line.account = Some(id.clone()));
        call.run(|| async {
            actor.must_be_operator()?;
            let mut account = self.account_of(actor, id).await?;
            account.status = change.status.unwrap_or(account.status);
            account.api_access = change.api_access.unwrap_or(account.api_access);
            account.max_active_keys = change.max_active_keys.unwrap_or(account.max_active_keys);
            if let Some(limits) = &change.rate_limits {
                account.rate_limits = limits.clone();
            }
            if let Some(limits) = &change.shared_rate_limits {
                account.shared_rate_limits = limits.clone();
            }
            let mut line = call.line();
            line.detail = format!(
                "status={} api_access={} max_active_keys={:?} rate_limits={:?} shared_rate_limits={:?}",
                account.status.as_str(),
                account.api_access,
                account.max_active_keys,
                account.rate_limits.to_string(),
                account.shared_rate_limits.to_string(),
            );
            let commit = Commit {
                accounts: vec![account],
                audit: vec![line],
                ..Commit::default()
            };
            Ok(self.store.commit(commit).await?)
        })
        .await?;
        self.account_of(actor, id).await
    }
}
