//! What the key pages of all services have: a list, a view, and an end.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

use keyward::admin::{AdminError, CreatedKey, KeyFilter, KeyView};
use keyward::record::{AdminErrorKind, KeyRecord, KeyState, Metadata};
use keyward::store::KeyCursor;
use keyward::{AccountId, Actor, ApiKey, KeyAdmin, KeyId, NewKey};
use serde_json::{Value, json};

use crate::{Answer, Answered, Call, Person, Routes};

/// What tells the keys that are printed at the start.
const PRINTED: &str = r#"{"printed":true}"#;

/// How a service shows a key to its owner.
pub type Show<S> = fn(&S, &KeyView) -> Result<Value, Answer>;

impl<S: Send + Sync + 'static> Routes<S> {
    /// With the list of keys, and the view of one.
    pub fn key_page(self, admin: &KeyAdmin, show: Show<S>) -> Self {
        let (all, one) = (admin.clone(), admin.clone());
        self.dashboard("GET /dashboard/keys", move |service, person, call| {
            let admin = all.clone();
            async move { list(&admin, &person, &call, |view| show(&service, view)).await }
        })
        .dashboard("GET /dashboard/keys/{id}", move |service, person, call| {
            let admin = one.clone();
            async move {
                let view = admin.key(&person.actor(), key_id(&call)?).await?;
                Ok(Answer::ok(show(&service, &view)?))
            }
        })
    }

    /// With the end of a key.
    pub fn revoke_key(self, admin: &KeyAdmin, show: Show<S>) -> Self {
        let admin = admin.clone();
        self.dashboard(
            "DELETE /dashboard/keys/{id}",
            move |service, person, call| {
                let admin = admin.clone();
                async move {
                    let (actor, id) = (person.actor(), key_id(&call)?);
                    let view = admin.revoke(&actor, id, "by its owner").await?;
                    Ok(Answer::ok(show(&service, &view)?))
                }
            },
        )
    }
}

/// Fifty keys, and what to write after `?after=` to see more.
async fn list(
    admin: &KeyAdmin,
    person: &Person,
    call: &Call,
    show: impl Fn(&KeyView) -> Result<Value, Answer>,
) -> Answered {
    let mut filter = KeyFilter::new();
    if let Some(after) = call.queried("after") {
        filter = filter.after(KeyCursor::parse(after)?);
    }
    let page = admin.keys(&person.actor(), &person.account, filter).await?;
    let keys: Result<Vec<_>, _> = page.keys.iter().map(show).collect();
    let next = page.next.map(|next| next.to_string());
    Ok(Answer::ok(json!({ "keys": keys?, "next": next })))
}

/// What was counted of each key of an account: requests that passed, and those that did not.
///
/// # Errors
/// When the person may not see it, or the store fails.
pub async fn usage(admin: &KeyAdmin, person: &Person) -> Result<Value, AdminError> {
    let (actor, account) = (person.actor(), &person.account);
    let ever = SystemTime::UNIX_EPOCH..SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33);
    let mut keys = BTreeMap::new();
    for hour in admin.usage(&actor, account, None, ever).await? {
        let (_, passed, refused) =
            keys.entry(hour.key.to_string())
                .or_insert((hour.environment, 0, 0));
        *passed += hour.counts.admitted;
        *refused += hour.counts.refused;
    }
    let keys = keys.into_iter().map(|(id, (environment, passed, refused))| {
        json!({ "id": id, "environment": environment.as_str(), "passed": passed, "refused": refused })
    });
    Ok(json!({ "usage": keys.collect::<Vec<_>>() }))
}

/// The key that the path names.
///
/// # Errors
/// When it names none: 422.
pub fn key_id(call: &Call) -> Result<KeyId, Answer> {
    Ok(KeyId::parse(call.param("id"))?)
}

/// Opens an account. Of the keys that earlier starts have printed for it, those of the last work on.
///
/// # Errors
/// When the store fails.
pub async fn open_account(admin: &KeyAdmin, account: &AccountId) -> Result<(), AdminError> {
    let operator = Actor::operator("start");
    admin.open_account(&operator, account).await?;
    let mut seen = HashSet::new();
    for key in printed(admin, account).await? {
        if !seen.insert((key.name, key.environment)) {
            admin.revoke(&operator, key.id, "printed long ago").await?;
        }
    }
    Ok(())
}

/// Makes a key of those that are printed at the start: its secret, and its id. Where the account is full
/// it takes the place of those that were printed first.
///
/// # Errors
/// When it cannot be made.
pub async fn make(
    admin: &KeyAdmin,
    account: &AccountId,
    new: NewKey,
) -> Result<(String, String), AdminError> {
    let operator = Actor::operator("start");
    let new = new.metadata(Metadata::parse(PRINTED)?);
    let mut created = admin.create(&operator, new.clone()).await;
    while let Err(error) = &created
        && error.kind() == AdminErrorKind::TooManyKeys
        && let Some(first) = printed(admin, account).await?.pop()
    {
        let reason = "the account is full";
        admin.revoke(&operator, first.id, reason).await?;
        created = admin.create(&operator, new.clone()).await;
    }
    let created = created?;
    let secret = created.key.as_ref().map(ApiKey::expose_secret);
    let secret = secret.unwrap_or_default().to_owned();
    Ok((secret, created.record.id.to_string()))
}

/// The keys that were printed and work, the newest first.
async fn printed(admin: &KeyAdmin, account: &AccountId) -> Result<Vec<KeyRecord>, AdminError> {
    let filter = KeyFilter::new().state(KeyState::Active).limit(1000);
    let operator = Actor::operator("start");
    let active = admin.keys(&operator, account, filter).await?.keys;
    let active = active.into_iter().map(|view| view.record);
    Ok(active
        .filter(|key| key.metadata.as_str() == PRINTED)
        .collect())
}

/// A new key, with its secret: this once.
#[must_use]
pub fn revealed(created: &CreatedKey) -> Value {
    let record = &created.record;
    json!({
        "id": record.id.to_string(),
        "key": created.key.as_ref().map(ApiKey::expose_secret),
        "name": record.name,
    })
}

/// A key as its owner sees it: times in seconds since 1970.
#[must_use]
pub fn shown(view: &KeyView) -> Value {
    let record = &view.record;
    json!({
        "id": record.id.to_string(),
        "name": record.name,
        "prefix": record.hint.to_string(),
        "environment": record.environment.as_str(),
        "created": seconds(record.created_at),
        "last_used": view.last_used_at.map(seconds),
        "status": view.state.as_str(),
    })
}

/// A key as every service shows it, where it has nothing to add.
///
/// # Errors
/// None.
pub fn plain<S>(_: &S, view: &KeyView) -> Result<Value, Answer> {
    Ok(shown(view))
}

fn seconds(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
