//! Balances of credits, as a store keeps them.

use std::fmt;
use std::time::SystemTime;

use crate::{AccountId, KeyId, ParseError, ParseErrorKind};

/// How many credits a process takes from the store at once, at most.
pub(crate) const BLOCK: u32 = 100;

/// A balance of credits, which requests of live keys spend.
///
/// Where there is none, requests are not counted against any. At zero they are refused: 429
/// `credits_exhausted`.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use keyward::{Credits, Refill};
///
/// let next_month = SystemTime::now() + Duration::from_secs(30 * 86_400);
/// let credits = Credits::new(250).refill(Refill::new(next_month, 1000));
/// assert_eq!(credits.left, 250); // until then, and 1000 from then on
/// ```
///
/// Processes take credits from the store in blocks of at most a hundred, before they are spent, the next
/// when a quarter of the last is left. What they do not need they give back: when none was spent between
/// two flushes, and when they end; and at each flush what is more than 125. So a balance is never
/// overspent, and a process that is killed loses at most 125 credits of it, and what since the last flush
/// was refunded, or taken for requests that then were given up. While one process holds the last block,
/// another refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credits {
    /// How many are left; without those that processes have taken and not spent yet.
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

    /// Takes what a process wants, or less. For a store, which keeps what this leaves.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use keyward::*;
    /// # let owner = CreditOwner::Account(AccountId::parse("acme")?);
    /// let mut credits = Credits::new(1000);
    /// let want = CreditWant { owner, at_least: 1 };
    /// let grant = credits.draw(&want, SystemTime::now());
    /// assert_eq!((grant.amount, credits.left), (100, 900));
    /// # Ok::<(), ParseError>(())
    /// ```
    pub fn draw(&mut self, want: &CreditWant, now: SystemTime) -> CreditGrant {
        *self = self.at(now);
        // Towards the end the blocks shrink, so that none holds up what others could spend.
        let block = u64::from(BLOCK).min(self.left / 8);
        let amount = block.max(want.at_least.into()).min(self.left);
        let amount = u32::try_from(amount).unwrap_or(u32::MAX);
        self.left -= u64::from(amount);
        CreditGrant {
            owner: want.owner.clone(),
            amount,
            epoch: self.epoch,
            more: self.left > 0,
            refill_at: self.refill.map(|refill| refill.at),
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

/// That a process wants credits of a balance. See [`Replica::take_wanted`](crate::Replica::take_wanted).
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct CreditWant {
    /// Of whose balance.
    pub owner: CreditOwner,
    /// How many the requests need that are waiting.
    pub at_least: u32,
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
    /// When the balance is replaced, and these are void.
    pub refill_at: Option<SystemTime>,
}

/// Credits that were taken from a balance and not spent. See
/// [`Replica::take_unspent`](crate::Replica::take_unspent).
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

    use super::*;

    fn draw(credits: &mut Credits, at_least: u32) -> (u32, bool) {
        let owner = CreditOwner::Key(KeyId::random().unwrap());
        let grant = credits.draw(&CreditWant { owner, at_least }, SystemTime::UNIX_EPOCH);
        (grant.amount, grant.more)
    }

    #[test]
    fn blocks_shrink_towards_the_end() {
        let mut credits = Credits::new(1000);
        assert_eq!(draw(&mut credits, 1), (100, true));
        assert_eq!(draw(&mut credits, 300), (300, true));
        assert_eq!(draw(&mut credits, 1), (75, true));
        credits.left = 7;
        assert_eq!(draw(&mut credits, 1), (1, true));
        assert_eq!(
            draw(&mut credits, 0),
            (0, true),
            "nobody waits, nothing is held"
        );
        assert_eq!(draw(&mut credits, 9), (6, false));
        assert_eq!(draw(&mut credits, 1), (0, false));
        credits.left = u64::MAX;
        assert_eq!(draw(&mut credits, u32::MAX), (u32::MAX, true));
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
