//! Rate limits that Redis counts: the same answers in every stack.

use std::sync::Arc;
use std::time::Duration;

use keyward::limit::ResetUnit;
use keyward::{Environment, Gate, KeyFormat, KeyScheme, RateLimit, RateLimits, Requirement};
use keyward_redis::testing::RedisServer;
use keyward_redis::{RedisLimiter, RedisLimiterBuilder};
use tokio::runtime::{Builder, Runtime};

use crate::service::Service;
use crate::stacks::{self, Answer, Ask};

fn runtime() -> Runtime {
    let mut runtime = Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().unwrap()
}

fn gate(service: &Service, limiter: RedisLimiter) -> Gate {
    let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
    let limits = [RateLimit::per_hour(3), RateLimit::per_day(100)];
    Gate::builder(&service.store, &scheme)
        .rate_limits(Environment::LIVE, RateLimits::new(limits).unwrap())
        .legacy_rate_limit_headers(ResetUnit::UnixTime)
        .limiter(limiter)
        .build()
        .unwrap()
}

/// The answers of one stack, whose processes share nothing with the others.
fn answers(stack: &str, limiter: impl FnOnce(&Service) -> RedisLimiter) -> Vec<Answer> {
    let mut service = Service::new();
    let gate = gate(&service, limiter(&service));
    let cost = |cost| Requirement::new().cost(cost);
    service.routes = vec![
        ("/one", gate.clone(), cost(1)),
        ("/two", gate.clone(), cost(2)),
        ("/free", gate.clone(), cost(0)),
        ("/scoped", gate, cost(3).scope("lacking")),
    ];
    let key = service.keys["live"].clone();
    let asks = ["/one", "/scoped", "/free", "/two", "/one"].map(|path| Ask {
        method: "GET",
        path: path.to_owned(),
        fields: vec![("x-api-key", key.clone().into())],
    });
    stacks::one(stack, &Arc::new(service), &asks)
}

fn everywhere(limiter: impl Fn(&str, &Service) -> RedisLimiter) -> Vec<Answer> {
    let [axum, tower, actix] =
        ["axum", "tower", "actix"].map(|stack| answers(stack, |service| limiter(stack, service)));
    assert_eq!(axum, tower);
    assert_eq!(axum, actix);
    axum
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

fn field<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let values = answer.fields.get(name)?;
    values.first().map(String::as_str)
}

#[test]
fn every_stack_answers_alike_with_limits_counted_in_redis() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = runtime();
    let builder = || -> RedisLimiterBuilder { RedisLimiter::builder(&server.url()).unwrap() };
    let answers = everywhere(|stack, service| {
        let limiter = builder().key_prefix(stack).deadline(Duration::from_secs(5));
        let limiter = limiter.clock(Arc::<keyward::clock::ManualClock>::clone(&service.clock));
        runtime.block_on(limiter.connect()).unwrap()
    });
    assert_eq!(statuses(&answers), [200, 403, 200, 200, 429]);
    let [one, _, free, two, over] = &answers[..] else {
        panic!()
    };
    assert_eq!(field(one, "ratelimit"), Some(r#""hour";r=2"#));
    assert_eq!(field(one, "ratelimit-policy"), Some(r#""hour";q=3;w=3600"#));
    assert_eq!(field(free, "ratelimit"), None);
    assert_eq!(field(two, "ratelimit"), Some(r#""hour";r=0;t=1200"#));
    assert_eq!(field(over, "retry-after"), Some("1200"));
    assert_eq!(field(over, "x-ratelimit-remaining"), Some("0"));
    assert!(over.body.ends_with(r#""code":"rate_limited"}"#));
}

#[test]
fn every_stack_refuses_alike_without_redis() {
    let runtime = runtime();
    let _entered = runtime.enter();
    // Nothing listens there.
    let limiter = || RedisLimiter::builder("redis://127.0.0.1:1").unwrap();
    let answers = everywhere(|_, _| limiter().connect_lazily().unwrap());
    assert_eq!(statuses(&answers), [503, 403, 200, 503, 503]);
    assert_eq!(field(&answers[0], "retry-after"), Some("1"));
    assert!(
        answers[0]
            .body
            .ends_with(r#""code":"rate_limit_unavailable"}"#)
    );
}
