//! Credit balances, and how processes draw on them.

use std::fmt;
use std::mem;
use std::time::{Duration, SystemTime};

use crate::credits::RefillSchedule;
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
/// let credits = Credits::new(250).refill(Refill::once(next_month, 1000));
/// assert_eq!(credits.left, 250); // 1000 after the refill
/// ```
///
/// A [`Refill`] by the calendar makes the balance a quota, and [`warn_below`](Self::warn_below) adds a
/// soft limit. With 10,000 requests included in a month, and refused from 12,000 on:
///
/// ```
/// use keyward::credits::{Credits, Refill, RefillSchedule};
///
/// let month = RefillSchedule::monthly("Europe/Berlin")?;
/// let credits = Credits::new(12_000).refill(Refill::every(month, 12_000)).warn_below(2_000);
/// # assert_eq!(credits.warn_below, 2_000);
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
///
/// The client reads such a quota in the [rate limit headers](crate::limit::Quota), and the handler in
/// [`Principal::credits`](crate::gate::Principal::credits):
///
/// ```text
/// RateLimit-Policy: "credits";q=12000;w=2678400, "credits-soft";q=10000;w=2678400
/// RateLimit: "credits";r=1990;t=86400, "credits-soft";r=0;t=86400
/// ```
///
/// Requests with a publishable key get no such headers, because every visitor of a page has the key.
/// A balance without a [`RefillSchedule`] is not described in headers.
///
/// A process draws credits from the store before it spends them: as many as its waiting requests
/// need, plus as many as it spent in the last second, up to 1 % of the balance. So the first
/// request draws one credit, and a busy key causes a few store accesses per second. A request that
/// costs more than there is draws nothing. Unused credits return to the store within two seconds and
/// when the process ends.
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
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credits {
    /// The number of credits left.
    pub left: u64,
    /// The next refill, if any.
    pub refill: Option<Refill>,
    /// The soft limit: the balance below which handlers and clients are told. Zero means never.
    pub warn_below: u64,
    /// A counter that grows when the balance is replaced, which voids earlier draws. The store
    /// keeps it.
    pub epoch: u32,
}

/// A refill of a balance: once, or by the calendar. See [`Credits`].
///
/// The store keeps the instant of the next refill and applies it with the first draw after that. So
/// it happens once, however many processes there are, and even if a clock is set back. If the
/// schedule reaches several instants before the balance is used again, a balance that is replaced is
/// replaced once, and one that rolls over gets the amount of each.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refill {
    /// The instant of the next refill.
    ///
    /// With a schedule, it is the Unix epoch until the balance is given to an owner.
    pub at: SystemTime,
    /// The balance from then on, whatever was left before. With roll-over, the credits that are
    /// added.
    pub to: u64,
    /// The calendar of the refills that follow; `None` if there are none.
    pub schedule: Option<RefillSchedule>,
    /// The balance that roll-over does not exceed; `None` without roll-over.
    pub roll_over: Option<u64>,
}

impl Refill {
    /// Creates a refill that sets the balance to `to` at this instant, once.
    #[must_use]
    pub fn once(at: SystemTime, to: u64) -> Self {
        Self {
            at,
            to,
            schedule: None,
            roll_over: None,
        }
    }

    /// Creates a refill that sets the balance to `to` whenever a period of the calendar begins.
    ///
    /// ```
    /// use keyward::credits::{Credits, Refill, RefillSchedule};
    ///
    /// let month = RefillSchedule::monthly("America/New_York")?;
    /// let credits = Credits::new(500).refill(Refill::every(month, 1000)); // half of the first month
    /// # assert_eq!(credits.refill.map(|refill| refill.to), Some(1000));
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    #[must_use]
    pub fn every(schedule: RefillSchedule, to: u64) -> Self {
        Self {
            at: SystemTime::UNIX_EPOCH,
            to,
            schedule: Some(schedule),
            roll_over: None,
        }
    }

