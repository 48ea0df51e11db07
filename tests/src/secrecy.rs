//! The secret and its digest are in nothing that keyward writes.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use keyward::admin::{KeyChange, KeyFilter};
use keyward::clock::ManualClock;
use keyward::gate::{Decision, Verdict};
use keyward::key::Pepper;
use keyward::store::Commit;
use keyward::testing::{TestRequest, block_on};
use keyward::{
    AccountId, Actor, Environment, Gate, Grace, KeyAdmin, KeyFormat, KeyScheme, MemoryStore,
    NewKey, Peppers, Permission, Requirement, Store,
};
use keyward_sqlite::SqliteStore;
use sha2::{Digest, Sha256};
use tower::ServiceExt;
use tracing::Dispatch;
use tracing::subscriber::NoSubscriber;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::service::Service;
use crate::stacks::{Ask, PROTOCOL, everywhere};

/// Everything that must never be seen of a key: the text but for its hint, and its digest.
fn secrets(key: &str) -> Vec<Vec<u8>> {
    let bytes: [u8; 32] = Sha256::digest(key).into();
    let list = format!("{:?}", &bytes[..8]);
    vec![
        key[9..30].into(),
        bytes[..8].into(),
        bytes[..8]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
            .into(),
        list.trim_matches(['[', ']']).into(),
    ]
}

fn find(text: &[u8], keys: impl IntoIterator<Item: AsRef<str>>) -> Option<String> {
    let mut secrets = keys.into_iter().flat_map(|key| secrets(key.as_ref()));
    let found = secrets.find(|secret| text.windows(secret.len()).any(|part| part == secret));
    found.map(|secret| String::from_utf8_lossy(&secret).into_owned())
}

#[derive(Clone, Default)]
pub struct Log(pub Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A log, and what writes everything into it.
///
/// While there is only one subscriber, tracing asks the thread that comes to a message first whether
/// anybody wants it, and remembers a no. So there is always a second.
pub fn capture() -> (Log, impl tracing::Subscriber + Send + Sync) {
    static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));

    LazyLock::force(&SECOND);
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    (log, subscriber)
}

#[test]
fn the_log_names_keys_by_id_and_hint_and_holds_no_secret() {
    let (log, subscriber) = capture();
    let service = Arc::new(Service::new());
    let asks: Vec<_> = (service.keys.values())
        .flat_map(|key| {
            service.routes.iter().flat_map(move |(path, ..)| {
                let fields = ["x-api-key", "x-client-key", "authorization", PROTOCOL];
                fields.map(|field| Ask {
                    method: "GET",
                    path: (*path).to_owned(),
                    fields: vec![
                        (field, key.clone().into_bytes()),
                        ("upgrade", b"websocket".into()),
                    ],
                })
            })
        })
        .collect();
    tracing::subscriber::with_default(subscriber, || everywhere(&service, &asks));
    let log = log.0.lock().unwrap();
    let text = String::from_utf8_lossy(&log);
    for word in [
        "request admitted",
        "request refused",
        "key.id=key_",
        "key.hint=vhk_live_…",
    ] {
        assert!(text.contains(word), "{word}");
    }
    assert_eq!(find(&log, service.keys.values()), None);
}

