//! Lists and searches keys and accounts in pages, and counts keys.

use std::time::{Duration, SystemTime};

use keyward::AccountId;
use keyward::key::DigestScheme;
use keyward::record::{Account, AccountStatus, KeyRecord, KeyState};
use keyward::store::{AccountQuery, ActiveKeys, KeyCursor, KeyQuery, KeySearch};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::error::Error;
use crate::found::Found;
use crate::row::{self, ACCOUNT, Cells, KEY, KEY_TYPES, LAST_USE, Timestamp, escaped, rounded_up};

/// The SQL equivalent of [`KeyRecord::state`] for a row of `keyward.key AS key`, at the time `$1`.
const STATE: &str = "CASE \
     WHEN key.status = 'revoked' OR key.epoch < least(4294967295, \
         (SELECT revoked_all FROM keyward.account WHERE id = key.account) \
         + coalesce((SELECT revoked FROM keyward.epoch \
             WHERE account = key.account AND environment = key.environment), 0)) \
     THEN 'revoked' \
     WHEN key.expires_at <= $1 THEN 'expired' \
     WHEN key.status = 'active' AND key.not_before > $1 THEN 'not_yet_valid' \
     ELSE key.status END";

/// When a key was created, for lists: a page begins at a time that is never before 1970.
const CREATED: &str = "greatest(key.created_at, timestamptz '1970-01-01 00:00:00+00')";

/// The order of all lists but those by name.
const NEWEST: &str =
    "greatest(key.created_at, timestamptz '1970-01-01 00:00:00+00') DESC, key.id DESC";

/// The position of a row: when it was created, its id, and its name in lower case.
type Position = (Timestamp, String, String);

/// Returns the keys that match a query, in the order of the query.
pub(crate) async fn page(client: &Client, query: &KeyQuery) -> Result<Vec<KeyRecord>, Error> {
    let mut found = Found::at_most(query.limit);
    for part in parts(query) {
        let mut after = part.after.clone();
        loop {
            let rows = part.fetch(client, after.as_ref(), found.wanted()).await?;
            match found.add(&rows, 0, row::used_key) {
                Some(last) => after = Some(position(last)?),
                None => break,
            }
        }
        if found.is_full() {
            break;
        }
    }
    Ok(found.into_rows())
}

fn position(row: &Row) -> Result<Position, Error> {
    let at = KEY_TYPES.len() + 2;
    Ok((row.try_get(at)?, row.try_get(0)?, row.try_get(at + 1)?))
}

/// A statement that lists keys in the order of an index.
struct Listing {
    conditions: Vec<String>,
    values: Vec<(Box<dyn ToSql + Sync + Send>, Type)>,
    order: String,
    /// The position after which it begins.
    after: Option<Position>,
    /// Set if the names of the list differ.
    is_by_name: bool,
}

/// Returns the statements whose rows, one after the other, are the list.
///
/// Each reads one index from the position on. A search by name may stand among keys of the same name,
/// which come first.
fn parts(query: &KeyQuery) -> Vec<Listing> {
    let Some(KeySearch::Name(start)) = &query.search else {
        let mut part = Listing::of(query);
        part.after = query.after.as_ref().map(after);
        return vec![part];
    };
    let start = escaped(start).to_ascii_lowercase();
    // No name that begins like this is behind.
    let end = format!("{start}{}", "\u{10ffff}".repeat(101));
    let mut beyond = Listing::of(query);
    beyond.is_by_name = true;
    beyond.order = format!("lower(key.name), {NEWEST}");
    beyond.and("lower(key.name) <= $", end, Type::TEXT);
    beyond.and("starts_with(lower(key.name), $)", start.clone(), Type::TEXT);
    beyond.and("lower(key.name) >= $", start, Type::TEXT);
    let Some(begin) = &query.after else {
        return vec![beyond];
    };
    let begin = after(begin);
    let mut same = Listing::of(query);
    same.and("lower(key.name) = $", begin.2.clone(), Type::TEXT);
    beyond.and("lower(key.name) > $", begin.2.clone(), Type::TEXT);
    same.after = Some(begin);
    vec![same, beyond]
}

