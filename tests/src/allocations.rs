//! A known key costs no allocation of ours before the inner service is called.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::SystemTime;

use allocation_counter::measure;
use http::{Request, Response};
use http_body_util::Empty;
use keyward::credits::{CreditGrant, CreditWant};
use keyward::record::{Account, KeyRecord};
use keyward::replica::{Poll, Replica, Revision};
use keyward::throttle::AuthFailureLimiter;
use keyward::{
    AccountId, Environment, Gate, KeyFormat, KeyId, KeyScheme, Peppers, Principal, RateLimit,
    RateLimits, Requirement,
};
use keyward_tower::RequireKeyLayer;
use tower::{Layer, Service, ServiceExt, service_fn};
use tracing::subscriber::NoSubscriber;

use crate::service;

type Body = Empty<bytes::Bytes>;

fn hello(request: Request<()>) -> Ready<Result<Response<Body>, Infallible>> {
    black_box(request);
    ready(Ok(Response::new(Body::new())))
}

/// The allocations of `call` up to and with the call of the inner service.
async fn count<S>(service: &mut S, request: Request<()>) -> u64
where
    S: Service<Request<()>, Error = Infallible>,
{
    let service = service.ready().await.unwrap();
    let mut future = None;
    let info = measure(|| future = Some(service.call(request)));
    drop(future);
    info.count_total
}

/// That the layer allocates no more than an insert of its principal does.
async fn compare(layer: &RequireKeyLayer, request: impl Fn() -> Request<()>, what: &str) {
    let seen = OnceLock::new();
    let keep = layer.clone().layer(service_fn(|request: Request<()>| {
        seen.get_or_init(|| request.extensions().get::<Principal>().cloned());
        hello(request)
    }));
    assert_eq!(keep.oneshot(request()).await.unwrap().status(), 200);
    let principal = seen.get().cloned().flatten().unwrap();

    let mut insert_only = service_fn(|mut request: Request<()>| {
        request.extensions_mut().insert(principal.clone());
        hello(request)
    });
    let mut behind = layer.layer(service_fn(hello));
    let bare = count(&mut insert_only, request()).await;
    let ours = count(&mut behind, request()).await;
    assert!(bare > 0);
    assert_eq!(ours, bare, "{what}");
}

#[tokio::test]
async fn an_allowed_request_allocates_what_an_insert_into_the_extensions_does() {
    // Other tests log; what that costs is not ours.
    let _quiet = tracing::subscriber::set_default(NoSubscriber::default());
    let mut service = service::Service::new();
    let limit = RateLimit::parse("10/60;10").unwrap();
    let throttle = AuthFailureLimiter::new(limit);
    let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
    let gate = Gate::builder(&service.store, &scheme)
        .failure_throttle(throttle)
        .trusted_proxies(["10.0.0.0/8"])
        .unwrap()
        .build()
        .unwrap();
    let throttled = ("/throttled", gate, Requirement::new());
    service.routes.push(throttled);
    for (path, lines) in [
        ("/live", vec![("x-api-key", service.keys["live"].clone())]),
        (
            "/live",
            vec![("authorization", format!("Bearer {}", service.keys["live"]))],
        ),
        ("/kyc", vec![("x-api-key", service.keys["hybrid"].clone())]),
        (
            "/reports",
            vec![("x-api-key", service.keys["reports"].clone())],
        ),
        (
            "/live",
            vec![
                ("x-api-key", service.keys["shop"].clone()),
                ("origin", "https://shop.example".to_owned()),
            ],
        ),
        (
            "/live",
            vec![
                ("x-api-key", service.keys["subdomains"].clone()),
                ("origin", "https://a.b.shop.example".to_owned()),
            ],
        ),
        (
            "/live",
            vec![
                ("x-api-key", service.keys["office"].clone()),
                ("x-forwarded-for", "192.0.2.1, [2001:db8::7]:443".to_owned()),
            ],
        ),
        (
            "/throttled",
            vec![
                ("x-api-key", service.keys["live"].clone()),
                ("x-forwarded-for", "203.0.113.9, 192.0.2.1".to_owned()),
                ("x-forwarded-for", "[2001:db8::1]:443, 10.0.0.2".to_owned()),
            ],
        ),
    ] {
        let request = || {
            let mut request = Request::builder().extension(SocketAddr::from(([10, 0, 0, 1], 80)));
            for (name, value) in &lines {
                request = request.header(*name, value);
            }
            request.body(()).unwrap()
        };
        let (_, gate, requirement) = service
            .routes
            .iter()
            .find(|(route, ..)| *route == path)
            .unwrap();
        let layer = RequireKeyLayer::new(gate, requirement.clone());
        compare(&layer, request, path).await;
    }
}

