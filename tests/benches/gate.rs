//! What a request pays for its key, beside what it pays without one and with what others do.
//!
//! ```text
//! cargo bench -p tests --bench gate
//! ```
//!
//! All rows take turns, a batch at a time, so that what else the machine does meets them alike; a
//! figure is the median of a row's batches. Requests are made before the clock starts. Every answer is
//! checked. `ONLY=text` runs the rows whose name holds the text; `scripts/instructions` has the
//! instructions of a row counted.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::env;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use actix_web::dev::Service as _;
use actix_web::test::{TestRequest, init_service};
use actix_web::{HttpResponse, web};
use axum::body::Body;
use axum::extract::State;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse as _;
use axum::{Router, routing};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use keyward::credits::CreditGrant;
use keyward::gate::{Decision, Verdict};
use keyward::record::{Account, KeyRecord, KeyStatus};
use keyward::replica::{Replica, Revision};
use keyward::request::RequestHead;
use keyward::{
    AccountId, Environment, Gate, KeyFormat, KeyId, KeyScheme, Peppers, RateLimit, RateLimits,
    Requirement, Scopes,
};
use keyward_actix::RequireKey;
use keyward_tower::{Principal, RequireKeyLayer};
use sha2::{Digest, Sha256};
use tower::{Layer, Service, service_fn};
use tower_http::auth::AsyncRequireAuthorizationLayer;

/// How many requests a batch has.
const BATCH: u32 = 50;

/// So many accounts there are of a million keys, with 50 keys each.
const KEYS_OF_AN_ACCOUNT: usize = 50;

fn main() {
    // `cargo test --benches` runs it once, to see that it works.
    let whole = env::args().any(|arg| arg == "--bench");
    let only = env::var("ONLY").unwrap_or_default();
    let rounds = env::var("ROUNDS")
        .ok()
        .map(|rounds| rounds.parse().unwrap());
    let million = if whole { 1_000_000 } else { 10_000 };
    actix_web::rt::System::new().block_on(async {
        let mut rows = rows(million).await;
        if env::var("LIST").is_ok() {
            return rows.iter().for_each(|row| println!("{}", row.name()));
        }
        rows.retain(|row| match rounds {
            Some(_) => row.name() == only,
            None => row.name().contains(&only),
        });
        for _ in 0..rounds.unwrap_or(if whole { 2001 } else { 3 }) {
            for row in &mut rows {
                (row.batch)(&mut row.watch);
            }
        }
        if rounds.is_none() {
            report(&mut rows);
        }
    });
}

/// One line of the table.
struct Row {
    section: &'static str,
    label: String,
    watch: Watch,
    batch: Box<dyn FnMut(&mut Watch)>,
}

impl Row {
    fn name(&self) -> String {
        format!("{}: {}", self.section, self.label)
    }
}

/// The times of a row's batches.
#[derive(Default)]
struct Watch(Vec<Duration>);

impl Watch {
    /// Callgrind counts what is in here.
    #[inline(never)]
    fn time(&mut self, batch: impl FnOnce()) {
        let began = Instant::now();
        batch();
        self.0.push(began.elapsed());
    }

    /// Nanoseconds of a request.
    fn median(&mut self) -> f64 {
        self.0.sort_unstable();
        let median = self.0[self.0.len() / 2];
        median.as_secs_f64() * 1e9 / f64::from(BATCH)
    }
}

fn report(rows: &mut [Row]) {
    println!("| | | ns | above the unprotected |");
    println!("|---|---|---|---|");
    let (mut section, mut bare) = ("", None);
    for row in rows {
        let time = row.watch.median();
        let shown = if row.section == section {
            ""
        } else {
            (section, bare) = (row.section, None);
            section
        };
        let added = bare.map_or(String::new(), |bare| format!("{:.0}", time - bare));
        if row.label == UNPROTECTED {
            bare = Some(time);
        }
        println!("| {shown} | {} | {time:.0} | {added} |", row.label);
    }
}

const UNPROTECTED: &str = "unprotected";

