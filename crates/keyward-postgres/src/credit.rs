//! Credit balances.

use std::collections::HashMap;
use std::time::SystemTime;

use keyward::credits::{
    CreditGrant, CreditOwner, CreditWant, Credits, Refill, RefillSchedule, Unspent,
};
use keyward::store::CreditChange;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::error::{Error, RowError, conflict};
use crate::row::{Cells, Columns, Timestamp};

/// The number of balances from which one transaction draws.
pub(crate) const DRAWN_AT_ONCE: usize = 128;

/// The columns of a balance, of `keyward.credit AS credit`.
const BALANCE: &str = "credit.epoch, credit.remaining, credit.warn_below, credit.refill_at, \
     credit.refill_to, credit.roll_over, credit.schedule";

/// The columns of [`BALANCE`] in a statement that writes them.
const COLUMNS: &str = "epoch, remaining, warn_below, refill_at, refill_to, roll_over, schedule";

/// Reads a balance from the columns of [`BALANCE`].
fn credits(cells: &mut Cells<'_, impl Columns>) -> Result<Credits, RowError> {
    let epoch = cells.small()?;
    let mut credits = Credits::new(cells.number()?);
    credits.epoch = epoch;
    credits.warn_below = cells.number()?;
    if let Some(at) = cells.time_if_any()? {
        let mut refill = Refill::once(at, cells.number()?);
        refill.roll_over = cells.number_if_any()?;
        refill.schedule = cells.parse_some(RefillSchedule::parse)?;
        credits.refill = Some(refill);
    }
    Ok(credits)
}

/// Applies a change to a balance. It is a conflict if the balance does not allow it.
pub(crate) async fn change(client: &Client, change: &CreditChange) -> Result<(), Error> {
    let owner = change.owner().to_string();
    let lock =
        format!("SELECT {BALANCE} FROM keyward.credit AS credit WHERE owner = $1 FOR UPDATE");
    let stored = client
        .query_typed_opt(&lock, &[(&owner, Type::TEXT)])
        .await?;
    let stored = stored
        .map(|row| credits(&mut Cells::of(&row)))
        .transpose()?;
    let is_new = stored.is_none();
    let mut changed = Balances::default();
    changed.push(owner, &change.apply(stored).ok_or_else(conflict)?);
    if is_new {
        // One that another transaction has added meanwhile is a conflict.
        changed.insert(client).await
    } else {
        changed.update(client).await
    }
}

/// Draws the credits that this process wants, and reports what it holds.
///
/// An owner without a valid balance gets nothing, and does not delay others.
pub(crate) async fn draw(
    client: &Client,
    wants: &[CreditWant],
    node: i64,
    now: SystemTime,
) -> Result<Vec<CreditGrant>, Error> {
    let wants: HashMap<String, &CreditWant> = wants
        .iter()
        .map(|want| (want.owner.to_string(), want))
        .collect();
    let lock = format!(
        "SELECT credit.owner, {BALANCE} FROM keyward.credit AS credit \
         WHERE owner = ANY($1) ORDER BY owner FOR UPDATE"
    );
    let owners: Vec<_> = wants.keys().map(String::as_str).collect();
    let rows = client
        .query_typed(&lock, &[(&owners, Type::TEXT_ARRAY)])
        .await?;
    let (mut grants, mut drawn, mut held) = (Vec::new(), Balances::default(), Vec::new());
    for row in rows {
        let owner: String = row.try_get(0)?;
        let Some(want) = wants.get(&owner) else {
            continue;
        };
        let mut cells = Cells::of(&row);
        let stored = cells.get::<&str>().and_then(|_| credits(&mut cells));
        let mut credits = match stored {
            Ok(stored) => stored,
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::error!(owner, error, "invalid credit balance");
                continue;
            }
        };
        let grant = credits.draw(want, now);
        drawn.push(owner, &credits);
        held.push(Unspent {
            owner: want.owner.clone(),
            amount: want.held_after(&grant),
            epoch: grant.epoch,
        });
        grants.push(grant);
    }
    drawn.update(client).await?;
    report(client, &held, node).await?;
    Ok(grants)
}

