//! Rate limit headers.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use crate::limit::bucket::nanos;
use crate::limit::{Bucket, BucketOwner, RateLimit};

/// The standard rate limit headers.
pub(crate) const HEADERS: [&str; 2] = ["ratelimit", "ratelimit-policy"];

/// The older headers, sent in addition if the gate is configured to.
pub(crate) const LEGACY_HEADERS: [&str; 3] = [
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
];

/// The remaining quota of the most restrictive rate limit of a request.
///
/// It is sent to the client in the headers of [draft-ietf-httpapi-ratelimit-headers-10]. The quota
/// `q` is the burst, and the window `w` is the number of seconds in which an empty bucket refills.
/// The headers for a limit of 100 per minute with bursts of 200:
///
/// ```text
/// RateLimit-Policy: "minute";q=200;w=120
/// RateLimit: "minute";r=12
/// ```
///
/// The parameter `t` is added when nothing remains: the seconds until a request passes again.
///
/// ```text
/// HTTP/1.1 429 Too Many Requests
/// cache-control: no-store
/// content-type: application/problem+json
/// retry-after: 1
/// ratelimit-policy: "minute";q=200;w=120
/// ratelimit: "minute";r=0;t=1
///
/// {"type":"about:blank","title":"Too Many Requests","status":429,"detail":"The API key has used up its rate limit. Wait as long as Retry-After says.","code":"rate_limited"}
/// ```
///
/// The policy is named after the period of the limit, with the prefix `account-` if all keys of the
/// account share it. The policies `"credits"` and `"credits-soft"` are those of a quota by the
/// calendar, which is described in [`Credits`](crate::credits::Credits).
///
/// [draft-ietf-httpapi-ratelimit-headers-10]: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/10/
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    limit: RateLimit,
    is_shared: bool,
    remaining: u32,
    /// In nanoseconds to stay small: every request with a limit carries a quota.
    wait: u64,
    full_in: u64,
}

impl Quota {
    /// Creates the quota of a bucket, for a limiter that counts elsewhere.
    ///
    /// `wait` is the time until the request could pass, or zero if it did. `full_in` is the time
    /// until the bucket is full.
    #[must_use]
    pub fn new(bucket: &Bucket, remaining: u32, wait: Duration, full_in: Duration) -> Self {
        Self {
            limit: bucket.limit(),
            is_shared: matches!(bucket.owner(), BucketOwner::Account(..)),
            remaining,
            wait: nanos(wait),
            full_in: nanos(full_in),
        }
    }

    /// Returns the rate limit.
    #[must_use]
    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Returns the cost that could pass at once now.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.remaining
    }

    /// Returns how long a refused request has to wait; zero if it passed.
    #[must_use]
    pub fn wait(&self) -> Duration {
        Duration::from_nanos(self.wait)
    }

    /// Returns the more restrictive quota: by the wait, then by what remains.
    pub(crate) fn tighter(self, other: Self) -> Self {
        if (other.wait, self.remaining) > (self.wait, other.remaining) {
            other
        } else {
            self
        }
    }

    /// Returns the policy's name: a string of RFC 9651 §3.3.3, with its quotes.
    fn policy_name(&self) -> Cow<'static, str> {
        let name = match (self.is_shared, self.limit.seconds()) {
            (false, 1) => r#""second""#,
            (false, 60) => r#""minute""#,
            (false, 3600) => r#""hour""#,
            (false, 86_400) => r#""day""#,
            (true, 1) => r#""account-second""#,
            (true, 60) => r#""account-minute""#,
            (true, 3600) => r#""account-hour""#,
            (true, 86_400) => r#""account-day""#,
            (false, other) => return format!("\"{other}-seconds\"").into(),
            (true, other) => return format!("\"account-{other}-seconds\"").into(),
        };
        name.into()
    }

    /// Returns the headers that describe the quota.
    ///
    /// `now` is the time since the Unix epoch.
    fn headers(
        &self,
        legacy: Option<ResetUnit>,
        now: Duration,
    ) -> impl Iterator<Item = (&'static str, String)> + use<> {
        // Concatenated by hand because every request with a limit gets these headers.
        let name = self.policy_name();
        let depth = Duration::from_nanos(self.limit.depth_nanos());
        let full_in = Duration::from_nanos(self.full_in);
        let (quota, window) = (self.limit.max_burst(), seconds(depth));
        let (mut a, mut b) = (itoa::Buffer::new(), itoa::Buffer::new());
        let left = if self.remaining == 0 {
            let one_less = depth.saturating_sub(self.limit.interval());
            let next = seconds(full_in.saturating_sub(one_less));
            [&*name, ";r=0;t=", a.format(next)].concat()
        } else {
            [&*name, ";r=", a.format(self.remaining)].concat()
        };
        let policy = [&*name, ";q=", a.format(quota), ";w=", b.format(window)].concat();
        let standard = [("ratelimit-policy", policy), ("ratelimit", left)];
        let legacy = legacy.map(|unit| {
            let reset = match unit {
                ResetUnit::Seconds => seconds(full_in),
                ResetUnit::UnixTime => seconds(now.saturating_add(full_in)),
            };
            [
                ("x-ratelimit-limit", quota.to_string()),
                ("x-ratelimit-remaining", self.remaining.to_string()),
                ("x-ratelimit-reset", reset.to_string()),
            ]
        });
        standard.into_iter().chain(legacy.into_iter().flatten())
    }
}

