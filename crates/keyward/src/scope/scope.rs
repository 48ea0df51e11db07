//! Scopes (RFC 6749 §3.3), and sets of scopes granted to keys.

use std::fmt;
use std::sync::Arc;

use crate::error::{ParseError, ParseErrorKind};

const MAX_LEN: usize = 128;
const MAX_GRANTS: usize = 100;

/// A scope that a route requires.
///
/// It is a scope token of RFC 6749 §3.3 with at most 128 bytes. It has no wildcard; only grants may
/// end in `.*` or `:*`.
///
/// ```
/// use keyward::scope::Scope;
///
/// assert_eq!(Scope::parse("reports.read")?.as_str(), "reports.read");
/// assert!(Scope::parse("reports.*").is_err());
/// assert!(Scope::parse("two words").is_err());
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Arc<str>);

impl Scope {
    /// Parses a scope token.
    ///
    /// # Errors
    /// Returns an error if the text is empty, longer than 128 bytes, or contains a `*` or a byte
    /// outside `%x21 / %x23-5B / %x5D-7E`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        check_token(text)?;
        if text.contains('*') {
            return Err(ParseError::new("scope", ParseErrorKind::Wildcard));
        }
        Ok(Self(text.into()))
    }

    /// Returns the token.
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

/// A set of scopes granted to a key, possibly with wildcards.
///
/// `reports.*` grants every scope that begins with `reports.` and continues after it; `reports:*`
/// does the same for `reports:`. It does not grant `reports` itself. An empty set grants nothing.
///
/// ```
/// use keyward::Scopes;
/// use keyward::scope::Scope;
///
/// let held = Scopes::parse(["kyc", "reports.*"])?;
/// assert!(held.allow(&Scope::parse("kyc")?));
/// assert!(held.allow(&Scope::parse("reports.read")?));
/// assert!(!held.allow(&Scope::parse("reports")?));
/// assert!(!Scopes::none().allow(&Scope::parse("kyc")?));
/// # Ok::<(), keyward::error::ParseError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Scopes(Box<[Box<str>]>);

impl Scopes {
    /// Returns the empty set, which gives no access to routes that require a scope.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Parses a set of grants. Order and repetition do not matter.
    ///
    /// # Errors
    /// Returns an error if an entry is not a scope token or contains a `*` anywhere but in a final
    /// `.*` or `:*`, or if there are more than 100 entries. [`ParseError::entry`] tells which entry
    /// is invalid.
    ///
    /// ```
    /// let error = keyward::Scopes::parse(["kyc", "age check"]).unwrap_err();
    /// assert_eq!(error.entry(), Some(1));
    /// let text = "invalid scope at index 1: contains a character that is not allowed";
    /// assert_eq!(error.to_string(), text);
    /// ```
    pub fn parse<I>(grants: I) -> Result<Self, ParseError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let mut set = Vec::new();
        for (entry, grant) in grants.into_iter().enumerate() {
            let grant = grant.as_ref();
            check_token(grant).map_err(|error| error.at(entry))?;
            let stem = grant
                .strip_suffix('*')
                .filter(|stem| stem.len() > 1 && stem.ends_with(['.', ':']))
                .unwrap_or(grant);
            if stem.contains('*') {
                return Err(ParseError::new("scope", ParseErrorKind::Wildcard).at(entry));
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

    /// Returns whether one of the grants covers the scope.
    #[must_use]
    pub fn allow(&self, scope: &Scope) -> bool {
        self.covers_grant(scope.as_str())
    }

    /// Returns whether this set covers every grant of `other`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|wanted| self.covers_grant(wanted))
    }

    pub(crate) fn covers_grant(&self, wanted: &str) -> bool {
        self.0.iter().any(|grant| match grant.strip_suffix('*') {
            Some(stem) => {
                **grant == *wanted || wanted.len() > stem.len() && wanted.starts_with(stem)
            }
            None => **grant == *wanted,
        })
    }

    /// Returns the grants in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// Returns whether nothing is granted.
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
    fn refuses_malformed_scope_tokens() {
        for bad in [
            "", " ", "a b", "a\"b", "a\\b", "ä", "a\n", "*", "a*", "a.*", "a:*",
        ] {
            assert!(Scope::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Scope::parse(&"x".repeat(128)).is_ok());
        assert!(Scope::parse(&"x".repeat(129)).is_err());
    }

    #[test]
    fn accepts_a_wildcard_only_as_a_whole_last_part() {
        for bad in ["*", ".*", ":*", "a*", "a.*.b", "a.**", "*.a", "a.*b"] {
            assert!(Scopes::parse([bad]).is_err(), "{bad:?}");
        }
        assert!(Scopes::parse(["a.*", "a.b:*"]).is_ok());
    }

    #[test]
    fn a_wildcard_covers_scopes_that_continue_after_its_stem() {
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
    fn covers_a_set_when_every_grant_is_within_one_of_its_own() {
        let held = Scopes::parse(["a.*", "b"]).unwrap();
        for (others, covered) in [
            (&["b"][..], true),
            (&["a.x", "b"], true),
            (&["a.*"], true),
            (&["a.x.*"], true),
            (&[], true),
            (&["a"], false),
            (&["b.x"], false),
            (&["b.*"], false),
            (&["b", "c"], false),
        ] {
            assert_eq!(
                held.covers(&Scopes::parse(others).unwrap()),
                covered,
                "{others:?}"
            );
        }
    }

    #[test]
    fn only_a_set_without_grants_is_empty() {
        assert!(Scopes::none().is_empty());
        assert!(!Scopes::parse(["kyc"]).unwrap().is_empty());
    }

    #[test]
    fn bounds_the_number_of_grants() {
        let many = |count| Scopes::parse((0..count).map(|n| format!("s{n}")));
        assert_eq!(many(100).unwrap().iter().count(), 100);
        assert_eq!(many(101).unwrap_err().kind(), ParseErrorKind::TooMany);
        let repeated = Scopes::parse((0..101).map(|_| "s"));
        assert_eq!(repeated.unwrap().iter().count(), 1);
    }
}
