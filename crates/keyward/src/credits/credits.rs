//! Balances of credits, as a store keeps them.

use std::fmt;
use std::time::SystemTime;

use crate::error::{ParseError, ParseErrorKind};
use crate::ids::{AccountId, KeyId};

/// The part of a balance that a process takes ahead of its requests, at most: a hundredth.
const PART_AHEAD: u64 = 100;

/// A balance of credits, which requests of live keys spend.
///
/// Where there is none, requests are not counted against any. At zero they are refused: 429
/// `credits_exhausted`.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use keyward::credits::{Credits, Refill};
///
/// let next_month = SystemTime::now() + Duration::from_secs(30 * 86_400);
/// let credits = Credits::new(250).refill(Refill::new(next_month, 1000));
/// assert_eq!(credits.left, 250); // until then, and 1000 from then on
/// ```
///
/// A process takes credits out of the store before it spends them: what its waiting requests need, and
/// ahead of them as many as it has spent in the last second, but no more than 1 % of the balance. So the
/// first request takes one, and a busy key asks the store a few times a second. What was taken ahead and
/// is not needed goes back within two seconds, and when the process ends.
///
/// A balance is never overspent. A process that is killed loses what it has taken ahead: no more than
/// it has spent in its last second, and no more than 1 % of the balance; of a balance below 100 nothing
/// is taken ahead. A request that was under way has paid, as has one that is given up. What was lost
/// cannot be reclaimed, because nobody knows how much of it was spent. Credits that are refunded, or that a
/// request no longer waits for, return to the process first. If it then holds more than 1 % of the balance,
/// the store takes the excess back at once, and the rest at its next flush.
///
/// The balance that is shown is exact: what the process that shows it has taken and not spent is counted,
/// and so is what others hold, as of their last report to the store (`SQLite`: at most a second ago).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credits {
    /// How many are left.
    pub left: u64,
    /// What replaces the balance, and when.
    pub refill: Option<Refill>,
    /// Grows whenever the balance is replaced: what was taken before is void. The store keeps it.
    pub epoch: u32,
}

/// That a balance is replaced at an instant, once, whatever is left of it. See [`Credits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refill {
    /// The instant.
    pub at: SystemTime,
    /// What there is from then on.
    pub to: u64,
}

impl Refill {
    /// The balance is `to` from this instant on.
    #[must_use]
    pub fn new(at: SystemTime, to: u64) -> Self {
        Self { at, to }
    }
}

impl Credits {
    /// So many, and no more.
    #[must_use]
    pub fn new(left: u64) -> Self {
        Self {
            left,
            refill: None,
            epoch: 0,
        }
    }

    /// Until they are replaced.
    #[must_use]
    pub fn refill(self, refill: Refill) -> Self {
        Self {
            refill: Some(refill),
            ..self
        }
    }

    /// The balance at a moment: after its refill, if that is due.
    #[must_use]
    pub fn at(self, now: SystemTime) -> Self {
        match self.refill {
            Some(refill) if refill.at <= now => Self {
                left: refill.to,
                refill: None,
                epoch: self.epoch.saturating_add(1),
            },
            _ => self,
        }
    }

    /// Takes out what a process wants, or less. For a store, which keeps what this leaves.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use keyward::AccountId;
    /// # use keyward::credits::{CreditOwner, CreditWant, Credits};
    /// # use keyward::error::ParseError;
    /// # let owner = CreditOwner::Account(AccountId::parse("acme")?);
    /// let mut credits = Credits::new(1000);
    /// let want = CreditWant { owner, at_least: 1, spent: 500, held: 2, epoch: 0 };
    /// let grant = credits.draw(&want, SystemTime::now());
    /// assert_eq!(grant.amount, 9); // with the 2 that are held: the one that is needed, and 1 % ahead
    /// assert_eq!(credits.left, 991);
    /// # Ok::<(), ParseError>(())
    /// ```
    pub fn draw(&mut self, want: &CreditWant, now: SystemTime) -> CreditGrant {
        *self = self.at(now);
        let held = u64::from(want.held_of(self.epoch));
        let ahead = self.left.saturating_add(held) / PART_AHEAD;
        let most = u64::from(want.at_least).saturating_add(ahead.min(want.spent.into()));
        let amount = most.saturating_sub(held).min(self.left);
        let amount = u32::try_from(amount).unwrap_or(u32::MAX);
        self.left -= u64::from(amount);
        CreditGrant {
            owner: want.owner.clone(),
            amount,
            epoch: self.epoch,
            more: self.left > 0,
            ahead: u32::try_from(ahead).unwrap_or(u32::MAX),
            refill_at: self.refill.map(|refill| refill.at),
        }
    }