type Lines = Vec<(&'static str, String)>;

async fn rows(million: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    let world = World::of(1000);
    rows.extend(checks(&world));
    for size in [10, 1000, million] {
        rows.extend(sizes(size));
    }
    rows.extend(plain_tower(&world));
    rows.extend(axum(&world));
    rows.extend(actix(&world).await);
    rows
}

/// A gate and its keys.
struct World {
    replica: Replica,
    format: KeyFormat,
    keys: Vec<String>,
    revoked: String,
    limited: String,
    twice_limited: String,
    with_credits: String,
    used_up: String,
}

impl World {
    fn of(size: usize) -> Self {
        let replica = Replica::new();
        replica.always_fresh();
        replica.on_demand(|replica| {
            for want in replica.take_wanted() {
                replica.grant(&CreditGrant {
                    owner: want.owner,
                    amount: u32::MAX / 2,
                    epoch: 1,
                    ahead: u32::MAX,
                    refill_at: None,
                    left: 1,
                    warn_below: 0,
                    period: None,
                });
            }
            true
        });
        let format = KeyFormat::new("bench_{env}_").unwrap();
        let mut poll = replica.poll();
        let mut paying = Account::new(AccountId::parse("paying").unwrap());
        paying.credits = Some(1);
        poll.account(paying);
        for number in 0..=size / KEYS_OF_AN_ACCOUNT {
            poll.account(Account::new(account(number)));
        }
        let mut make = |number, change: &dyn Fn(&mut KeyRecord)| {
            let key = format.generate(Environment::LIVE).unwrap();
            let mut record = KeyRecord::new(
                KeyId::random().unwrap(),
                Peppers::none().digest(&key),
                key.hint().clone(),
                account(number / KEYS_OF_AN_ACCOUNT),
                Environment::LIVE,
                SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            );
            record.scopes = Scopes::parse(["kyc"]).unwrap();
            change(&mut record);
            poll.key(&record);
            key.expose_secret().to_owned()
        };
        let wide = RateLimit::per_second(1_000_000);
        let keys = (0..size.saturating_sub(5)).map(|number| make(number, &|_| {}));
        let keys = keys.collect();
        let revoked = make(0, &|key| key.status = KeyStatus::Revoked);
        let limited = make(0, &|key| key.rate_limits = wide.into());
        let twice = RateLimits::new([wide, RateLimit::per_minute(1_000_000)]).unwrap();
        let twice_limited = make(0, &|key| key.rate_limits = twice.clone());
        let with_credits = make(0, &|key| key.account = AccountId::parse("paying").unwrap());
        let used_up = make(0, &|key| key.rate_limits = RateLimit::per_day(1).into());
        let head = Revision {
            number: 1,
            nonce: 0,
        };
        poll.finish(head).unwrap();
        let world = Self {
            replica,
            format,
            keys,
            revoked,
            limited,
            twice_limited,
            with_credits,
            used_up,
        };
        // The first waits for the store, and the second is refused.
        for (key, status) in [
            (&world.with_credits, 200),
            (&world.used_up, 200),
            (&world.used_up, 429),
        ] {
            let request = request(&key_line(key), ());
            let response = now(world.layer().layer(service_fn(hello)).call(request));
            assert_eq!(response.unwrap().status(), status);
        }
        world
    }

    fn gate(&self) -> Gate {
        let gate = Gate::builder_from_replica(&self.replica, &KeyScheme::new(self.format.clone()));
        gate.build().unwrap()
    }

    fn layer(&self) -> RequireKeyLayer {
        RequireKeyLayer::new(&self.gate(), Requirement::new().scope("kyc"))
    }

    /// A key in the right form, which nobody has.
    fn unknown(&self) -> String {
        let key = self.format.generate(Environment::LIVE).unwrap();
        key.expose_secret().to_owned()
    }
}

fn account(number: usize) -> AccountId {
    AccountId::parse(&format!("account-{number}")).unwrap()
}

fn key_line(key: &str) -> Lines {
    vec![("x-api-key", key.to_owned())]
}

fn row(
    section: &'static str,
    label: impl Into<String>,
    batch: impl FnMut(&mut Watch) + 'static,
) -> Row {
    Row {
        section,
        label: label.into(),
        watch: Watch::default(),
        batch: Box::new(batch),
    }
}

// The gate without any framework.

fn checks(world: &World) -> Vec<Row> {
    let check = |name, key: &String| {
        let (gate, key) = (world.gate(), key.clone());
        let requirement = Arc::new(Requirement::new().scope("kyc"));
        row("the check alone", name, move |watch| {
            watch.time(|| (0..BATCH).for_each(|_| admitted(&gate, &key, &requirement)));
        })
    };
    let key = world.keys[0].clone();
    let hash = row("the check alone", "SHA-256 of a key", move |watch| {
        let hash = |_| {
            black_box(Sha256::digest(black_box(&key)));
        };
        watch.time(|| (0..BATCH).for_each(hash));
    });
    vec![
        hash,
        check("a known key", &world.keys[0]),
        check("with one rate limit", &world.limited),
        check("with two", &world.twice_limited),
        check("with credits", &world.with_credits),
    ]
}

fn sizes(size: usize) -> [Row; 2] {
    // Made when it is used first: a million keys take a while.
    let world = Rc::new(LazyCell::new(move || World::of(size)));
    let check = |name: &str, used: usize| {
        let world = Rc::clone(&world);
        let mut at = 0;
        row(
            "the check alone",
            format!("{size} keys, {name}"),
            move |watch| {
                let (gate, requirement) = (world.gate(), Arc::default());
                // In memory that is near, where a request's own is.
                let next = |_| {
                    at = (at + 7919) % used.min(world.keys.len());
                    world.keys[at].clone()
                };
                let batch: Vec<_> = (0..BATCH).map(next).collect();
                let check = |key: &String| admitted(&gate, key, &requirement);
                watch.time(|| batch.iter().for_each(check));
            },
        )
    };
    [check("hot", 4), check("uniform", size)]
}

fn admitted(gate: &Gate, key: &str, requirement: &Arc<Requirement>) {
    let decision = gate.check(&Head(black_box(key)), requirement, None);
    assert!(matches!(decision, Decision::Ready(Verdict::Admit(_))));
    black_box(decision);
}

struct Head<'a>(&'a str);

