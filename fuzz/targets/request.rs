//! The head of a request, through what decides and what explains.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use keyward::{Cors, Environment, Gate, KeyKind, KeyLocation, RateLimit, Requirement, Scopes};
use keyward::clock::ManualClock;
use keyward::gate::{Access, Decision, Verdict};
use keyward::key::ForeignFormat;
use keyward::record::KeyStatus;
use keyward::replica::Replica;
use keyward::throttle::AuthFailureLimiter;
use keyward_fuzz::{Head, LIVE, NOW, REVOKED, TEST, denial, fill, scheme, holds, record};
use libfuzzer_sys::fuzz_target;

struct World {
    clock: Arc<ManualClock>,
    /// Each with the fields that it reads, and what may stand before a key in `Authorization`.
    gates: Vec<(Gate, &'static [&'static str], &'static [&'static str])>,
    requirements: Vec<Arc<Requirement>>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let clock = Arc::new(ManualClock::at(NOW));
    let replica = Replica::with(Arc::<ManualClock>::clone(&clock), 1000);
    let mut live = record(LIVE, Environment::LIVE, "aa");
    live.scopes = Scopes::parse(["kyc", "reports.*"]).unwrap();
    let mut test = record(TEST, Environment::TEST, "bb");
    test.kind = KeyKind::Publishable;
    test.origins = keyward::OriginPolicy::listed(["*.shop.example:*"]).unwrap();
    let mut revoked = record(REVOKED, Environment::LIVE, "cc");
    revoked.status = KeyStatus::Revoked;
    fill(&replica, 1, &[live, test, revoked]);
    let builder = || {
        Gate::builder_from_replica(&replica, &scheme())
            .max_staleness(Duration::MAX)
    };
    let throttle = AuthFailureLimiter::new(RateLimit::per_minute(60).burst(1000));
    let all = builder()
        .location(KeyLocation::x_api_key())
        .location(KeyLocation::bearer())
        .location(KeyLocation::client_key())
        .location(KeyLocation::x_client_key())
        .location(KeyLocation::scheme("token").unwrap())
        .location(KeyLocation::header("x-other").unwrap().publishable())
        .cors(Cors::new());
    let raw = builder()
        .location(KeyLocation::raw_authorization())
        .foreign_format(ForeignFormat::new("").unwrap())
        .insecure_forward_key();
    let counted = builder()
        .failure_throttle(throttle)
        .trusted_proxies(["10.0.0.0/8"])
        .unwrap()
        .rate_limits(Environment::LIVE, RateLimit::per_second(1).burst(3));
    World {
        gates: vec![
            (builder().build().unwrap(), &["x-api-key"], &["bearer "]),
            (
                all.build().unwrap(),
                &["x-api-key", "x-client-key", "x-other"],
                &["bearer ", "clientkey ", "token "],
            ),
            (raw.build().unwrap(), &[], &[""]),
            (counted.build().unwrap(), &["x-api-key"], &["bearer "]),
        ],
        requirements: vec![
            Arc::default(),
            Arc::new(Requirement::new().optional().any_environment()),
            Arc::new(
                Requirement::new()
                    .any_environment()
                    .kinds([KeyKind::Publishable, KeyKind::Secret]),
            ),
            Arc::new(
                Requirement::new()
                    .scope("reports.read")
                    .any_scope(["a", "kyc"]),
            ),
            Arc::new(Requirement::new().scope("other").report_only()),
        ],
        clock,
    }
});

fuzz_target!(|text: &[u8]| {
    let World {
        clock,
        gates,
        requirements,
    } = &*WORLD;
    let head = Head::read(text);
    clock.advance(Duration::from_millis(1));
    for (gate, fields, schemes) in gates {
        for requirement in requirements {
            let explanation = gate.explain(&head, requirement);
            let told = explanation.to_string();
            assert!(
                ![LIVE, TEST, REVOKED]
                    .iter()
                    .any(|key| holds(told.as_bytes(), key))
            );
            let decision = gate.check(&head, requirement, None);
            if let Decision::Ready(Verdict::Refuse(refusal)) = &decision
                && refusal.denial.is_none()
            {
                assert_eq!(head.method, "OPTIONS");
                assert_eq!(refusal.reply.status(), 204);
                continue;
            }
            let denied = denial(&decision);
            assert_eq!(denied, explanation.denial(), "{told}");
            assert!(!holds(
                format!("{decision:?}").as_bytes(),
                "00000000000000000000000000000000"
            ));
            let Decision::Ready(Verdict::Admit(admitted)) = decision else {
                continue;
            };
            // `Authorization` of a scheme that the gate does not know may hold anything.
            let is_ours = |line: &&[u8]| {
                let line = String::from_utf8_lossy(line).to_ascii_lowercase();
                schemes
                    .iter()
                    .any(|scheme| line.trim_start().starts_with(scheme))
            };
            let authorization = head.lines(&["authorization"]).filter(is_ours);
            let lines: Vec<_> = head.lines(fields).chain(authorization).collect();
            let keys = [LIVE, TEST, REVOKED];
            let keys = lines
                .iter()
                .flat_map(|line| keys.iter().filter(|key| holds(line, key)));
            match admitted.access.unwrap() {
                Access::Anonymous(_) => {}
                Access::Principal(principal) => {
                    assert_eq!(keys.count(), 1, "one key, in one place");
                    let own = if principal.environment() == Environment::LIVE {
                        LIVE
                    } else {
                        TEST
                    };
                    assert!(
                        lines
                            .iter()
                            .any(|line| line.trim_ascii().ends_with(own.as_bytes()))
                    );
                }
            }
        }
    }
});