/// Balances to write, as columns.
#[derive(Default)]
struct Balances {
    owners: Vec<String>,
    epochs: Vec<i64>,
    remaining: Vec<i64>,
    warn_below: Vec<i64>,
    refill_at: Vec<Option<Timestamp>>,
    refill_to: Vec<Option<i64>>,
    roll_over: Vec<Option<i64>>,
    schedules: Vec<Option<String>>,
}

impl Balances {
    fn push(&mut self, owner: String, credits: &Credits) {
        self.owners.push(owner);
        self.epochs.push(credits.epoch.into());
        self.remaining.push(most(credits.left));
        self.warn_below.push(most(credits.warn_below));
        let refill = credits.refill.as_ref();
        self.refill_at
            .push(refill.map(|refill| Timestamp(refill.at)));
        self.refill_to.push(refill.map(|refill| most(refill.to)));
        self.roll_over
            .push(refill.and_then(|refill| refill.roll_over).map(most));
        let schedule = refill.and_then(|refill| refill.schedule.as_ref());
        self.schedules.push(schedule.map(RefillSchedule::to_string));
    }

    async fn insert(&self, client: &Client) -> Result<(), Error> {
        let put = format!("INSERT INTO keyward.credit (owner, {COLUMNS}) SELECT * FROM new");
        self.write(client, &put).await
    }

    async fn update(&self, client: &Client) -> Result<(), Error> {
        let new = COLUMNS.split(", ").map(|column| format!("new.{column}"));
        let new = new.collect::<Vec<_>>().join(", ");
        let put = format!(
            "UPDATE keyward.credit AS credit SET ({COLUMNS}) = ROW ({new}) FROM new \
             WHERE credit.owner = new.owner"
        );
        self.write(client, &put).await
    }

    async fn write(&self, client: &Client, put: &str) -> Result<(), Error> {
        let put = format!(
            "WITH new (owner, {COLUMNS}) AS (SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)) \
             {put}"
        );
        client
            .execute_typed(
                &put,
                &[
                    (&self.owners, Type::TEXT_ARRAY),
                    (&self.epochs, Type::INT8_ARRAY),
                    (&self.remaining, Type::INT8_ARRAY),
                    (&self.warn_below, Type::INT8_ARRAY),
                    (&self.refill_at, Type::TIMESTAMPTZ_ARRAY),
                    (&self.refill_to, Type::INT8_ARRAY),
                    (&self.roll_over, Type::INT8_ARRAY),
                    (&self.schedules, Type::TEXT_ARRAY),
                ],
            )
            .await?;
        Ok(())
    }
}

/// Reports what a process holds, for others to show.
pub(crate) async fn report(client: &Client, held: &[Unspent], node: i64) -> Result<(), Error> {
    if held.is_empty() {
        return Ok(());
    }
    // Of an owner that is there twice the last counts.
    let held: HashMap<String, &Unspent> = held
        .iter()
        .map(|held| (held.owner.to_string(), held))
        .collect();
    let mut held: Vec<_> = held.into_iter().collect();
    held.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let empty = held.iter().filter(|(_, held)| held.amount == 0);
    let empty: Vec<_> = empty.map(|(owner, _)| owner.as_str()).collect();
    if !empty.is_empty() {
        let forget = "DELETE FROM keyward.credit_held WHERE node = $2 AND owner = ANY($1)";
        client
            .execute_typed(forget, &[(&empty, Type::TEXT_ARRAY), (&node, Type::INT8)])
            .await?;
    }
    held.retain(|(_, held)| held.amount > 0);
    if held.is_empty() {
        return Ok(());
    }
    let owners: Vec<_> = held.iter().map(|(owner, _)| owner.as_str()).collect();
    let epochs: Vec<_> = held.iter().map(|(_, held)| i64::from(held.epoch)).collect();
    let amounts: Vec<_> = held
        .iter()
        .map(|(_, held)| i64::from(held.amount))
        .collect();
    let put = "INSERT INTO keyward.credit_held (owner, node, epoch, held) \
         SELECT owner, $4, epoch, held FROM unnest($1, $2, $3) AS new (owner, epoch, held) \
         ON CONFLICT (owner, node) DO UPDATE SET epoch = excluded.epoch, held = excluded.held, \
         reported_at = excluded.reported_at";
    client
        .execute_typed(
            put,
            &[
                (&owners, Type::TEXT_ARRAY),
                (&epochs, Type::INT8_ARRAY),
                (&amounts, Type::INT8_ARRAY),
                (&node, Type::INT8),
            ],
        )
        .await?;
    Ok(())
}

