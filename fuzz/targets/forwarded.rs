//! `X-Forwarded-For`: whatever a client writes before it, the address that the proxy adds counts.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use keyward::{Environment, Gate, RateLimit, Requirement};
use keyward::clock::ManualClock;
use keyward::denial::DenialKind;
use keyward::replica::Replica;
use keyward::throttle::AuthFailureLimiter;
use keyward_fuzz::{Head, LIVE, NOW, REVOKED, fill, scheme, record};
use libfuzzer_sys::fuzz_target;

const GUESSER: &str = "192.0.2.1";
const HONEST: &str = "198.51.100.7";

fn head(peer: Ipv4Addr, key: &str, lines: Vec<Vec<u8>>) -> Head {
    let forwarded = lines
        .into_iter()
        .map(|line| ("x-forwarded-for".to_owned(), line));
    let mut fields: Vec<_> = forwarded.collect();
    fields.push(("x-api-key".to_owned(), key.into()));
    Head {
        method: "GET".to_owned(),
        peer: Some(IpAddr::V4(peer)),
        fields,
    }
}

/// A gate that has seen the guesser fail more often than he may.
static GATE: LazyLock<Gate> = LazyLock::new(|| {
    let replica = Replica::with(Arc::new(ManualClock::at(NOW)), 1000);
    fill(&replica, 1, &[record(LIVE, Environment::LIVE, "aa")]);
    let throttle = AuthFailureLimiter::new(RateLimit::per_minute(1));
    let gate = Gate::builder_from_replica(&replica, &scheme())
        .max_staleness(Duration::MAX)
        .failure_throttle(throttle)
        .trusted_proxies(["10.0.0.0/8"])
        .unwrap()
        .build()
        .unwrap();
    let guess = head(GUESSER.parse().unwrap(), REVOKED, vec![]);
    for _ in 0..3 {
        drop(gate.check(&guess, &Arc::default(), None));
    }
    gate
});

fuzz_target!(|text: &[u8]| {
    let lines = || {
        text.split(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect::<Vec<_>>()
    };
    let denied = |peer, lines| {
        let head = head(peer, LIVE, lines);
        GATE.explain(&head, &Requirement::new()).denial()
    };
    let proxy = Ipv4Addr::new(10, 0, 0, 1);
    let _ = denied(proxy, lines());
    let untrusted = denied(HONEST.parse().unwrap(), lines());
    assert_eq!(untrusted, None, "the peer is no proxy");
    for (address, expected) in [(GUESSER, Some(DenialKind::Throttled)), (HONEST, None)] {
        for added in [
            address.to_owned(),
            format!("{address}:1234"),
            format!("{address} , 10.1.2.3"),
        ] {
            let mut on_a_line = lines();
            on_a_line.push(added.clone().into_bytes());
            assert_eq!(
                denied(proxy, on_a_line),
                expected,
                "{added} on a line of its own"
            );
            let mut joined = lines();
            let last = joined.last_mut().expect("a split has a part");
            last.extend_from_slice(b", ");
            last.extend_from_slice(added.as_bytes());
            assert_eq!(denied(proxy, joined), expected, "{added} behind a comma");
        }
    }
});
