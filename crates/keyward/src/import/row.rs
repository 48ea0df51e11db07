//! A key of another system, as its export tells it.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::address::AddressPolicy;
use crate::admin::NewKey;
use crate::credits::Credits;
use crate::environment::Environment;
use crate::ids::AccountId;
use crate::import::Skipped;
use crate::import::fields::Fields;
use crate::key::{Hint, KeyDigest};
use crate::limit::RateLimits;
use crate::origin::OriginPolicy;
use crate::record::Metadata;

/// A key of another system, to be mapped to a [`NewKey`] by the service.
///
/// [`Importer::run`](crate::import::Importer::run) hands it to the service's closure, which may
/// change it. `Debug` contains neither the digest nor other columns.
///
/// ```
/// use keyward::import::{ImportRow, Skipped};
/// use keyward::{AccountId, Environment, NewKey, Scopes};
///
/// fn map(row: &mut ImportRow) -> Result<NewKey, Skipped> {
///     row.name.get_or_insert_with(|| "imported".to_owned()); // the other system needs no name
///     let owner = row.owner.as_deref().ok_or(Skipped::OwnerMissing)?;
///     let scopes = match &*row.grants {
///         [all] if all == "*" => Scopes::parse(["orders.*"])?,
///         grants => Scopes::parse(grants)?,
///     };
///     Ok(row.new_key(AccountId::parse(owner)?, Environment::LIVE)?.scopes(scopes))
/// }
/// # use keyward::import::{ImportSource, Importer};
/// # use keyward::testing::{World, block_on};
/// # let world = World::new();
/// # let operator = world.operator();
/// # let importer = Importer::new(world.admin(), &operator, ImportSource::sanctum());
/// # let line = r#"{"tokenable_id":"acme","name":"","abilities":"[\"*\"]","token":
/// # "0bc7d7385ab5b9c9af37d685f85993f2c3fd2d42993f7deb92f86c59643bb11f"}"#.replace('\n', "");
/// # assert_eq!(block_on(importer.run(line.as_bytes(), map, |_| ())).unwrap().imported, 1);
/// ```
#[non_exhaustive]
pub struct ImportRow {
    /// The owner of the key: a user, an organization, a workspace.
    pub owner: Option<String>,
    /// The name. A row whose name is still missing after the mapping is skipped.
    pub name: Option<String>,
    /// The environment, where the system has one.
    pub environment: Option<String>,
    /// The scopes, abilities or permissions, as the system writes them.
    ///
    /// The permissions of Better Auth are written as `resource:action`.
    pub grants: Vec<String>,
    /// The displayable part of the key, as far as the export has it.
    pub hint: Hint,
    /// The metadata.
    pub metadata: Metadata,
    /// The expiry.
    pub expires_at: Option<SystemTime>,
    /// The allowlist of origins.
    pub origins: OriginPolicy,
    /// The allowlist of addresses.
    pub addresses: AddressPolicy,
    /// The rate limits.
    pub rate_limits: RateLimits,
    /// The requests left, for systems that count them down.
    pub credits: Option<Credits>,
    /// A refill of the credits whose interval is not one of the calendar, and its amount.
    ///
    /// A row that has one after the mapping is skipped, because its key would run dry for good. Take
    /// it, and add the [`Refill`](crate::credits::Refill) that comes closest to the credits.
    pub refill: Option<(Duration, u64)>,
    pub(super) digest: KeyDigest,
    pub(super) fields: Fields,
}

impl ImportRow {
    pub(super) fn new(digest: KeyDigest, fields: Fields) -> Self {
        Self {
            owner: None,
            name: None,
            environment: None,
            grants: Vec::new(),
            hint: Hint::unknown(),
            metadata: Metadata::default(),
            expires_at: None,
            origins: OriginPolicy::Any,
            addresses: AddressPolicy::Any,
            rate_limits: RateLimits::none(),
            credits: None,
            refill: None,
            digest,
            fields,
        }
    }

    /// Returns a column of the export that is a text or a number.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<String> {
        self.fields.text(name)
    }

    /// Starts a key with what the row says: name, metadata, expiry, allowlists, limits and credits.
    ///
    /// Add its scopes to the result.
    ///
    /// # Errors
    /// Returns [`Skipped::NameMissing`] if the row has no name, and [`Skipped::Refill`] if it has a
    /// [`refill`](Self::refill).
    pub fn new_key(&self, account: AccountId, environment: Environment) -> Result<NewKey, Skipped> {
        let name = self.name.as_deref().ok_or(Skipped::NameMissing)?;
        if self.refill.is_some() {
            return Err(Skipped::Refill);
        }
        let mut new = NewKey::new(account, environment, name)
            .metadata(self.metadata.clone())
            .origins(self.origins.clone())
            .addresses(self.addresses.clone())
            .rate_limits(self.rate_limits.clone());
        new.expires_at = self.expires_at;
        new.credits.clone_from(&self.credits);
        Ok(new)
    }
}

impl fmt::Debug for ImportRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportRow")
            .field("owner", &self.owner)
            .field("name", &self.name)
            .field("hint", &self.hint)
            .field("grants", &self.grants)
            .finish_non_exhaustive()
    }
}
