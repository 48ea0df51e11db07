//! What a developer reads of a mistake of his own: where it is, and what is wrong.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::SystemTime;

use actix_web::test::{TestRequest, call_service, init_service};
use actix_web::{App, web};
use axum::Router;
use axum::routing::get;
use keyward::record::{AuditAction, AuditEntry};
use keyward::store::{AuditQuery, Commit};
use keyward::testing::block_on;
use keyward::{Cors, Environment, Gate, KeyFormat, MemoryStore, RateLimit, Requirement};
use keyward::{KeyScheme, ScopeCatalog, Store};
use keyward_actix::RequireKey;
use keyward_sqlite::SqliteStore;
use keyward_tower::RequireKeyLayer;
use tower::ServiceExt;

use crate::secrecy::capture;

thread_local! {
    static PANICKED_AT: Cell<Option<(String, u32)>> = const { Cell::new(None) };
}

/// Where the panic is said to be.
fn place_of_panic<T>(panics: impl FnOnce() -> T) -> (String, u32) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(|at| (at.file().to_owned(), at.line()));
            PANICKED_AT.set(place);
            before(info);
        }));
    });
    let result = catch_unwind(AssertUnwindSafe(panics));
    assert!(result.is_err(), "it does not panic");
    PANICKED_AT.take().expect("a panic has a place")
}

/// In one line, so that it is the line of both.
macro_rules! points_here {
    ($panics:expr) => {
        let here = (file!().to_owned(), line!());
        assert_eq!(place_of_panic(|| $panics), here, stringify!($panics));
    };
}

fn gate() -> Gate {
    let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap())
        .catalog(ScopeCatalog::new(["kyc"]).unwrap());
    let builder = Gate::builder(&MemoryStore::new(), &scheme)
        .rate_limits(Environment::LIVE, RateLimit::per_minute(10));
    builder.build().unwrap()
}

#[test]
fn a_panic_of_a_builder_points_to_the_line_that_is_wrong() {
    let none = || std::iter::empty::<&str>();
    let requirement = Requirement::new;
    points_here!(requirement().scope("a b"));
    points_here!(requirement().any_scope(["kyc", ""]));
    points_here!(requirement().any_scope(none()));
    points_here!(requirement().environments([]));
    points_here!(requirement().kinds([]));
    points_here!(gate().assert_meetable(&requirement().scope("kcy")));
    points_here!(gate().assert_meetable(&requirement().cost(11)));
    points_here!(RateLimit::per_second(0));
    points_here!(RateLimit::per_minute(0));
    points_here!(RateLimit::per_hour(0));
    points_here!(RateLimit::per_day(0));
    points_here!(RateLimit::per_day(1).burst(0));
    for wrong in [requirement().scope("kcy"), requirement().cost(11)] {
        points_here!(RequireKeyLayer::new(&gate(), wrong.clone()));
        points_here!(RequireKey::new(&gate(), wrong.clone()));
    }
    points_here!(requirement().cors(Cors::new().methods(["GET, PUT"])));
}

#[test]
fn every_documented_panic_of_a_configuration_is_tracked() {
    let sources = [
        include_str!("../../crates/keyward/src/gate/gate.rs"),
        include_str!("../../crates/keyward/src/gate/requirement.rs"),
        include_str!("../../crates/keyward/src/limit/rate_limit.rs"),
        include_str!("../../crates/keyward-tower/src/layer.rs"),
        include_str!("../../crates/keyward-actix/src/transform.rs"),
    ];
    for item in sources
        .iter()
        .flat_map(|source| source.split("/// # Panics").skip(1))
    {
        let head = item.split(") -> ").next().unwrap();
        let head = head.split(" fn ").next().unwrap();
        assert!(head.contains("#[track_caller]"), "{head}");
    }
}

#[test]
fn an_error_of_sqlite_names_the_path() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("none/keys.db")] {
        let error = SqliteStore::open(&path).unwrap_err().to_string();
        assert!(error.ends_with(path.to_str().unwrap()), "{error}");
    }
    let path = folder.path().join("keys.db");
    let store = SqliteStore::open(&path).unwrap();
    rusqlite::Connection::open(&path)
        .and_then(|file| file.execute_batch("DROP TABLE keyward_audit"))
        .unwrap();
    let read = block_on(store.audit(AuditQuery::newest(1))).unwrap_err();
    assert!(read.to_string().ends_with(path.to_str().unwrap()), "{read}");
    let line = AuditEntry::new(SystemTime::now(), "test", AuditAction::Create);
    let written = Commit {
        audit: vec![line],
        ..Commit::default()
    };
    let written = block_on(store.commit(written)).unwrap_err();
    assert!(
        written.to_string().ends_with(path.to_str().unwrap()),
        "{written}"
    );
}

#[test]
fn a_forgotten_layer_is_logged_with_its_route() {
    let (log, subscriber) = capture();
    let handler = async |_: keyward_tower::Principal| "";
    let app = Router::<()>::new().route("/reports/{id}", get(handler));
    let request = http::Request::get("/reports/7?x=1").body(axum::body::Body::empty());
    let asked = app.oneshot(request.unwrap());
    let response = tracing::subscriber::with_default(subscriber, || block_on(asked));
    assert_eq!(response.unwrap().status(), 500);
    let (actix, subscriber) = capture();
    tracing::subscriber::with_default(subscriber, || {
        actix_web::rt::System::new().block_on(async {
            let handler = async |_: keyward_actix::Principal| "";
            let app = App::new().route("/reports/{id}", web::get().to(handler));
            let app = init_service(app).await;
            let request = TestRequest::get().uri("/reports/7?x=1").to_request();
            assert_eq!(call_service(&app, request).await.status(), 500);
        });
    });
    for (log, route) in [(log, "/reports/7"), (actix, "/reports/{id}")] {
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let told = log
            .lines()
            .find(|line| line.contains("extracts a principal"))
            .expect(&log);
        assert!(told.contains(route) && told.contains("GET"), "{told}");
        assert!(!told.contains("x=1"), "{told}");
    }
}
