//! What may be kept of a key, and what a key may hand on.

use std::time::SystemTime;

use crate::admin::KeyAdmin;
use crate::record::{Account, AdminErrorKind, KeyRecord, KeyState, Metadata};
use crate::scope::Permission;

impl KeyAdmin {
    /// Whether a key can do no more than another: what a key may hand on.
    pub(super) fn is_within(&self, record: &KeyRecord, bound: &KeyRecord) -> bool {
        let scopes = match &self.scheme.catalog {
            Some(catalog) => catalog.covers(&bound.scopes, &record.scopes),
            None => bound.scopes.covers(&record.scopes),
        };
        // What a scope manages counts only where it is held itself, not where another implies it.
        let scopes = scopes
            && Permission::given_by(&record.scopes)
                .all(|given| bound.scopes.covers_grant(given.as_str()));
        let expires = bound
            .expires_at
            .is_none_or(|end| record.expires_at.is_some_and(|at| at <= end));
        scopes
            && expires
            && bound.rate_limits.covers(&record.rate_limits)
            // A balance of its own is no bound where another can be taken over.
            && (bound.credits.is_none()
                || record.credits.is_some() && record.lineage == bound.lineage)
            && record.environment == bound.environment
            && bound.origins.covers(&record.origins)
    }

    /// That the key is not dead for good.
    pub(super) fn check_alive(
        &self,
        record: &KeyRecord,
        account: &Account,
    ) -> Result<(), AdminErrorKind> {
        match record.state(account, self.now()) {
            KeyState::Revoked => Err(AdminErrorKind::Revoked),
            KeyState::Expired => Err(AdminErrorKind::Expired),
            KeyState::Active | KeyState::Disabled => Ok(()),
        }
    }

    /// No text in it may hold a key, however it is written.
    pub(super) fn check_metadata(&self, metadata: &Metadata) -> Result<(), AdminErrorKind> {
        self.check_text(metadata.as_str())?;
        let texts = metadata.texts();
        texts.all.iter().try_for_each(|text| self.check_text(text))
    }

    pub(super) fn check_scopes(&self, record: &KeyRecord) -> Result<(), AdminErrorKind> {
        // Who pastes a key where a scope belongs has chosen none.
        let mut all = record.scopes.iter();
        all.try_for_each(|scope| self.check_text(scope))?;
        let mut reserved = record
            .scopes
            .iter()
            .filter(|own| Permission::is_reserved(own));
        let catalog = self.scheme.catalog.as_ref();
        if reserved.all(Permission::is_known)
            && catalog.is_none_or(|catalog| catalog.permits(&record.scopes, record.kind))
        {
            Ok(())
        } else {
            Err(AdminErrorKind::Scopes)
        }
    }

    pub(super) fn check_name(&self, name: &str) -> Result<(), AdminErrorKind> {
        let bounded = (1..=100).contains(&name.chars().count());
        if !bounded || name.trim().is_empty() || name.chars().any(char::is_control) {
            return Err(AdminErrorKind::Name);
        }
        self.check_text(name)
    }

    pub(super) fn check_reason(&self, reason: &str) -> Result<(), AdminErrorKind> {
        if reason.chars().count() > 500 {
            return Err(AdminErrorKind::TooLong);
        }
        self.check_text(reason)
    }

    /// Checks that a text that is to be stored contains no key of this service.
    ///
    /// People paste keys into names and reasons, for instance to say which one has leaked.
    ///
    /// # Errors
    /// [`HoldsKey`](AdminErrorKind::HoldsKey) when it contains one.
    pub fn check_text(&self, text: &str) -> Result<(), AdminErrorKind> {
        if self.scheme.is_key_in(text) {
            return Err(AdminErrorKind::HoldsKey);
        }
        Ok(())
    }
}

pub(super) fn earlier(one: Option<SystemTime>, other: Option<SystemTime>) -> Option<SystemTime> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
