//! Credits that a handler charges or refunds.

use std::error::Error;
use std::fmt;

use crate::credits::CreditStatus;
use crate::denial::{DenialKind, ErrorCode};
use crate::gate::Principal;
use crate::gate::charging::budget_of;
use crate::gate::refund::RefundFlag;
use crate::replica::credit_cache::{Amount, NotSpent};

impl Principal {
    /// Returns what this process knows of the credits that the key spends, without I/O.
    ///
    /// The number is exact as of the last draw from the store; credits that other processes have
    /// spent since then are not subtracted. It is `None` if the key spends no credits, as a test key,
    /// and until this process has drawn some: on a route that costs none, that may be never.
    ///
    /// ```
    /// let caller = keyward::testing::principal("acme").credits(10).build();
    /// assert_eq!(caller.credits().map(|credits| credits.left), Some(10));
    /// ```
    #[must_use]
    pub fn credits(&self) -> Option<CreditStatus> {
        let (_, credit_cache) = budget_of(&self.entry)?;
        credit_cache?.status()
    }

    /// Refunds the credits of this request, because it turned out to cost nothing.
    ///
    /// They are given back when the response is returned, whatever its status, at every layer that
    /// the request has crossed. If the client disconnects before that, they are given back as well.
    /// A call after the response was returned has no effect, also while its body is still being sent;
    /// nor has a second call, or a call on a route that costs no credits.
    ///
    /// It gives back neither the rate limit, as it was a request, nor what
    /// [`charge`](Self::charge) took, and the request remains in the usage counts.
    ///
    /// ```
    /// use keyward::Principal;
    ///
    /// fn look_up(caller: &Principal, found: Option<&str>) -> u16 {
    ///     if found.is_none() {
    ///         caller.refund(); // a miss is free
    ///         return 404;
    ///     }
    ///     200
    /// }
    ///
    /// let caller = keyward::testing::principal("acme").credits(10).build();
    /// assert_eq!(look_up(&caller, None), 404);
    /// assert!(caller.is_refunded());
    /// ```
    pub fn refund(&self) {
        if let Some(flag) = &self.refund {
            flag.set();
        }
    }

    /// Returns whether [`refund`](Self::refund) was called, on this principal or a clone.
    ///
    /// It is `true` also after a call that came too late to have an effect.
    #[must_use]
    pub fn is_refunded(&self) -> bool {
        self.refund.as_ref().is_some_and(RefundFlag::is_set)
    }

    /// Charges credits in addition to those of the route, all of them or none.
    ///
    /// It works for as long as the principal is kept, also after the response. The balance never gets
    /// below zero, and no credit is spent twice, however many processes charge at once. Keys that are
    /// not limited by credits are not charged, and neither are test keys. What was charged is not
    /// given back by a refund.
    ///
    /// It waits only if this process has too few credits and has to draw some from the store. If the
    /// future is dropped before it is ready, nothing is charged. A charge that the balance does not
    /// cover draws nothing, so other requests can spend what is left.
    ///
    /// ```
    /// use keyward::denial::ErrorCode;
    ///
    /// # keyward::testing::block_on(async {
    /// let caller = keyward::testing::principal("acme").credits(10).build();
    /// assert!(caller.charge(7).await.is_ok());
    /// let error = caller.charge(7).await.unwrap_err();
    /// assert_eq!(error.code(), ErrorCode::CreditsExhausted);
    /// assert_eq!(error.code().status(), 429);
    /// assert_eq!(caller.charge_up_to(7).await, Ok(3));
    /// # });
    /// ```
    ///
    /// # Errors
    /// Returns [`CreditsExhausted`](DenialKind::CreditsExhausted) if fewer credits are left, and
    /// [`LimitUnavailable`](DenialKind::LimitUnavailable) if the store does not answer. Nothing is
    /// charged then.
    pub async fn charge(&self, credits: u32) -> Result<(), ChargeError> {
        self.charge_amount(Amount::All(credits)).await.map(drop)
    }

    /// Charges as many credits as are left, at most this number, and returns how many were paid.
    ///
    /// It is for a cost that is known only after the work was done. A key that is not charged, because
    /// it is a test key or not limited by credits, has paid all. Everything else is as with
    /// [`charge`](Self::charge).
    ///
    /// ```
    /// # keyward::testing::block_on(async {
    /// let caller = keyward::testing::principal("acme").credits(10).build();
    /// assert_eq!(caller.charge_up_to(7).await, Ok(7));
    /// assert_eq!(caller.charge_up_to(7).await, Ok(3));
    /// assert_eq!(caller.charge_up_to(7).await, Ok(0));
    /// # });
    /// ```
    ///
    /// # Errors
    /// Returns [`LimitUnavailable`](DenialKind::LimitUnavailable) if the store does not answer.
    /// Nothing is charged then.
    pub async fn charge_up_to(&self, credits: u32) -> Result<u32, ChargeError> {
        self.charge_amount(Amount::UpTo(credits)).await
    }

    async fn charge_amount(&self, amount: Amount) -> Result<u32, ChargeError> {
        let most = amount.most();
        let Some((epoch, credit_cache)) = budget_of(&self.entry).filter(|_| most > 0) else {
            return Ok(most);
        };
        let unavailable = ChargeError(DenialKind::LimitUnavailable);
        // Without its store, the process can draw nothing.
        let credit_cache = credit_cache.ok_or(unavailable)?;
        let replica = credit_cache.replica().ok_or(unavailable)?;
        match credit_cache.fetch(amount, epoch, replica).await {
            Ok(spent) => Ok(spent.amount()),
            Err(NotSpent::Exhausted) => Err(ChargeError(DenialKind::CreditsExhausted)),
            Err(NotSpent::Ask) => Err(unavailable),
        }
    }
}

/// The error of a [charge](Principal::charge) that was not paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChargeError(DenialKind);

impl ChargeError {
    /// Returns the reason.
    #[must_use]
    pub fn kind(&self) -> DenialKind {
        self.0
    }

    /// Returns the code of the reply that a gate would send, with its status and text.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.0.code()
    }
}

impl fmt::Display for ChargeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.reason())
    }
}

impl Error for ChargeError {}