/// Returns unspent credits to their balances, except to those that were replaced meanwhile.
pub(crate) async fn give_back(client: &Client, unspent: &[Unspent]) -> Result<(), Error> {
    if unspent.is_empty() {
        return Ok(());
    }
    let mut sums: HashMap<(String, u32), i64> = HashMap::new();
    for one in unspent {
        let sum = sums.entry((one.owner.to_string(), one.epoch)).or_default();
        *sum = sum.saturating_add(i64::from(one.amount));
    }
    let owners: Vec<_> = sums.keys().map(|(owner, _)| owner.as_str()).collect();
    let epochs: Vec<_> = sums.keys().map(|(_, epoch)| i64::from(*epoch)).collect();
    let amounts: Vec<_> = sums.values().copied().collect();
    // In the order of the owners, as in every transaction that draws.
    let lock = "SELECT FROM keyward.credit WHERE owner = ANY($1) ORDER BY owner FOR UPDATE";
    client
        .query_typed(lock, &[(&owners, Type::TEXT_ARRAY)])
        .await?;
    let put = "UPDATE keyward.credit AS credit \
         SET remaining = least(credit.remaining, 9223372036854775807 - back.amount) + back.amount \
         FROM unnest($1, $2, $3) AS back (owner, epoch, amount) \
         WHERE credit.owner = back.owner AND credit.epoch = back.epoch";
    client
        .execute_typed(
            put,
            &[
                (&owners, Type::TEXT_ARRAY),
                (&epochs, Type::INT8_ARRAY),
                (&amounts, Type::INT8_ARRAY),
            ],
        )
        .await?;
    Ok(())
}

/// A balance as other processes left it.
pub(crate) struct Balance {
    /// The balance, including the credits that other processes hold.
    pub(crate) credits: Credits,
    /// The last batch of this process that it includes.
    pub(crate) sequence: i64,
}

