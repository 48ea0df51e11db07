//! What a key may do: scope tokens (RFC 6749 §3.3), what a key was granted, and a service's catalog.

use std::fmt;
use std::sync::Arc;

use crate::{ParseError, ParseErrorKind};

const MAX_LEN: usize = 128;
const MAX_GRANTS: usize = 100;

/// One permission that a route asks for.
///
/// A scope token of RFC 6749 §3.3, at most 128 bytes. Only a grant may end in `.*` or `:*`, a scope
/// never does.
///
/// ```
/// use keyward::Scope;
///
/// assert_eq!(Scope::parse("reports.read")?.as_str(), "reports.read");
/// assert!(Scope::parse("reports.*").is_err());
/// assert!(Scope::parse("two words").is_err());
/// # Ok::<(), keyward::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Arc<str>);

impl Scope {
    /// Parses one scope token.
    ///
    /// # Errors
    /// When it is empty, too long, holds a byte outside `%x21 / %x23-5B / %x5D-7E` or a `*`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        check_token(text)?;
        if text.contains('*') {
            return Err(ParseError::new("scope", ParseErrorKind::Wildcard));
        }
        Ok(Self(text.into()))
    }

    /// The token.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({})", self.as_str())
    }
}

/// What a key was granted: a set of scopes, some perhaps with a wildcard at the end.
///
/// `reports.*` grants every scope that begins with `reports.` and goes on; the same with `:`. It does
/// not grant `reports` itself. An empty set grants nothing.
///
/// ```
/// use keyward::{Scope, Scopes};
///
/// let held = Scopes::parse(["kyc", "reports.*"])?;
/// assert!(held.allow(&Scope::parse("kyc")?));
/// assert!(held.allow(&Scope::parse("reports.read")?));
/// assert!(!held.allow(&Scope::parse("reports")?));
/// assert!(!Scopes::none().allow(&Scope::parse("kyc")?));
/// # Ok::<(), keyward::ParseError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Scopes(Box<[Box<str>]>);

impl Scopes {
    /// The empty set: no access to any route that asks for a scope.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Parses a set of grants; order and repetition do not matter.
    ///
    /// # Errors
    /// When one is not a scope token, has a `*` anywhere but in a final `.*` or `:*`, or there are
    /// more than 100.
    pub fn parse<I>(grants: I) -> Result<Self, ParseError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let mut set = Vec::new();
        for grant in grants {
            let grant = grant.as_ref();
            check_token(grant)?;
            let stem = grant
                .strip_suffix('*')
                .filter(|stem| stem.len() > 1 && stem.ends_with(['.', ':']))
                .unwrap_or(grant);
            if stem.contains('*') {
                return Err(ParseError::new("scope", ParseErrorKind::Wildcard));
            }
            set.push(grant.into());
        }
        set.sort_unstable();
        set.dedup();
        if set.len() > MAX_GRANTS {
            return Err(ParseError::new("scopes", ParseErrorKind::TooMany));
        }
        Ok(Self(set.into()))
    }

    /// Whether one of the grants covers the scope.
    #[must_use]
    pub fn allow(&self, scope: &Scope) -> bool {
        let wanted = scope.as_str();
        self.0.iter().any(|grant| match grant.strip_suffix('*') {
            Some(stem) => wanted.len() > stem.len() && wanted.starts_with(stem),
            None => **grant == *wanted,
        })
    }

    /// The grants in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// Whether nothing is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The scopes a service has, and which of them imply others.
///
/// With a catalog, a route that asks for a scope the catalog does not know is a mistake that shows
/// when the layer is built, not a 403 for everyone.
///
/// ```
/// use keyward::{Scope, ScopeCatalog, Scopes};
///
/// let catalog = ScopeCatalog::new(["verifyage", "kyc"])?.implying("hybrid", ["verifyage", "kyc"])?;
/// let held = Scopes::parse(["hybrid"])?;
/// assert!(catalog.allows(&held, &Scope::parse("kyc")?));
/// assert!(!catalog.allows(&Scopes::parse(["kyc"])?, &Scope::parse("hybrid")?));
/// # Ok::<(), keyward::ParseError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ScopeCatalog {
    known: Vec<Scope>,
    /// What each of the first implies, transitively.
    implied: Vec<(Scope, Vec<Scope>)>,
}

impl ScopeCatalog {
    /// A catalog of scopes that imply nothing.
    ///
    /// # Errors
    /// When one is not a scope.
    pub fn new<I>(scopes: I) -> Result<Self, ParseError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let mut catalog = Self::default();
        for scope in scopes {
            catalog.learn(Scope::parse(scope.as_ref())?);
        }
        Ok(catalog)
    }

    /// Adds a scope that stands for others, and for what those imply.
    ///
    /// # Errors
    /// When one is not a scope, or an implied one is not in the catalog yet.
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
        self.learn(scope.clone());
        self.implied.push((scope, all));
        Ok(self)
    }

    /// Whether the scope is in the catalog.
    #[must_use]
    pub fn knows(&self, scope: &Scope) -> bool {
        self.known.contains(scope)
    }

    /// Whether grants cover a scope, directly or by implication.
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

    fn learn(&mut self, scope: Scope) {
        if !self.knows(&scope) {
            self.known.push(scope);
        }
    }
}

fn check_token(text: &str) -> Result<(), ParseError> {
    let kind = if text.is_empty() {
        ParseErrorKind::Empty
    } else if text.len() > MAX_LEN {
        ParseErrorKind::TooLong
    } else if !text
        .bytes()
        .all(|byte| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E))
    {
        ParseErrorKind::Character
    } else {
        return Ok(());
    };
    Err(ParseError::new("scope", kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_scope_token() {
        for bad in [
            "", " ", "a b", "a\"b", "a\\b", "ä", "a\n", "*", "a*", "a.*", "a:*",
        ] {
            assert!(Scope::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Scope::parse(&"x".repeat(128)).is_ok());
        assert!(Scope::parse(&"x".repeat(129)).is_err());
    }

    #[test]
    fn takes_a_wildcard_only_as_a_whole_last_part() {
        for bad in ["*", ".*", ":*", "a*", "a.*.b", "a.**", "*.a", "a.*b"] {
            assert!(Scopes::parse([bad]).is_err(), "{bad:?}");
        }
        assert!(Scopes::parse(["a.*", "a.b:*"]).is_ok());
    }

    #[test]
    fn a_wildcard_covers_what_goes_on_after_its_stem() {
        let held = Scopes::parse(["reports.*", "kyc:*"]).unwrap();
        for yes in ["reports.read", "reports.a.b", "kyc:submit"] {
            assert!(held.allow(&Scope::parse(yes).unwrap()), "{yes}");
        }
        for no in [
            "reports",
            "reports.",
            "reportsx",
            "reports:read",
            "kyc",
            "kyc_plus",
        ] {
            assert!(!held.allow(&Scope::parse(no).unwrap()), "{no}");
        }
    }

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
        assert!(catalog.implying("all", ["nothing"]).is_err());
    }

    #[test]
    fn bounds_the_number_of_grants() {
        let many = (0..101).map(|n| format!("s{n}"));
        assert_eq!(
            Scopes::parse(many).unwrap_err().kind(),
            ParseErrorKind::TooMany
        );
    }
}
