//! The life of keys: how they come to be and how they end.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::{
    Account, AccountId, ApiKey, Commit, Environment, KeyFormat, KeyId, KeyKind, KeyRecord,
    KeyStatus, OriginPolicy, Peppers, RandomError, Scopes, Store, StoreError, StoreErrorKind,
};

/// How often a change that met another is decided anew.
const ATTEMPTS: usize = 8;

/// Creates and revokes the keys of a service, whatever store keeps them.
///
/// It trusts its caller: who may do what is the caller's to know.
///
/// ```
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use keyward::{AccountId, Environment, KeyAdmin, KeyFormat, MemoryStore, NewKey, Scopes};
///
/// let store = Arc::new(MemoryStore::new());
/// let admin = KeyAdmin::new(store, KeyFormat::new("vhk_{env}_")?);
/// let acme = AccountId::parse("acme")?;
/// admin.open_account(&acme).await?;
///
/// let new = NewKey::new(acme, Environment::LIVE, "production").scopes(Scopes::parse(["kyc"])?);
/// let created = admin.create(new).await?;
/// println!("{}", created.key.expose_secret()); // once, to its owner
/// admin.revoke(created.record.id).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct KeyAdmin {
    store: Arc<dyn Store>,
    format: KeyFormat,
    peppers: Peppers,
}

impl KeyAdmin {
    /// Creates keys of this format, digested without a pepper.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, format: KeyFormat) -> Self {
        let peppers = Peppers::none();
        Self {
            store,
            format,
            peppers,
        }
    }

    /// Digests new keys this way: the same as the gate's.
    #[must_use]
    pub fn peppers(mut self, peppers: Peppers) -> Self {
        self.peppers = peppers;
        self
    }

    /// The account of this name, made now if there is none.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn open_account(&self, id: &AccountId) -> Result<Account, AdminError> {
        for _ in 0..ATTEMPTS {
            if let Some(account) = self.store.account(id.clone()).await? {
                return Ok(account);
            }
            let accounts = vec![Account::new(id.clone())];
            let keys = Vec::new();
            self.commit(Commit { accounts, keys }).await?;
        }
        Err(StoreError::new(StoreErrorKind::Conflict).into())
    }

    /// Makes a key. Its text is in the answer and nowhere else: nothing can give it again.
    ///
    /// # Errors
    /// When the account does not exist, the expiry is not in the future, or the store or the random
    /// generator fails. Nothing is stored then.
    pub async fn create(&self, new: NewKey) -> Result<CreatedKey, AdminError> {
        let account = self.store.account(new.account.clone()).await?;
        let account = account.ok_or(AdminError::UnknownAccount)?;
        let created_at = SystemTime::UNIX_EPOCH + self.store.replica().clock().unix();
        if new.expires_at.is_some_and(|at| at <= created_at) {
            return Err(AdminError::AlreadyExpired);
        }
        let key = self.format.generate(new.environment)?;
        let mut record = KeyRecord::new(
            KeyId::random()?,
            self.peppers.digest(&key),
            key.hint().clone(),
            new.account,
            new.environment,
            in_whole_millis(created_at),
        );
        record.name = new.name;
        record.kind = new.kind;
        record.scopes = new.scopes;
        record.origins = new.origins;
        record.epoch = account.epoch(new.environment);
        record.expires_at = new.expires_at.map(in_whole_seconds);
        let commit = Commit {
            accounts: Vec::new(),
            keys: vec![record.clone()],
        };
        self.store.commit(commit).await?;
        Ok(CreatedKey { key, record })
    }

    /// Ends a key for good. When this returns, the next request with it is refused on this node.
    ///
    /// Revoking a key that is revoked changes nothing. Gives the record as it is now.
    ///
    /// # Errors
    /// When there is no such key or the store cannot answer.
    pub async fn revoke(&self, id: KeyId) -> Result<KeyRecord, AdminError> {
        for _ in 0..ATTEMPTS {
            let record = self.store.key(id).await?;
            let mut record = record.ok_or(AdminError::UnknownKey)?;
            if record.status == KeyStatus::Revoked {
                return Ok(record);
            }
            record.status = KeyStatus::Revoked;
            let accounts = Vec::new();
            let keys = vec![record];
            self.commit(Commit { accounts, keys }).await?;
        }
        Err(StoreError::new(StoreErrorKind::Conflict).into())
    }

    /// Writes, or finds that what was read has changed meanwhile: the caller reads again either way.
    async fn commit(&self, commit: Commit) -> Result<(), AdminError> {
        match self.store.commit(commit).await {
            Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(()),
            done => Ok(done?),
        }
    }
}

/// What a new key shall be: secret, without scopes, origins or an end, unless told otherwise.
#[derive(Clone, Debug)]
#[must_use]
pub struct NewKey {
    account: AccountId,
    environment: Environment,
    name: String,
    kind: KeyKind,
    scopes: Scopes,
    origins: OriginPolicy,
    expires_at: Option<SystemTime>,
}

impl NewKey {
    /// A key of this account, which calls it this.
    pub fn new(account: AccountId, environment: Environment, name: &str) -> Self {
        Self {
            account,
            environment,
            name: name.to_owned(),
            kind: KeyKind::Secret,
            scopes: Scopes::none(),
            origins: OriginPolicy::Any,
            expires_at: None,
        }
    }

    /// Where it may live.
    pub fn kind(mut self, kind: KeyKind) -> Self {
        self.kind = kind;
        self
    }

    /// What it may do.
    pub fn scopes(mut self, scopes: Scopes) -> Self {
        self.scopes = scopes;
        self
    }

    /// Which web pages may use it.
    pub fn origins(mut self, origins: OriginPolicy) -> Self {
        self.origins = origins;
        self
    }

    /// From when on it is dead, to the second.
    pub fn expires_at(mut self, at: SystemTime) -> Self {
        self.expires_at = Some(at);
        self
    }
}

/// A new key, and what is kept of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct CreatedKey {
    /// The secret, for its owner.
    pub key: ApiKey,
    /// What is kept.
    pub record: KeyRecord,
}

/// Why nothing was done.
#[derive(Debug)]
#[non_exhaustive]
pub enum AdminError {
    /// There is no such account.
    UnknownAccount,
    /// There is no such key.
    UnknownKey,
    /// The expiry is not in the future.
    AlreadyExpired,
    /// The operating system gave no random bytes.
    Random(RandomError),
    /// The store failed.
    Store(StoreError),
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownAccount => "no such account",
            Self::UnknownKey => "no such key",
            Self::AlreadyExpired => "the expiry is not in the future",
            Self::Random(_) => "no key could be generated",
            Self::Store(_) => "the store failed",
        })
    }
}

impl Error for AdminError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Random(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::UnknownAccount | Self::UnknownKey | Self::AlreadyExpired => None,
        }
    }
}

impl From<RandomError> for AdminError {
    fn from(error: RandomError) -> Self {
        Self::Random(error)
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn in_whole_seconds(time: SystemTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(crate::clock::unix_time(time).as_secs())
}

fn in_whole_millis(time: SystemTime) -> SystemTime {
    let millis = crate::clock::unix_time(time).as_millis();
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
