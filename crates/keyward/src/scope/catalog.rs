//! The scope catalog of a service.

use crate::error::{ParseError, ParseErrorKind};
use crate::key::KeyKind;
use crate::scope::{Permission, Scope, Scopes};

/// The scopes of a service, and which of them imply others.
///
/// A route that requires a scope missing from the catalog fails when the layer is built, instead of
/// refusing every request with 403.
///
/// ```
/// use keyward::{ScopeCatalog, Scopes};
/// use keyward::scope::Scope;
///
/// let catalog = ScopeCatalog::new(["verifyage", "kyc"])?.implying("hybrid", ["verifyage", "kyc"])?;
/// let held = Scopes::parse(["hybrid"])?;
/// assert!(catalog.allows(&held, &Scope::parse("kyc")?));
/// assert!(!catalog.allows(&Scopes::parse(["kyc"])?, &Scope::parse("hybrid")?));
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ScopeCatalog {
    known: Vec<Scope>,
    /// The scopes that each scope implies, transitively.
    implied: Vec<(Scope, Vec<Scope>)>,
    secret_only: Vec<Scope>,
    one_per_key: bool,
}

impl ScopeCatalog {
    /// Creates a catalog of scopes that imply nothing.
    ///
    /// The management scopes, such as `api_keys.read`, can be granted to keys only if they are
    /// listed too. They do not count towards [`one_per_key`](Self::one_per_key).
    ///
    /// ```
    /// use keyward::{KeyKind, Permission, ScopeCatalog, Scopes};
    ///
    /// let manager = Scopes::parse(["kyc", "api_keys.read"])?;
    /// assert!(!ScopeCatalog::new(["kyc"])?.permits(&manager, KeyKind::Secret));
    ///
    /// let managing = [Permission::Read, Permission::Revoke].map(Permission::as_str);
    /// let catalog = ScopeCatalog::new(["kyc"].into_iter().chain(managing))?;
    /// assert!(catalog.permits(&manager, KeyKind::Secret));
    /// assert!(!catalog.permits(&Scopes::parse(["api_keys.*"])?, KeyKind::Secret)); // includes unlisted scopes
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if an entry is not a scope, or if it begins with `api_keys.` or `webhooks.`
    /// but names no [`Permission`].
    pub fn new<I>(scopes: I) -> Result<Self, ParseError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let mut catalog = Self::default();
        for scope in scopes {
            catalog.learn(Scope::parse(scope.as_ref())?)?;
        }
        Ok(catalog)
    }

    /// Adds a scope that implies others, and everything that those imply.
    ///
    /// # Errors
    /// Returns an error if an entry is not a [valid scope](Self::new), if an implied scope is not
    /// in the catalog yet, or if `scope` already is. Each scope is defined once and from the bottom
    /// up, so that the implications are transitive.
    pub fn implying<I>(mut self, scope: &str, implied: I) -> Result<Self, ParseError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let mut all = Vec::new();
        for scope in implied {
            let scope = Scope::parse(scope.as_ref())?;
            if !self.knows(&scope) {
                return Err(ParseError::new("scope", ParseErrorKind::Unknown));
            }
            all.extend(self.implied_by(&scope).cloned());
            all.push(scope);
        }
        let scope = Scope::parse(scope)?;
        if self.knows(&scope) {
            return Err(ParseError::new("scope", ParseErrorKind::Repeated));
        }
        self.learn(scope.clone())?;
        self.implied.push((scope, all));
        Ok(self)
    }

    /// Requires that a new key has exactly one scope.
    #[must_use]
    pub fn one_per_key(mut self) -> Self {
        self.one_per_key = true;
        self
    }

    /// Restricts this scope to secret keys. Applies to new keys.
    ///
    /// # Errors
    /// Returns an error if the scope is not in the catalog.
    pub fn secret_only(mut self, scope: &str) -> Result<Self, ParseError> {
        let scope = Scope::parse(scope)?;
        if !self.knows(&scope) {
            return Err(ParseError::new("scope", ParseErrorKind::Unknown));
        }
        self.secret_only.push(scope);
        Ok(self)
    }

    /// Returns whether a new key of this kind may have these grants.
    ///
    /// ```
    /// use keyward::{KeyKind, ScopeCatalog, Scopes};
    ///
    /// let catalog = ScopeCatalog::new(["verifyage", "kyc"])?.one_per_key().secret_only("kyc")?;
    /// assert!(catalog.permits(&Scopes::parse(["kyc"])?, KeyKind::Secret));
    /// assert!(!catalog.permits(&Scopes::parse(["kyc"])?, KeyKind::Publishable));
    /// assert!(!catalog.permits(&Scopes::parse(["kyc", "verifyage"])?, KeyKind::Secret));
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    #[must_use]
    pub fn permits(&self, grants: &Scopes, kind: KeyKind) -> bool {
        let exact = |grant: &str| self.known.iter().any(|scope| scope.as_str() == grant);
        let wild = |grant: &str| {
            let set = Scopes::parse([grant]).unwrap_or_default();
            grant.ends_with('*') && self.known.iter().any(|scope| set.allow(scope))
        };
        let (managing, products): (Vec<_>, Vec<_>) = grants
            .iter()
            .partition(|grant| Permission::is_reserved(grant));
        // Every permission that a wildcard covers has to be listed.
        let mut permissions = Permission::given_by(grants);
        let mut secret = self.secret_only.iter();
        managing.iter().all(|grant| Permission::is_known(grant))
            && permissions.all(|given| exact(given.as_str()))
            && products
                .iter()
                .all(|grant| exact(grant) || !self.one_per_key && wild(grant))
            && (!self.one_per_key
                || products.len() == 1
                || products.is_empty() && !managing.is_empty())
            && (kind == KeyKind::Secret || !secret.any(|scope| grants.allow(scope)))
    }

    /// Returns whether `held` covers all of `others`, directly or by implication.
    #[must_use]
    pub fn covers(&self, held: &Scopes, others: &Scopes) -> bool {
        let mut others = others.iter();
        others.all(|grant| {
            let implied = |scope| self.allows(held, &scope);
            held.covers_grant(grant) || Scope::parse(grant).is_ok_and(implied)
        })
    }

    /// Returns whether the catalog contains the scope.
    #[must_use]
    pub fn knows(&self, scope: &Scope) -> bool {
        self.known.contains(scope)
    }

    /// Returns whether `held` covers a scope, directly or by implication.
    #[must_use]
    pub fn allows(&self, held: &Scopes, scope: &Scope) -> bool {
        held.allow(scope)
            || self
                .implied
                .iter()
                .any(|(by, implied)| implied.contains(scope) && held.allow(by))
    }

    fn implied_by(&self, scope: &Scope) -> impl Iterator<Item = &Scope> {
        let all = self.implied.iter().filter(move |(by, _)| by == scope);
        all.flat_map(|(_, implied)| implied)
    }

    fn learn(&mut self, scope: Scope) -> Result<(), ParseError> {
        if Permission::is_reserved(scope.as_str()) && !Permission::is_known(scope.as_str()) {
            return Err(ParseError::new("scope", ParseErrorKind::Unknown));
        }
        if !self.knows(&scope) {
            self.known.push(scope);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_implies_across_steps() {
        let catalog = ScopeCatalog::new(["read"])
            .unwrap()
            .implying("write", ["read"])
            .unwrap()
            .implying("admin", ["write"])
            .unwrap();
        let admin = Scopes::parse(["admin"]).unwrap();
        assert!(catalog.allows(&admin, &Scope::parse("read").unwrap()));
        assert!(!catalog.allows(&Scopes::none(), &Scope::parse("read").unwrap()));
        assert!(catalog.clone().implying("all", ["nothing"]).is_err());
        assert!(catalog.implying("write", ["admin"]).is_err());
    }

    #[test]
    fn a_catalog_restricts_the_grants_of_new_keys() {
        let catalog = ScopeCatalog::new(["kyc", "age"])
            .unwrap()
            .implying("hybrid", ["kyc", "age"])
            .unwrap()
            .secret_only("hybrid")
            .unwrap();
        let permits = |catalog: &ScopeCatalog, grants: &[&str], kind| {
            catalog.permits(&Scopes::parse(grants).unwrap(), kind)
        };
        assert!(permits(&catalog, &["kyc", "age"], KeyKind::Publishable));
        assert!(permits(&catalog, &["hybrid"], KeyKind::Secret));
        assert!(!permits(&catalog, &["hybrid"], KeyKind::Publishable));
        assert!(!permits(&catalog, &["unknown"], KeyKind::Secret));
        assert!(!permits(&catalog, &["other.*"], KeyKind::Secret));
        let one = catalog.one_per_key();
        assert!(permits(&one, &["kyc"], KeyKind::Secret));
        for grants in [&[][..], &["kyc", "age"]] {
            assert!(!permits(&one, grants, KeyKind::Secret));
        }
        let covers = |held: &[&str], others: &[&str]| {
            one.covers(
                &Scopes::parse(held).unwrap(),
                &Scopes::parse(others).unwrap(),
            )
        };
        assert!(covers(&["hybrid"], &["kyc", "age"]));
        assert!(!covers(&["kyc"], &["hybrid"]));
    }

    #[test]
    fn a_wildcard_is_permitted_unless_a_key_has_one_scope() {
        let catalog = ScopeCatalog::new(["kyc.read", "kyc.write"]).unwrap();
        let wild = Scopes::parse(["kyc.*"]).unwrap();
        assert!(catalog.permits(&wild, KeyKind::Secret));
        assert!(!catalog.one_per_key().permits(&wild, KeyKind::Secret));
    }
}
