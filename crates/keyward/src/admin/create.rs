//! Creates keys and imports those created by another system.

use std::time::SystemTime;

use crate::admin::authority::Permitted;
use crate::admin::list::in_whole_seconds;
use crate::admin::rules::earlier;
use crate::admin::{Actor, AdminError, AuditedCall, CreatedKey, KeyAdmin, NewKey};
use crate::credits::{CreditOwner, Credits};
use crate::ids::KeyId;
use crate::key::{Hint, KeyDigest};
use crate::origin::OriginPolicy;
use crate::record::{Account, AdminErrorKind, AuditAction, KeyRecord};
use crate::scope::Permission;
use crate::store::{ActiveKeys, Commit, CreateToken, CreditChange};

impl KeyAdmin {
    /// Creates a key. The secret is returned once and cannot be retrieved later.
    ///
    /// # Errors
    /// Returns an error if the actor lacks the permission, the account is unknown or full, or the
    /// request is not allowed; see [`AdminErrorKind`]. Nothing is stored then except the line in
    /// the audit log.
    pub async fn create(&self, actor: &Actor, new: NewKey) -> Result<CreatedKey, AdminError> {
        let call = self.audited_create(actor, AuditAction::Create, &new);
        let (key, record) = call
            .run(|| async {
                let (account, permitted) = self.prepare(actor, &new).await?;
                if let Some(record) = self.made_before(&new).await? {
                    return Ok((None, record));
                }
                let (key, record) = self.make(actor, &new, &account, Some(&permitted))?;
                let mut line = call.line();
                line.key = Some(record.id);
                let commit = Commit {
                    keys: vec![record.clone()],
                    credits: self.first_credits(&new, record.id),
                    active_keys: Some(self.active_keys(&account, 0)),
                    token: create_token(&new, record.id),
                    audit: vec![line],
                    ..Commit::default()
                };
                self.store.commit(permitted.bind(&account, commit)).await?;
                Ok((Some(key), record))
            })
            .await?;
        let record = match key {
            Some(_) => self.stored(record.id).await?,
            None => record,
        };
        Ok(CreatedKey { key, record })
    }

    /// Imports a key that another system created, given only its digest.
    ///
    /// Build the gate with the [`ForeignFormat`](crate::key::ForeignFormat) of such keys. It looks
    /// them up by the SHA-256 of the whole key; for any other digest scheme, add it to the peppers
    /// with [`accepting`](crate::key::Peppers::accepting). On its first use, the key is rehashed
    /// with the current scheme.
    ///
    /// The hint is the part of the key that may be displayed. Without one, views and logs show `…`.
    /// With a [token](NewKey::token), a repeated import returns the record of the first. For an
    /// export of another system, use an [`Importer`](crate::import::Importer).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::{
    /// #     AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Peppers,
    /// #     Requirement, Store,
    /// # };
    /// # use keyward::gate::{Decision, Verdict};
    /// # use keyward::key::{DigestScheme, ForeignFormat, Hint, KeyDigest, Pepper};
    /// # use keyward::testing::TestRequest;
    /// # keyward::testing::block_on(async {
    /// # let store = MemoryStore::new();
    /// # let peppers = Peppers::new(Pepper::new("2026", b"sixteen bytes or more")?);
    /// let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?).peppers(peppers);
    /// let gate = Gate::builder(&store, &scheme)
    ///     .foreign_format(ForeignFormat::new("re_")?)
    ///     .build()?;
    /// # let admin = KeyAdmin::new(&store, &scheme);
    /// # let operator = Actor::operator("docs");
    /// # let acme = AccountId::parse("acme")?;
    /// # admin.open_account(&operator, &acme).await?;
    /// // A row of the old system: SHA-256 of `re_3ZMWxBfZNpGdcLXDRbyPA7QW`.
    /// let hex = "0bc7d7385ab5b9c9af37d685f85993f2c3fd2d42993f7deb92f86c59643bb11f";
    /// let digest = KeyDigest::import(DigestScheme::Sha256, hex)?;
    /// let new = NewKey::new(acme, Environment::LIVE, "from the old system");
    /// let record = admin.import(&operator, new, digest, None).await?;
    /// assert_eq!(record.hint, Hint::unknown());
    /// # let request = TestRequest::get().key("re_3ZMWxBfZNpGdcLXDRbyPA7QW");
    /// let decision = gate.check(&request, &Arc::new(Requirement::new()), None);
    /// assert!(matches!(decision, Decision::Ready(Verdict::Admit(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`create`](Self::create); [`Conflict`](AdminErrorKind::Conflict) if the digest is already
    /// stored.
    pub async fn import(
        &self,
        actor: &Actor,
        new: NewKey,
        digest: KeyDigest,
        hint: impl Into<Option<Hint>>,
    ) -> Result<KeyRecord, AdminError> {
        let hint = hint.into().unwrap_or_else(Hint::unknown);
        let (id, _) = self.import_once(actor, &new, &digest, &hint, false).await?;
        self.stored(id).await
    }