/// Returns a balance, with the credits that other processes than this one hold.
pub(crate) async fn balance(
    client: &Client,
    owner: &CreditOwner,
    node: i64,
) -> Result<Option<Balance>, Error> {
    // What was not reported within three seconds is of a process that is gone.
    let balance = format!(
        "SELECT {BALANCE}, \
         (SELECT least(coalesce(sum(held.held), 0), 9223372036854775807)::bigint \
          FROM keyward.credit_held AS held WHERE held.owner = credit.owner \
          AND held.node <> $2 AND held.epoch = credit.epoch \
          AND held.reported_at > clock_timestamp() - interval '3 seconds'), \
         (SELECT sequence FROM keyward.usage_node WHERE node = $2) \
         FROM keyward.credit AS credit WHERE credit.owner = $1"
    );
    let row = client
        .query_typed_opt(
            &balance,
            &[(&owner.to_string(), Type::TEXT), (&node, Type::INT8)],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let mut credits = credits(&mut Cells::of(&row))?;
    let held: i64 = row.try_get(7)?;
    let sequence: Option<i64> = row.try_get(8)?;
    credits.left = credits.left.saturating_add(held.cast_unsigned());
    Ok(Some(Balance {
        credits,
        sequence: sequence.unwrap_or(0),
    }))
}

fn most(credits: u64) -> i64 {
    i64::try_from(credits).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {

    use keyward::denial::DenialKind;

    use keyward::Store;

    use crate::fixture::{Fixture, ask, balance_is_exact, eventually, left, rich, spend_all};

    #[test]
    fn what_a_process_holds_is_shown_also_by_others_and_given_back_when_it_ends() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture.open_slow(), 10_000);
        let (store, other) = (fixture.open_slow(), fixture.open_slow());
        let held = || {
            store
                .replica()
                .held_of(&owner)
                .map_or(0, |held| held.amount)
        };
        let mut spent = 0;
        while spent < 200 || held() < 20 {
            assert_eq!(ask(&store, &key), Ok(()));
            spent += 1;
            assert_eq!(left(&store, &owner), 10_000 - spent);
            assert!(held() <= 100, "{}", held());
        }
        // The other process knows what was reported, at any time.
        assert!(left(&other, &owner) >= 10_000 - spent);
        eventually(|| left(&other, &owner) == 10_000 - spent);
        drop(store);
        assert_eq!(left(&other, &owner), 10_000 - spent);
        let mut psql = fixture.psql();
        let stored = psql.value("SELECT remaining FROM keyward.credit");
        assert_eq!(stored, (10_000 - spent).to_string());
        assert_eq!(psql.value("SELECT count(*) FROM keyward.credit_held"), "0");
    }

    #[test]
    fn what_a_dead_process_held_is_shown_for_seconds_and_never_spent_again() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture.open_slow(), 10);
        let store = fixture.open_slow();
        let report = |ago: u32, epoch: u32| {
            let report = format!(
                "DELETE FROM keyward.credit_held; INSERT INTO keyward.credit_held \
                 VALUES ('{owner}', 7, {epoch}, 5, now() - interval '{ago} seconds')"
            );
            fixture.type_in(&report).unwrap();
        };
        report(0, 1);
        assert_eq!(left(&store, &owner), 15);
        report(0, 2);
        assert_eq!(left(&store, &owner), 10, "of another balance");
        report(4, 1);
        assert_eq!(left(&store, &owner), 10);
        assert_eq!(spend_all(&store, &key), 10);
    }

    #[test]
    fn a_balance_is_exact_while_credits_are_drawn_spent_and_given_back() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture.open_slow(), 100_000);
        let store = fixture.open_slow();
        balance_is_exact(&store, &owner, &key);
    }

    #[test]
    fn what_is_not_needed_any_more_goes_back_soon() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture.open_slow(), 10_000);
        let store = fixture.open_slow();
        while store.replica().held_of(&owner).is_none() {
            assert_eq!(ask(&store, &key), Ok(()));
        }
        // It is never asked to flush, and its own timer is at ten seconds.
        let began = std::time::Instant::now();
        eventually(|| store.replica().held_of(&owner).is_none());
        let took = began.elapsed();
        assert!(took < std::time::Duration::from_secs(9), "{took:?}");
    }

    #[test]
    fn a_balance_that_is_typed_away_refuses_until_it_is_back() {
        let fixture = Fixture::new();
        let (owner, key) = rich(&fixture.open_slow(), 50);
        let store = fixture.open();
        fixture.type_in("DELETE FROM keyward.credit").unwrap();
        assert_eq!(ask(&store, &key), Err(DenialKind::LimitUnavailable));
        let back = "INSERT INTO keyward.credit (owner, epoch, remaining)";
        let back = format!("{back} VALUES ('{owner}', 1, 2)");
        fixture.type_in(&back).unwrap();
        assert_eq!(spend_all(&store, &key), 2);
    }
}
