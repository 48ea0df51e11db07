//! Decides which origins a key may be given.

use crate::environment::Environment;
use crate::error::{ParseError, ParseErrorKind};
use crate::origin::OriginPolicy;

/// Origins that are allowed in a list only if the caller opts in by name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OriginExceptions {
    /// Allow `http://` in a live key.
    pub(crate) http: bool,
    /// Allow wildcards over a public suffix.
    pub(crate) public_suffixes: bool,
}

impl OriginExceptions {
    /// Checks that no newly added origin is forbidden.
    ///
    /// Origins that the key already has may stay: they are in force whatever is decided here, and
    /// otherwise a list could not be shortened.
    pub(crate) fn check(
        self,
        origins: &OriginPolicy,
        environment: Environment,
        before: &OriginPolicy,
    ) -> Result<(), ParseError> {
        for (entry, pattern) in origins.patterns().enumerate() {
            let kind = if before.patterns().any(|kept| kept == pattern) {
                continue;
            } else if !self.http && environment == Environment::LIVE && is_http(pattern) {
                ParseErrorKind::Http
            } else if !self.public_suffixes && is_over_public_suffix(pattern) {
                ParseErrorKind::PublicSuffix
            } else {
                continue;
            };
            return Err(ParseError::new("origin pattern", kind).at(entry));
        }
        Ok(())
    }
}

/// Returns whether pages of this origin are transmitted unencrypted.
///
/// An attacker on the network could inject a script into them.
///
/// Apps built with Tauri have this origin on Windows and Android. Their content is in the app
/// itself and does not cross the network.
fn is_http(pattern: &str) -> bool {
    pattern.starts_with("http://") && pattern != "http://tauri.localhost"
}

/// Returns whether the wildcard covers domains that anyone can register (publicsuffix.org).
///
/// A top-level domain that is not on the list counts too, as it may be newer than the list. All of
/// `localhost` is the visitor's own machine (RFC 6761 §6.3). Without the feature `psl` there is no
/// list, and every other domain counts as a public suffix.
fn is_over_public_suffix(pattern: &str) -> bool {
    let host = pattern.split_once("://*.").map(|(_, rest)| rest);
    let host = host.and_then(|rest| rest.split(':').next());
    let Some(host) = host.filter(|host| *host != "localhost") else {
        return false;
    };
    is_public_suffix(host)
}

#[cfg(feature = "psl")]
fn is_public_suffix(host: &str) -> bool {
    // Under a rule such as `*.kawasaki.jp`, every domain directly below is a suffix.
    let below = format!("any-label.{host}");
    psl::suffix_str(host) == Some(host) || psl::suffix_str(&below) == Some(&below)
}