    pub(super) fn audited_create<'a>(
        &'a self,
        actor: &'a Actor,
        action: AuditAction,
        new: &NewKey,
    ) -> AuditedCall<'a> {
        let call = self.audited(actor, action);
        if actor.acts_in(&new.account) {
            call.amend(|line| {
                line.account = Some(new.account.clone());
                line.environment.get_or_insert(new.environment);
            });
        }
        call
    }

    /// Validates a request and returns the account, if the actor may create keys in it.
    pub(super) async fn prepare(
        &self,
        actor: &Actor,
        new: &NewKey,
    ) -> Result<(Account, Permitted), AdminError> {
        self.check_new(new)?;
        if new.credits.is_some() {
            actor.must_be_operator()?;
        }
        let (account, permitted) = self
            .permit_in(actor, Permission::Create, &new.account)
            .await?;
        // An acting key is limited to its own environment, and a repeated create returns an
        // existing key.
        if !permitted.sees(new.environment)
            || !permitted.may_hand_on(&new.scopes)
            || !permitted.may_limit(&new.rate_limits, &account, None)
        {
            return Err(AdminErrorKind::TooWide.into());
        }
        for policy in &self.policies {
            policy.check(&account, new).await?;
        }
        Ok((account, permitted))
    }

    /// Checks that everything to be stored with the key is well formed.
    pub(super) fn check_new(&self, new: &NewKey) -> Result<(), AdminErrorKind> {
        self.check_name(&new.name)?;
        self.check_metadata(&new.metadata)?;
        if let Some(token) = &new.token {
            self.check_text(token)?;
            if !(1..=128).contains(&token.len()) || !token.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(AdminErrorKind::TooLong);
            }
        }
        Ok(())
    }

    /// Generates the key and its record, if they are permitted.
    pub(super) fn make(
        &self,
        actor: &Actor,
        new: &NewKey,
        account: &Account,
        permitted: Option<&Permitted>,
    ) -> Result<(crate::key::ApiKey, KeyRecord), AdminError> {
        let key = self.scheme.format_of(new.kind).generate(new.environment)?;
        let (digest, hint) = (self.scheme.peppers.digest(&key), key.hint().clone());
        let record = self.record_of(actor, new, account, permitted, digest, hint)?;
        Ok((key, record))
    }

    pub(super) fn record_of(
        &self,
        actor: &Actor,
        new: &NewKey,
        account: &Account,
        permitted: Option<&Permitted>,
        digest: KeyDigest,
        hint: Hint,
    ) -> Result<KeyRecord, AdminError> {
        let now = self.now();
        let mut record = KeyRecord::new(
            KeyId::random()?,
            digest,
            hint,
            new.account.clone(),
            new.environment,
            now,
        );
        record.name.clone_from(&new.name);
        record.kind = new.kind;
        record.scopes = new.scopes.clone();
        record.origins = new.origins.clone();
        record.addresses = new.addresses.clone();
        record.rate_limits = new.rate_limits.clone();
        record.credits = new.credits.as_ref().map(|_| FIRST);
        record.metadata = new.metadata.clone();
        record.epoch = account.epoch(new.environment);
        record.created_by = Some(self.name_of(actor));
        record.expires_at = self.expiry(new.expires_at, now)?;
        record.not_before = Self::start(new.not_before)?;
        Self::check_validity(&record)?;
        self.check_scopes(&record)?;
        new.origin_exceptions
            .check(&record.origins, record.environment, &OriginPolicy::Any)
            .map_err(AdminError::origins)?;
        let holder = permitted.and_then(Permitted::holder);
        if holder.is_some_and(|holder| !self.is_within(&record, holder)) {
            return Err(AdminErrorKind::TooWide.into());
        }
        Ok(record)
    }

    fn expiry(
        &self,
        asked: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<Option<SystemTime>, AdminErrorKind> {
        let latest = self.longest(true, now);
        match asked.map(in_whole_seconds) {
            Some(at) if at <= now || latest.is_some_and(|latest| at > latest) => {
                Err(AdminErrorKind::Expiry)
            }
            Some(at) => Ok(Some(at)),
            None => Ok(self.longest(false, now).map(in_whole_seconds)),
        }
    }

    /// Returns the latest expiry of a key, given whether one was requested.
    pub(super) fn longest(&self, asked: bool, now: SystemTime) -> Option<SystemTime> {
        let after = |lifetime| now.checked_add(lifetime);
        let default = self.default_lifetime.filter(|_| !asked);
        earlier(default.and_then(after), self.max_lifetime.and_then(after))
    }

    /// Returns the key of an earlier create with the same token, if the requests match.
    async fn made_before(&self, new: &NewKey) -> Result<Option<KeyRecord>, AdminError> {
        let Some(id) = self.id_made_before(new).await? else {
            return Ok(None);
        };
        let record = self.store.key(id).await?.ok_or(AdminErrorKind::Pruned)?;
        let same = record.name == new.name
            && record.environment == new.environment
            && record.kind == new.kind
            && record.scopes == new.scopes
            && record.origins == new.origins
            && record.addresses == new.addresses
            && record.rate_limits == new.rate_limits
            && record.credits.is_some() == new.credits.is_some()
            && record.metadata == new.metadata;
        if same {
            Ok(Some(record))
        } else {
            Err(AdminErrorKind::Conflict.into())
        }
    }

    /// Returns the initial balance of a new key.
    pub(super) fn first_credits(&self, new: &NewKey, id: KeyId) -> Option<CreditChange> {
        // A schedule begins now.
        let credits = new.credits.clone()?.at(self.now());
        Some(CreditChange::Set {
            owner: CreditOwner::Key(id),
            since: 0,
            to: Credits {
                epoch: FIRST,
                ..credits
            },
        })
    }

    /// Returns the id of the key that the token has created.
    pub(super) async fn id_made_before(&self, new: &NewKey) -> Result<Option<KeyId>, AdminError> {
        let Some(token) = new.token.clone() else {
            return Ok(None);
        };
        Ok(self.store.created_with(new.account.clone(), token).await?)
    }

    pub(super) fn active_keys(&self, account: &Account, spare: u32) -> ActiveKeys {
        let bound = account.max_active_keys.unwrap_or(self.max_active_keys);
        ActiveKeys {
            account: account.id.clone(),
            at_most: bound.saturating_add(spare),
            now: self.now(),
        }
    }
}

/// Returns the token that is stored with a new key.
pub(super) fn create_token(new: &NewKey, key: KeyId) -> Option<CreateToken> {
    let token = new.token.clone()?;
    let account = new.account.clone();
    Some(CreateToken {
        account,
        token,
        key,
    })
}

/// The first epoch of a balance.
const FIRST: u32 = 1;
