//! The service and the pages of its customers, in axum and in actix-web, on two ports.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use actix_web::dev::Service as _;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{any, get};
use keyward::gate::{Denial, GateBuilder};
use keyward::replica::Replica;
use keyward::testing::block_on;
use keyward::{
    AccountId, Actor, Cors, Environment, Gate, KeyAdmin, KeyFormat, KeyId, KeyKind, KeyLocation,
    KeyScheme, MemoryStore, NewKey, OriginPolicy, RateLimit, Requirement, Store,
};
use keyward_actix::RequireKey;
use keyward_tower::RequireKeyLayer;

/// What every page can do: ask, by itself, from a frame or from a worker.
pub const PAGE: &str = include_str!("page.html");

/// Which stack serves.
#[derive(Clone, Copy, Debug)]
pub enum Stack {
    Axum,
    Actix,
}

/// A request that has reached the service, in which the page cannot meddle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The query, by which a test finds its own requests.
    pub tag: String,
    pub path: String,
    pub method: String,
    pub origin: Option<String>,
    pub status: u16,
    /// The key that was refused and why, as a service's own layer learns it.
    pub denial: Option<(String, Option<KeyId>)>,
}

impl Seen {
    fn new(method: &str, path: &str, query: Option<&str>, origin: Option<&[u8]>) -> Self {
        Self {
            tag: query.unwrap_or_default().to_owned(),
            path: path.to_owned(),
            method: method.to_owned(),
            origin: origin.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()),
            status: 0,
            denial: None,
        }
    }

    fn answered(&mut self, status: u16, denial: Option<&Denial>) {
        self.status = status;
        self.denial = denial.map(|denial| (format!("{:?}", denial.kind()), denial.key_id()));
    }
}

type Log = Arc<Mutex<Vec<Seen>>>;
type Routes = Vec<(&'static str, Gate, Requirement)>;

/// A running service.
pub struct Site {
    pub ports: [u16; 2],
    pub keys: HashMap<&'static str, (KeyId, String)>,
    pub admin: KeyAdmin,
    log: Log,
}

impl Site {
    /// Serves until the process ends.
    pub fn start(stack: Stack) -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = [0, 1].map(|at: usize| listeners[at].local_addr().unwrap().port());
        let store = Arc::new(MemoryStore::new());
        let routes = routes(store.replica());
        let log = Log::default();
        let own = Arc::clone(&log);
        thread::spawn(move || match stack {
            Stack::Axum => serve_axum(listeners, routes, own),
            Stack::Actix => serve_actix(listeners, routes, own),
        });
        let admin = KeyAdmin::new(&store, &scheme());
        let mut site = Self {
            ports,
            keys: HashMap::new(),
            admin,
            log,
        };
        site.make_keys();
        site
    }

    /// A URL on a host of this machine.
    pub fn url(&self, host: &str, path: &str) -> String {
        self.url_at(0, host, path)
    }

    /// The same on the other port.
    pub fn url_at(&self, port: usize, host: &str, path: &str) -> String {
        format!("http://{host}.localhost:{}{path}", self.ports[port])
    }

    pub fn key(&self, name: &str) -> &str {
        &self.keys[name].1
    }

    /// What has come with this tag, but for preflights where they are of no interest.
    pub fn seen(&self, tag: &str) -> Vec<Seen> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|seen| seen.tag == tag).cloned().collect()
    }

    fn make_keys(&mut self) {
        let shop = self.url("shop", "");
        let own = self.url("api", "");
        let listed = |patterns: &[&str]| OriginPolicy::listed(patterns).unwrap();
        let subdomains = self.url("*.shop", "");
        let secret = KeyKind::Secret;
        let publishable = KeyKind::Publishable;
        for (name, kind, origins) in [
            ("listed", publishable, listed(&[&shop, &own])),
            (
                "or none",
                publishable,
                listed(&[&shop, &own]).or_no_origin(),
            ),
            ("any", publishable, OriginPolicy::Any),
            ("subdomains", publishable, listed(&[&subdomains])),
            ("ports", publishable, listed(&["http://shop.localhost:*"])),
            ("revoked", publishable, listed(&[&shop])),
            ("limited", publishable, listed(&[&shop])),
            ("secret", secret, OriginPolicy::Any),
        ] {
            let account = AccountId::parse("shop").unwrap();
            let operator = Actor::operator("tests");
            block_on(self.admin.open_account(&operator, &account)).unwrap();
            let new = NewKey::new(account, Environment::TEST, name);
            let mut new = new.kind(kind).origins(origins);
            if name == "limited" {
                new = new.rate_limits(RateLimit::per_minute(1));
            }
            let created = block_on(self.admin.create(&operator, new)).unwrap();
            let text = created.key.unwrap().expose_secret().to_owned();
            self.keys.insert(name, (created.record.id, text));
        }
    }
}

fn format() -> KeyFormat {
    KeyFormat::new("vhk_{env}_").unwrap()
}

fn scheme() -> KeyScheme {
    KeyScheme::new(format())
}

fn gate(replica: &Replica) -> GateBuilder {
    Gate::builder_from_replica(replica, &scheme())
        .location(KeyLocation::x_api_key())
        .location(KeyLocation::client_key())
        .location(KeyLocation::x_client_key())
}