/// The state of a quota of credits by the calendar, for the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CreditQuota {
    /// The credits of a period, and its length in seconds.
    pub(crate) credits: u64,
    pub(crate) window: u64,
    pub(crate) left: u64,
    /// The soft limit; zero if there is none.
    pub(crate) warn_below: u64,
    /// The seconds until the next period.
    pub(crate) reset: u64,
}

impl CreditQuota {
    /// Appends the quota to the value of a header.
    fn add_to(&self, header: &str, value: &mut String) {
        let soft = |credits: u64| credits.saturating_sub(self.warn_below);
        let policies = [
            (r#""credits""#, self.credits, self.left),
            (r#""credits-soft""#, soft(self.credits), soft(self.left)),
        ]
        .into_iter()
        .take(1 + usize::from(self.warn_below > 0));
        let [quota, window] = if header == "ratelimit" {
            [";r=", ";t="]
        } else {
            [";q=", ";w="]
        };
        for (name, credits, left) in policies {
            let (number, seconds) = match header {
                "ratelimit" => (left, self.reset),
                _ => (credits, self.window),
            };
            let comma = if value.is_empty() { "" } else { ", " };
            let number = number.min(MOST);
            _ = write!(value, "{comma}{name}{quota}{number}{window}{seconds}");
        }
    }
}

/// The largest integer of a header (RFC 9651 §3.3.1).
const MOST: u64 = 999_999_999_999_999;

/// Returns the headers that describe a rate limit and a quota of credits.
///
/// `now` is the time since the Unix epoch.
pub(crate) fn headers(
    limit: Option<Quota>,
    credits: Option<CreditQuota>,
    legacy: Option<ResetUnit>,
    now: Duration,
) -> impl Iterator<Item = (&'static str, String)> {
    let alone = limit.is_none() && credits.is_some();
    let empty = alone.then(|| ["ratelimit-policy", "ratelimit"].map(|name| (name, String::new())));
    let limit = limit.map(|limit| limit.headers(legacy, now));
    let all = limit.into_iter().flatten();
    let all = all.chain(empty.into_iter().flatten());
    all.map(move |(name, mut value)| {
        if let Some(credits) = credits.filter(|_| HEADERS.contains(&name)) {
            credits.add_to(name, &mut value);
        }
        (name, value)
    })
}

/// The unit of the `X-RateLimit-Reset` header.
///
/// The older headers are not standardised, and services differ in the unit. See
/// [`GateBuilder::legacy_rate_limit_headers`](crate::gate::GateBuilder::legacy_rate_limit_headers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetUnit {
    /// Seconds from now.
    Seconds,
    /// Seconds since the Unix epoch.
    UnixTime,
}

/// Rounds up to whole seconds.
pub(crate) fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sfv::{BareItem, FieldType, List, ListEntry, Parser};

    use super::*;
    use crate::clock::ManualClock;
    use crate::environment::Environment;
    use crate::ids::{AccountId, KeyId};

    fn quota(limit: &str, shared: bool, remaining: u32, full_in: Duration) -> Quota {
        let owner = if shared {
            BucketOwner::Account(AccountId::parse("acme").unwrap(), Environment::LIVE)
        } else {
            let acme = AccountId::parse("acme").unwrap();
            BucketOwner::Key(acme, Environment::LIVE, KeyId::random().unwrap())
        };
        let clock = Arc::new(ManualClock::at(Duration::ZERO));
        let bucket = Bucket::new(owner, RateLimit::parse(limit).unwrap(), clock);
        Quota::new(&bucket, remaining, Duration::ZERO, full_in)
    }

    fn shown(quota: Quota, legacy: Option<ResetUnit>) -> Vec<String> {
        let headers = quota.headers(legacy, Duration::from_secs(1_700_000_000));
        let line = |(name, value): (_, _)| format!("{name}: {value}");
        headers.map(line).collect()
    }

