//! The limiter of failed authentications.

use std::sync::Arc;

use ipnet::IpNet;

use crate::clock::Clock;
use crate::denial::{DenialKind, ErrorCode};
use crate::limit::RateLimit;
use crate::request::RequestHead;
use crate::request::client::Client;
use crate::throttle::failures::Failures;

/// Brute-force protection: limits failed authentications for each client address.
///
/// A failure is a request that is refused with `invalid_api_key`. After `burst` failures, every
/// request from the address is refused before its key is looked up, until the limit allows one more
/// failure:
///
/// ```text
/// HTTP/1.1 429 Too Many Requests
/// cache-control: no-store
/// content-type: application/problem+json
/// retry-after: 6
///
/// {"type":"about:blank","title":"Too Many Requests","status":429,"detail":"Too many requests with keys that are not valid came from this address. Check the key and wait.","code":"too_many_failures"}
/// ```
///
/// - Requests with a valid key are refused as well; otherwise the response would reveal which key
///   is valid. A valid key still passes from every other address.
/// - A success does not reset the count. A malformed key gets a 401 even then, and it counts.
/// - An IPv6 address counts by its first 64 bits, an IPv4 address in IPv6 form as IPv4. Clients
///   behind one address, such as an office, share its limit.
/// - The address is that of the connection, unless that is a [trusted
///   proxy](crate::gate::GateBuilder::trusted_proxies). If the adapter knows no address, as over a
///   Unix socket, the request is refused with 500 `internal_error`, which is logged. Each adapter's
///   [peer source](crate::gate::GateBuilder::peer) shows how to support Unix sockets.
/// - The table takes 256 KiB per gate and holds 32,768 addresses. When it is full, the addresses
///   with the fewest failures are forgotten. It belongs to this process and does not survive a
///   restart.
/// - At most 16 failures per second are counted; a burst may be of any size. Requests that are
///   looked up at the same moment may all fail before the first of them counts.
///
/// ```
/// # use std::{sync::Arc, time::Duration};
/// # use keyward::{Environment, Gate, KeyFormat, KeyScheme, MemoryStore, RateLimit};
/// # use keyward::clock::ManualClock;
/// # use keyward::gate::{Check, Decision, Verdict};
/// # use keyward::testing::TestRequest;
/// # use keyward::throttle::AuthFailureLimiter;
/// # let store = MemoryStore::with_clock(Arc::new(ManualClock::at(Duration::from_secs(1_700_000_000))));
/// # let format = KeyFormat::new("vhk_{env}_")?;
/// # let unknown = format.generate(Environment::LIVE)?;
/// let gate = Gate::builder(&store, &KeyScheme::new(format))
///     .failure_throttle(AuthFailureLimiter::new(RateLimit::per_minute(10)))
///     .build()?;
///
/// let answer = |address| {
///     let request = TestRequest::get().key(unknown.expose_secret()).peer(address);
///     let decision = gate.check(&request, &Arc::default(), None);
///     let Decision::Ready(Verdict::Refuse(refusal)) = decision else { panic!("{decision:?}") };
///     refusal.reply
/// };
/// for _ in 0..10 {
///     assert_eq!(answer([192, 0, 2, 1]).status(), 401);
/// }
/// let refused = answer([192, 0, 2, 1]);
/// assert_eq!(refused.status(), 429);
/// assert!(refused.headers().any(|field| field == ("retry-after", "6")));
/// assert_eq!(answer([192, 0, 2, 2]).status(), 401);
/// # let fields: Vec<_> = refused.headers().map(|(name, value)| format!("{name}: {value}")).collect();
/// # assert_eq!(fields, ["cache-control: no-store", "content-type: application/problem+json", "retry-after: 6"]);
/// # assert_eq!(refused.body(), br#"{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"Too many requests with keys that are not valid came from this address. Check the key and wait.","code":"too_many_failures"}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct AuthFailureLimiter {
    limit: RateLimit,
}

impl AuthFailureLimiter {
    /// Creates a limiter that allows this rate of failures.
    pub fn new(limit: RateLimit) -> Self {
        Self { limit }
    }

    pub(crate) fn start(self, clock: &Arc<dyn Clock>) -> Throttle {
        let failures = Failures::new(self.limit, Arc::clone(clock));
        Throttle { failures }
    }
}

