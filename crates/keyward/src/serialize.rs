//! JSON serialisation of what a management API returns.
//!
//! Members have the names of the fields. Times are milliseconds since the Unix epoch, absent values
//! are `null`, and ids, states and rate limits are strings in their `Display` form. Key digests and
//! anything that only a store needs are never written.

use std::time::SystemTime;

use serde_core::ser::{Error as _, Serialize, SerializeStruct, Serializer};

use crate::address::AddressPolicy;
use crate::admin::{AccountPage, AuditPage, KeyPage, KeyView, Leak};
use crate::clock::unix_time;
use crate::credits::{Credits, Refill};
use crate::limit::{RateLimit, RateLimits};
use crate::origin::OriginPolicy;
use crate::record::{Account, AuditEntry, DisabledBy, KeyRecord};
use crate::scope::Scopes;
use crate::usage::export::Object;
use crate::usage::{KeyUsage, UsageSum};

/// The number of fields without the digest and what only a store needs.
const RECORD: usize = 24;

impl Serialize for KeyView {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_struct("KeyView", RECORD + 3)?;
        write_record(&self.record, &mut to)?;
        to.serialize_field("state", self.state.as_str())?;
        to.serialize_field("last_used_at", &self.last_used_at.map(millis))?;
        to.serialize_field("last_network", &text(self.last_network.as_ref()))?;
        to.end()
    }
}

impl Serialize for KeyPage {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_struct("KeyPage", 2)?;
        to.serialize_field("keys", &self.keys)?;
        to.serialize_field("next", &text(self.next.as_ref()))?;
        to.end()
    }
}

impl Serialize for AccountPage {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_struct("AccountPage", 2)?;
        to.serialize_field("accounts", &self.accounts)?;
        to.serialize_field("next", &text(self.next.as_ref()))?;
        to.end()
    }
}

impl Serialize for Leak {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_struct("Leak", 4)?;
        to.serialize_field("positions", &self.positions)?;
        to.serialize_field("count", &self.count)?;
        to.serialize_field("hint", &self.hint.to_string())?;
        to.serialize_field("key", &self.key)?;
        to.end()
    }
}

impl Serialize for AuditEntry {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_struct("AuditEntry", 10)?;
        to.serialize_field("number", &self.number)?;
        to.serialize_field("at", &millis(self.at))?;
        to.serialize_field("actor", &self.actor)?;
        to.serialize_field("action", self.action.as_str())?;
        to.serialize_field("account", &text(self.account.as_ref()))?;
        to.serialize_field("environment", &text(self.environment.as_ref()))?;
        to.serialize_field("key", &text(self.key.as_ref()))?;
        to.serialize_field(
            "refused",
            &self.refused.map(crate::record::AdminErrorKind::as_str),
        )?;
        to.serialize_field("detail", &self.detail)?;
        to.serialize_field("reason", &self.reason)?;
        to.end()
    }
}

impl Serialize for AuditPage {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_struct("AuditPage", 2)?;
        to.serialize_field("entries", &self.entries)?;
        to.serialize_field("next", &self.next)?;
        to.end()
    }
}

/// Serialises the account without the counters that only a store compares.
///
/// ```
/// use keyward::{AccountId, RateLimit};
/// use keyward::record::Account;
/// use serde_json::json;
///
/// let mut account = Account::new(AccountId::parse("acme")?);
/// account.rate_limits = RateLimit::per_minute(100).into();
/// let expected = json!({
///     "id": "acme",
///     "status": "active",
///     "api_access": true,
///     "max_active_keys": null,
///     "rate_limits": ["100/60;100"],
///     "shared_rate_limits": [],
///     "has_credits": false,
/// });
/// assert_eq!(serde_json::to_value(&account)?, expected);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Serialize for Account {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_struct("Account", 7)?;
        to.serialize_field("id", self.id.as_str())?;
        to.serialize_field("status", self.status.as_str())?;
        to.serialize_field("api_access", &self.api_access)?;
        to.serialize_field("max_active_keys", &self.max_active_keys)?;
        to.serialize_field("rate_limits", &limits(&self.rate_limits))?;
        to.serialize_field("shared_rate_limits", &limits(&self.shared_rate_limits))?;
        to.serialize_field("has_credits", &self.credits.is_some())?;
        to.end()
    }
}