#[test]
fn no_debug_holds_a_secret() {
    let format = KeyFormat::new("vhk_{env}_").unwrap();
    let scheme = KeyScheme::new(format.clone());
    let store = Arc::new(MemoryStore::new());
    let pepper = Pepper::new("2026", b"a pepper of some length").unwrap();
    let admin = KeyAdmin::new(&store, &scheme);
    let acme = AccountId::parse("acme").unwrap();
    let operator = Actor::operator("ops");
    let account = block_on(admin.open_account(&operator, &acme)).unwrap();
    let new = NewKey::new(acme, Environment::LIVE, "name");
    let created = block_on(admin.create(&operator, new.clone())).unwrap();
    let key = created.key.as_ref().unwrap();
    let view = block_on(admin.key(&operator, created.record.id)).unwrap();
    let leaks = block_on(admin.leaks(&operator, key.expose_secret())).unwrap();
    let line = block_on(store.audit(keyward::store::AuditQuery::newest(1))).unwrap();
    let peppered = scheme.clone().peppers(Peppers::new(pepper.clone()));
    let gate = Gate::builder(&store, &peppered);
    let shown: Vec<&dyn Debug> = vec![
        &format,
        &peppered,
        &store,
        &pepper,
        &admin,
        &account,
        &new,
        &created,
        &created.key,
        &operator,
        &view,
        &leaks,
        &line,
        &created.record,
        &created.record.digest,
        &gate,
    ];
    let mut text: String = shown
        .iter()
        .map(|shown| format!("{shown:?}\n{shown:#?}\n"))
        .collect();
    let commit = Commit {
        accounts: vec![account],
        keys: vec![created.record.clone()],
        ..Commit::default()
    };
    text += &format!("{commit:?}{:?}", block_on(store.commit(commit.clone())));
    let gate = gate.build().unwrap();
    let other = Gate::new(&store, &scheme).unwrap();
    for gate in [&gate, &other] {
        let head = TestRequest::get().key(key.expose_secret());
        let requirement = Arc::new(Requirement::new());
        let decision = gate.check(&head, &requirement, None);
        text += &format!("{gate:?}{decision:?}{decision:#?}");
        text += &format!(
            "{:?}",
            keyward_tower::RequireKeyLayer::new(gate, Requirement::new())
        );
        text += &format!(
            "{:?}",
            keyward_actix::RequireKey::new(gate, Requirement::new())
        );
        if let Decision::Ready(Verdict::Admit(admitted)) = decision {
            text += &format!("{:?}{:#?}", admitted.access, admitted.access);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    text += &format!(
        "{:?}",
        SqliteStore::open(folder.path().join("keys.db")).unwrap()
    );
    text += &format!("{:?}{:?}", store.replica(), store.replica().poll());
    text += &format!("{:?}", store.replica().take_usage());
    text += &format!("{:?}", store.replica().take_rehashes());
    assert_eq!(find(text.as_bytes(), [key.expose_secret()]), None);
    assert!(!text.contains("a pepper of some length"));
    assert!(text.contains(&key.hint().to_string()));
}

#[test]
fn the_database_file_holds_the_digest_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let store = Arc::new(SqliteStore::open(&path).unwrap());
    let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
    let admin = KeyAdmin::new(&store, &scheme);
    let acme = AccountId::parse("acme").unwrap();
    let operator = Actor::operator("ops");
    block_on(admin.open_account(&operator, &acme)).unwrap();
    let new = NewKey::new(acme, Environment::LIVE, "name");
    let created = block_on(admin.create(&operator, new)).unwrap();
    let key = created.key.unwrap();
    let files: Vec<u8> = std::fs::read_dir(&folder)
        .unwrap()
        .flat_map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect();
    let holds = |part: &[u8]| files.windows(part.len()).any(|window| window == part);
    assert!(
        holds(created.record.digest.expose_bytes()),
        "the files were read"
    );
    assert!(!holds(&key.expose_secret().as_bytes()[9..30]));
}

#[test]
fn a_whole_life_of_keys_leaves_no_secret_in_results_logs_trail_or_file() {
    let folder = tempfile::tempdir().unwrap();
    let (log, subscriber) = capture();
    let (text, keys) = tracing::subscriber::with_default(subscriber, || {
        let store = Arc::new(SqliteStore::open(folder.path().join("keys.db")).unwrap());
        let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
        let admin = KeyAdmin::new(&store, &scheme);
        live(&admin)
    });
    let log = log.0.lock().unwrap();
    assert_eq!(
        find(text.as_bytes(), &keys),
        None,
        "in a result or an error"
    );
    assert_eq!(find(&log, &keys), None, "in the log");
    for file in std::fs::read_dir(&folder).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let text = |key: &String| key.as_bytes()[9..30].to_vec();
        let holds = |part: Vec<u8>| bytes.windows(part.len()).any(|window| window == part);
        assert!(!keys.iter().map(text).any(holds), "in the file");
    }
}

