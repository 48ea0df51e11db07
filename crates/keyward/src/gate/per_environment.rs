//! A resource for each environment.

use std::fmt;

use crate::environment::Environment;
use crate::gate::Principal;

/// A resource for each environment, such as a database, selected by the caller's key.
///
/// It is accessible only with a [`Principal`], so that no handler can use the live one for a test
/// key by mistake. An environment without a resource of its own has none: no other takes its place.
///
/// ```
/// use keyward::Environment;
/// use keyward::gate::PerEnvironment;
/// # use keyward::testing::principal;
///
/// let urls = PerEnvironment::new("https://bank.example", "https://sandbox.bank.example")
///     .and(Environment::parse("staging")?, "https://sandbox.bank.example");
///
/// let calling = |environment| principal("acme").environment(environment).build();
/// let (tester, other) = (calling(Environment::TEST), calling(Environment::parse("preview")?));
/// let stager = calling(Environment::parse("staging")?);
/// assert_eq!(urls.of(&tester), Some(&"https://sandbox.bank.example"));
/// assert_eq!(urls.of(&stager), Some(&"https://sandbox.bank.example"));
/// assert_eq!(urls.of(&other), None);
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct PerEnvironment<T> {
    all: Vec<(Environment, T)>,
}

impl<T> PerEnvironment<T> {
    /// Creates a set with a resource for `live` and one for `test`.
    pub fn new(live: T, test: T) -> Self {
        let all = vec![(Environment::LIVE, live), (Environment::TEST, test)];
        Self { all }
    }

    /// Adds one for this environment, replacing a previous one.
    pub fn and(mut self, environment: Environment, own: T) -> Self {
        self.all.retain(|(other, _)| *other != environment);
        self.all.push((environment, own));
        self
    }

    /// Returns the resource of the caller's environment; `None` if it has none.
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