    #[test]
    fn headers_contain_the_remaining_quota_and_the_reset_time() {
        let some = quota("100/60;200", false, 12, Duration::from_millis(112_800));
        assert_eq!(
            shown(some, None),
            [
                r#"ratelimit-policy: "minute";q=200;w=120"#,
                r#"ratelimit: "minute";r=12"#,
            ]
        );
        let none = quota("1/86400;1", true, 0, Duration::from_millis(3_600_001));
        assert_eq!(
            shown(none, Some(ResetUnit::Seconds)),
            [
                r#"ratelimit-policy: "account-day";q=1;w=86400"#,
                r#"ratelimit: "account-day";r=0;t=3601"#,
                "x-ratelimit-limit: 1",
                "x-ratelimit-remaining: 0",
                "x-ratelimit-reset: 3601",
            ]
        );
        let odd = quota("3/7;3", false, 3, Duration::ZERO);
        assert_eq!(
            shown(odd, Some(ResetUnit::UnixTime)),
            [
                r#"ratelimit-policy: "7-seconds";q=3;w=8"#,
                r#"ratelimit: "7-seconds";r=3"#,
                "x-ratelimit-limit: 3",
                "x-ratelimit-remaining: 3",
                "x-ratelimit-reset: 1700000000",
            ]
        );
    }

    #[test]
    fn another_parser_reads_a_limit_and_a_quota_as_two_members_or_three() {
        let limit = quota("100/60;200", false, 12, Duration::from_secs(1));
        let credits = CreditQuota {
            credits: 12_000,
            window: 2_678_400,
            left: u64::MAX,
            warn_below: 0,
            reset: 5,
        };
        let soft = CreditQuota {
            left: 1_999,
            warn_below: 2_000,
            ..credits
        };
        for (limit, credits, names) in [
            (None, credits, &["credits"][..]),
            (Some(limit), credits, &["minute", "credits"]),
            (None, soft, &["credits", "credits-soft"]),
            (Some(limit), soft, &["minute", "credits", "credits-soft"]),
        ] {
            let headers = headers(limit, Some(credits), None, Duration::ZERO);
            for (_, value) in headers {
                let list: List = Parser::new(&value).parse().unwrap();
                let name = |entry: &ListEntry| match entry {
                    ListEntry::Item(item) => item.bare_item.as_string().unwrap().to_string(),
                    ListEntry::InnerList(_) => panic!("{value}"),
                };
                assert_eq!(list.iter().map(name).collect::<Vec<_>>(), names);
                assert_eq!(list.serialize().as_deref(), Some(&*value));
            }
        }
        let value = |credits| -> Vec<_> {
            let headers = headers(None, Some(credits), None, Duration::ZERO);
            headers.map(|(_, value)| value).collect()
        };
        assert_eq!(
            value(soft),
            [
                r#""credits";q=12000;w=2678400, "credits-soft";q=10000;w=2678400"#,
                r#""credits";r=1999;t=5, "credits-soft";r=0;t=5"#,
            ]
        );
        // The largest integer that there is.
        assert_eq!(value(credits)[1], r#""credits";r=999999999999999;t=5"#);
        assert_eq!(headers(None, None, None, Duration::ZERO).count(), 0);
    }

    #[test]
    fn another_parser_reads_the_headers_as_structured_fields() {
        for (limit, remaining) in [
            ("1/1;1", 0),
            ("1000000/1;5", 4),
            ("3/7;3", 0),
            ("9/3600;9", 9),
        ] {
            for shared in [false, true] {
                let quota = quota(limit, shared, remaining, Duration::from_millis(1));
                let headers: Vec<_> = quota.headers(None, Duration::ZERO).collect();
                let names = [("ratelimit-policy", ["q", "w"]), ("ratelimit", ["r", "t"])];
                for ((name, value), (expected, keys)) in headers.iter().zip(names) {
                    assert_eq!(*name, expected);
                    let list: List = Parser::new(value).parse().unwrap();
                    let [ListEntry::Item(item)] = &list[..] else {
                        panic!("{value}")
                    };
                    assert!(matches!(item.bare_item, BareItem::String(_)), "{value}");
                    for (key, parameter) in &item.params {
                        assert!(keys.contains(&key.as_str()), "{value}");
                        assert!(matches!(parameter, BareItem::Integer(_)), "{value}");
                    }
                    let has_both = remaining == 0 || expected == "ratelimit-policy";
                    assert_eq!(item.params.len(), 1 + usize::from(has_both), "{value}");
                    assert_eq!(list.serialize().as_deref(), Some(&**value));
                }
            }
        }
    }
}