fn after(cursor: &KeyCursor) -> Position {
    let created_at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(cursor.created_at));
    // No key is later than the last time that can be stored.
    let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(i64::MAX.cast_unsigned() >> 2);
    let name = cursor.name.as_deref().unwrap_or_default();
    (
        Timestamp(created_at.unwrap_or(latest)),
        cursor.id.to_string(),
        escaped(name).into_owned(),
    )
}

impl Listing {
    /// Creates the statement for everything but the position and a search by name.
    fn of(query: &KeyQuery) -> Self {
        let mut it = Self {
            conditions: vec!["true".to_owned()],
            values: vec![(Box::new(Timestamp(query.now)), Type::TIMESTAMPTZ)],
            order: NEWEST.to_owned(),
            after: None,
            is_by_name: false,
        };
        if let Some(account) = &query.account {
            it.and("key.account = $", account.to_string(), Type::TEXT);
        }
        if let Some(creator) = &query.created_by {
            it.and(
                "key.created_by = $",
                escaped(creator).into_owned(),
                Type::TEXT,
            );
        }
        match &query.search {
            None | Some(KeySearch::Name(_)) => {}
            Some(KeySearch::Id(id)) => it.and("key.id = $", id.to_string(), Type::TEXT),
            Some(KeySearch::Lineage(first)) => it.and(
                "key.id IN (SELECT id FROM keyward.key WHERE id = $ AND lineage = id UNION ALL \
                 SELECT id FROM keyward.key WHERE lineage = $ AND lineage <> id)",
                first.to_string(),
                Type::TEXT,
            ),
            Some(KeySearch::Hint(hint)) => {
                it.and("right(key.hint, 4) = $", hint.last().to_owned(), Type::TEXT);
                it.and("$ <> ''", hint.last().to_owned(), Type::TEXT);
                let prefix = hint.prefix().to_owned();
                it.and("starts_with(key.hint, $)", prefix, Type::TEXT);
            }
            Some(KeySearch::Digest(digests)) => {
                let digests = digests.iter().map(|own| own.expose_bytes().to_vec());
                let digests: Vec<_> = digests.collect();
                it.and("key.digest = ANY ($)", digests, Type::BYTEA_ARRAY);
            }
        }
        if let Some(environment) = &query.environment {
            let own = environment.as_str().to_owned();
            it.and("key.environment = $", own, Type::TEXT);
        }
        if let Some(kind) = query.kind {
            it.and("key.kind = $", kind.as_str(), Type::TEXT);
        }
        for scope in query.scopes.iter() {
            let held = "strpos(' ' || key.scopes || ' ', ' ' || $ || ' ') > 0";
            it.and(held, scope.to_owned(), Type::TEXT);
        }
        if let Some(end) = query.expires_before {
            it.and("key.expires_at < $", rounded_up(end), Type::TIMESTAMPTZ);
        }
        if let Some(since) = query.unused_since {
            let unused = "coalesce(used.last_used_at, key.created_at) < $";
            it.and(unused, rounded_up(since), Type::TIMESTAMPTZ);
        }
        if let Some(state) = query.state {
            if state != KeyState::Revoked {
                it.conditions.push("key.status <> 'revoked'".to_owned());
            }
            let is_in_state = format!("{STATE} = $");
            // `$1` is the time at which expiry is judged.
            let is_in_state = is_in_state.replace("$1", "\u{0}");
            it.and(&is_in_state, state.as_str(), Type::TEXT);
        }
        it
    }

    /// Adds a condition, in which `$` is the value.
    fn and(&mut self, condition: &str, value: impl ToSql + Sync + Send + 'static, kind: Type) {
        self.values.push((Box::new(value), kind));
        let name = format!("${}", self.values.len());
        let condition = condition.replace('$', &name).replace('\u{0}', "$1");
        self.conditions.push(condition);
    }

