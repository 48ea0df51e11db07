//! Forms that an end-user sends more than once, at once.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use keyward::clock::SystemClock;
use keyward_sqlite::SqliteOptions;
use serde_json::Value;
use services::{Setting, Stack, start};

use super::helium_id;
use super::runner::send;

const SESSIONS: usize = 10;

#[test]
fn of_forms_that_come_at_once_one_is_decided_and_told() {
    for stack in [Stack::Axum, Stack::Actix] {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let file = folder.path().join("service.db");
        let (options, clock) = (SqliteOptions::new(), Arc::new(SystemClock));
        let setting = Setting::open(&file, options, clock, address).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let opened = runtime.block_on(helium_id::open(setting)).unwrap();
        let live = opened.names.iter().find(|(name, _)| *name == "live");
        let key = format!("x-api-key: {}", live.unwrap().1);
        start(stack, listener, opened);

        for id in 1..=SESSIONS {
            let session = r#"{"person":"ida","callback":"https://shop.example/"}"#;
            assert_eq!(ask(address, "POST /v1/sessions", &key, session).0, 201);
            let path = format!("POST /flow/live/{id}");
            thread::scope(|threads| {
                for document in ["passport", "expired", "passport", "expired"] {
                    let form = format!("document={document}");
                    let path = &path;
                    threads.spawn(move || assert_eq!(ask(address, path, "a: b", &form).0, 303));
                }
            });
        }
        let mut told = 0;
        for _ in 0..100 {
            told = attempts(address);
            if told >= SESSIONS {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        // Another would come as soon.
        thread::sleep(Duration::from_millis(500));
        assert_eq!((told, attempts(address)), (SESSIONS, SESSIONS), "{stack:?}");
        let usage = ask(address, "GET /dashboard/usage", ANN, "").1;
        assert_eq!(usage["paid_sessions"], SESSIONS, "{stack:?}");
    }
}

/// Ann has signed in.
const ANN: &str = "authorization: Basic YW5uOm9wZW4tc2VzYW1l";

fn attempts(address: SocketAddr) -> usize {
    let webhook = ask(address, "GET /dashboard/webhooks/live", ANN, "").1;
    webhook["attempts"].as_array().unwrap().len()
}

fn ask(address: SocketAddr, line: &str, field: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let answer = send(
        address,
        &format!(
            "{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{field}\r\n\
             content-length: {length}\r\n\r\n{body}"
        ),
    );
    (
        answer.status,
        serde_json::from_str(&answer.body).unwrap_or_default(),
    )
}