    /// Adds what was taken out and not spent, unless the balance was replaced since. For a store.
    ///
    /// ```
    /// # use keyward::AccountId;
    /// # use keyward::credits::{CreditOwner, Credits, Unspent};
    /// # use keyward::error::ParseError;
    /// # let owner = CreditOwner::Account(AccountId::parse("acme")?);
    /// let mut credits = Credits::new(991);
    /// credits.put_back(&Unspent { owner, amount: 9, epoch: credits.epoch });
    /// assert_eq!(credits.left, 1000);
    /// # Ok::<(), ParseError>(())
    /// ```
    pub fn put_back(&mut self, unspent: &Unspent) {
        if self.epoch == unspent.epoch {
            self.left = self.left.saturating_add(unspent.amount.into());
        }
    }
}

/// Whose credits they are. See [`Credits`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a store must know them all")]
pub enum CreditOwner {
    /// Of an account, spent by all its keys that have none of their own.
    Account(AccountId),
    /// Of a key, and of all that come after it in rotations: the first of them.
    Key(KeyId),
}

impl CreditOwner {
    /// Parses what `Display` writes: `account:` and its name, or the id of a key.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if let Some(account) = text.strip_prefix("account:") {
            return AccountId::parse(account).map(Self::Account);
        }
        let key = KeyId::parse(text).map(Self::Key);
        key.map_err(|_| ParseError::new("owner of credits", ParseErrorKind::Unknown))
    }
}

impl fmt::Display for CreditOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(id) => write!(f, "account:{id}"),
            Self::Key(id) => id.fmt(f),
        }
    }
}

impl From<KeyId> for CreditOwner {
    fn from(id: KeyId) -> Self {
        Self::Key(id)
    }
}

impl From<AccountId> for CreditOwner {
    fn from(id: AccountId) -> Self {
        Self::Account(id)
    }
}

/// That a process wants credits of a balance. See [`Replica::take_wanted`](crate::replica::Replica::take_wanted).
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct CreditWant {
    /// Of whose balance.
    pub owner: CreditOwner,
    /// How many the requests need that are waiting.
    pub at_least: u32,
    /// How many the process has spent of it in the last second.
    pub spent: u32,
    /// How many it has taken out and not spent yet.
    pub held: u32,
    /// The epoch of the balance that those were taken from; of any other they are void.
    pub epoch: u32,
}

impl CreditWant {
    /// How many of a grant are held when the waiting requests have got theirs. For a store that shows
    /// other processes what this one holds.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use keyward::AccountId;
    /// # use keyward::credits::{CreditOwner, CreditWant, Credits};
    /// # use keyward::error::ParseError;
    /// # let owner = CreditOwner::Account(AccountId::parse("acme")?);
    /// let want = CreditWant { owner, at_least: 1, spent: 500, held: 2, epoch: 0 };
    /// let grant = Credits::new(1000).draw(&want, SystemTime::now());
    /// assert_eq!(want.held_after(&grant), grant.ahead);
    /// # Ok::<(), ParseError>(())
    /// ```
    #[must_use]
    pub fn held_after(&self, grant: &CreditGrant) -> u32 {
        let held = self.held_of(grant.epoch).saturating_add(grant.amount);
        held.saturating_sub(self.at_least)
    }

    /// How many are held of the balance of an epoch: what was taken from an earlier one is void.
    fn held_of(&self, epoch: u32) -> u32 {
        if self.epoch == epoch { self.held } else { 0 }
    }
}

/// Credits that a process may spend: they are no longer in the store. See [`Credits::draw`].
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct CreditGrant {
    /// Of whose balance.
    pub owner: CreditOwner,
    /// How many.
    pub amount: u32,
    /// The epoch of the balance.
    pub epoch: u32,
    /// Whether there are more.
    pub more: bool,
    /// How many of the balance a process may hold ahead of its requests: 1 %.
    pub ahead: u32,
    /// When the balance is replaced, and these are void.
    pub refill_at: Option<SystemTime>,
}