#[cfg(not(feature = "psl"))]
fn is_public_suffix(_: &str) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the entry that is refused in a key of this environment, and the reason.
    fn refused(
        environment: Environment,
        patterns: &[&str],
        exceptions: OriginExceptions,
    ) -> Option<(usize, ParseErrorKind)> {
        let origins = OriginPolicy::listed(patterns).unwrap();
        let checked = exceptions.check(&origins, environment, &OriginPolicy::Any);
        let error = checked.err()?;
        Some((error.entry().unwrap(), error.kind()))
    }

    #[cfg(not(feature = "psl"))]
    #[test]
    fn without_the_list_only_localhost_has_wildcards() {
        let check = |pattern, public_suffixes| {
            let exceptions = OriginExceptions {
                public_suffixes,
                ..OriginExceptions::default()
            };
            refused(Environment::TEST, &[pattern], exceptions).map(|(_, kind)| kind)
        };
        for wildcard in ["*.shop.com", "*.com", "*.me.github.io"] {
            let why = Some(ParseErrorKind::PublicSuffix);
            assert_eq!(check(wildcard, false), why, "{wildcard}");
            assert_eq!(check(wildcard, true), None, "{wildcard}");
        }
        for good in ["shop.com", "http://*.localhost:*"] {
            assert_eq!(check(good, false), None, "{good}");
        }
    }

    #[cfg(feature = "psl")]
    #[test]
    fn a_wildcard_needs_a_registrable_domain() {
        let refused = |patterns: &[&str]| {
            let no_exception = OriginExceptions::default();
            let refused = refused(Environment::LIVE, patterns, no_exception);
            // Test environments get no exception: anyone can publish pages there as well.
            let http: Vec<_> = patterns
                .iter()
                .map(|pattern| format!("http://{pattern}"))
                .collect();
            let http: Vec<_> = http.iter().map(String::as_str).collect();
            assert_eq!(
                refused,
                self::refused(Environment::TEST, &http, no_exception)
            );
            refused
        };
        for bad in [
            "*.com",
            "*.co.uk",
            "*.github.io",
            "*.GitHub.io:*",
            "*.com:8443",
            "*.s3.amazonaws.com",
            "*.kawasaki.jp",
            "*.ck",
            "*.рф",
            "*.公司.cn",
            "*.tld-newer-than-the-list",
        ] {
            let at = Some((1, ParseErrorKind::PublicSuffix));
            assert_eq!(refused(&["shop.example", bad]), at, "{bad}");
        }
        for good in [
            "*.shop.com",
            "*.shop.co.uk",
            "*.me.github.io",
            "*.city.kawasaki.jp",
            "github.io",
            "*.a.b.shop.com:*",
        ] {
            assert_eq!(refused(&[good]), None, "{good}");
        }
    }

    #[test]
    fn http_is_for_test_environments() {
        let staging = Environment::parse("staging").unwrap();
        for pattern in [
            "http://shop.example",
            "http://localhost:*",
            "http://*.localhost:*",
            "http://127.0.0.1:8080",
        ] {
            let no_exception = OriginExceptions::default();
            let refused = |environment| refused(environment, &[pattern], no_exception);
            let why = Some((0, ParseErrorKind::Http));
            assert_eq!(refused(Environment::LIVE), why, "{pattern}");
            assert_eq!(refused(Environment::TEST), None, "{pattern}");
            assert_eq!(refused(staging), None, "{pattern}");
        }
    }

    #[test]
    fn origins_of_apps_may_be_in_live_keys() {
        let refused = |pattern| {
            let no_exception = OriginExceptions::default();
            refused(Environment::LIVE, &[pattern], no_exception).map(|(_, kind)| kind)
        };
        for app in [
            "capacitor://localhost",
            "tauri://localhost",
            "http://tauri.localhost",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        ] {
            assert_eq!(refused(app), None, "{app}");
        }
        for page in ["http://tauri.localhost:1420", "http://*.tauri.localhost"] {
            assert_eq!(refused(page), Some(ParseErrorKind::Http), "{page}");
        }
    }

    #[test]
    fn an_exception_applies_only_to_what_it_names() {
        let list = &["http://*.github.io"][..];
        let check = |http, public_suffixes| {
            let exceptions = OriginExceptions {
                http,
                public_suffixes,
            };
            refused(Environment::LIVE, list, exceptions).map(|(_, kind)| kind)
        };
        assert_eq!(check(false, true), Some(ParseErrorKind::Http));
        assert_eq!(check(true, false), Some(ParseErrorKind::PublicSuffix));
        assert_eq!(check(true, true), None);
    }

    #[test]
    fn origins_that_a_key_already_has_may_stay() {
        let before = OriginPolicy::listed(["*.com", "http://shop.example"]).unwrap();
        let check = |patterns: &[&str]| {
            let after = OriginPolicy::listed(patterns).unwrap();
            let exceptions = OriginExceptions::default();
            exceptions.check(&after, Environment::LIVE, &before).is_ok()
        };
        assert!(check(&["http://shop.example", "shop.example"]));
        assert!(!check(&["http://shop.example", "*.net"]));
    }
}