    /// Keeps what is left at a refill, and adds to it up to a balance of `cap`.
    ///
    /// A balance above the cap stays as it is. What processes have drawn ahead does not count for the
    /// cap, and stays valid.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use keyward::credits::{Credits, Refill, RefillSchedule};
    ///
    /// let at = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
    /// let daily = Refill::every(RefillSchedule::daily("UTC")?, 100).roll_over(250);
    /// let monday = Credits::new(100).refill(daily).at(at(20_000));
    /// let left = |days: u64| monday.clone().at(at(20_000 + days)).left;
    /// assert_eq!([left(1), left(2), left(3)], [200, 250, 250]);
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    #[must_use]
    pub fn roll_over(self, cap: u64) -> Self {
        Self {
            roll_over: Some(cap),
            ..self
        }
    }
}

impl Credits {
    /// Creates a balance without a refill.
    #[must_use]
    pub fn new(left: u64) -> Self {
        Self {
            left,
            refill: None,
            warn_below: 0,
            epoch: 0,
        }
    }

    /// Sets the refill of the balance.
    #[must_use]
    pub fn refill(self, refill: Refill) -> Self {
        Self {
            refill: Some(refill),
            ..self
        }
    }

    /// Sets the soft limit, which refuses no request.
    ///
    /// Once fewer credits are left, [`CreditStatus::is_low`] is true, and the policy `"credits-soft"`
    /// in the rate limit headers of a quota is used up.
    #[must_use]
    pub fn warn_below(self, credits: u64) -> Self {
        Self {
            warn_below: credits,
            ..self
        }
    }

    /// Returns the balance at a moment, after its refill if that is due.
    #[must_use]
    pub fn at(mut self, now: SystemTime) -> Self {
        if self.refill.as_ref().is_some_and(|refill| refill.at <= now) {
            let refill = self.refill.take();
            self.refill = refill.and_then(|refill| self.refill_with(refill, now));
        }
        self
    }

    /// Applies a refill that is due, and returns the next one.
    fn refill_with(&mut self, mut refill: Refill, now: SystemTime) -> Option<Refill> {
        let due = match &refill.schedule {
            None => None,
            // The balance is new, and its first period is under way.
            Some(schedule) if refill.at == SystemTime::UNIX_EPOCH => {
                refill.at = schedule.next_after(now)?;
                return Some(refill);
            }
            Some(schedule) => schedule.due(refill.at, now),
        };
        let times = due.map_or(1, |(_, times)| times);
        if let Some(cap) = refill.roll_over {
            // The credits that processes have drawn are rolled over as well.
            let more = refill.to.saturating_mul(times);
            self.left = self.left.saturating_add(more).min(cap).max(self.left);
        } else {
            self.left = refill.to;
            self.epoch = self.epoch.saturating_add(1);
        }
        due.map(|(at, _)| Refill { at, ..refill })
    }

