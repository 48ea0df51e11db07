//! What there is once for each environment.

use std::fmt;

use crate::environment::Environment;
use crate::gate::Principal;

/// One `T` for each environment, such as a database: who calls reaches its own and no other.
///
/// It is given out only for a [`Principal`], so that no handler can take the live one for a test key by
/// mistake. In an environment that none was given for there is none, and no other takes its place.
///
/// ```
/// use keyward::Environment;
/// use keyward::gate::PerEnvironment;
///
/// let urls = PerEnvironment::new("https://bank.example", "https://sandbox.bank.example")
///     .and(Environment::parse("staging")?, "https://sandbox.bank.example");
/// # use std::sync::Arc;
/// # use keyward::{AccountId, Gate, KeyFormat, KeyId, KeyScheme, Peppers, Principal, Requirement};
/// # use keyward::gate::{Access, Decision, Verdict};
/// # use keyward::record::{Account, KeyRecord};
/// # use keyward::replica::{Replica, Revision};
/// # use keyward::testing::TestRequest;
/// # let call = |environment: &str| -> Result<Principal, Box<dyn std::error::Error>> {
/// # let environment = Environment::parse(environment)?;
/// # let (replica, format) = (Replica::new(), KeyFormat::new("vhk_{env}_")?);
/// # let (key, acme) = (format.generate(environment)?, AccountId::parse("acme")?);
/// # let (digest, now) = (Peppers::none().digest(&key), std::time::SystemTime::now());
/// # let (id, hint) = (KeyId::random()?, key.hint().clone());
/// # let record = KeyRecord::new(id, digest, hint, acme.clone(), environment, now);
/// # let mut poll = replica.poll();
/// # poll.account(Account::new(acme));
/// # poll.key(&record);
/// # poll.finish(Revision { number: 1, nonce: 0 })?;
/// # let gate = Gate::builder_from_replica(&replica, &KeyScheme::new(format)).build()?;
/// # let any = Arc::new(Requirement::new().any_environment());
/// # let decision = gate.check(&TestRequest::get().key(key.expose_secret()), &any, None);
/// # let Decision::Ready(Verdict::Admit(admitted)) = decision else { panic!("{decision:?}") };
/// # let Some(Access::Principal(principal)) = admitted.access else { unreachable!() };
/// # Ok(principal) };
/// # let (tester, stager, other) = (call("test")?, call("staging")?, call("preview")?);
/// assert_eq!(urls.of(&tester), Some(&"https://sandbox.bank.example"));
/// assert_eq!(urls.of(&stager), Some(&"https://sandbox.bank.example"));
/// assert_eq!(urls.of(&other), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct PerEnvironment<T> {
    all: Vec<(Environment, T)>,
}

impl<T> PerEnvironment<T> {
    /// One for `live` and one for `test`, and none for any other.
    pub fn new(live: T, test: T) -> Self {
        let all = vec![(Environment::LIVE, live), (Environment::TEST, test)];
        Self { all }
    }

    /// Also one for this environment; the last that is given counts.
    pub fn and(mut self, environment: Environment, own: T) -> Self {
        self.all.retain(|(other, _)| *other != environment);
        self.all.push((environment, own));
        self
    }

    /// The one of who calls; `None` when there is none for that environment.
    #[must_use]
    pub fn of(&self, principal: &Principal) -> Option<&T> {
        let environment = principal.environment();
        let own = self.all.iter().find(|(other, _)| *other == environment);
        own.map(|(_, own)| own)
    }
}

impl<T> fmt::Debug for PerEnvironment<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let environments = self.all.iter().map(|(environment, _)| environment);
        f.debug_set().entries(environments).finish()
    }
}