/// Serialises the counts, including the billable ones, like
/// [`write_json_lines`](crate::usage::write_json_lines).
///
/// ```
/// use keyward::{AccountId, Environment, KeyId};
/// use keyward::usage::KeyUsage;
/// use serde_json::json;
///
/// let (acme, id) = (AccountId::parse("acme")?, KeyId::parse("key_0123456789ab")?);
/// let mut usage = KeyUsage::new(acme, id, Environment::LIVE, 472_222);
/// (usage.counts.admitted, usage.counts.refused, usage.counts.units) = (10, 1, 25);
/// let expected = json!({
///     "start": "2023-11-14T22:00:00Z",
///     "hour": 472_222,
///     "hours": 1,
///     "account": "acme",
///     "key": "key_0123456789ab",
///     "environment": "live",
///     "label": null,
///     "admitted": 10,
///     "refused": 1,
///     "client_errors": 0,
///     "server_errors": 0,
///     "unanswered": 0,
///     "units": 25,
///     "billable": 10,
///     "billable_units": 25,
/// });
/// assert_eq!(serde_json::to_value(usage)?, expected);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Serialize for KeyUsage {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Object(self).serialize(to)
    }
}

/// Serialises a line of a bill like [`write_json_lines`](crate::usage::write_json_lines).
impl Serialize for UsageSum {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Object(self).serialize(to)
    }
}

/// Serialises the balance without its epoch.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use keyward::credits::{Credits, Refill, RefillSchedule};
/// use serde_json::json;
///
/// let prepaid = json!({ "left": 250, "refill": null, "warn_below": 0 });
/// assert_eq!(serde_json::to_value(Credits::new(250))?, prepaid);
///
/// let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_768_435_200);
/// let month = RefillSchedule::monthly("UTC")?;
/// let credits = Credits::new(250).refill(Refill::every(month, 1000).roll_over(5000)).at(at);
/// let expected = json!({
///     "left": 250,
///     "refill": {
///         "at": 1_769_904_000_000_u64,
///         "to": 1000,
///         "schedule": "month UTC",
///         "roll_over": 5000,
///     },
///     "warn_below": 0,
/// });
/// assert_eq!(serde_json::to_value(credits)?, expected);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Serialize for Credits {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_struct("Credits", 3)?;
        to.serialize_field("left", &self.left)?;
        to.serialize_field("refill", &self.refill)?;
        to.serialize_field("warn_below", &self.warn_below)?;
        to.end()
    }
}

/// Serialises the refill as part of [`Credits`].
impl Serialize for Refill {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_struct("Refill", 4)?;
        to.serialize_field("at", &millis(self.at))?;
        to.serialize_field("to", &self.to)?;
        to.serialize_field("schedule", &text(self.schedule.as_ref()))?;
        to.serialize_field("roll_over", &self.roll_over)?;
        to.end()
    }
}

fn write_record<T: SerializeStruct>(record: &KeyRecord, to: &mut T) -> Result<(), T::Error> {
    let metadata: serde_json::Value =
        serde_json::from_str(record.metadata.as_str()).map_err(T::Error::custom)?;
    to.serialize_field("id", &record.id.to_string())?;
    to.serialize_field("hint", &record.hint.to_string())?;
    to.serialize_field("name", &record.name)?;
    to.serialize_field("account", &record.account.to_string())?;
    to.serialize_field("environment", record.environment.as_str())?;
    to.serialize_field("kind", record.kind.as_str())?;
    to.serialize_field("scopes", &scopes(&record.scopes))?;
    to.serialize_field("origins", &origins(&record.origins))?;
    to.serialize_field("requires_origin", &!record.origins.allows_no_origin())?;
    to.serialize_field("addresses", &addresses(&record.addresses))?;
    to.serialize_field("rate_limits", &limits(&record.rate_limits))?;
    to.serialize_field("has_credits", &record.credits.is_some())?;
    to.serialize_field("metadata", &metadata)?;
    to.serialize_field("disabled_by", &record.disabled_by.map(DisabledBy::as_str))?;
    to.serialize_field("disabled_by_name", &record.disabled_by_name)?;
    to.serialize_field("created_at", &millis(record.created_at))?;
    to.serialize_field("created_by", &record.created_by)?;
    to.serialize_field("not_before", &record.not_before.map(millis))?;
    to.serialize_field("expires_at", &record.expires_at.map(millis))?;
    to.serialize_field("revoked_at", &record.revoked_at.map(millis))?;
    to.serialize_field("revoked_for", &record.revoked_for)?;
    to.serialize_field("lineage", &record.lineage.to_string())?;
    to.serialize_field("predecessor", &text(record.predecessor.as_ref()))?;
    to.serialize_field("successor", &text(record.successor.as_ref()))
}

