//! Credit balances, and how processes draw on them.

use std::fmt;
use std::time::SystemTime;

use crate::error::{ParseError, ParseErrorKind};
use crate::ids::{AccountId, KeyId};

/// The divisor for the part of a balance that a process may draw ahead: one percent.
const PART_AHEAD: u64 = 100;

/// A prepaid balance of credits, which requests with live keys spend.
///
/// Keys without a balance are not metered by credits. When the balance reaches zero, requests are
/// refused with 429 `credits_exhausted`.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use keyward::credits::{Credits, Refill};
///
/// let next_month = SystemTime::now() + Duration::from_secs(30 * 86_400);
/// let credits = Credits::new(250).refill(Refill::new(next_month, 1000));
/// assert_eq!(credits.left, 250); // 1000 after the refill
/// ```
///
/// A process draws credits from the store before it spends them: as many as its waiting requests
/// need, plus as many as it spent in the last second, up to 1 % of the balance. So the first
/// request draws one credit, and a busy key causes a few store accesses per second. Unused credits
/// return to the store within two seconds and when the process ends.
///
/// A balance is never overspent. A process that is killed loses the credits that it has drawn
/// ahead: at most what it spent in its last second, and at most 1 % of the balance. Nothing is
/// drawn ahead from a balance below 100. Requests that were in progress or were abandoned count as
/// paid. Lost credits cannot be reclaimed, because the store does not know how many of them were
/// spent. Refunded credits, and those drawn for a request that stopped waiting, return to the
/// process first. If the process then holds more than 1 % of the balance, it returns the excess to
/// the store at once and the rest at its next flush.
///
/// The displayed balance is exact. It includes the credits that this process has drawn but not
/// spent, and those that other processes hold as of their last report to the store (`SQLite`: at
/// most a second ago).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credits {
    /// The number of credits left.
    pub left: u64,
    /// The scheduled refill, if any.
    pub refill: Option<Refill>,
    /// A counter that grows when the balance is replaced, which voids earlier draws. The store
    /// keeps it.
    pub epoch: u32,
}

/// A scheduled, one-time replacement of a balance. See [`Credits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refill {
    /// The instant of the replacement.
    pub at: SystemTime,
    /// The balance from then on, whatever was left before.
    pub to: u64,
}

impl Refill {
    /// Creates a refill that sets the balance to `to` at this instant.
    #[must_use]
    pub fn new(at: SystemTime, to: u64) -> Self {
        Self { at, to }
    }
}

impl Credits {
    /// Creates a balance without a refill.
    #[must_use]
    pub fn new(left: u64) -> Self {
        Self {
            left,
            refill: None,
            epoch: 0,
        }
    }

    /// Sets the refill that will replace the balance.
    #[must_use]
    pub fn refill(self, refill: Refill) -> Self {
        Self {
            refill: Some(refill),
            ..self
        }
    }

    /// Returns the balance at a moment, after its refill if that is due.
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

    /// Takes out the credits that a process wants, or as many as there are.
    ///
    /// Stores call this and save the balance that remains.
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
    /// assert_eq!(grant.amount, 9); // with the 2 held: 1 for the request and 1 % ahead
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

    /// Returns unspent credits to the balance, unless it was replaced in the meantime.
    ///
    /// Stores call this.
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

/// The owner of a credit balance. See [`Credits`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a store must know them all")]
pub enum CreditOwner {
    /// An account, whose keys spend the balance unless they have their own.
    Account(AccountId),
    /// A key, identified by the first key of its rotation chain, and its successors.
    Key(KeyId),
}

impl CreditOwner {
    /// Parses the form that `Display` writes: `account:` and an account id, or a key id.
    ///
    /// # Errors
    /// Returns an error if the text is neither.
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

/// A process's request for credits of a balance.
///
/// See [`Replica::take_wanted`](crate::replica::Replica::take_wanted).
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct CreditWant {
    /// The owner of the balance.
    pub owner: CreditOwner,
    /// The number of credits that waiting requests need.
    pub at_least: u32,
    /// The number of credits that the process spent in the last second.
    pub spent: u32,
    /// The number of credits that it has drawn and not spent yet.
    pub held: u32,
    /// The epoch of the balance that those were drawn from. Credits of any other epoch are void.
    pub epoch: u32,
}

impl CreditWant {
    /// Returns how many credits the process holds after serving its waiting requests.
    ///
    /// Stores use it to show other processes what this one holds.
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

    /// Returns the credits held of this epoch. Those of an earlier epoch are void.
    fn held_of(&self, epoch: u32) -> u32 {
        if self.epoch == epoch { self.held } else { 0 }
    }
}

/// Credits that a process may spend and that have left the store. See [`Credits::draw`].
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct CreditGrant {
    /// The owner of the balance.
    pub owner: CreditOwner,
    /// The number of credits.
    pub amount: u32,
    /// The epoch of the balance.
    pub epoch: u32,
    /// True if the balance contains more credits.
    pub more: bool,
    /// The number of credits that a process may hold ahead of its requests: 1 % of the balance.
    pub ahead: u32,
    /// The instant of the next refill, when these credits become void.
    pub refill_at: Option<SystemTime>,
}

/// Credits that were drawn from a balance and not spent.
///
/// See [`Replica::take_unspent`](crate::replica::Replica::take_unspent).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct Unspent {
    /// The owner of the balance.
    pub owner: CreditOwner,
    /// The number of credits.
    pub amount: u32,
    /// The epoch of the balance that they were drawn from. In any other epoch they are void.
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
    fn credits_of_a_replaced_balance_are_no_longer_held() {
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
    fn a_process_draws_ahead_one_seconds_spending_and_at_most_one_percent() {
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
        fn draws_create_no_credits_and_hold_at_most_one_percent(
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
    fn parses_every_owner_and_nothing_else() {
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
