//! A key's list of origins, beside what the URL standard says of the same page.
//!
//! A pattern on each line, an empty line, and an `Origin` on each line.

#![no_main]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use keyward::{Cors, Environment, Gate, OriginPolicy};
use keyward::clock::ManualClock;
use keyward::denial::DenialKind;
use keyward::replica::Replica;
use keyward_fuzz::{Head, LIVE, NOW, denial, fill, scheme, record};
use libfuzzer_sys::fuzz_target;
use url::Url;

static WORLD: LazyLock<(Replica, Gate)> = LazyLock::new(|| {
    let replica = Replica::with(Arc::new(ManualClock::at(NOW)), 1000);
    let gate = Gate::builder_from_replica(&replica, &scheme()).cors(Cors::new());
    let gate = gate.max_staleness(Duration::MAX).build().unwrap();
    (replica, gate)
});

static REVISION: AtomicU64 = AtomicU64::new(0);

fuzz_target!(|text: &[u8]| {
    let mut lines = text.split(|byte| *byte == b'\n');
    let patterns: Vec<_> = lines
        .by_ref()
        .take_while(|line| !line.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    let origins: Vec<_> = lines.collect();
    let Ok(policy) = OriginPolicy::listed(&patterns) else {
        return;
    };
    let again = OriginPolicy::listed(policy.patterns()).expect("a normal form is a pattern");
    assert_eq!(policy, again, "and its own normal form");
    assert!(policy.covers(&again));

    let (replica, gate) = &*WORLD;
    let mut key = record(LIVE, Environment::LIVE, "aa");
    key.origins = policy.clone();
    fill(
        replica,
        REVISION.fetch_add(1, Ordering::Relaxed) + 1,
        &[key],
    );
    let mut fields = vec![("x-api-key".to_owned(), LIVE.into())];
    fields.extend(
        origins
            .iter()
            .map(|line| ("origin".to_owned(), line.to_vec())),
    );
    let head = Head {
        method: "GET".to_owned(),
        peer: None,
        fields,
    };
    let denied = denial(&gate.check(&head, &Arc::default(), None));
    let expected = match &origins[..] {
        [] => Some(DenialKind::OriginMissing),
        [one] if allowed(&policy, one) => None,
        _ => Some(DenialKind::OriginNotAllowed),
    };
    assert_eq!(denied, expected, "{policy:?}");
});

/// Whether a browser that shows a page of this origin shows one of the list.
fn allowed(policy: &OriginPolicy, origin: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(origin) else {
        return false;
    };
    // The URL standard gives them opaque origins; what a webview sends of them is told in full.
    let apps = [
        "capacitor",
        "ionic",
        "tauri",
        "chrome-extension",
        "moz-extension",
    ];
    if text
        .split_once("://")
        .is_some_and(|(scheme, _)| apps.contains(&scheme))
    {
        return policy.patterns().any(|pattern| pattern == text);
    }
    let Ok(url) = Url::parse(text) else {
        return false;
    };
    // A URL may name port 0, and nothing can listen there.
    if url.origin().ascii_serialization() != text || url.port() == Some(0) {
        return false;
    }
    let host = url.host_str().unwrap_or_default();
    policy.patterns().any(|pattern| {
        let (scheme, rest) = pattern.split_once("://").unwrap();
        let (wild, rest) = match rest.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (own, port) = match rest.rsplit_once(':') {
            Some((own, port)) if !port.ends_with(']') => (own, Some(port)),
            _ => (rest, None),
        };
        let same_port = match port {
            Some("*") => true,
            Some(port) => url.port() == port.parse().ok(),
            None => url.port().is_none(),
        };
        let same_host = match host
            .strip_suffix(own)
            .and_then(|left| left.strip_suffix('.'))
        {
            Some(labels) if wild => host.len() <= 253 && labels.split('.').all(is_label),
            _ => !wild && host == own,
        };
        scheme == url.scheme() && same_port && same_host
    })
}

/// The names that DNS can hold; a URL can hold others.
fn is_label(label: &str) -> bool {
    let letter = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    (1..=63).contains(&label.len()) && label.bytes().all(letter)
}
