//! Charges a request against rate limits and credits.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::denial::DenialKind;
use crate::environment::Environment;
use crate::gate::judge::{CheckFlow, OnCheck};
use crate::gate::refund::{PaidCredits, RefundFlag};
use crate::gate::{Check, Gate, Principal, Requirement};
use crate::key::KeyKind;
use crate::limit::bucket::nanos;
use crate::limit::quota::{CreditQuota, headers};
use crate::limit::{Charge, LimitFuture, LimitOutcome, Limiter, Quota, RateLimits, ResetUnit};
use crate::log_limit::Unlogged;
use crate::replica::cached_key::CachedKey;
use crate::replica::credit_cache::{Amount, CreditCache, NotSpent, Spent};
use crate::replica::freshness::Moment;
use crate::reply::ResponseHead;

/// The cost of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// The number of requests it counts for in rate limits.
    cost: u32,
    credits: u32,
}

impl Cost {
    /// Returns the cost for the first layer.
    pub(crate) fn first(requirement: &Requirement) -> Self {
        Self {
            cost: requirement.own_cost().unwrap_or(1),
            credits: requirement.own_credits().unwrap_or(1),
        }
    }

    /// Returns what an inner layer costs beyond what was already paid.
    pub(crate) fn beyond(self, requirement: &Requirement) -> Self {
        let more = |asked: Option<u32>, paid| asked.unwrap_or(0).saturating_sub(paid);
        Self {
            cost: more(requirement.own_cost(), self.cost),
            credits: more(requirement.own_credits(), self.credits),
        }
    }

    pub(crate) fn is_nothing(self) -> bool {
        self.cost == 0 && self.credits == 0
    }

    pub(crate) fn and(self, more: Self) -> Self {
        Self {
            cost: self.cost.saturating_add(more.cost),
            credits: self.credits.saturating_add(more.credits),
        }
    }
}

/// The charges of a request, to be refunded if it is refused after all.
#[derive(Debug)]
pub(crate) struct Charged {
    quota: Option<Quota>,
    charge: Option<Charge>,
    limiter: Option<Arc<dyn Limiter>>,
    credits: Option<PaidCredits>,
    /// True if the client may learn the balance.
    tells_credits: bool,
    refunds_from: u16,
    /// The time of the charge, in nanoseconds since the Unix epoch.
    at: u64,
    legacy: Option<ResetUnit>,
}

impl Charged {
    /// Refunds everything.
    pub(crate) fn give_back(&mut self) {
        if let Some(credits) = &mut self.credits {
            credits.give_back();
        }
        if let Some(charge) = self.charge.take() {
            match &self.limiter {
                Some(limiter) => limiter.give_back(charge),
                None => charge.give_back_here(),
            }
        }
    }

    /// Adds the quota to the response, or refunds a request refused further inside.
    pub(crate) fn settle<R: ResponseHead>(&mut self, response: &mut R) {
        if response.is_denied() {
            return self.give_back();
        }
        if let Some(credits) = &mut self.credits {
            credits.settle(response.status() >= self.refunds_from);
        }
        let at = Duration::from_nanos(self.at);
        let credits = self.credits.as_ref().filter(|_| self.tells_credits);
        let credits = credits.and_then(|credits| credits.credit_cache().quota(at));
        // An inner layer that charged more has already added them.
        if (self.quota.is_some() || credits.is_some()) && !response.has("ratelimit") {
            for (name, value) in headers(self.quota, credits, self.legacy, at) {
                response.append(name, value.into());
            }
        }
    }

    /// Shows the quota in the principal, and lets its handler refund the credits.
    pub(crate) fn share_with(&mut self, principal: &mut Principal) {
        self.quota = self.quota.or(principal.quota);
        principal.quota = self.quota;
        match (&mut self.credits, &mut principal.refund) {
            (Some(credits), refund) => {
                credits.refunded_by(refund.get_or_insert_with(RefundFlag::new));
            }
            // An outer layer has charged some, and this one adds the headers for it.
            (None, Some(_)) => {
                let credit_cache = budget_of(&principal.entry).and_then(|(_, cache)| cache);
                let nothing = credit_cache.map(Spent::nothing);
                self.credits = nothing.map(PaidCredits::new);
            }
            (None, None) => {}
        }
    }
}

/// The reason why a request cannot pay.
#[derive(Debug)]
pub(crate) struct Insufficient {
    pub(crate) kind: DenialKind,
    pub(crate) quota: Option<Quota>,
    pub(crate) credits: Option<CreditQuota>,
    /// The seconds until the credits are refilled.
    pub(crate) refill_in: Option<u64>,
}

impl From<DenialKind> for Insufficient {
    fn from(kind: DenialKind) -> Self {
        Self {
            kind,
            quota: None,
            credits: None,
            refill_in: None,
        }
    }
}