    /// Takes out the credits that a process wants, as far as the balance covers them.
    ///
    /// Stores call this and save the balance that remains. A request that needs more than is left
    /// gets nothing.
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use keyward::AccountId;
    /// # use keyward::credits::{CreditOwner, CreditWant, Credits};
    /// # use keyward::error::ParseError;
    /// # let owner = CreditOwner::Account(AccountId::parse("acme")?);
    /// let mut credits = Credits::new(1000);
    /// let want = CreditWant { owner, all_or_none: vec![1], up_to: 0, spent: 500, held: 2, epoch: 0 };
    /// let grant = credits.draw(&want, SystemTime::now());
    /// assert_eq!(grant.amount, 9); // with the 2 held: 1 for the request and 1 % ahead
    /// assert_eq!(credits.left, 991);
    /// # Ok::<(), ParseError>(())
    /// ```
    pub fn draw(&mut self, want: &CreditWant, now: SystemTime) -> CreditGrant {
        let stored = mem::replace(self, Self::new(0));
        *self = stored.at(now);
        let held = u64::from(want.held_of(self.epoch));
        let total = self.left.saturating_add(held);
        let ahead = total / PART_AHEAD;
        let most = want
            .payable(total)
            .saturating_add(ahead.min(want.spent.into()));
        // A process cannot hold more.
        let most = most.min(u32::MAX.into());
        let amount = most.saturating_sub(held).min(self.left);
        let amount = u32::try_from(amount).unwrap_or(u32::MAX);
        self.left -= u64::from(amount);
        CreditGrant {
            owner: want.owner.clone(),
            amount,
            epoch: self.epoch,
            ahead: u32::try_from(ahead).unwrap_or(u32::MAX),
            refill_at: self.refill.as_ref().map(|refill| refill.at),
            left: self.left,
            warn_below: self.warn_below,
            period: self.refill.as_ref().and_then(CreditPeriod::of),
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
    /// The cost of each waiting request that takes all of its credits or none, oldest first.
    pub all_or_none: Vec<u32>,
    /// The number of credits that waiting requests take if they are left, or as many as are.
    pub up_to: u32,
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
    /// let want = CreditWant { owner, all_or_none: vec![1], up_to: 0, spent: 500, held: 2, epoch: 0 };
    /// let grant = Credits::new(1000).draw(&want, SystemTime::now());
    /// assert_eq!(want.held_after(&grant), grant.ahead);
    /// # Ok::<(), ParseError>(())
    /// ```
    #[must_use]
    pub fn held_after(&self, grant: &CreditGrant) -> u32 {
        let held = u64::from(self.held_of(grant.epoch)) + u64::from(grant.amount);
        let paid = self.payable(held.saturating_add(grant.left));
        u32::try_from(held.saturating_sub(paid)).unwrap_or(u32::MAX)
    }

    /// Returns how many credits the waiting requests take if there are so many.
    fn payable(&self, total: u64) -> u64 {
        let mut rest = total;
        for cost in &self.all_or_none {
            // One that cannot be paid leaves the credits to those behind it.
            rest = rest.checked_sub((*cost).into()).unwrap_or(rest);
        }
        total - rest.saturating_sub(self.up_to.into())
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
    /// The number of credits that a process may hold ahead of its requests: 1 % of the balance.
    pub ahead: u32,
    /// The instant of the next refill. Credits of a balance that it replaces are void from then on.
    pub refill_at: Option<SystemTime>,
    /// The number of credits that the balance contains after the draw.
    pub left: u64,
    /// The soft limit of the balance; zero if it has none.
    pub warn_below: u64,
    /// The period that a [`RefillSchedule`] is in, if there is one.
    pub period: Option<CreditPeriod>,
}

/// The period of a quota, which its refill ends. See [`CreditGrant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a store takes it apart")]
pub struct CreditPeriod {
    /// The number of credits for a period.
    pub credits: u64,
    /// The length of the period, which is not the same for all months or days.
    pub length: Duration,
}

impl CreditPeriod {
    fn of(refill: &Refill) -> Option<Self> {
        Some(Self {
            credits: refill.to,
            length: refill.schedule.as_ref()?.length_before(refill.at)?,
        })
    }
}

/// What a process knows of a balance, as of its last draw from the store.
///
/// See [`Principal::credits`](crate::gate::Principal::credits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CreditStatus {
    /// The number of credits left: in the store after the last draw, and in this process now.
    pub left: u64,
    /// True if fewer credits are left than the [soft limit](Credits::warn_below).
    pub is_low: bool,
    /// The instant of the next refill, if there is one.
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
    use proptest::collection::vec;
    use proptest::prelude::any;
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn want(all_or_none: &[u32], up_to: u32) -> CreditWant {
        CreditWant {
            owner: CreditOwner::Key(KeyId::random().unwrap()),
            all_or_none: all_or_none.to_vec(),
            up_to,
            spent: 0,
            held: 0,
            epoch: 0,
        }
    }

    /// Draws for a request that takes what is left.
    fn draw(credits: &mut Credits, up_to: u32, spent: u32, held: u32) -> (u32, bool) {
        let want = CreditWant {
            spent,
            held,
            epoch: credits.epoch,
            ..want(&[], up_to)
        };
        let grant = credits.draw(&want, SystemTime::UNIX_EPOCH);
        (grant.amount, grant.left > 0)
    }

    #[test]
    fn what_cannot_be_paid_is_not_drawn_and_holds_up_nothing() {
        for (all_or_none, up_to, held, amount) in [
            (&[5000][..], 0, 0, 0),
            (&[5000], 0, 10, 0),
            (&[1010], 0, 10, 1000),
            (&[1011], 0, 10, 0),
            (&[1000], 0, 0, 1000),
            (&[300, 5000, 20], 0, 0, 320),
            (&[700, 400, 300], 0, 0, 1000),
            (&[400, 700, 300], 0, 0, 700),
            (&[u32::MAX, u32::MAX, 1], 0, 0, 1),
            (&[], 5000, 0, 1000),
            (&[5000], 300, 0, 300),
            (&[900], 5000, 0, 1000),
        ] {
            let want = CreditWant {
                held,
                ..want(all_or_none, up_to)
            };
            let mut credits = Credits::new(1000);
            let grant = credits.draw(&want, SystemTime::UNIX_EPOCH);
            assert_eq!(grant.amount, amount, "{want:?}");
            assert_eq!(
                (credits.left, grant.left),
                (1000 - u64::from(amount), credits.left)
            );
            let kept = if amount == 0 { held } else { 0 };
            assert_eq!(want.held_after(&grant), kept, "{want:?}");
        }
    }

    #[test]
    fn credits_of_a_replaced_balance_are_no_longer_held() {
        let want = CreditWant {
            spent: 500,
            held: 4,
            epoch: 1,
            ..want(&[1], 0)
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
            draw(&mut credits, u32::MAX, u32::MAX, 7),
            (u32::MAX - 7, true)
        );
        assert_eq!(draw(&mut credits, u32::MAX, u32::MAX, u32::MAX), (0, true));
    }

    proptest! {
        #[test]
        fn draws_create_no_credits_and_hold_at_most_one_percent(
            left in 0_u64..20_000,
            steps in vec((vec(0_u32..9000, 0..4), 0_u32..3, 0_u32..1000, 0_u32..=100), 1..100),
        ) {
            let (mut credits, mut held) = (Credits::new(left), 0);
            for (all_or_none, up_to, spent, percent) in steps {
                let before = credits.left + u64::from(held);
                let want = CreditWant { spent, held, ..want(&all_or_none, up_to) };
                let grant = credits.draw(&want, SystemTime::UNIX_EPOCH);
                prop_assert_eq!(credits.left + u64::from(held + grant.amount), before);
                let after = want.held_after(&grant);
                let paid = held + grant.amount - after;
                // What is paid is the sum of some requests, and a request that is not cannot be.
                let wanted: u32 = all_or_none.iter().sum();
                prop_assert!(paid <= wanted + up_to);
                if let Some(least) = all_or_none.iter().min() && u64::from(*least) <= before {
                    prop_assert!(paid >= *least);
                } else {
                    prop_assert_eq!(u64::from(paid), before.min(up_to.into()));
                }
                let most = u64::from(spent).min(before / 100);
                prop_assert!(grant.amount <= paid || u64::from(after) <= most);
                held = after - after * percent / 100;
            }
        }
    }

    #[test]
    fn a_refill_replaces_the_balance_once() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        let before = Credits::new(7).refill(Refill::once(at, 1000));
        assert_eq!(before.clone().at(at - Duration::from_nanos(1)), before);
        let after = before.at(at);
        assert_eq!((after.left, &after.refill, after.epoch), (1000, &None, 1));
        assert_eq!(after.clone().at(at), after);
    }

    /// A process of the model: the credits that it has drawn, the epoch, and the refill that it
    /// knows of.
    #[derive(Clone, Copy, Default)]
    struct Process {
        held: u32,
        epoch: u32,
        spent: u64,
    }

    proptest! {
        /// Several processes draw, spend, return and restart, and their clock jumps. What was ever
        /// granted is what is left or was spent, but for what a refill without roll-over replaces.
        #[test]
        fn refills_keep_sums_under_restarts_and_clock_jumps(
            first in 0_u64..3000,
            to in 0_u64..3000,
            rolls_over in any::<bool>(),
            daily in any::<bool>(),
            steps in vec((0_usize..3, 0_u32..4, 1_u32..60, -20_i64..40), 1..200),
        ) {
            let calendar = if daily { "day America/Havana" } else { "month Europe/Berlin" };
            let schedule = RefillSchedule::parse(calendar).unwrap();
            let refill = Refill::every(schedule.clone(), to);
            let refill = if rolls_over { refill.roll_over(u64::MAX) } else { refill };
            let at = |hours: i64| {
                let hours = u64::try_from(hours).unwrap_or(0);
                SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + hours * 3600)
            };
            let mut credits = Credits::new(first).refill(refill).at(at(0));
            let mut processes = [Process::default(); 3];
            let (mut hours, mut latest, mut granted, mut refills) = (0, 0, first, 0);
            let mut boundary = schedule.next_after(at(0)).unwrap();
            let mut spent_in_period = 0;
            for (who, what, amount, jump) in steps {
                hours = (hours + jump * if daily { 1 } else { 30 }).max(0);
                let epoch = credits.epoch;
                let process = &mut processes[who];
                if what == 0 {
                    // It is stopped, and gives back what it holds.
                    let owner = CreditOwner::Key(KeyId::random().unwrap());
                    let (amount, epoch) = (process.held, process.epoch);
                    credits.put_back(&Unspent { owner, amount, epoch });
                    process.held = 0;
                } else {
                    // A clock that is ahead of all clocks before it reaches boundaries.
                    let want = CreditWant {
                        spent: amount * 5,
                        held: process.held,
                        epoch: process.epoch,
                        ..want(&[], amount)
                    };
                    let now = at(hours);
                    let grant = credits.draw(&want, now);
                    latest = latest.max(hours);
                    while boundary <= at(latest) {
                        boundary = schedule.next_after(boundary).unwrap();
                        refills += 1;
                        granted += to;
                    }
                    if process.epoch != grant.epoch {
                        process.held = 0;
                        process.epoch = grant.epoch;
                    }
                    process.held += grant.amount;
                    if credits.epoch != epoch {
                        spent_in_period = 0;
                    }
                    let spent = amount.min(process.held);
                    process.held -= spent;
                    process.spent += u64::from(spent);
                    spent_in_period += u64::from(spent);
                }
                let valid = processes.iter().filter(|one| one.epoch == credits.epoch);
                let held: u64 = valid.map(|one| u64::from(one.held)).sum();
                let spent: u64 = processes.iter().map(|one| one.spent).sum();
                if rolls_over {
                    prop_assert_eq!(credits.left + held + spent, granted);
                } else {
                    let of_period = if credits.epoch == 0 { first } else { to };
                    prop_assert_eq!(credits.left + held + spent_in_period, of_period);
                    prop_assert!(u64::from(credits.epoch) <= refills);
                }
                prop_assert_eq!(credits.refill.as_ref().unwrap().at, boundary);
            }
        }
    }

    #[test]
    fn a_balance_above_the_cap_stays_as_it_is() {
        let at = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
        let daily = RefillSchedule::daily("UTC").unwrap();
        let credits = Credits::new(90).refill(Refill::every(daily, 40).roll_over(100));
        let credits = credits.at(at(100));
        assert_eq!(credits.clone().at(at(101)).left, 100);
        let bought = Credits {
            left: 300,
            ..credits
        };
        assert_eq!(bought.at(at(103)).left, 300);
    }

    #[test]
    fn a_schedule_that_ends_refills_once_more() {
        let year = RefillSchedule::yearly("UTC").unwrap();
        let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_370_764_800); // 9999-01-01
        let credits = Credits::new(1)
            .refill(Refill::every(year, 7))
            .at(last - Duration::from_secs(1));
        assert_eq!(credits.refill.as_ref().unwrap().at, last);
        let after = credits.at(last);
        assert_eq!((after.left, after.refill), (7, None));
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
