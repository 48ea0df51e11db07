//! Credits that were paid for, and a service that is killed.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use keyward::clock::SystemClock;
use keyward_sqlite::SqliteOptions;
use services::{Setting, Stack, start};

use super::runner::send;
use super::verifyhuman;

/// Tells the child which file to serve, and on which stack.
const FILE: &str = "KEYWARD_CONTRACTS_FILE";
const STACK: &str = "KEYWARD_CONTRACTS_STACK";

/// A child ends even when whoever should kill it is gone.
const LIFETIME: Duration = Duration::from_secs(60);

#[test]
fn credits_survive_a_kill_after_each_check() {
    for stack in ["axum", "actix"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("service.db");
        for killed in 0..3 {
            let service = Service::start(&file, stack);
            assert_eq!(
                service.credits(),
                format!(r#"{{"left":{}}}"#, 1000 - killed)
            );
            service.check();
            assert_eq!(service.credits(), format!(r#"{{"left":{}}}"#, 999 - killed));
        }
        let service = Service::start(&file, stack);
        assert_eq!(service.credits(), r#"{"left":997}"#, "{stack}");
    }
}

#[test]
fn a_kill_while_checks_come_fast_loses_a_hundredth_of_the_credits_at_most() {
    for stack in ["axum", "actix"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("service.db");
        let service = Service::start(&file, stack);
        (0..50).for_each(|_| service.check());
        assert_eq!(service.credits(), r#"{"left":950}"#);
        drop(service);
        let service = Service::start(&file, stack);
        // What the dead process has reported is shown for three seconds.
        thread::sleep(Duration::from_secs(4));
        let credits = service.credits();
        let left = credits
            .trim_start_matches(r#"{"left":"#)
            .trim_end_matches('}');
        let left: u32 = left.parse().unwrap();
        assert!((940..=950).contains(&left), "{stack}: {left}");
    }
}

/// Not a test of its own: what runs in the child.
#[test]
fn serves_until_it_is_killed() {
    let (Some(file), Ok(stack)) = (env::var_os(FILE), env::var(STACK)) else {
        return;
    };
    let stack = match &*stack {
        "actix" => Stack::Actix,
        _ => Stack::Axum,
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (options, clock) = (SqliteOptions::new(), Arc::new(SystemClock));
    let setting = Setting::open(Path::new(&file), options, clock, address).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let opened = runtime.block_on(verifyhuman::open(setting)).unwrap();
    let live = opened.names.iter().find(|(name, _)| *name == "live");
    let key = live.unwrap().1.clone();
    start(stack, listener, opened);
    // A line of its own: the harness has begun one.
    println!("\nready {address} {key}");
    thread::sleep(LIFETIME);
}

/// A service in a process of its own, which is killed in the end.
struct Service {
    child: Child,
    address: SocketAddr,
    key: String,
}

impl Service {
    fn start(file: &Path, stack: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "contracts::kill::serves_until_it_is_killed",
                "--nocapture",
            ])
            .env(FILE, file)
            .env(STACK, stack)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let ready = lines.find_map(|line| Some(line.strip_prefix("ready ")?.to_owned()));
        let ready = ready.expect("it is ready");
        let (address, key) = ready.split_once(' ').unwrap();
        Self {
            child,
            address: address.parse().unwrap(),
            key: key.to_owned(),
        }
    }

    fn check(&self) {
        let form =
            "--x\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\na face\r\n--x--\r\n";
        let fields = "content-type: multipart/form-data; boundary=x";
        assert_eq!(self.ask("POST /api/verify", fields, form).0, 200);
    }

    fn credits(&self) -> String {
        let (status, body) = self.ask("GET /api/credits", "accept: */*", "");
        assert_eq!(status, 200, "{body}");
        body
    }

    fn ask(&self, line: &str, fields: &str, body: &str) -> (u16, String) {
        let (key, length) = (&self.key, body.len());
        let answer = send(
            self.address,
            &format!(
                "{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-api-key: {key}\r\n\
                 content-length: {length}\r\n{fields}\r\n\r\n{body}"
            ),
        );
        (answer.status, answer.body)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
