//! The checks of a proved key, in order.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::address::{AddressList, AddressPolicy, contain};
use crate::denial::DenialKind;
use crate::gate::prove::Presented;
use crate::gate::{Check, Gate, Requirement};
use crate::key::KeyKind;
use crate::origin::OriginPolicy;
use crate::origin::OriginRefusal;
use crate::replica::cached_key::CachedKey;
use crate::request::RequestHead;
use crate::request::client::{FORWARDED_FOR, client_address};

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
        let listed = match &entry.grant.addresses {
            AddressPolicy::Any => Ok(()),
            AddressPolicy::Listed(list) => self.judge_address(list, request),
        };
        on_check(Check::Address, listed)?;
        let met = requirement.is_met_by(&entry.grant.scopes, self.inner.scheme.catalog.as_ref());
        on_check(Check::Scopes, met.or(DenialKind::ScopeMissing))
    }

    /// Checks the client's address. Apart from the other checks, as most keys have no such list.
    #[inline(never)]
    fn judge_address<R: RequestHead>(
        &self,
        list: &AddressList,
        request: &R,
    ) -> Result<(), DenialKind> {
        let trusted = &self.inner.trusted_proxies;
        let Some(address) = client_address(request, trusted) else {
            return Err(DenialKind::AddressUnknown);
        };
        // The client is the peer, but a header says that the peer is a proxy.
        if request.values(FORWARDED_FOR).next().is_some()
            && request.peer().is_some_and(|peer| !contain(trusted, peer))
            && !self.inner.warned_of_proxy.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                peer.address = %address,
                "a peer that is not a trusted proxy sends X-Forwarded-For: if it is a proxy of the service, name it in GateBuilder::trusted_proxies, because key allowlists apply to its address"
            );
        }
        list.contains(address).or(DenialKind::AddressNotAllowed)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gate::tests::{World, principal, reason};
    use crate::gate::{Decision, Verdict};
    use crate::testing::decided;

    const NOT_ALLOWED: Result<(), DenialKind> = Err(DenialKind::AddressNotAllowed);

    /// Returns a world whose key is allowed from these addresses.
    fn listed(addresses: &[&str]) -> World {
        let mut world = World::new();
        world.record.addresses = AddressPolicy::listed(addresses).unwrap();
        world.feed();
        world
    }

    /// A peer, an `X-Forwarded-For`, and the answer to the request.
    type Row<'a> = (&'a str, Option<&'a str>, Result<(), DenialKind>);

    const ROWS: [Row<'_>; 11] = [
        ("203.0.113.7", None, Ok(())),
        ("203.0.113.8", None, NOT_ALLOWED),
        ("::ffff:203.0.113.7", None, Ok(())),
        ("2001:db8::ffff:1", None, Ok(())),
        // In the same /64, which the limiter of failures takes for one client.
        ("2001:db8::ffff:2", None, NOT_ALLOWED),
        ("203.0.113.7", Some("192.0.2.1"), Ok(())),
        ("192.0.2.1", Some("203.0.113.7"), NOT_ALLOWED),
        ("10.0.0.1", Some("203.0.113.7"), Ok(())),
        ("10.0.0.1", Some("203.0.113.7, 192.0.2.1"), NOT_ALLOWED),
        ("10.0.0.1", Some("192.0.2.1, 203.0.113.7, 10.0.0.2"), Ok(())),
        ("10.0.0.1", None, NOT_ALLOWED),
    ];

    #[test]
    fn a_key_is_used_only_from_its_addresses() {
        let mut world = listed(&["203.0.113.7", "2001:db8::ffff:1"]);
        let builder = world.builder().trusted_proxies(["10.0.0.0/8"]).unwrap();
        let gate = builder.build().unwrap();
        let key = world.fields.remove(0);
        for (peer, forwarded, answer) in ROWS {
            world.peer = Some(peer.parse().unwrap());
            let line = forwarded.map(|line| (FORWARDED_FOR, line.into()));
            world.fields = [key.clone()].into_iter().chain(line).collect();
            assert_eq!(reason(world.verdict(&gate)), answer, "{peer} {forwarded:?}");
        }
        world.peer = None;
        let unknown = Err(DenialKind::AddressUnknown);
        assert_eq!(reason(world.verdict(&gate)), unknown);
        world.record.addresses = AddressPolicy::Any;
        world.feed();
        assert_eq!(reason(world.verdict(&gate)), Ok(()));
    }

    #[test]
    fn a_request_that_waits_is_judged_by_its_address() {
        let mut world = listed(&["203.0.113.7", "2001:db8::ffff:1"]);
        world.replica.on_demand(|_| true);
        let builder = world.builder().trusted_proxies(["10.0.0.0/8"]).unwrap();
        let gate = builder.max_staleness(Duration::ZERO).build().unwrap();
        let key = world.fields.remove(0);
        for (peer, forwarded, answer) in ROWS {
            world.peer = Some(peer.parse().unwrap());
            let line = forwarded.map(|line| (FORWARDED_FOR, line.into()));
            world.fields = [key.clone()].into_iter().chain(line).collect();
            world.clock.advance(Duration::from_millis(1));
            let pending = world.check(&gate, None);
            assert!(matches!(pending, Decision::Pending(_)));
            world.feed();
            assert_eq!(reason(decided(pending)), answer, "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn an_inner_layer_checks_the_address_too() {
        let mut world = listed(&["203.0.113.7"]);
        world.peer = Some([203, 0, 113, 7].into());
        let gate = world.builder().build().unwrap();
        let outer = principal(world.verdict(&gate));
        world.record.addresses = AddressPolicy::listed(["192.0.2.1"]).unwrap();
        world.feed();
        // The principal holds the entry of the key as it was when it passed.
        assert_eq!(reason(decided(world.check(&gate, Some(&outer)))), Ok(()));
        world.peer = Some([203, 0, 113, 8].into());
        assert_eq!(
            reason(decided(world.check(&gate, Some(&outer)))),
            NOT_ALLOWED
        );
    }

    #[test]
    fn a_refusal_tells_the_address_that_was_found_and_an_explanation_too() {
        let mut world = listed(&["203.0.113.7"]);
        let builder = world.builder().trusted_proxies(["10.0.0.0/8"]).unwrap();
        let gate = builder.build().unwrap();
        world.peer = Some([10, 0, 0, 1].into());
        world
            .fields
            .push((FORWARDED_FOR, b"::ffff:192.0.2.9".into()));
        let client = Some([192, 0, 2, 9].into());
        let Verdict::Refuse(refusal) = world.verdict(&gate) else {
            panic!()
        };
        assert_eq!(refusal.denial.unwrap().client_address(), client);
        let explained = gate.explain(&world, &world.requirement);
        assert_eq!(explained.client_address(), client);
        let told = explained.to_string();
        assert!(told.contains("  from 192.0.2.9\n"), "{told}");
        let told_check =
            "refuses  the addresses of the key: address not on the allowlist (address_not_allowed)";
        assert!(told.contains(told_check), "{told}");
        world.requirement = Requirement::new().scope("kyc");
        world.fields.pop();
        world.peer = Some([203, 0, 113, 7].into());
        let Verdict::Refuse(refusal) = world.verdict(&gate) else {
            panic!()
        };
        let denial = refusal.denial.unwrap();
        assert_eq!(
            (denial.kind(), denial.client_address()),
            (DenialKind::ScopeMissing, None)
        );
    }
}