    async fn fetch(
        &self,
        client: &Client,
        after: Option<&Position>,
        most: i64,
    ) -> Result<Vec<Row>, Error> {
        let next = self.values.len() + 1;
        let position = match (after, self.is_by_name) {
            (None, _) => String::new(),
            (Some(_), false) => {
                format!("AND ({CREATED}, key.id) < (${}, ${})", next, next + 1)
            }
            (Some(_), true) => format!(
                "AND lower(key.name) >= ${2} AND (lower(key.name) > ${2} \
                 OR ({CREATED}, key.id) < (${0}, ${1}))",
                next,
                next + 1,
                next + 2
            ),
        };
        let (conditions, order) = (self.conditions.join(" AND "), &self.order);
        let page = format!(
            "SELECT {KEY}, {LAST_USE}, {CREATED}, lower(key.name) FROM keyward.key AS key \
             LEFT JOIN keyward.usage_key AS used ON used.key = key.id \
             WHERE $1::timestamptz IS NOT NULL AND {conditions} {position} \
             ORDER BY {order} LIMIT {most}"
        );
        let mut values: Vec<(&(dyn ToSql + Sync), Type)> = Vec::new();
        for (value, kind) in &self.values {
            values.push((&**value, kind.clone()));
        }
        if let Some((created_at, id, name)) = after {
            values.push((created_at, Type::TIMESTAMPTZ));
            values.push((id, Type::TEXT));
            if self.is_by_name {
                values.push((name, Type::TEXT));
            }
        }
        Ok(client.query_typed(&page, &values).await?)
    }
}

/// Returns the accounts that match a query, in the order of their ids.
pub(crate) async fn accounts(client: &Client, query: &AccountQuery) -> Result<Vec<Account>, Error> {
    let page = format!(
        "SELECT {ACCOUNT} FROM keyward.account AS account \
         WHERE account.id >= $1 AND account.id < $2 AND account.id > $3 \
         AND ($4::text IS NULL OR account.status = $4) ORDER BY account.id LIMIT $5"
    );
    // Behind every id that begins so: an id has no character beyond `~`.
    let end = format!("{}\u{7f}", query.prefix);
    let status = query.status.map(AccountStatus::as_str);
    let after = query.after.as_ref().map_or("", AccountId::as_str);
    let mut after = after.to_owned();
    let mut found = Found::at_most(query.limit);
    loop {
        let rows = client
            .query_typed(
                &page,
                &[
                    (&escaped(&query.prefix), Type::TEXT),
                    (&escaped(&end), Type::TEXT),
                    (&after, Type::TEXT),
                    (&status, Type::TEXT),
                    (&found.wanted(), Type::INT8),
                ],
            )
            .await?;
        match found.add(&rows, 0, |row| row::account(row, 0)) {
            Some(last) => after = last.try_get(0)?,
            None => return Ok(found.into_rows()),
        }
    }
}

/// Counts the keys of the account that are neither revoked nor expired.
pub(crate) async fn count_active(client: &Client, bound: &ActiveKeys) -> Result<i64, Error> {
    let count = format!(
        "SELECT count(*) FROM keyward.key AS key \
         WHERE key.account = $2 AND key.status <> 'revoked' AND {STATE} NOT IN ('revoked', 'expired')"
    );
    let now = Timestamp(bound.now);
    let account = bound.account.as_str();
    let row = client
        .query_typed_one(&count, &[(&now, Type::TIMESTAMPTZ), (&account, Type::TEXT)])
        .await?;
    Ok(row.try_get(0)?)
}

/// Counts usable keys per digest scheme.
pub(crate) async fn schemes(
    client: &Client,
    now: SystemTime,
) -> Result<Vec<(DigestScheme, u64)>, Error> {
    let schemes = format!(
        "SELECT key.digest_scheme, count(*) FROM keyward.key AS key \
         WHERE key.status <> 'revoked' AND {STATE} NOT IN ('revoked', 'expired') \
         GROUP BY key.digest_scheme"
    );
    let rows = client
        .query_typed(&schemes, &[(&Timestamp(now), Type::TIMESTAMPTZ)])
        .await?;
    let mut found = Vec::new();
    for row in rows {
        let mut cells = Cells::of(&row);
        let scheme = cells.parse(DigestScheme::parse);
        match scheme.and_then(|scheme| Ok((scheme, cells.number()?))) {
            Ok(counted) => found.push(counted),
            Err(why) => row::log_broken(&row, 0, &why),
        }
    }
    Ok(found)
}
