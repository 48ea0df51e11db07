//! Explains the outcome of each check, for tests and operators.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::denial::DenialKind;
use crate::gate::judge::{CheckFlow, judge_key};
use crate::gate::prove::Found;
use crate::gate::{Check, Gate, Requirement};
use crate::ids::KeyId;
use crate::key::Hint;
use crate::request::RequestHead;
use crate::request::client::client_address;

/// The outcome of each check of a request, returned by [`Gate::explain`]. It holds no secret.
#[derive(Clone, Debug)]
pub struct Explanation {
    key: Option<(KeyId, Hint)>,
    client: Option<IpAddr>,
    checks: Vec<(Check, Option<DenialKind>)>,
    is_report_only: bool,
}

impl Explanation {
    /// Returns the id of the key, if it is known.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.key.as_ref().map(|(id, _)| *id)
    }

    /// Returns the client's address, as the gate finds it; `None` if the adapter knows none.
    ///
    /// Behind a proxy that is not one of the [trusted
    /// proxies](crate::gate::GateBuilder::trusted_proxies), it is the address of the proxy.
    ///
    /// ```
    /// # use keyward::Requirement;
    /// # use keyward::testing::{TestRequest, World};
    /// # let world = World::new();
    /// # let gate = world.gate();
    /// let request = TestRequest::get().peer([192, 0, 2, 1]);
    /// let explained = gate.explain(&request, &Requirement::new());
    /// assert_eq!(explained.client_address(), Some([192, 0, 2, 1].into()));
    /// ```
    #[must_use]
    pub fn client_address(&self) -> Option<IpAddr> {
        self.client
    }

    /// Returns the checks made, in order, each with its reason for failure, if any.
    ///
    /// Without a key there is nothing else to check, so the list ends there.
    pub fn checks(&self) -> impl Iterator<Item = (Check, Option<DenialKind>)> {
        self.checks.iter().copied()
    }

    /// Returns the reason why the request would be refused: the first enforced check that fails.
    #[must_use]
    pub fn denial(&self) -> Option<DenialKind> {
        let enforced = |check: Check| !(self.is_report_only && check.is_demanded());
        let mut enforced = self.checks().filter(|(check, _)| enforced(*check));
        enforced.find_map(|(_, denial)| denial)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((id, hint)) = &self.key {
            writeln!(f, "{id} {hint}")?;
        }
        if let Some(client) = self.client {
            writeln!(f, "  from {client}")?;
        }
        for (check, denial) in self.checks() {
            let reported = self.is_report_only && check.is_demanded();
            match denial {
                None => writeln!(f, "  passes   {}", check.as_str())?,
                Some(kind) => {
                    let verdict = if reported { "reports" } else { "refuses" };
                    let (check, code) = (check.as_str(), kind.code().as_str());
                    writeln!(f, "  {verdict}  {check}: {} ({code})", kind.reason())?;
                }
            }
        }
        Ok(())
    }
}

impl Gate {
    /// Explains the outcome of each check, including those after the first failure.
    ///
    /// It has no side effects: it counts neither use nor failure, charges no limit or balance, and
    /// asks neither store nor limiter. For a strict gate (`max_staleness(0)`) and for credits it
    /// therefore reports the state in memory, and for limits that are counted elsewhere it reports
    /// nothing.
    ///
    /// ```
    /// use keyward::{Environment, Requirement};
    /// use keyward::denial::DenialKind;
    /// use keyward::gate::Check;
    /// # use keyward::{AccountId, NewKey};
    /// # use keyward::testing::{TestRequest, World};
    /// # let world = World::new();
    /// # let acme = AccountId::parse("acme")?;
    /// # let key = world.create(NewKey::new(acme, Environment::TEST, "test")).key.unwrap();
    /// # let (gate, request) = (world.gate(), TestRequest::get().key(key.expose_secret()));
    ///
    /// let explained = gate.explain(&request, &Requirement::new().scope("kyc")); // a test key
    /// assert_eq!(explained.denial(), Some(DenialKind::EnvironmentMismatch));
    /// let mut fails = explained.checks().filter_map(|(check, denial)| denial.map(|_| check));
    /// assert!(fails.by_ref().eq([Check::Environment, Check::Scopes]));
    /// let text = explained.to_string();
    /// assert!(text.contains("refuses  the scopes of the route: missing scope (insufficient_scope)"));
    /// assert!(!text.contains(key.expose_secret()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn explain<R: RequestHead>(&self, request: &R, requirement: &Requirement) -> Explanation {
        let mut explanation = Explanation {
            key: None,
            client: client_address(request, &self.inner.trusted_proxies),
            checks: Vec::new(),
            is_report_only: requirement.is_report_only(),
        };
        // The list ends where there is nothing more to check.
        let _: CheckFlow = self.explain_into(&mut explanation, request, requirement);
        explanation
    }

    fn explain_into<R: RequestHead>(
        &self,
        explanation: &mut Explanation,
        request: &R,
        requirement: &Requirement,
    ) -> CheckFlow {
        let Explanation { key, checks, .. } = explanation;
        let mut on_check = |check, outcome: Result<(), DenialKind>| {
            checks.push((check, outcome.err()));
            CheckFlow::Continue(())
        };
        let presented = match self.present(request, requirement) {
            Ok(Some(presented)) => presented,
            Ok(None) => return on_check(Check::Credential, Ok(())),
            Err(kind) if kind.is_of_form() => {
                on_check(Check::Credential, Ok(()))?;
                return on_check(Check::Form, Err(kind));
            }
            Err(kind) => return on_check(Check::Credential, Err(kind)),
        };
        on_check(Check::Credential, Ok(()))?;
        on_check(Check::Form, Ok(()))?;
        if let Some(throttle) = &self.inner.throttle {
            let admitted = throttle
                .admit(request, &self.inner.trusted_proxies)
                .map(drop);
            on_check(Check::Throttle, admitted.map_err(|(kind, _)| kind))?;
        }
        let strict = self.inner.max_staleness.is_zero();
        let max_staleness = if strict {
            Duration::MAX
        } else {
            self.inner.max_staleness
        };
        let fresh = match self.look(&presented, max_staleness) {
            Err(DenialKind::Unavailable) => Err(DenialKind::Unavailable),
            _ => Ok(()),
        };
        on_check(Check::Freshness, fresh)?;
        let found = self.look(&presented, Duration::MAX);
        let (entry, now) = match found {
            Ok(Found { entry, now, .. }) => (entry, now),
            Err(kind) => return on_check(Check::Known, Err(kind)),
        };
        on_check(Check::Known, Ok(()))?;
        *key = Some((entry.id, entry.hint()));
        judge_key(&entry, now.unix(), &presented, requirement, &mut on_check)?;
        self.judge_use(
            &entry,
            presented.location,
            request,
            requirement,
            &mut on_check,
        )?;
        self.explain_charge(&entry, requirement, now.boot(), &mut on_check)
    }
}