/// A running limiter.
pub(crate) struct Throttle {
    failures: Failures,
}

impl Throttle {
    /// Returns the client if its key may be looked up (`Check::Throttle`). Otherwise returns the
    /// reason, and the seconds to wait if waiting helps.
    pub(crate) fn admit<R: RequestHead>(
        &self,
        request: &R,
        trusted: &[IpNet],
    ) -> Result<Client, (DenialKind, Option<u32>)> {
        let client = Client::of(request, trusted).ok_or((DenialKind::PeerUnknown, None))?;
        match self.failures.wait(client) {
            None => Ok(client),
            seconds => Err((DenialKind::Throttled, seconds)),
        }
    }

    /// Records the failure of a request that was refused before a lookup.
    pub(crate) fn note_early<R: RequestHead>(
        &self,
        kind: DenialKind,
        request: &R,
        trusted: &[IpNet],
    ) {
        if let Some(client) = Client::of(request, trusted) {
            self.note(kind, client);
        }
    }

    /// Records a refusal if it counts as a failure: all kinds that share the code `invalid_api_key`
    /// count alike.
    pub(crate) fn note(&self, kind: DenialKind, client: Client) {
        if kind.code() == ErrorCode::InvalidApiKey {
            self.failures.note(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::environment::Environment;
    use crate::gate::tests::{World, format, principal, reason};
    use crate::gate::{Decision, Gate, GateBuilder, Requirement, Verdict};
    use crate::ids::AccountId;
    use crate::record::{AccountStatus, KeyStatus};
    use crate::reply::Replies;
    use crate::testing::decided;

    const HERE: [u8; 4] = [192, 0, 2, 1];
    const ELSEWHERE: [u8; 4] = [192, 0, 2, 2];

    fn throttled(world: &World, limit: &str) -> GateBuilder {
        let limit = RateLimit::parse(limit).unwrap();
        world
            .builder()
            .failure_throttle(AuthFailureLimiter::new(limit))
    }

    fn gate(world: &World, limit: &str) -> Gate {
        throttled(world, limit).build().unwrap()
    }

    /// A request with an unknown key.
    fn guess(peer: [u8; 4]) -> World {
        with_key(
            format()
                .generate(Environment::LIVE)
                .unwrap()
                .expose_secret(),
            peer,
        )
    }

    fn with_key(key: &str, peer: [u8; 4]) -> World {
        World {
            fields: vec![("x-api-key", key.into())],
            peer: Some(IpAddr::from(peer)),
            ..World::new()
        }
    }

    fn ask(world: &World, gate: &Gate) -> Result<(), DenialKind> {
        reason(world.verdict(gate))
    }

    #[test]
    fn a_valid_key_is_refused_from_a_throttled_address_and_passes_from_others() {
        let world = World::new();
        world.feed();
        let gate = gate(&world, "10/60;3");
        let good = |peer| with_key(world.key.expose_secret(), peer);
        for _ in 0..3 {
            assert_eq!(ask(&good(HERE), &gate), Ok(()));
            assert_eq!(ask(&guess(HERE), &gate), Err(DenialKind::Unknown));
        }
        assert_eq!(ask(&good(HERE), &gate), Err(DenialKind::Throttled));
        assert_eq!(ask(&guess(HERE), &gate), Err(DenialKind::Throttled));
        assert_eq!(ask(&good(ELSEWHERE), &gate), Ok(()));

        world.clock.advance(Duration::from_millis(5_900));
        assert_eq!(ask(&good(HERE), &gate), Err(DenialKind::Throttled));
        world.clock.advance(Duration::from_millis(100));
        assert_eq!(ask(&good(HERE), &gate), Ok(()));
        assert_eq!(ask(&guess(HERE), &gate), Err(DenialKind::Unknown));
        assert_eq!(ask(&good(HERE), &gate), Err(DenialKind::Throttled));
    }

    #[test]
    fn only_refusals_as_an_invalid_key_count() {
        use DenialKind as Kind;
        type Break = fn(&mut World);
        let rows: [(Kind, bool, Break); 12] = [
            (Kind::Missing, false, |world| world.fields.clear()),
            (Kind::MultipleKeys, false, |world| {
                world.fields.push(("authorization", b"Bearer x".into()));
            }),
            (Kind::Malformed, true, |world| world.fields[0].1[12] ^= 1),
            (Kind::Unavailable, false, |world| {
                world.clock.advance(Duration::from_secs(31));
            }),
            (Kind::Unknown, true, |world| {
                world.fields = guess(HERE).fields;
            }),
            (Kind::ForeignAccount, true, |world| {
                let other = AccountId::parse("other").unwrap();
                world.requirement = Requirement::new().account(other);
            }),
            (Kind::Revoked, true, |world| {
                world.record.status = KeyStatus::Revoked;
            }),
            (Kind::Disabled, true, |world| {
                world.record.status = KeyStatus::Disabled;
            }),
            (Kind::Expired, true, |world| {
                world.record.expires_at = Some(world.record.created_at);
            }),
            (Kind::NotYetValid, true, |world| {
                let later = world.record.created_at + Duration::from_secs(1 << 33);
                world.record.not_before = Some(later);
            }),
            (Kind::AccountInactive, false, |world| {
                world.account.status = AccountStatus::Suspended;
            }),
            (Kind::ScopeMissing, false, |world| {
                world.requirement = Requirement::new().scope("kyc");
            }),
        ];
        for apart in [false, true] {
            for (kind, counts, change) in &rows {
                let mut world = World::new();
                if *kind != Kind::Unavailable {
                    change(&mut world);
                }
                world.feed();
                if *kind == Kind::Unavailable {
                    change(&mut world);
                }
                let mut builder = throttled(&world, "1/60;1");
                if apart {
                    builder = builder.replies(Replies::default().tell_dead_keys_apart());
                }
                let gate = builder.build().unwrap();
                assert_eq!(ask(&world, &gate), Err(*kind));
                let next = ask(&guess(HERE), &gate);
                assert_eq!(next == Err(Kind::Throttled), *counts, "{kind:?} {next:?}");
            }
        }
    }

    #[test]
    fn refusals_without_a_lookup_are_unchanged_for_a_throttled_address() {
        let world = World::new();
        world.feed();
        let gate = gate(&world, "1/60;1");
        for _ in 0..3 {
            let malformed = with_key("malformed", HERE);
            assert_eq!(ask(&malformed, &gate), Err(DenialKind::Malformed));
        }
        let mut none = World::new();
        none.fields.clear();
        assert_eq!(ask(&none, &gate), Err(DenialKind::Missing));
        none.requirement = Requirement::new().optional();
        assert_eq!(ask(&none, &gate), Ok(()));
    }

    #[test]
    fn every_error_body_comes_with_the_time_to_wait() {
        let world = World::new();
        world.feed();
        let replies = Replies::new(crate::reply::ErrorJson)
            .text(ErrorCode::TooManyFailures, "slow down")
            .status(ErrorCode::TooManyFailures, 420);
        let gate = throttled(&world, "1/60;1")
            .replies(replies)
            .build()
            .unwrap();
        ask(&guess(HERE), &gate).unwrap_err();
        for (passed, left) in [(0, "60"), (58, "2"), (1, "1")] {
            world.clock.advance(Duration::from_secs(passed));
            world.feed();
            let Verdict::Refuse(refusal) = guess(HERE).verdict(&gate) else {
                panic!()
            };
            let mut waits = refusal
                .reply
                .headers()
                .filter(|(name, _)| *name == "retry-after");
            assert_eq!(waits.next(), Some(("retry-after", left)));
            assert_eq!(waits.next(), None);
            assert_eq!(refusal.reply.status(), 420);
            assert_eq!(refusal.reply.body(), br#"{"error":"slow down"}"#);
        }
    }

    #[test]
    fn a_request_that_waits_for_the_store_counts_when_it_is_answered() {
        let world = World::new();
        world.feed();
        world.clock.advance(Duration::from_millis(1));
        let feed = world.replica.clone();
        world.replica.on_demand(move |_| {
            let feed = feed.clone();
            thread::spawn(move || {
                let poll = feed.poll();
                let number = poll.since().map_or(1, |revision| revision.number + 1);
                let revision = crate::replica::Revision { number, nonce: 0 };
                poll.finish(revision).unwrap();
            });
            true
        });
        let strict = throttled(&world, "1/60;1").max_staleness(Duration::ZERO);
        let gate = strict.build().unwrap();
        let guess = guess(HERE);
        let pending = guess.check(&gate, None);
        assert!(matches!(pending, Decision::Pending(_)));
        assert_eq!(reason(decided(pending)), Err(DenialKind::Unknown));
        world.clock.advance(Duration::from_millis(1));
        assert_eq!(ask(&world, &gate), Err(DenialKind::Throttled), "at once");
    }

    #[test]
    fn an_inner_layer_of_the_same_gate_is_not_throttled() {
        let world = World::new();
        world.feed();
        let gate = gate(&world, "1/60;1");
        let outer = principal(world.verdict(&gate));
        ask(&guess(HERE), &gate).unwrap_err();
        let Decision::Ready(verdict) = world.check(&gate, Some(&outer)) else {
            panic!()
        };
        assert_eq!(reason(verdict), Ok(()));
        // Its own refusals do not count either.
        let mut foreign = World::new();
        foreign.peer = Some(IpAddr::from(ELSEWHERE));
        foreign.requirement = Requirement::new().account(AccountId::parse("other").unwrap());
        let Decision::Ready(verdict) = foreign.check(&gate, Some(&outer)) else {
            panic!()
        };
        assert_eq!(reason(verdict), Err(DenialKind::ForeignAccount));
        assert_eq!(ask(&guess(ELSEWHERE), &gate), Err(DenialKind::Unknown));
    }

    #[test]
    fn no_key_is_looked_up_without_a_peer_address() {
        let mut world = World::new();
        world.peer = None;
        world.feed();
        let gate = gate(&world, "10/60;10");
        let Verdict::Refuse(refusal) = world.verdict(&gate) else {
            panic!()
        };
        assert_eq!(refusal.reply.status(), 500);
        assert!(
            refusal
                .reply
                .body()
                .ends_with(br#","code":"internal_error"}"#)
        );
        assert!(
            refusal
                .reply
                .headers()
                .all(|(name, _)| name != "retry-after")
        );
        assert_eq!(refusal.denial.unwrap().kind(), DenialKind::PeerUnknown);
        world.fields[0].1[12] ^= 1;
        assert_eq!(ask(&world, &gate), Err(DenialKind::Malformed));
        let without = world.builder().build().unwrap();
        world.fields[0].1[12] ^= 1;
        assert_eq!(ask(&world, &without), Ok(()));
    }

    #[test]
    fn behind_a_trusted_proxy_each_client_counts_alone() {
        let world = World::new();
        world.feed();
        let limit = RateLimit::parse("1/60;1").unwrap();
        let builder = world
            .builder()
            .failure_throttle(AuthFailureLimiter::new(limit));
        let builder = builder.trusted_proxies(["10.0.0.0/8"]).unwrap();
        let gate = builder.build().unwrap();
        let through = |peer: [u8; 4], client: &str| {
            let mut guess = guess(peer);
            guess.fields.push(("x-forwarded-for", client.into()));
            ask(&guess, &gate)
        };
        let proxy = [10, 0, 0, 1];
        assert_eq!(through(proxy, "192.0.2.1"), Err(DenialKind::Unknown));
        assert_eq!(through(proxy, "192.0.2.1"), Err(DenialKind::Throttled));
        assert_eq!(
            through(proxy, "192.0.2.9, 192.0.2.1"),
            Err(DenialKind::Throttled)
        );
        assert_eq!(through(proxy, "192.0.2.2"), Err(DenialKind::Unknown));
        let direct = [198, 51, 100, 1];
        assert_eq!(through(direct, "192.0.2.3"), Err(DenialKind::Unknown));
        assert_eq!(through(direct, "192.0.2.4"), Err(DenialKind::Throttled));
    }

    #[test]
    fn concurrent_lookups_exceed_the_burst_only_by_their_number() {
        const THREADS: usize = 64;
        const BURST: usize = 100;
        let world = World::new();
        world.feed();
        let gate = gate(&world, "1/60;100");
        let failed = AtomicUsize::new(0);
        thread::scope(|threads| {
            for _ in 0..THREADS {
                threads.spawn(|| {
                    let guess = guess(HERE);
                    for _ in 0..50 {
                        if ask(&guess, &gate) == Err(DenialKind::Unknown) {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            let good = with_key(world.key.expose_secret(), ELSEWHERE);
            for _ in 0..1000 {
                assert_eq!(ask(&good, &gate), Ok(()));
            }
        });
        let failed = failed.into_inner();
        assert!((BURST..BURST + THREADS).contains(&failed), "{failed}");
    }
}
