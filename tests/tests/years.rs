//! A year of ordinary rotation takes no more memory than its first weeks.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use allocation_counter::measure;
use keyward::clock::ManualClock;
use keyward::conformance::decided;
use keyward::gate::Verdict;
use keyward::record::{Account, KeyRecord, KeyStatus};
use keyward::replica::{Replica, Revision};
use keyward::request::RequestHead;
use keyward::{
    AccountId, ApiKey, Environment, Gate, KeyFormat, KeyId, Peppers, RateLimit, RateLimits,
    Requirement,
};

/// A hundred thousand, or where that takes too long, as many as show it.
const CYCLES: u32 = if cfg!(debug_assertions) {
    10_000
} else {
    100_000
};

/// A service whose keys live for a minute each.
struct Service {
    clock: Arc<ManualClock>,
    replica: Replica,
    gate: Gate,
    format: KeyFormat,
    number: u64,
    used: u64,
    counted: u64,
}

impl Service {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(Duration::from_secs(1_700_000_000)));
        // It remembers a hundred dead keys.
        let replica = Replica::with(Arc::<ManualClock>::clone(&clock), 1000);
        let format = KeyFormat::new("year_{env}_").unwrap();
        let gate = Gate::builder(&replica).format(format.clone());
        let gate = gate.build().unwrap();
        let mut service = Self {
            clock,
            replica,
            gate,
            format,
            number: 0,
            used: 0,
            counted: 0,
        };
        service.feed(&[]);
        service
    }

    fn now(&self) -> SystemTime {
        use keyward::clock::Clock;
        SystemTime::UNIX_EPOCH + self.clock.unix()
    }

    fn feed(&mut self, records: &[&KeyRecord]) {
        let mut poll = self.replica.poll();
        if self.number == 0 {
            poll.account(Account::new(AccountId::parse("acme").unwrap()));
        }
        for record in records {
            poll.key(record);
        }
        self.number += 1;
        let number = self.number;
        poll.finish(Revision { number, nonce: 0 }).unwrap();
    }

    /// A new key, each with a limit of its own.
    fn key(&self, per_minute: u32) -> (ApiKey, KeyRecord) {
        let key = self.format.generate(Environment::LIVE).unwrap();
        let mut record = KeyRecord::new(
            KeyId::random().unwrap(),
            Peppers::none().digest(&key),
            key.hint().clone(),
            AccountId::parse("acme").unwrap(),
            Environment::LIVE,
            self.now(),
        );
        record.rate_limits = RateLimits::from(RateLimit::per_minute(per_minute));
        (key, record)
    }

    fn ask(&mut self, key: &ApiKey) {
        let decision = self
            .gate
            .check(&Get(key), &Arc::<Requirement>::default(), None);
        assert!(matches!(decided(decision), Verdict::Admit(_)));
        self.used += 1;
    }

    /// Creates, rotates and revokes.
    fn cycle(&mut self, number: u32) {
        let (old, mut first) = self.key(number + 2);
        self.feed(&[&first]);
        self.ask(&old);
        let (new, mut second) = self.key(number + 2);
        (first.successor, second.lineage) = (Some(second.id), first.id);
        second.predecessor = Some(first.id);
        self.feed(&[&first, &second]);
        self.ask(&new);
        self.clock.advance(Duration::from_secs(60));
        for record in [&mut first, &mut second] {
            record.status = KeyStatus::Revoked;
            record.revoked_at = Some(self.now());
        }
        self.feed(&[&first, &second]);
        if number % 100 == 99 {
            let counts = self.replica.take_usage();
            self.counted += counts.iter().map(|count| count.admitted).sum::<u64>();
        }
    }
}

struct Get<'a>(&'a ApiKey);

impl RequestHead for Get<'_> {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn peer(&self) -> Option<std::net::IpAddr> {
        None
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let key = self.0.expose_secret().as_bytes();
        (field == "x-api-key").then_some(key).into_iter()
    }
}

#[test]
fn keys_that_come_and_go_leave_nothing_in_memory() {
    let mut service = Service::new();
    let (mut held, mut number) = (0, 0);
    // The most that is held at the end of any hundred cycles.
    let mut most = |service: &mut Service, until: u32| {
        let mut most = 0;
        while number < until {
            let hundred = || (number..number + 100).for_each(|number| service.cycle(number));
            held += measure(hundred).bytes_current;
            number += 100;
            most = most.max(held);
        }
        most
    };
    let first = most(&mut service, CYCLES / 10);
    let rest = most(&mut service, CYCLES);
    println!("{first} bytes in the first tenth, {rest} bytes after it");
    assert!(rest <= first + first / 5, "{first} bytes, then {rest}");
    assert_eq!(service.replica.living(), 0);
    assert_eq!(service.replica.len(), 100);
    assert_eq!(service.counted, service.used, "no use is lost");
}