/// The charges; `None` if there is nothing to pay.
pub(crate) type Paid = Result<Option<Charged>, Insufficient>;

/// The outcome of a charge: known now, or after asking the store or a limiter.
pub(crate) enum Charging {
    Ready(Paid),
    Pending(Pin<Box<dyn Future<Output = Paid> + Send>>),
}

impl Gate {
    /// Returns whether a key has neither limits nor credits, as most have.
    pub(crate) fn never_charges(&self, entry: &CachedKey) -> bool {
        entry.grant.rate_limits.is_empty()
            && entry.own_credits().is_none()
            && !entry.account_state.has_plan()
            && self.inner.rate_limits.is_empty()
            && self.inner.rate_ceilings.is_empty()
    }

    /// Charges the whole cost, or nothing.
    pub(crate) fn charge(&self, entry: &Arc<CachedKey>, cost: Cost, now: Moment) -> Charging {
        let charge = match self.charge_of(entry, cost.cost) {
            Ok(Some(charge)) => charge,
            Ok(None) => return self.spend(entry, cost.credits, now, None),
            Err(kind) => return Charging::Ready(Err(kind.into())),
        };
        let taking = match &self.inner.limiter {
            Some(limiter) => limiter.take(charge, now.boot()),
            None => LimitFuture::Ready(charge.take_here(now.boot())),
        };
        match taking {
            LimitFuture::Ready(taken) => match self.charged(entry, now).with(taken) {
                Ok(charged) => self.spend(entry, cost.credits, now, Some(charged)),
                Err(short) => Charging::Ready(Err(short)),
            },
            LimitFuture::Pending(taken) => {
                let (gate, entry) = (self.clone(), Arc::clone(entry));
                Charging::Pending(Box::pin(async move {
                    match taken.await {
                        Ok(taken) => {
                            let charged = gate.charged(&entry, now).with(taken)?;
                            let spent = gate.spend(&entry, cost.credits, now, Some(charged));
                            spent.known().await
                        }
                        Err(error) => {
                            let (error, kind): (&dyn std::error::Error, _) =
                                (&error, DenialKind::LimitUnavailable);
                            // While a server is down, every request fails.
                            if let Some(Unlogged(unlogged)) = gate.inner.log.admit(kind, now.boot())
                            {
                                tracing::error!(error, unlogged, "a rate limit cannot be checked");
                            }
                            Err(kind.into())
                        }
                    }
                }))
            }
        }
    }

    /// Creates empty charges.
    fn charged(&self, entry: &CachedKey, now: Moment) -> Charged {
        Charged {
            quota: None,
            charge: None,
            limiter: self.inner.limiter.clone(),
            credits: None,
            // Every visitor of a page has its publishable key.
            tells_credits: entry.kind == KeyKind::Secret,
            refunds_from: self.inner.refunds_from,
            at: nanos(now.unix()),
            legacy: self.inner.legacy_fields,
        }
    }

    /// Spends credits, if there is a balance. If it is used up, other charges are refunded.
    fn spend(
        &self,
        entry: &CachedKey,
        amount: u32,
        now: Moment,
        charged: Option<Charged>,
    ) -> Charging {
        let Some((epoch, credit_cache)) = budget_of(entry).filter(|_| amount > 0) else {
            return Charging::Ready(Ok(charged));
        };
        let charged = charged.unwrap_or_else(|| self.charged(entry, now));
        let Some(credit_cache) = credit_cache else {
            return Charging::Ready(charged.and(Err(NotSpent::Ask), None));
        };
        let replica = &self.inner.replica;
        match credit_cache.spend(amount, epoch, replica) {
            Err(NotSpent::Ask) => {
                let own = Arc::clone(&credit_cache);
                let fetched = own.fetch(Amount::All(amount), epoch, replica.clone());
                Charging::Pending(Box::pin(async move {
                    charged.and(fetched.await, Some(&credit_cache))
                }))
            }
            spent => Charging::Ready(charged.and(spent, Some(&credit_cache))),
        }
    }

    /// Checks limits and credits as far as memory knows, without charging.
    pub(super) fn explain_charge(
        &self,
        entry: &CachedKey,
        requirement: &Requirement,
        now: Duration,
        on_check: &mut impl OnCheck,
    ) -> CheckFlow {
        let cost = Cost::first(requirement);
        match self.charge_of(entry, cost.cost) {
            Err(kind) => on_check(Check::RateLimit, Err(kind))?,
            Ok(Some(charge)) if self.inner.limiter.is_none() => {
                let refused = charge.refusal(now).map(|_| DenialKind::RateLimited);
                on_check(Check::RateLimit, refused.map_or(Ok(()), Err))?;
            }
            Ok(_) => {}
        }
        match budget_of(entry).filter(|_| cost.credits > 0) {
            None => CheckFlow::Continue(()),
            Some((epoch, credit_cache)) => {
                let replica = &self.inner.replica;
                let empty = credit_cache.is_some_and(|credit_cache| {
                    credit_cache.would_refuse(cost.credits, epoch, replica)
                });
                let exhausted = empty.then_some(DenialKind::CreditsExhausted);
                on_check(Check::Credits, exhausted.map_or(Ok(()), Err))
            }
        }
    }