impl RequestHead for Head<'_> {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn peer(&self) -> Option<IpAddr> {
        None
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let key = self.0.as_bytes();
        (field == "x-api-key").then_some(key).into_iter()
    }
}

// tower.

/// What an insert-only layer inserts.
#[derive(Clone)]
#[expect(dead_code, reason = "as a handler would read it")]
struct Caller {
    account: Arc<str>,
    kyc: bool,
}

impl Caller {
    fn some() -> Self {
        let (account, kyc) = ("account-0".into(), true);
        Self { account, kyc }
    }
}

/// The answer of every handler.
fn hello(request: Request<()>) -> Ready<Result<Response<Empty<Bytes>>, Infallible>> {
    drop(black_box(request));
    let mut response = Response::new(Empty::new());
    let text = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, text);
    ready(Ok(response))
}

/// A request as a server hands it on.
fn request<B>(lines: &Lines, body: B) -> Request<B> {
    let mut request = Request::builder()
        .uri("/")
        .header("host", "api.example.com")
        .header("user-agent", "curl/8.5.0")
        .header("accept", "*/*");
    for (name, value) in lines {
        request = request.header(*name, value);
    }
    request.body(body).unwrap()
}

fn tower_row<S, R>(name: &'static str, lines: Lines, status: u16, mut service: S) -> Row
where
    S: Service<Request<()>, Response = Response<R>, Error = Infallible> + 'static,
{
    row("plain tower", name, move |watch| {
        let requests: Vec<_> = (0..BATCH).map(|_| request(&lines, ())).collect();
        watch.time(|| {
            for request in requests {
                let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
                assert!(ready.is_ready());
                let response = now(service.call(request)).unwrap();
                assert_eq!(response.status().as_u16(), status);
                drop(black_box(response));
            }
        });
    })
}

fn plain_tower(world: &World) -> Vec<Row> {
    let key = &world.keys[0];
    let known = || key_line(key);
    let caller = Caller::some();
    let keys: HashMap<_, _> = world
        .keys
        .iter()
        .map(|key| (key.clone(), Caller::some()))
        .collect();
    let keys = Arc::new(RwLock::new(keys));
    let authorise = move |mut request: Request<()>| {
        let keys = Arc::clone(&keys);
        async move {
            let key = request
                .headers()
                .get("x-api-key")
                .and_then(|key| key.to_str().ok());
            let caller = key.and_then(|key| keys.read().unwrap().get(key).cloned());
            let refusal = || {
                let mut refusal = Response::new(Empty::<Bytes>::new());
                *refusal.status_mut() = StatusCode::UNAUTHORIZED;
                refusal
            };
            let caller = caller.filter(|caller| caller.kyc).ok_or_else(refusal)?;
            request.extensions_mut().insert(caller);
            Ok(request)
        }
    };
    let insert = move |mut request: Request<()>| {
        request.extensions_mut().insert(caller.clone());
        hello(request)
    };
    let (insert_after, hashed) = (insert.clone(), key.clone());
    let insert_after_hash = move |request: Request<()>| {
        black_box(Sha256::digest(black_box(&hashed)));
        insert_after(request)
    };
    // What no layer can do without that keeps the key from the handler, and the answer from shared
    // caches; it checks nothing.
    let by_digest: HashMap<[u8; 32], Arc<str>> = world
        .keys
        .iter()
        .map(|key| (Sha256::digest(key).into(), "account-0".into()))
        .collect();
    let x_api_key = HeaderName::from_static("x-api-key");
    let bare = move |mut request: Request<()>| {
        let sole = |name| {
            let mut lines = request.headers().get_all(name).iter();
            lines.next().filter(|_| lines.next().is_none())
        };
        let key = sole(&x_api_key).or_else(|| sole(&AUTHORIZATION));
        let digest: [u8; 32] = Sha256::digest(key.unwrap()).into();
        let account = Arc::clone(&by_digest[&digest]);
        request
            .extensions_mut()
            .insert(Caller { account, kyc: true });
        request.headers_mut().remove(&x_api_key);
        let mut response = hello(request).into_inner();
        if let Ok(response) = &mut response
            && !response.headers().contains_key(CACHE_CONTROL)
        {
            let private = HeaderValue::from_static("private");
            response.headers_mut().insert(CACHE_CONTROL, private);
        }
        ready(response)
    };
    let ours = |name, lines, status| {
        tower_row(name, lines, status, world.layer().layer(service_fn(hello)))
    };
    let forbidden = RequireKeyLayer::new(&world.gate(), Requirement::new().scope("reports"));
    vec![
        tower_row(UNPROTECTED, known(), 200, service_fn(hello)),
        tower_row("insert only", known(), 200, service_fn(insert)),
        tower_row(
            "SHA-256 and insert",
            known(),
            200,
            service_fn(insert_after_hash),
        ),
        tower_row(
            "the same, found, hidden and private",
            known(),
            200,
            service_fn(bare),
        ),
        ours("`RequireKeyLayer`", known(), 200),
        ours("… with one rate limit", key_line(&world.limited), 200),
        ours("… with two", key_line(&world.twice_limited), 200),
        ours("… with credits", key_line(&world.with_credits), 200),
        ours("refused: no key", vec![], 401),
        ours("refused: malformed", key_line("bench_live_nonsense"), 401),
        ours("refused: unknown", key_line(&world.unknown()), 401),
        ours("refused: revoked", key_line(&world.revoked), 401),
        tower_row(
            "refused: scope missing",
            known(),
            403,
            forbidden.layer(service_fn(hello)),
        ),
        ours("refused: rate limited", key_line(&world.used_up), 429),
        tower_row(
            "tower-http's async authorisation, hash map",
            known(),
            200,
            AsyncRequireAuthorizationLayer::new(authorise).layer(service_fn(hello)),
        ),
    ]
}

// axum.

fn axum_row(name: &'static str, lines: Lines, status: u16, mut app: Router) -> Row {
    row("axum", name, move |watch| {
        let requests: Vec<_> = (0..BATCH).map(|_| request(&lines, Body::empty())).collect();
        watch.time(|| {
            for request in requests {
                let response = now(app.call(request)).unwrap();
                assert_eq!(response.status().as_u16(), status);
                drop(black_box(response));
            }
        });
    })
}

fn axum(world: &World) -> Vec<Row> {
    /// What most people write.
    async fn by_hand(
        State(keys): State<Arc<RwLock<HashMap<String, ByHand>>>>,
        mut request: axum::extract::Request,
        next: Next,
    ) -> axum::response::Response {
        let key = request
            .headers()
            .get("x-api-key")
            .and_then(|key| key.to_str().ok());
        let caller = key.and_then(|key| keys.read().unwrap().get(key).cloned());
        match caller.filter(|caller| caller.scopes.iter().any(|scope| scope == "kyc")) {
            Some(caller) => {
                request.extensions_mut().insert(caller);
                next.run(request).await
            }
            None => StatusCode::UNAUTHORIZED.into_response(),
        }
    }

    let known = || key_line(&world.keys[0]);
    let caller = ByHand {
        account: "account-0".to_owned(),
        scopes: vec!["kyc".to_owned()],
    };
    let keys = world.keys.iter().map(|key| (key.clone(), caller.clone()));
    let keys = Arc::new(RwLock::new(keys.collect::<HashMap<_, _>>()));
    let bare = || Router::new().route("/", routing::get(async || "hello"));
    let extracting = async |principal: Principal| {
        black_box(principal);
        "hello"
    };
    let extracting = Router::new().route("/", routing::get(extracting));
    vec![
        axum_row(UNPROTECTED, known(), 200, bare()),
        axum_row("`layer`", known(), 200, bare().layer(world.layer())),
        axum_row(
            "`layer` and `Principal`",
            known(),
            200,
            extracting.layer(world.layer()),
        ),
        axum_row(
            "refused: unknown",
            key_line(&world.unknown()),
            401,
            bare().layer(world.layer()),
        ),
        axum_row(
            "`from_fn` by hand, hash map",
            known(),
            200,
            bare().layer(from_fn_with_state(keys, by_hand)),
        ),
    ]
}

#[derive(Clone)]
#[expect(dead_code, reason = "as a handler would read it")]
struct ByHand {
    account: String,
    scopes: Vec<String>,
}

// actix-web.

async fn actix(world: &World) -> Vec<Row> {
    async fn hello() -> HttpResponse {
        HttpResponse::Ok().into()
    }

    macro_rules! actix_row {
        ($name:expr, $key:expr, $status:expr, $app:expr) => {{
            let app = init_service($app.route("/", web::get().to(hello))).await;
            let key = $key.to_owned();
            row("actix-web", $name, move |watch| {
                let request = |_| {
                    let request = TestRequest::get()
                        .insert_header(("host", "api.example.com"))
                        .insert_header(("user-agent", "curl/8.5.0"))
                        .insert_header(("accept", "*/*"))
                        .insert_header(("x-api-key", key.as_str()));
                    request.to_request()
                };
                let requests: Vec<_> = (0..BATCH).map(request).collect();
                watch.time(|| {
                    for request in requests {
                        let response = now(app.call(request)).unwrap();
                        assert_eq!(response.status().as_u16(), $status);
                        drop(black_box(response));
                    }
                });
            })
        }};
    }

    let (known, unknown) = (&world.keys[0], world.unknown());
    let layer = || RequireKey::new(&world.gate(), Requirement::new().scope("kyc"));
    vec![
        actix_row!(UNPROTECTED, known, 200, actix_web::App::new()),
        actix_row!("`wrap`", known, 200, actix_web::App::new().wrap(layer())),
        actix_row!(
            "refused: unknown",
            unknown,
            401,
            actix_web::App::new().wrap(layer())
        ),
    ]
}

/// What a future gives at once.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing here waits"),
    }
}