#[tokio::test]
async fn a_request_that_pays_allocates_no_more() {
    let _quiet = tracing::subscriber::set_default(NoSubscriber::default());
    let replica = Replica::new();
    replica.always_fresh();
    replica.on_demand(|replica| {
        for CreditWant { owner, .. } in replica.take_wanted() {
            let (amount, epoch, refill_at) = (100, 1, None);
            replica.grant(&CreditGrant {
                owner,
                amount,
                epoch,
                ahead: amount,
                refill_at,
                left: 1,
                warn_below: 0,
                period: None,
            });
        }
        true
    });
    let limits = |text| RateLimits::parse(text).unwrap();
    let format = KeyFormat::new("vhk_{env}_").unwrap();
    let mut poll = replica.poll();
    let mut keys = Vec::new();
    for (what, own, shared, credits) in [
        ("one limit", "100/60;100", "", None),
        ("two limits", "10/1;10 100/60;100", "", None),
        ("one limit of the account", "", "100/60;100", None),
        (
            "two, and one of the account",
            "10/1;10 100/60;100",
            "100/60;100",
            None,
        ),
        (
            "four limits",
            "10/1;10 100/60;100 1000/3600;100 1/86400;100",
            "",
            None,
        ),
        ("credits", "", "", Some(1)),
        ("all of it", "10/1;10 100/60;100", "100/60;100", Some(1)),
    ] {
        let id = AccountId::parse(&what.replace(' ', "-")).unwrap();
        let mut account = Account::new(id.clone());
        account.shared_rate_limits = limits(shared);
        account.credits = credits;
        poll.account(account);
        keys.push((what, stored(&mut poll, &format, id, limits(own))));
    }
    let head = Revision {
        number: 1,
        nonce: 0,
    };
    poll.finish(head).unwrap();
    let gate = Gate::builder_from_replica(&replica, &KeyScheme::new(format))
        .build()
        .unwrap();
    let layer = RequireKeyLayer::new(&gate, Requirement::new());
    for (what, key) in keys {
        let request = || {
            Request::builder()
                .header("x-api-key", &key)
                .body(())
                .unwrap()
        };
        compare(&layer, request, what).await;
    }
}

#[test]
fn a_key_takes_at_most_130_bytes() {
    let format = KeyFormat::new("vhk_{env}_").unwrap();
    for (keys, of_an_account) in [(100_000, 100_000), (300_000, 300_000), (100_000, 50)] {
        let replica = Replica::new();
        let load = || {
            let mut poll = replica.poll();
            for number in 0..keys {
                let name = format!("account-{}", number / of_an_account);
                let account = AccountId::parse(&name).unwrap();
                if number % of_an_account == 0 {
                    poll.account(Account::new(account.clone()));
                }
                stored(&mut poll, &format, account, RateLimits::none());
            }
            let head = Revision {
                number: 1,
                nonce: 0,
            };
            poll.finish(head).unwrap();
        };
        let taken = measure(load).bytes_current;
        assert!(
            taken <= 130 * keys,
            "{taken} bytes for {keys} keys in accounts of {of_an_account}"
        );
    }
}

/// Puts a key into a poll.
fn stored(poll: &mut Poll, format: &KeyFormat, of: AccountId, limits: RateLimits) -> String {
    let key = format.generate(Environment::LIVE).unwrap();
    let mut record = KeyRecord::new(
        KeyId::random().unwrap(),
        Peppers::none().digest(&key),
        key.hint().clone(),
        of,
        Environment::LIVE,
        SystemTime::UNIX_EPOCH,
    );
    record.rate_limits = limits;
    poll.key(&record);
    key.expose_secret().to_owned()
}
