//! Rules for the URLs of endpoints (SSRF protection).

use std::net::IpAddr;

use keyward::environment::Environment;
use keyward::error::{ParseError, ParseErrorKind};
use url::Host;

use crate::send::EndpointUrl;
use crate::send::address::is_public;

/// Rules for endpoints: by default, `https` for `live`, and only public addresses (SSRF
/// protection).
///
/// A customer who registers an endpoint makes the service send requests to a place of the
/// customer's choice. By default, none is sent to an address that is private, loopback, link-local
/// or otherwise reserved (the IANA special-purpose address registries, IPv4 and IPv6), nor to one
/// at which a cloud serves internal requests, such as Azure's 168.63.129.16. The URL is checked
/// when an endpoint is created and before each attempt, and every address that a name resolves to
/// is checked when a connection is made.
///
/// ```
/// use keyward::Environment;
/// use keyward::error::ParseErrorKind;
/// use keyward_webhooks::send::{EndpointRules, EndpointUrl};
///
/// let rules = EndpointRules::new();
/// let kind = |text: &str| {
///     let url = EndpointUrl::parse(text)?;
///     Ok::<_, keyward::error::ParseError>(rules.check(Environment::LIVE, &url).map_err(|error| error.kind()))
/// };
/// assert_eq!(kind("https://acme.example/hook")?, Ok(()));
/// assert_eq!(kind("http://acme.example/hook")?, Err(ParseErrorKind::Scheme));
/// assert_eq!(kind("https://169.254.169.254/")?, Err(ParseErrorKind::NotPublic));
/// assert_eq!(kind("https://168.63.129.16/")?, Err(ParseErrorKind::NotPublic));
/// assert_eq!(kind("https://2130706433/")?, Err(ParseErrorKind::NotPublic)); // 127.0.0.1
///
/// assert!(!rules.admits("acme.example", "10.0.0.7".parse()?)); // returned by a resolver
/// assert!(rules.insecure_private_host("acme.example").admits("acme.example", "10.0.0.7".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct EndpointRules {
    http_for_live: bool,
    private_hosts: Vec<String>,
}

impl EndpointRules {
    /// Creates the default rules: `https` for `live`, and no private address.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows plain `http` for live events.
    ///
    /// Insecure: an attacker on the network path can read and withhold them.
    pub fn insecure_http_for_live(mut self) -> Self {
        self.http_for_live = true;
        self
    }

    /// Allows any address for this host, a name or an IP address, including private ones.
    ///
    /// A customer who may register endpoints can then make the service call any server there.
    pub fn insecure_private_host(mut self, host: &str) -> Self {
        self.private_hosts.push(plain(host));
        self
    }

    /// Checks the URL of an endpoint of this environment, without resolving its host.
    ///
    /// # Errors
    /// Returns [`Scheme`](ParseErrorKind::Scheme) if it must be `https`,
    /// [`NotPublic`](ParseErrorKind::NotPublic) if the host is an IP address that is not public, or
    /// `localhost` or a subdomain of it.
    pub fn check(&self, environment: Environment, url: &EndpointUrl) -> Result<(), ParseError> {
        let error = |kind| Err(ParseError::new("endpoint URL", kind));
        if environment == Environment::LIVE && !url.is_https() && !self.http_for_live {
            return error(ParseErrorKind::Scheme);
        }
        let is_public = match url.parsed_host() {
            Some(Host::Ipv4(address)) => is_public(address.into()),
            Some(Host::Ipv6(address)) => is_public(address.into()),
            Some(Host::Domain(name)) => {
                let name = plain(name);
                name != "localhost" && !name.ends_with(".localhost")
            }
            None => false,
        };
        if is_public || self.is_named(url.host()) {
            Ok(())
        } else {
            error(ParseErrorKind::NotPublic)
        }
    }

