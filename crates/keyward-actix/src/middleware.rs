//! The service that the middleware creates.

use std::rc::Rc;
use std::sync::Arc;

use actix_web::body::EitherBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, forward_ready};
use actix_web::rt::time::sleep;
use actix_web::{Error, HttpMessage};
use keyward::gate::Decision;
use keyward::{Gate, Requirement};

use crate::ResponseFuture;
use crate::head::{FieldNames, Head, Peer};

/// The service that [`RequireKey`](crate::RequireKey) creates.
#[derive(Debug)]
pub struct RequireKeyMiddleware<S> {
    inner: Rc<S>,
    names: FieldNames,
    gate: Gate,
    requirement: Arc<Requirement>,
    peer: Peer,
}

impl<S> RequireKeyMiddleware<S> {
    pub(crate) fn new(inner: S, gate: Gate, requirement: Arc<Requirement>, peer: Peer) -> Self {
        let inner = Rc::new(inner);
        Self {
            inner,
            names: FieldNames::of(gate.locations()),
            gate,
            requirement,
            peer,
        }
    }
}

impl<S, B> Service<ServiceRequest> for RequireKeyMiddleware<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = ResponseFuture<S>;

    forward_ready!(inner);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let extensions = request.extensions();
        let head = Head {
            request: &request,
            names: &self.names,
            peer: self.peer,
        };
        let decision = self.gate.check(&head, &self.requirement, extensions.get());
        drop(extensions);
        match decision {
            Decision::Ready(verdict) => {
                ResponseFuture::decided(verdict, &self.names, &*self.inner, request)
            }
            Decision::Pending(pending) => {
                let (names, inner) = (self.names.clone(), Rc::clone(&self.inner));
                ResponseFuture::pending(pending.with_timer(sleep), names, inner, request)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::ready;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;
    use std::time::Duration;

    use actix_web::body::{BoxBody, MessageBody};
    use actix_web::http::header::{HeaderValue, VARY};
    use actix_web::http::{Method, StatusCode};
    use actix_web::middleware::{Next, from_fn};
    use actix_web::test::{TestRequest, call_service, init_service, read_body};
    use actix_web::{App, HttpRequest, HttpResponse, ResponseError, web};
    use keyward::denial::DenialKind;
    use keyward::gate::Denial;
    use keyward::record::{Account, KeyRecord};
    use keyward::replica::{Replica, Revision};
    use keyward::{AccountId, Cors, Environment, KeyLocation, Principal, RateLimit};

    use super::*;
    use crate::fixture::{Fixture, answer, gate_over};
    use crate::{MaybePrincipal, RequireKey};

    /// Tells who calls, and whether the key is still there.
    async fn show(MaybePrincipal(principal): MaybePrincipal, request: HttpRequest) -> String {
        let who = principal.map_or("nobody".to_owned(), |who| who.account().to_string());
        let key = match request.headers().get("x-api-key") {
            None => "no key",
            Some(key) if key.is_sensitive() => "a sensitive key",
            Some(_) => "a key",
        };
        format!("{who} with {key}")
    }

    #[actix_web::test]
    async fn passes_on_the_principal_without_the_key() {
        let fixture = Fixture::new().await;
        let layer = RequireKey::new(&fixture.gate(), Requirement::new().scope("kyc"));
        let app = App::new().wrap(layer).route("/", web::get().to(show));
        let response = answer(app, fixture.request("/")).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers().get("cache-control").unwrap(), "private");
        assert_eq!(read_body(response).await, "acme with no key");
    }

    #[actix_web::test]
    async fn marks_a_forwarded_key_as_sensitive() {
        let fixture = Fixture::new().await;
        let gate = fixture.builder().insecure_forward_key().build().unwrap();
        let app = App::new()
            .wrap(RequireKey::new(&gate, Requirement::new()))
            .route("/", web::get().to(show));
        let response = answer(app, fixture.request("/")).await;
        assert_eq!(read_body(response).await, "acme with a sensitive key");
    }

    #[actix_web::test]
    async fn a_refusal_keeps_every_line_and_carries_the_denial() {
        let fixture = Fixture::new().await;
        let layer = RequireKey::new(&fixture.gate(), Requirement::new().scope("other"));
        let app = App::new().wrap(layer).route("/", web::get().to(show));
        let response = answer(app, fixture.request("/")).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let headers = response.headers();
        let challenges: Vec<_> = headers.get_all("www-authenticate").collect();
        assert_eq!(
            challenges,
            [
                r#"ApiKey realm="api", error="insufficient_scope", scope="other""#,
                r#"Bearer realm="api", error="insufficient_scope", scope="other""#,
            ]
        );
        assert_eq!(headers.get("cache-control").unwrap(), "no-store");
        let json = HeaderValue::from_static("application/problem+json");
        assert!(headers.get_all("content-type").eq([&json]));
        assert_eq!(headers.len(), 4);
        {
            let extensions = response.response().extensions();
            let denial = extensions.get::<Denial>().unwrap();
            assert_eq!(denial.kind(), DenialKind::ScopeMissing);
            assert_eq!(denial.key_id(), Some(fixture.created.record.id));
        }
        let body = read_body(response).await;
        assert!(body.ends_with(br#""code":"insufficient_scope"}"#));
    }

    #[actix_web::test]
    async fn a_preflight_is_answered_without_a_content_type() {
        let fixture = Fixture::new().await;
        let app = App::new().wrap(RequireKey::new(&fixture.gate(), Requirement::new()));
        let preflight = TestRequest::with_uri("/anything")
            .method(Method::OPTIONS)
            .insert_header(("origin", "https://shop.example"))
            .insert_header(("access-control-request-method", "GET"));
        let response = answer(app, preflight).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(response.headers().len(), 1);
        assert_eq!(response.headers().get("cache-control").unwrap(), "no-store");
        assert!(read_body(response).await.is_empty());
    }

    #[actix_web::test]
    async fn sees_every_line_of_a_field() {
        let fixture = Fixture::new().await;
        let app = App::new().wrap(RequireKey::new(&fixture.gate(), Requirement::new()));
        let twice = fixture.request("/").append_header(("x-api-key", "another"));
        let response = answer(app, twice).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    }

    #[actix_web::test]
    async fn covers_what_it_is_wrapped_around() {
        let fixture = Fixture::new().await;
        let layer = || RequireKey::new(&fixture.gate(), Requirement::new());
        let app = || App::new().wrap(layer()).route("/v1/a", web::get().to(show));
        let scope = || {
            let scope = web::scope("/v1").wrap(layer());
            App::new().service(scope.route("/a", web::get().to(show)))
        };
        let resource = || {
            let resource = web::resource("/v1/a").wrap(layer());
            App::new().service(resource.get(show))
        };
        for (path, by_app, by_scope, by_resource) in [
            ("/v1/a", 401, 401, 401),
            ("/v1/unknown", 401, 401, 404),
            ("/unknown", 401, 404, 404),
        ] {
            let response = answer(app(), TestRequest::with_uri(path)).await;
            assert_eq!(response.status(), by_app, "app, {path}");
            let response = answer(scope(), TestRequest::with_uri(path)).await;
            assert_eq!(response.status(), by_scope, "scope, {path}");
            let response = answer(resource(), TestRequest::with_uri(path)).await;
            assert_eq!(response.status(), by_resource, "resource, {path}");
        }
        for response in [
            answer(app(), fixture.request("/v1/a")).await,
            answer(scope(), fixture.request("/v1/a")).await,
            answer(resource(), fixture.request("/v1/a")).await,
        ] {
            assert_eq!(read_body(response).await, "acme with no key");
        }
    }

    #[actix_web::test]
    async fn inside_its_own_gate_it_only_adds_a_requirement() {
        let fixture = Fixture::new().await;
        let gate = fixture.gate();
        let app = || {
            let inner = |path, scope| {
                let layer = RequireKey::new(&gate, Requirement::new().scope(scope));
                web::resource(path).wrap(layer).get(show)
            };
            let outer = web::scope("/v1").wrap(RequireKey::new(&gate, Requirement::new()));
            App::new().service(
                outer
                    .service(inner("/held", "kyc"))
                    .service(inner("/lacked", "other")),
            )
        };
        // The inner one sees no key any more: that it passes shows that it has asked for none.
        let response = answer(app(), fixture.request("/v1/held")).await;
        assert_eq!(read_body(response).await, "acme with no key");
        let response = answer(app(), fixture.request("/v1/lacked")).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
    }

    #[actix_web::test]
    async fn where_a_key_is_optional_it_must_still_be_good() {
        let fixture = Fixture::new().await;
        let app = || {
            let layer = RequireKey::new(&fixture.gate(), Requirement::new().optional());
            App::new().wrap(layer).route("/", web::get().to(show))
        };
        let response = answer(app(), TestRequest::default()).await;
        assert_eq!(read_body(response).await, "nobody with no key");
        let response = answer(app(), fixture.request("/")).await;
        assert_eq!(read_body(response).await, "acme with no key");
        let bad = TestRequest::default().insert_header(("x-api-key", "bad"));
        let response = answer(app(), bad).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }

    #[actix_web::test]
    async fn a_principal_of_another_gate_is_not_accepted() {
        let fixture = Fixture::new().await;
        let elsewhere = fixture.builder().location(KeyLocation::bearer());
        let inner = RequireKey::new(&elsewhere.build().unwrap(), Requirement::new().optional());
        let app = App::new()
            .wrap(inner)
            .wrap(RequireKey::new(&fixture.gate(), Requirement::new()))
            .route("/", web::get().to(show));
        let response = answer(app, fixture.request("/")).await;
        assert_eq!(read_body(response).await, "nobody with no key");
    }

    #[actix_web::test]
    async fn a_request_that_another_holds_is_refused_while_the_key_is_in_it() {
        async fn hold<B: MessageBody>(
            request: ServiceRequest,
            next: Next<B>,
        ) -> Result<ServiceResponse<B>, Error> {
            let held = request.request().clone();
            let response = next.call(request).await;
            drop(held);
            response
        }
        let fixture = Fixture::new().await;
        let app = || {
            let layer = RequireKey::new(&fixture.gate(), Requirement::new().optional());
            let resource = web::resource("/").wrap(layer).wrap(from_fn(hold));
            App::new().service(resource.get(show))
        };
        let response = answer(app(), fixture.request("/")).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers().len(), 1);
        assert_eq!(response.headers().get("cache-control").unwrap(), "no-store");
        let request = response.request().clone();
        assert!(request.extensions().get::<Principal>().is_none());
        assert!(read_body(response).await.is_empty());

        let response = answer(app(), TestRequest::default()).await;
        assert_eq!(read_body(response).await, "nobody with no key");
    }

    /// Counts how often it is asked for a response.
    #[derive(Debug)]
    struct Broken(Rc<Cell<u32>>);

    impl std::fmt::Display for Broken {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("broken")
        }
    }

    impl ResponseError for Broken {
        fn error_response(&self) -> HttpResponse {
            self.0.set(self.0.get() + 1);
            let mut response = HttpResponse::new(StatusCode::BAD_GATEWAY);
            let own = HeaderValue::from_static("Accept");
            response.headers_mut().insert(VARY, own);
            response
        }
    }

    #[actix_web::test]
    async fn the_error_of_a_middleware_inside_gets_the_headers_and_its_refund_once() {
        let fixture = Fixture::new().await;
        fixture.give_credits(3).await;
        let minute = RateLimit::per_minute(100);
        let gate = fixture
            .builder()
            .cors(Cors::new())
            .rate_limits(Environment::LIVE, minute)
            .refund_server_errors()
            .build()
            .unwrap();
        let asked = Rc::new(Cell::new(0));
        let counted = Rc::clone(&asked);
        let fail = move |_: ServiceRequest, _: Next<BoxBody>| {
            let error = Broken(Rc::clone(&counted));
            ready(Err::<ServiceResponse<BoxBody>, Error>(error.into()))
        };
        let app = App::new()
            .wrap(from_fn(fail))
            .wrap(RequireKey::new(&gate, Requirement::new()))
            .route("/", web::get().to(show));
        let app = init_service(app).await;
        for _ in 0..5 {
            let request = fixture.request("/").to_request();
            let error = app.call(request).await.err().unwrap();
            let asked_before = asked.get();
            for _ in 0..3 {
                let response = error.error_response();
                assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
                let lines = |name: &str| response.headers().get_all(name).count();
                assert_eq!(lines("ratelimit"), 1);
                assert_eq!(lines("cache-control"), 1);
                assert_eq!(lines("access-control-allow-origin"), 1);
                assert_eq!(response.headers().get("vary").unwrap(), "Accept");
            }
            assert_eq!(asked.get(), asked_before + 3);
        }
        // Five failed, and there were credits for three.
        let works = App::new()
            .wrap(RequireKey::new(&gate, Requirement::new()))
            .route("/", web::get().to(show));
        let works = init_service(works).await;
        for status in [200, 200, 200, 429] {
            let request = fixture.request("/").to_request();
            let response = call_service(&works, request).await;
            assert_eq!(response.status(), status);
        }
    }

    #[actix_web::test]
    async fn around_one_method_the_others_and_preflights_are_not_its_own() {
        let fixture = Fixture::new().await;
        let gate = fixture.builder().cors(Cors::new()).build().unwrap();
        let get = || {
            web::get()
                .to(show)
                .wrap(RequireKey::new(&gate, Requirement::new()))
        };
        let in_app = || App::new().route("/", get());
        let in_resource = || App::new().service(web::resource("/").route(get()));
        let around = || {
            let resource = web::resource("/").wrap(RequireKey::new(&gate, Requirement::new()));
            App::new().service(resource.route(web::get().to(show)))
        };
        let preflight = || {
            TestRequest::default()
                .method(Method::OPTIONS)
                .insert_header(("origin", "https://shop.example"))
                .insert_header(("access-control-request-method", "GET"))
        };
        let post = || TestRequest::post().uri("/");
        for (request, by_app, by_resource, by_wrapped_resource) in [
            (TestRequest::default as fn() -> _, 401, 401, 401),
            (post, 404, 405, 401),
            (preflight, 404, 405, 204),
        ] {
            let response = answer(in_app(), request()).await;
            assert_eq!(response.status(), by_app);
            let response = answer(in_resource(), request()).await;
            assert_eq!(response.status(), by_resource);
            let response = answer(around(), request()).await;
            assert_eq!(response.status(), by_wrapped_resource);
        }
    }

    /// A replica that is asked to poll does so from another thread.
    fn fed_on_demand(record: KeyRecord) -> (Replica, Arc<AtomicU64>) {
        let replica = Replica::new();
        let polls = Arc::new(AtomicU64::new(0));
        let (feed, asked) = (replica.clone(), Arc::clone(&polls));
        replica.on_demand(move |_| {
            let number = asked.fetch_add(1, Ordering::Relaxed) + 1;
            let (feed, record) = (feed.clone(), record.clone());
            thread::spawn(move || {
                let mut poll = feed.poll();
                poll.restart();
                poll.account(Account::new(AccountId::parse("acme").unwrap()));
                poll.key(&record);
                poll.finish(Revision { number, nonce: 0 }).unwrap();
            });
            true
        });
        (replica, polls)
    }

    #[actix_web::test]
    async fn waits_for_the_store_where_no_memory_is_trusted() {
        let fixture = Fixture::new().await;
        let (replica, polls) = fed_on_demand(fixture.created.record.clone());
        let strict = gate_over(&replica).max_staleness(Duration::ZERO);
        let gate = strict.build().unwrap();
        let app = |scope| {
            let layer = RequireKey::new(&gate, Requirement::new().scope(scope));
            App::new().wrap(layer).route("/", web::get().to(show))
        };
        let response = answer(app("kyc"), fixture.request("/")).await;
        assert_eq!(response.headers().get("cache-control").unwrap(), "private");
        assert_eq!(read_body(response).await, "acme with no key");
        let once = polls.load(Ordering::Relaxed);
        assert!(once > 0);

        let reached = web::get().to(async || HttpResponse::Ok());
        let layer = RequireKey::new(&gate, Requirement::new().scope("other"));
        let refusing = App::new().wrap(layer).route("/", reached);
        let response = answer(refusing, fixture.request("/")).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(polls.load(Ordering::Relaxed) > once);
    }
}
