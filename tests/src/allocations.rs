//! A known key costs no allocation of ours before the inner service is called.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::OnceLock;

use allocation_counter::measure;
use http::{Request, Response};
use http_body_util::Empty;
use keyward::{FailureThrottle, Gate, KeyFormat, Principal, RateLimit, Requirement, Store};
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

#[tokio::test]
async fn an_allowed_request_allocates_what_an_insert_into_the_extensions_does() {
    // Other tests log; what that costs is not ours.
    let _quiet = tracing::subscriber::set_default(NoSubscriber::default());
    let mut service = service::Service::new();
    let limit = RateLimit::parse("10/60;10").unwrap();
    let throttle = FailureThrottle::new(limit).trusted_proxies(["10.0.0.0/8"]);
    let gate = Gate::builder(service.store.replica())
        .format(KeyFormat::new("vhk_{env}_").unwrap())
        .failure_throttle(throttle.unwrap())
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
        let layer = RequireKeyLayer::new(gate.clone()).requirement(requirement.clone());
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
        assert_eq!(ours, bare, "{path} {:?}", lines.last());
    }
}