    /// Returns whether a connection to this host may go to this address, for a resolver.
    #[must_use]
    pub fn admits(&self, host: &str, address: IpAddr) -> bool {
        is_public(address) || self.is_named(host)
    }

    fn is_named(&self, host: &str) -> bool {
        self.private_hosts.contains(&plain(host))
    }
}

/// Returns the host in a canonical form.
fn plain(host: &str) -> String {
    let host = host.strip_suffix('.').unwrap_or(host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(rules: &EndpointRules, environment: Environment, text: &str) -> Option<ParseErrorKind> {
        let url = EndpointUrl::parse(text).unwrap();
        let judged = rules.check(environment, &url);
        judged.err().map(|error| error.kind())
    }

    #[test]
    fn no_way_to_write_an_address_gets_past() {
        let rules = EndpointRules::new();
        for private in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://127.0.0.1:8443/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://0x7f.0.0.0x1/",
            "https://%31%32%37.0.0.1/",
            "https://１２７.0.0.1/",
            "https://127.0.0.1./",
            "https://0/",
            "https://10.1.2.3/",
            "https://100.64.0.1/",
            "https://169.254.169.254/latest/meta-data/",
            "https://172.16.0.1/",
            "https://192.168.1.1/",
            "https://192.0.2.1/",
            "https://224.0.0.1/",
            "https://255.255.255.255/",
            "https://[::1]/",
            "https://[::]/",
            "https://[0:0:0:0:0:0:0:1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[fe80::1]/",
            "https://[fd12:3456::1]/",
            "https://[2001:db8::1]/",
            "https://[ff02::1]/",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://ｌｏｃａｌｈｏｓｔ/",
            "https://db.localhost/",
            "https://a.b.localhost.:1/",
        ] {
            for environment in [Environment::LIVE, Environment::TEST] {
                let kind = kind(&rules, environment, private);
                assert_eq!(kind, Some(ParseErrorKind::NotPublic), "{private}");
            }
        }
        for public in [
            "https://1.1.1.1/",
            "https://[2606:4700:4700::1111]/",
            "https://acme.example/",
            "https://localhost.acme.example/",
            "https://notlocalhost/",
        ] {
            assert_eq!(kind(&rules, Environment::LIVE, public), None, "{public}");
        }
    }

    #[test]
    fn live_events_travel_over_https_only() {
        let (live, test) = (Environment::LIVE, Environment::TEST);
        let http = "http://acme.example/";
        let rules = EndpointRules::new();
        assert_eq!(kind(&rules, live, http), Some(ParseErrorKind::Scheme));
        assert_eq!(kind(&rules, test, http), None);
        assert_eq!(kind(&rules.insecure_http_for_live(), live, http), None);
    }

    #[test]
    fn a_weakening_goes_no_further_than_its_name() {
        let rules = EndpointRules::new()
            .insecure_private_host("127.0.0.1")
            .insecure_private_host("[::1]")
            .insecure_private_host("Hooks.Internal.");
        let live = Environment::LIVE;
        for named in [
            "https://127.1/",
            "https://[::1]:8443/",
            "https://hooks.internal/",
        ] {
            assert_eq!(kind(&rules, live, named), None, "{named}");
        }
        for other in [
            "https://127.0.0.2/",
            "https://[::ffff:127.0.0.1]/",
            "https://localhost/",
        ] {
            let kind = kind(&rules, live, other);
            assert_eq!(kind, Some(ParseErrorKind::NotPublic), "{other}");
        }
        let private = "10.0.0.1".parse().unwrap();
        assert!(rules.admits("hooks.internal", private));
        assert!(!rules.admits("hooks.internal.acme.example", private));
        assert!(!rules.admits("x.hooks.internal", private));
        assert!(rules.admits("other.example", "1.1.1.1".parse().unwrap()));
        let http = "http://127.0.0.1/";
        assert_eq!(kind(&rules, live, http), Some(ParseErrorKind::Scheme));
    }
}
