//! Checks what may be stored with a key, and what an acting key may grant.

use std::time::SystemTime;

use crate::admin::KeyAdmin;
use crate::admin::list::in_next_whole_seconds;
use crate::record::{Account, AdminErrorKind, KeyRecord, KeyState, Metadata};
use crate::scope::Permission;

impl KeyAdmin {
    /// Returns whether a key can do no more than `bound`.
    pub(super) fn is_within(&self, record: &KeyRecord, bound: &KeyRecord) -> bool {
        let scopes = match &self.scheme.catalog {
            Some(catalog) => catalog.covers(&bound.scopes, &record.scopes),
            None => bound.scopes.covers(&record.scopes),
        };
        // Permissions count only if held directly, not if another scope implies them.
        let scopes = scopes
            && Permission::given_by(&record.scopes)
                .all(|given| bound.scopes.covers_grant(given.as_str()));
        let expires = bound
            .expires_at
            .is_none_or(|end| record.expires_at.is_some_and(|at| at <= end));
        // A start that has passed restricts nothing.
        let start = bound.not_before.filter(|start| *start > self.now());
        let starts = start.is_none_or(|start| record.not_before.is_some_and(|at| at >= start));
        scopes
            && expires
            && starts
            && bound.rate_limits.covers(&record.rate_limits)
            // A balance of its own limits nothing if the key could take over another balance.
            && (bound.credits.is_none()
                || record.credits.is_some() && record.lineage == bound.lineage)
            && record.environment == bound.environment
            && bound.origins.covers(&record.origins)
            && bound.addresses.covers(&record.addresses)
    }

    /// Checks that the key is neither revoked nor expired.
    pub(super) fn check_alive(
        &self,
        record: &KeyRecord,
        account: &Account,
    ) -> Result<(), AdminErrorKind> {
        match record.state(account, self.now()) {
            KeyState::Revoked => Err(AdminErrorKind::Revoked),
            KeyState::Expired => Err(AdminErrorKind::Expired),
            KeyState::Active | KeyState::Disabled | KeyState::NotYetValid => Ok(()),
        }
    }

    /// Returns the start of validity as it is stored.
    pub(super) fn start(asked: Option<SystemTime>) -> Result<Option<SystemTime>, AdminErrorKind> {
        let start = asked.map(|at| in_next_whole_seconds(at).ok_or(AdminErrorKind::Expiry));
        start.transpose()
    }

    /// Checks that the key is valid for some time.
    pub(super) fn check_validity(record: &KeyRecord) -> Result<(), AdminErrorKind> {
        match record.not_before.zip(record.expires_at) {
            Some((start, end)) if start >= end => Err(AdminErrorKind::Expiry),
            _ => Ok(()),
        }
    }

    /// Checks that no text in the metadata contains a key, however it is escaped.
    pub(super) fn check_metadata(&self, metadata: &Metadata) -> Result<(), AdminErrorKind> {
        self.check_text(metadata.as_str())?;
        let texts = metadata.texts();
        texts.all.iter().try_for_each(|text| self.check_text(text))
    }

    pub(super) fn check_scopes(&self, record: &KeyRecord) -> Result<(), AdminErrorKind> {
        // A key pasted in place of a scope is reported as such.
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

    /// Checks that a text to be stored contains no key of this service.
    ///
    /// People paste keys into names and reasons, for instance to say which one has leaked.
    ///
    /// # Errors
    /// Returns [`HoldsKey`](AdminErrorKind::HoldsKey) if it contains one.
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