fn limits(limits: &RateLimits) -> Vec<String> {
    limits
        .iter()
        .map(|limit: RateLimit| limit.to_string())
        .collect()
}

fn millis(time: SystemTime) -> u64 {
    u64::try_from(unix_time(time).as_millis()).unwrap_or(u64::MAX)
}

fn text<T: ToString>(value: Option<&T>) -> Option<String> {
    value.map(T::to_string)
}

fn scopes(scopes: &Scopes) -> Vec<&str> {
    scopes.iter().collect()
}

/// Returns `None`, serialised as `null`, if any page may use the key.
fn origins(policy: &OriginPolicy) -> Option<Vec<&str>> {
    matches!(policy, OriginPolicy::Listed(_)).then(|| policy.patterns().collect())
}

/// Returns `None`, serialised as `null`, if the key may be used from any address.
fn addresses(policy: &AddressPolicy) -> Option<Vec<String>> {
    matches!(policy, AddressPolicy::Listed(_)).then(|| policy.ranges().collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{json, to_value};

    use super::*;
    use crate::environment::Environment;
    use crate::ids::{AccountId, KeyId};
    use crate::key::{DigestScheme, Hint, KeyDigest};
    use crate::limit::RateLimits;
    use crate::record::{AuditAction, KeyState};

    fn view() -> KeyView {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let digest = KeyDigest::new(DigestScheme::Sha256, [171; 32]);
        let hint = Hint::parse("vhk_live_…Tz7x").unwrap();
        let account = AccountId::parse("acme").unwrap();
        let id = KeyId::parse("key_0123456789ab").unwrap();
        let mut record = KeyRecord::new(id, digest, hint, account, Environment::LIVE, at);
        "production".clone_into(&mut record.name);
        record.created_by = Some("user:ann".to_owned());
        record.scopes = Scopes::parse(["kyc", "age"]).unwrap();
        record.origins = OriginPolicy::listed(["shop.example"]).unwrap();
        record.addresses = AddressPolicy::listed(["2001:db8::/32", "203.0.113.7"]).unwrap();
        record.rate_limits = RateLimits::from(RateLimit::per_minute(100));
        KeyView {
            record,
            state: KeyState::Active,
            last_used_at: Some(at),
            last_network: crate::usage::ClientNetwork::parse("203.0.113.0/24").ok(),
        }
    }

    #[test]
    fn a_key_is_written_as_documented_and_without_its_digest() {
        let expected = json!({
            "id": "key_0123456789ab",
            "hint": "vhk_live_…Tz7x",
            "name": "production",
            "account": "acme",
            "environment": "live",
            "kind": "secret",
            "scopes": ["age", "kyc"],
            "origins": ["https://shop.example"],
            "requires_origin": true,
            "addresses": ["203.0.113.7", "2001:db8::/32"],
            "rate_limits": ["100/60;100"],
            "has_credits": false,
            "metadata": {},
            "disabled_by": null,
            "disabled_by_name": null,
            "created_at": 1_700_000_000_123_u64,
            "created_by": "user:ann",
            "not_before": null,
            "expires_at": null,
            "revoked_at": null,
            "revoked_for": "",
            "lineage": "key_0123456789ab",
            "predecessor": null,
            "successor": null,
            "state": "active",
            "last_used_at": 1_700_000_000_123_u64,
            "last_network": "203.0.113.0/24",
        });
        assert_eq!(to_value(view()).unwrap(), expected);
        let page = KeyPage {
            next: Some(crate::store::KeyCursor::of(&view().record)),
            keys: vec![view()],
        };
        let next = "1700000000123.key_0123456789ab";
        assert_eq!(
            to_value(page).unwrap(),
            json!({ "keys": [expected], "next": next })
        );
    }

    #[test]
    fn a_line_of_the_audit_log_is_written_as_documented() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let mut line = AuditEntry::new(at, "operator:ann", AuditAction::Revoke);
        line.refused = Some(crate::record::AdminErrorKind::UnknownKey);
        let expected = json!({
            "number": 0,
            "at": 1000,
            "actor": "operator:ann",
            "action": "revoke",
            "account": null,
            "environment": null,
            "key": null,
            "refused": "unknown_key",
            "detail": "",
            "reason": "",
        });
        assert_eq!(to_value(line).unwrap(), expected);
    }
}