    /// Returns the buckets that a request is charged to, if there are any.
    fn charge_of(&self, entry: &CachedKey, cost: u32) -> Result<Option<Charge>, DenialKind> {
        if cost == 0 {
            return Ok(None);
        }
        let environment = entry.account_state.environment;
        let plan = entry.account_state.plan();
        let plan = plan.as_deref();
        // The key's own limits, else those of its account's plan, else those of the service.
        let own = [
            Some(&entry.grant.rate_limits),
            plan.map(|plan| &plan.rate_limits),
        ];
        let own = own.into_iter().flatten().find(|limits| !limits.is_empty());
        let own = own.or_else(|| of(&self.inner.rate_limits, environment));
        let ceiling = of(&self.inner.rate_ceilings, environment);
        let shared = plan.map_or(&[][..], |plan| &plan.shared);
        if own.is_none() && ceiling.is_none() && shared.is_empty() {
            return Ok(None);
        }
        let limits = own.into_iter().chain(ceiling).flat_map(RateLimits::iter);
        let replica = &self.inner.replica;
        let key_buckets = replica
            .usage_counter(entry)
            .map(|usage_counter| usage_counter.key_buckets(entry.id, replica.clock()));
        let account = &entry.account_state.account;
        let own = limits.filter_map(|limit| Some(key_buckets?.bucket(limit, account, environment)));
        let mut charge: Option<Charge> = None;
        for bucket in own.chain(shared.iter().cloned()) {
            if bucket.limit().max_burst() < cost {
                return Err(DenialKind::CostTooHigh);
            }
            match &mut charge {
                Some(charge) => charge.add(bucket),
                None => charge = Some(Charge::new(cost, bucket)),
            }
        }
        Ok(charge)
    }
}

impl Charged {
    fn with(self, taken: LimitOutcome) -> Result<Self, Insufficient> {
        match taken {
            LimitOutcome::All(charge, quota) => Ok(Self {
                charge: Some(charge),
                quota: Some(quota),
                ..self
            }),
            LimitOutcome::Nothing(quota) => Err(Insufficient {
                quota: Some(quota),
                ..DenialKind::RateLimited.into()
            }),
        }
    }

    fn and(mut self, spent: Result<Spent, NotSpent>, credits: Option<&CreditCache>) -> Paid {
        let short = match spent {
            Ok(spent) => {
                self.credits = Some(PaidCredits::new(spent));
                return Ok(Some(self));
            }
            Err(NotSpent::Exhausted) => {
                let at = Duration::from_nanos(self.at);
                let told = credits.filter(|_| self.tells_credits);
                Insufficient {
                    credits: told.and_then(|credits| credits.quota(at)),
                    refill_in: credits.and_then(|credits| credits.refill_in(at)),
                    ..DenialKind::CreditsExhausted.into()
                }
            }
            Err(NotSpent::Ask) => DenialKind::LimitUnavailable.into(),
        };
        self.give_back();
        Err(short)
    }
}

/// Returns the credits that a live key spends: its own balance, or its account's.
pub(crate) fn budget_of(entry: &CachedKey) -> Option<(u32, Option<Arc<CreditCache>>)> {
    if entry.account_state.environment != Environment::LIVE {
        return None;
    }
    if let Some(epoch) = entry.own_credits() {
        // If there is a balance but no credit cache, nothing can be spent.
        let credit_cache = entry
            .usage_counter()
            .and_then(|usage_counter| usage_counter.credit_cache());
        return Some((epoch, credit_cache.cloned()));
    }
    let plan = entry.account_state.plan();
    let budget = plan.as_ref()?.budget.as_ref()?;
    Some((budget.epoch, Some(Arc::clone(&budget.credit_cache))))
}

/// Returns the limits of an environment.
fn of(all: &[(Environment, RateLimits)], environment: Environment) -> Option<&RateLimits> {
    let found = all.iter().find(|(of, _)| *of == environment);
    found.map(|(_, limits)| limits)
}

impl Charging {
    async fn known(self) -> Paid {
        match self {
            Self::Ready(paid) => paid,
            Self::Pending(paid) => paid.await,
        }
    }
}

impl fmt::Debug for Charging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(paid) => f.debug_tuple("Ready").field(paid).finish(),
            Self::Pending(_) => f.write_str("Pending(..)"),
        }
    }
}