fn routes(replica: &Replica) -> Routes {
    let cors = || {
        Cors::new()
            .request_header("x-session")
            .response_header("x-total-count")
    };
    let open = gate(replica).cors(cors()).build().unwrap();
    let asks_again = cors().max_age(std::time::Duration::ZERO);
    let uncached = gate(replica).cors(asks_again).build().unwrap();
    let stale = gate(&Replica::new()).cors(cors()).build().unwrap();
    let silent = gate(replica).build().unwrap();
    let any = || Requirement::new().any_environment();
    let widget = || any().kinds([KeyKind::Publishable]);
    vec![
        ("/widget", open.clone(), widget()),
        ("/redirect", open.clone(), widget()),
        ("/demo.Verifier/Verify", open.clone(), widget().grpc()),
        ("/secret", open.clone(), any()),
        (
            "/both",
            open,
            any().kinds([KeyKind::Publishable, KeyKind::Secret]),
        ),
        ("/uncached", uncached, widget()),
        ("/stale", stale, widget()),
        // One behind somebody else's CORS layer, one behind none.
        ("/outer", silent.clone(), widget()),
        ("/silent", silent, widget()),
    ]
}

/// What a handler that was reached answers: status and fields.
fn answer(path: &str, host: &str, query: &str) -> (u16, Vec<(&'static str, String)>) {
    let port = host.rsplit(':').next().unwrap();
    let to = match path.strip_prefix("/redirect") {
        None => {
            let fields = [
                ("retry-after", "7"),
                ("x-total-count", "3"),
                ("x-internal", "4"),
            ];
            return (
                200,
                fields.map(|(name, value)| (name, value.to_owned())).into(),
            );
        }
        Some(_) if query.starts_with("within") => "api",
        Some(_) => "elsewhere",
    };
    let location = format!("http://{to}.localhost:{port}/widget?{query}");
    (307, vec![("location", location)])
}

fn serve_axum(listeners: [TcpListener; 2], routes: Routes, log: Log) {
    async fn handler(request: Request) -> Response {
        let host = request.headers()["host"].to_str().unwrap();
        let query = request.uri().query().unwrap_or_default();
        let (status, fields) = answer(request.uri().path(), host, query);
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(name, value);
        }
        response.body(Body::from("in")).unwrap()
    }

    let page = get(async || axum::response::Html(PAGE));
    let mut app = Router::new().route("/page", page);
    for (path, gate, requirement) in routes {
        let layer = RequireKeyLayer::new(&gate, requirement);
        let mut route = Router::new().route(path, any(handler)).layer(layer);
        if path == "/outer" {
            route = route.layer(
                tower_http::cors::CorsLayer::new()
                    .allow_origin(tower_http::cors::Any)
                    .allow_headers([http::HeaderName::from_static("x-client-key")]),
            );
        }
        app = app.merge(route);
    }
    let app = app.layer(from_fn(move |request: Request, next: Next| {
        let log = Arc::clone(&log);
        async move {
            let (uri, method) = (request.uri(), request.method().as_str());
            let origin = request
                .headers()
                .get("origin")
                .map(http::HeaderValue::as_bytes);
            let mut seen = Seen::new(method, uri.path(), uri.query(), origin);
            let response = next.run(request).await;
            seen.answered(response.status().as_u16(), response.extensions().get());
            log.lock().unwrap().push(seen);
            response
        }
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let [one, two] = listeners.map(|listener| {
            listener.set_nonblocking(true).unwrap();
            tokio::net::TcpListener::from_std(listener).unwrap()
        });
        let (one, two) = tokio::join!(axum::serve(one, app.clone()), axum::serve(two, app));
        one.and(two).unwrap();
    });
}

fn serve_actix(listeners: [TcpListener; 2], routes: Routes, log: Log) {
    async fn handler(request: HttpRequest) -> HttpResponse {
        let host = request.headers().get("host").unwrap().to_str().unwrap();
        let (status, fields) = answer(request.path(), host, request.query_string());
        let mut response = HttpResponse::build(status.try_into().unwrap());
        for (name, value) in fields {
            response.insert_header((name, value));
        }
        response.body("in")
    }

    let server = HttpServer::new(move || {
        let log = Arc::clone(&log);
        let routes = routes.clone();
        App::new()
            .wrap_fn(move |request, service| {
                let (uri, method) = (request.uri(), request.method().as_str());
                let origin = request.headers().get("origin");
                let origin = origin.map(actix_web::http::header::HeaderValue::as_bytes);
                let mut seen = Seen::new(method, uri.path(), uri.query(), origin);
                let log = Arc::clone(&log);
                let response = service.call(request);
                async move {
                    let response = response.await?;
                    let status = response.status().as_u16();
                    seen.answered(status, response.response().extensions().get());
                    log.lock().unwrap().push(seen);
                    Ok(response)
                }
            })
            .route(
                "/page",
                web::get().to(async || HttpResponse::Ok().content_type("text/html").body(PAGE)),
            )
            .configure(|app| {
                for (path, gate, requirement) in routes {
                    let layer = RequireKey::new(&gate, requirement);
                    let route = web::resource(path)
                        .route(web::route().to(handler))
                        .wrap(layer);
                    if path == "/outer" {
                        let outer = actix_cors::Cors::default()
                            .allow_any_origin()
                            .send_wildcard()
                            .allowed_methods(["GET"])
                            .allowed_header("x-client-key");
                        app.service(route.wrap(outer));
                    } else {
                        app.service(route);
                    }
                }
            })
    });
    let [one, two] = listeners;
    let server = server.workers(1).listen(one).unwrap().listen(two).unwrap();
    actix_web::rt::System::new()
        .block_on(server.disable_signals().run())
        .unwrap();
}