/// Credits that were taken from a balance and not spent. See
/// [`Replica::take_unspent`](crate::replica::Replica::take_unspent).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct Unspent {
    /// Of whose balance.
    pub owner: CreditOwner,
    /// How many.
    pub amount: u32,
    /// The epoch of the balance they were taken from; of any other they are void.
    pub epoch: u32,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn draw(credits: &mut Credits, at_least: u32, spent: u32, held: u32) -> (u32, bool) {
        let want = CreditWant {
            owner: CreditOwner::Key(KeyId::random().unwrap()),
            at_least,
            spent,
            held,
            epoch: credits.epoch,
        };
        let grant = credits.draw(&want, SystemTime::UNIX_EPOCH);
        (grant.amount, grant.more)
    }

    #[test]
    fn what_was_taken_of_a_balance_that_is_replaced_is_held_no_longer() {
        let want = CreditWant {
            owner: CreditOwner::Key(KeyId::random().unwrap()),
            at_least: 1,
            spent: 500,
            held: 4,
            epoch: 1,
        };
        let mut credits = Credits {
            epoch: 2,
            ..Credits::new(1000)
        };
        let grant = credits.draw(&want, SystemTime::UNIX_EPOCH);
        assert_eq!(grant.amount, 11, "as if none were held");
        assert_eq!(want.held_after(&grant), 10);
    }

    #[test]
    fn a_process_takes_ahead_what_it_spends_in_a_second_and_a_hundredth_at_most() {
        let mut credits = Credits::new(1000);
        assert_eq!(draw(&mut credits, 1, 0, 0), (1, true), "the first");
        assert_eq!(draw(&mut credits, 1, 1, 0), (2, true));
        assert_eq!(draw(&mut credits, 300, 3, 0), (303, true));
        credits.left = 1000;
        assert_eq!(draw(&mut credits, 1, 500, 0), (11, true));
        assert_eq!(draw(&mut credits, 0, 500, 4), (5, true));
        assert_eq!(draw(&mut credits, 0, 500, 50), (0, true));
        credits.left = 99;
        assert_eq!(draw(&mut credits, 1, 500, 0), (1, true));
        assert_eq!(draw(&mut credits, 0, 500, 0), (0, true), "nobody waits");
        assert_eq!(draw(&mut credits, 99, 500, 0), (98, false));
        assert_eq!(draw(&mut credits, 1, 500, 0), (0, false));
        credits.left = u64::MAX;
        assert_eq!(
            draw(&mut credits, u32::MAX, u32::MAX, u32::MAX),
            (u32::MAX, true)
        );
    }

    proptest! {
        #[test]
        fn whatever_is_taken_no_credit_is_made_and_a_hundredth_is_held_at_most(
            left in 0_u64..20_000,
            steps in vec((0_u32..3, 0_u32..1000, 0_u32..=100), 1..100),
        ) {
            let (mut credits, mut held) = (Credits::new(left), 0);
            for (at_least, spent, percent) in steps {
                let before = credits.left + u64::from(held);
                let (amount, _) = draw(&mut credits, at_least, spent, held);
                held += amount;
                prop_assert_eq!(credits.left + u64::from(held), before);
                held = held.saturating_sub(at_least);
                let most = u64::from(spent).min(before / 100);
                prop_assert!(amount <= at_least || u64::from(held) <= most);
                held -= held * percent / 100;
            }
        }
    }

    #[test]
    fn a_refill_replaces_the_balance_once() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        let before = Credits::new(7).refill(Refill::new(at, 1000));
        assert_eq!(before.at(at - Duration::from_nanos(1)), before);
        let after = before.at(at);
        assert_eq!((after.left, after.refill, after.epoch), (1000, None, 1));
        assert_eq!(after.at(at), after);
    }

    #[test]
    fn an_owner_is_told_from_every_other() {
        let key = KeyId::random().unwrap();
        let named_like_it = AccountId::parse(&key.to_string()).unwrap();
        for owner in [CreditOwner::Key(key), CreditOwner::Account(named_like_it)] {
            assert_eq!(CreditOwner::parse(&owner.to_string()).unwrap(), owner);
        }
        for bad in ["", "acme", "account:", "account:a b", "key_1"] {
            assert!(CreditOwner::parse(bad).is_err(), "{bad}");
        }
    }
}