/// Does everything that can be done to keys, rightly and wrongly; gives all that was answered, as
/// `Debug` and `Display` write it, and the keys.
fn live(admin: &KeyAdmin) -> (String, Vec<String>) {
    let mut text = String::new();
    let mut keys = Vec::new();
    let acme = AccountId::parse("acme").unwrap();
    let operator = Actor::operator("ops");
    block_on(admin.open_account(&operator, &acme)).unwrap();
    let ann = Actor::user("ann", acme.clone(), Permission::ALL);
    let bob = Actor::user("bob", AccountId::parse("other").unwrap(), Permission::ALL);
    let new = || NewKey::new(acme.clone(), Environment::LIVE, "name");
    let mut make = || {
        let created = block_on(admin.create(&ann, new())).unwrap();
        let shown = format!("{created:?}");
        keys.push(created.key.unwrap().expose_secret().to_owned());
        (created.record.id, shown, keys.last().unwrap().clone())
    };
    let mut successors = Vec::new();
    for _ in 0..3 {
        let (id, shown, key) = make();
        text += &shown;
        let mut note = |outcome: &dyn Debug| text += &format!("{outcome:?}\n");
        let change = KeyChange::new().name("another");
        note(&block_on(admin.update(&ann, id, change.clone())));
        note(&block_on(admin.update(&ann, id, change.clone().name(&key))));
        note(&block_on(admin.update(&bob, id, change)));
        note(&block_on(admin.create(&bob, new())));
        note(&block_on(admin.create(&ann, new().token(&key))));
        note(&block_on(admin.disable(&ann, id)));
        note(&block_on(admin.enable(&ann, id)));
        note(&block_on(admin.leaks(&ann, &format!("{key} {key}"))));
        let grace = Grace::For(Duration::from_secs(60));
        let rotated = block_on(admin.rotate(&ann, id, grace));
        note(&rotated);
        successors.push(rotated.unwrap().key.unwrap().expose_secret().to_owned());
        note(&block_on(admin.rotate(&ann, id, grace)));
        note(&block_on(admin.revoke(&ann, id, &format!("leaked: {key}"))));
        note(&block_on(admin.revoke(&ann, id, "leaked")));
        note(&block_on(admin.enable(&ann, id)));
        note(&block_on(admin.revoke_all(&ann, &acme, None, &key)));
        note(&block_on(admin.audit(&operator, None, None)));
        note(&block_on(admin.keys(&ann, &acme, KeyFilter::new())));
        note(&admin);
    }
    keys.extend(successors);
    (text, keys)
}

#[test]
fn who_is_refused_again_and_again_fills_no_log() {
    let (log, subscriber) = capture();
    let clock = Arc::new(ManualClock::at(Duration::from_secs(1_700_000_000)));
    let store = Arc::new(MemoryStore::with_clock(
        Arc::<ManualClock>::clone(&clock) as _
    ));
    let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
    let admin = KeyAdmin::new(&store, &scheme);
    let acme = AccountId::parse("acme").unwrap();
    let new = NewKey::new(acme.clone(), Environment::LIVE, "name");
    let created = block_on(admin.bootstrap(&Actor::operator("ops"), new)).unwrap();
    let (id, key) = (created.record.id, created.key.unwrap());
    block_on(admin.revoke(&Actor::operator("ops"), id, "")).unwrap();
    let gate = Gate::new(&store, &scheme).unwrap();
    let requirement = Arc::new(Requirement::new());
    let guest = Actor::user("guest", acme, []);
    let call = |times| {
        for _ in 0..times {
            gate.check(
                &TestRequest::get().key(key.expose_secret()),
                &requirement,
                None,
            );
            block_on(admin.revoke(&guest, id, "")).unwrap_err();
        }
    };
    tracing::subscriber::with_default(subscriber, || {
        call(1000);
        clock.advance(Duration::from_secs(60));
        call(1);
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for what in [
        "request refused",
        "refused a call by an actor without any permission",
    ] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(what)).collect();
        assert_eq!(lines.len(), 11, "{what}");
        let told = lines.iter().filter(|line| line.contains("unlogged"));
        assert_eq!(told.count(), 1);
        assert!(lines[10].contains("unlogged=990"), "{}", lines[10]);
    }
}

#[test]
fn a_span_with_room_for_it_learns_who_calls() {
    let (log, subscriber) = capture();
    let service = Service::new();
    let key = service.keys["live"].clone();
    let request = http::Request::builder()
        .header("x-api-key", &key)
        .body(())
        .unwrap();
    let (_, gate, requirement) = service.routes.into_iter().next().unwrap();
    let layer = keyward_tower::RequireKeyLayer::new(&gate, requirement);
    let inner = tower::service_fn(async |_: http::Request<()>| {
        tracing::info!("in the handler");
        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    });
    tracing::subscriber::with_default(subscriber, || {
        use tracing::field::Empty;
        let span = tracing::info_span!("request", key.id = Empty, key.hint = Empty);
        let response = tower::Layer::layer(&layer, inner).oneshot(request);
        span.in_scope(|| block_on(response)).unwrap();
    });
    let log = log.0.lock().unwrap();
    let text = String::from_utf8_lossy(&log);
    let handler = text
        .lines()
        .find(|line| line.contains("in the handler"))
        .unwrap();
    assert!(handler.contains("request{key.id=key_") && handler.contains("key.hint=vhk_live_…"));
    assert_eq!(find(&log, [&key]), None);
}
