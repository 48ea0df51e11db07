//! A real nginx in front of both stacks: whom it lets in, and what it keeps.
//!
//! It runs as an ordinary user, with a configuration and files in a temporary directory, and listens on a
//! socket there. Without nginx these tests fail; with `KEYWARD_NO_NGINX` set they say that they did not run.

use std::io::{Read as _, Write as _, stderr};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use actix_web::{App, HttpMessage, HttpRequest, HttpResponse, HttpServer, web};
use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse as _;
use axum::routing::any;
use keyward::Principal;
use keyward_actix::RequireKey;
use keyward_tower::RequireKeyLayer;
use tempfile::TempDir;

use crate::service::Service;

/// An nginx of our own; ends with this value.
struct Nginx {
    child: Child,
    folder: TempDir,
}

/// An answer of nginx.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// What became of it in the cache.
    cache: String,
    body: String,
}

impl Nginx {
    /// Starts with these directives of a server; `None` where `KEYWARD_NO_NGINX` says to do without.
    fn start(server: &str) -> Option<Self> {
        if env::var_os("KEYWARD_NO_NGINX").is_some() {
            // Past the capture of the test's output: nobody shall think that they ran.
            writeln!(
                stderr(),
                "NOT RUN: tests with nginx, for KEYWARD_NO_NGINX is set"
            )
            .unwrap();
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::write(folder.path().join("root/document"), "the document").unwrap();
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = kinds.map(|kind| format!("{kind}_temp_path {at}/{kind};"));
        let temporary = temporary.join(" ");
        let configuration = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
             events {{}}
             http {{
                 access_log off; {temporary}
                 proxy_cache_path {at}/cache keys_zone=cache:1m;
                 server {{ listen unix:{at}/socket; root {at}/root; {server} }}
             }}"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, configuration).unwrap();
        let mut nginx = Command::new("nginx");
        // Debian has it where only the administrator's PATH leads.
        let path = env::var("PATH").unwrap_or_default();
        nginx.env("PATH", format!("{path}:/usr/sbin"));
        let log = folder.path().join("error.log");
        let nginx = nginx.arg("-e").arg(log).arg("-c").arg(file).spawn();
        let child = nginx.unwrap_or_else(|error| {
            panic!(
                "the tests with nginx did not run: no nginx ({error}). Install it, as scripts/test does, \
                 or set KEYWARD_NO_NGINX=1"
            )
        });
        let nginx = Self { child, folder };
        let until = Instant::now() + Duration::from_secs(30);
        while nginx.connect().is_err() {
            let log = fs::read_to_string(nginx.folder.path().join("error.log"));
            assert!(Instant::now() < until, "nginx does not start: {log:?}");
            thread::sleep(Duration::from_millis(20));
        }
        Some(nginx)
    }

    fn connect(&self) -> std::io::Result<UnixStream> {
        UnixStream::connect(self.folder.path().join("socket"))
    }

    fn ask(&self, target: &str, fields: &[(&str, &str)]) -> Answer {
        let mut request = format!("{target} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n");
        for (name, value) in fields {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut connection = self.connect().unwrap();
        write!(connection, "{request}\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap();
        let cache = head.lines().find_map(|line| line.strip_prefix("x-cache: "));
        Answer {
            status: status.parse().unwrap(),
            cache: cache.unwrap_or_default().to_owned(),
            body: body.to_owned(),
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        drop((self.child.kill(), self.child.wait()));
    }
}

/// A path, and the `cache-control` of its handler.
const HANDLERS: &[(&str, Option<&str>)] = &[
    ("/live", None),
    ("/grpc", None),
    ("/any", Some("max-age=60")),
    ("/kyc", Some("public, max-age=60")),
    ("/optional", Some("public, max-age=60")),
];

fn who(principal: Option<&Principal>) -> String {
    principal.map_or("nobody".to_owned(), |own| own.account().to_string())
}

/// Serves the routes in axum until the process ends.
fn serve_axum(service: &Service) -> SocketAddr {
    let mut app = Router::new().route(
        "/open",
        any(async || ([("cache-control", "max-age=60")], "open")),
    );
    for &(path, control) in HANDLERS {
        let handler = move |request: Request| async move {
            let mut response = who(request.extensions().get()).into_response();
            if let Some(control) = control {
                let control = http::HeaderValue::from_static(control);
                response.headers_mut().insert("cache-control", control);
            }
            response
        };
        let mut routes = service.routes.iter();
        let (_, gate, requirement) = routes.find(|(own, ..)| *own == path).unwrap();
        let layer = RequireKeyLayer::new(gate, requirement.clone());
        app = app.merge(Router::new().route(path, any(handler)).layer(layer));
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
    });
    address
}

/// Serves the routes in actix-web until the process ends.
fn serve_actix(service: &Service) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let routes = service.routes.clone();
    thread::spawn(move || {
        let app = move || {
            let open = async || {
                let mut response = HttpResponse::Ok();
                response.insert_header(("cache-control", "max-age=60"));
                response.body("open")
            };
            let mut app = App::new().route("/open", web::route().to(open));
            for &(path, control) in HANDLERS {
                let handler = move |request: HttpRequest| async move {
                    let mut response = HttpResponse::Ok();
                    if let Some(control) = control {
                        response.insert_header(("cache-control", control));
                    }
                    response.body(who(request.extensions().get()))
                };
                let mut routes = routes.iter();
                let (_, gate, requirement) = routes.find(|(own, ..)| *own == path).unwrap();
                let layer = RequireKey::new(gate, requirement.clone());
                app = app.service(web::resource(path).wrap(layer).to(handler));
            }
            app
        };
        let server = HttpServer::new(app).workers(1).listen(listener).unwrap();
        let server = server.disable_signals().run();
        actix_web::rt::System::new().block_on(server).unwrap();
    });
    address
}

fn stacks(service: &Service) -> [(&'static str, SocketAddr); 2] {
    [
        ("axum", serve_axum(service)),
        ("actix", serve_actix(service)),
    ]
}

#[test]
fn nginx_auth_request_opens_nothing_without_a_key() {
    let service = Service::new();
    for (stack, address) in stacks(&service) {
        let asks = |path: &str| {
            format!(
                "location = /ask{path} {{
                     internal; proxy_pass http://{address}{path};
                     proxy_pass_request_body off; proxy_set_header content-length '';
                 }}
                 location = {path}/document {{ auth_request /ask{path}; rewrite ^ /document break; }}"
            )
        };
        let server = [asks("/live"), asks("/grpc")].concat();
        let Some(nginx) = Nginx::start(&server) else {
            return;
        };
        let key = &*service.keys["hybrid"];
        for path in ["/live", "/grpc"] {
            for method in ["GET", "HEAD", "POST"] {
                for content_type in [
                    "application/json",
                    "application/grpc",
                    "application/grpc-web+proto",
                ] {
                    let fields = [("content-type", content_type), ("content-length", "0")];
                    let target = format!("{method} {path}/document");
                    let answer = nginx.ask(&target, &fields);
                    assert_eq!(answer.status, 401, "{stack} {target} {content_type}");
                    assert!(!answer.body.contains("the document"));
                }
            }
            let answer = nginx.ask(&format!("GET {path}/document"), &[("x-api-key", key)]);
            assert_eq!((answer.status, &*answer.body), (200, "the document"));
        }
    }
}

#[test]
fn nginx_proxy_cache_gives_nobody_the_answer_to_a_key() {
    let service = Service::new();
    for (stack, address) in stacks(&service) {
        // Also what says nothing of caches is kept, and no key tells one request from another.
        let server = format!(
            "location / {{
                 proxy_pass http://{address}; proxy_cache cache; proxy_cache_key $uri;
                 proxy_cache_valid any 60s; add_header x-cache $upstream_cache_status always;
             }}"
        );
        let Some(nginx) = Nginx::start(&server) else {
            return;
        };
        let (live, kyc) = (&*service.keys["live"], &*service.keys["kyc"]);
        let ask = |path: &str, fields: &[(&str, &str)]| {
            let answer = nginx.ask(&format!("GET {path}"), fields);
            (answer.status, answer.body, answer.cache)
        };
        let is = |status: u16, body: &str, cache: &str| (status, body.to_owned(), cache.to_owned());
        assert_eq!(ask("/open", &[]), is(200, "open", "MISS"), "{stack}");
        assert_eq!(ask("/open", &[]), is(200, "open", "HIT"), "{stack}");

