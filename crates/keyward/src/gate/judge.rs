//! The checks of a proved key, in order.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::denial::DenialKind;
use crate::gate::prove::Presented;
use crate::gate::{Check, Gate, Requirement};
use crate::key::KeyKind;
use crate::origin::OriginPolicy;
use crate::origin::OriginRefusal;
use crate::replica::cached_key::CachedKey;
use crate::request::RequestHead;

/// The outcome of a check: continue or refuse.
pub(super) type CheckFlow = ControlFlow<DenialKind>;

/// A callback for the outcome of each check, which decides whether to continue.
pub(super) trait OnCheck: FnMut(Check, Result<(), DenialKind>) -> CheckFlow {}

impl<F: FnMut(Check, Result<(), DenialKind>) -> CheckFlow> OnCheck for F {}

/// Refuses at the first check that fails, unless failures are only reported.
pub(super) fn enforce<'a>(
    requirement: &'a Requirement,
    reported: &'a mut Option<DenialKind>,
) -> impl OnCheck + 'a {
    |check, outcome| match outcome {
        Ok(()) => CheckFlow::Continue(()),
        Err(kind) if requirement.is_report_only() && check.is_demanded() => {
            reported.get_or_insert(kind);
            CheckFlow::Continue(())
        }
        Err(kind) => CheckFlow::Break(kind),
    }
}

/// Checks the key itself: its state, its account and the environment in its text.
pub(super) fn judge_key(
    entry: &CachedKey,
    now: Duration,
    presented: &Presented<'_>,
    requirement: &Requirement,
    on_check: &mut impl OnCheck,
) -> CheckFlow {
    let own = requirement.is_for(&entry.account_state.account);
    on_check(Check::Account, own.or(DenialKind::ForeignAccount))?;
    on_check(Check::Alive, entry.dead(now).map_or(Ok(()), Err))?;
    let active = entry.account_state.is_active();
    on_check(Check::AccountActive, active.or(DenialKind::AccountInactive))?;
    let in_text = presented.environment;
    let agrees = in_text.is_none_or(|in_text| entry.account_state.environment.is(in_text));
    on_check(
        Check::KeyEnvironment,
        agrees.or(DenialKind::EnvironmentMismatch),
    )
}

impl Gate {
    /// Checks the use of the key: the route's requirements and the key's restrictions.
    pub(super) fn judge_use<R: RequestHead>(
        &self,
        entry: &CachedKey,
        location: usize,
        request: &R,
        requirement: &Requirement,
        on_check: &mut impl OnCheck,
    ) -> CheckFlow {
        let serves = requirement.serves(entry.account_state.environment);
        on_check(
            Check::Environment,
            serves.or(DenialKind::EnvironmentMismatch),
        )?;
        let place = self.inner.locations.get(location);
        let placed = place.is_some_and(|place| place.accepts() == entry.kind);
        let misplaced = match entry.kind {
            KeyKind::Secret => DenialKind::SecretExposed,
            KeyKind::Publishable => DenialKind::KindMisplaced,
        };
        on_check(Check::Place, placed.or(misplaced))?;
        let accepts = requirement.accepts(entry.kind);
        on_check(Check::Kind, accepts.or(DenialKind::KindNotAccepted))?;
        let access = entry.account_state.has_api_access();
        on_check(Check::Plan, access.or(DenialKind::NoApiAccess))?;
        let origins = &entry.grant.origins;
        let listed = match origins {
            OriginPolicy::Any => Ok(()),
            OriginPolicy::Listed(_) => origins.judge(request.values("origin")),
        };
        let listed = listed.map_err(|refusal| match refusal {
            OriginRefusal::Missing => DenialKind::OriginMissing,
            OriginRefusal::NotAllowed => DenialKind::OriginNotAllowed,
        });
        on_check(Check::Origin, listed)?;
        let met = requirement.is_met_by(&entry.grant.scopes, self.inner.scheme.catalog.as_ref());
        on_check(Check::Scopes, met.or(DenialKind::ScopeMissing))
    }
}

trait Or {
    /// Returns an error of this kind if the condition is false.
    fn or(self, kind: DenialKind) -> Result<(), DenialKind>;
}

impl Or for bool {
    fn or(self, kind: DenialKind) -> Result<(), DenialKind> {
        if self { Ok(()) } else { Err(kind) }
    }
}
