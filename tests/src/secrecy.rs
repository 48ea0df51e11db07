//! The secret and its digest are in nothing that keyward writes.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex};

use keyward::conformance::block_on;
use keyward::{
    AccountId, Commit, Environment, Gate, KeyAdmin, KeyFormat, NewKey, Pepper, Peppers, Store,
};
use keyward_sqlite::SqliteStore;
use sha2::{Digest, Sha256};
use tracing_subscriber::fmt::format::FmtSpan;

use crate::service::Service;
use crate::stacks::{Ask, everywhere};

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
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_log_names_keys_by_id_and_hint_and_holds_no_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let service = Arc::new(Service::new());
    let asks: Vec<_> = (service.keys.values())
        .flat_map(|key| {
            service.routes.iter().flat_map(move |(path, ..)| {
                ["x-api-key", "x-client-key", "authorization"].map(|field| Ask {
                    method: "GET",
                    path: (*path).to_owned(),
                    fields: vec![(field, key.clone().into_bytes())],
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
    let store = Arc::new(keyward::MemoryStore::new());
    let pepper = Pepper::new("2026", b"a pepper of some length").unwrap();
    let admin = KeyAdmin::new(Arc::<keyward::MemoryStore>::clone(&store), format.clone());
    let acme = AccountId::parse("acme").unwrap();
    let account = block_on(admin.open_account(&acme)).unwrap();
    let new = NewKey::new(acme, Environment::LIVE, "name");
    let created = block_on(admin.create(new.clone())).unwrap();
    let gate = Gate::builder(store.replica())
        .format(format.clone())
        .peppers(Peppers::new(pepper.clone()));
    let shown: Vec<&dyn Debug> = vec![
        &format,
        &store,
        &pepper,
        &admin,
        &account,
        &new,
        &created,
        &created.key,
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
    };
    text += &format!("{commit:?}{:?}", block_on(store.commit(commit.clone())));
    text += &format!("{:?}", gate.build().unwrap());
    let key = created.key.expose_secret();
    assert_eq!(find(text.as_bytes(), [key]), None);
    assert!(!text.contains("a pepper of some length"));
    assert!(text.contains(&created.key.hint().to_string()));
}

#[test]
fn the_database_file_holds_the_digest_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let store = Arc::new(SqliteStore::open(&path).unwrap());
    let format = KeyFormat::new("vhk_{env}_").unwrap();
    let admin = KeyAdmin::new(Arc::<SqliteStore>::clone(&store), format);
    let acme = AccountId::parse("acme").unwrap();
    block_on(admin.open_account(&acme)).unwrap();
    let new = NewKey::new(acme, Environment::LIVE, "name");
    let created = block_on(admin.create(new)).unwrap();
    let files: Vec<u8> = std::fs::read_dir(&folder)
        .unwrap()
        .flat_map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect();
    let holds = |part: &[u8]| files.windows(part.len()).any(|window| window == part);
    assert!(
        holds(created.record.digest.expose_bytes()),
        "the files were read"
    );
    assert!(!holds(&created.key.expose_secret().as_bytes()[9..30]));
}