        let bearer = format!("Bearer {live}");
        for key in [("x-api-key", live), ("authorization", &bearer)] {
            for path in ["/live", "/any"] {
                let about = format!("{stack} {path} {key:?}");
                assert_eq!(ask(path, &[key]), is(200, "acme", "MISS"), "{about}");
                let (status, _, cache) = ask(path, &[]);
                assert_eq!((status, &*cache), (401, "MISS"), "{about}");
                assert_eq!(ask(path, &[key]), is(200, "acme", "MISS"), "{about}");
            }
        }
        // What the handler itself calls public is everybody's.
        assert_eq!(ask("/kyc", &[("x-api-key", kyc)]), is(200, "acme", "MISS"));
        assert_eq!(ask("/kyc", &[]), is(200, "acme", "HIT"), "{stack}");

        let optional = "/optional";
        assert_eq!(ask(optional, &[]), is(200, "nobody", "MISS"), "{stack}");
        assert_eq!(ask(optional, &[]), is(200, "nobody", "HIT"), "{stack}");
        for key in [("x-api-key", live), ("authorization", &bearer)] {
            assert_eq!(ask(optional, &[key]).1, "acme", "{stack} {key:?}");
        }
        for wrong in [("x-api-key", "nonsense"), ("authorization", "Bearer no")] {
            assert_eq!(ask(optional, &[wrong]).0, 401, "{stack} {wrong:?}");
        }
        assert_eq!(ask(optional, &[]).1, "nobody", "{stack}");
    }
}
