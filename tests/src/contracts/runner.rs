//! Runs a contract: every request over a socket, every command by curl.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use keyward::KeyId;
use keyward::clock::ManualClock;
use keyward_sqlite::SqliteOptions;
use serde_json::Value;
use services::{Opened, Setting, Stack, start};

use super::contract::{Contract, Doing, Expected, Step};
use super::pattern::{fill_in, matches};

/// When everything happens: 22:13:20 on the 14th of November, 2023.
const NOW: Duration = Duration::from_secs(1_700_000_000);

/// How often `soon` asks again, every 50 ms.
const PATIENCE: usize = 200;

/// Sees to it that a service keeps its contract, on both stacks.
pub(super) fn keep(open: impl AsyncFn(Setting) -> Result<Opened, Box<dyn Error>>, name: &str) {
    let path = format!("{}/contracts/{name}.md", env!("CARGO_MANIFEST_DIR"));
    let contract = Contract::read(&fs::read_to_string(path).unwrap());
    for stack in [Stack::Axum, Stack::Actix] {
        for section in &contract.sections {
            let mut run = Run::new(format!("{name}.md on {stack:?}"));
            let keys = run.start(stack, &open);
            run.names.extend(keys);
            for step in section {
                if let Doing::Again = step.doing {
                    // What it prints is new: the keys are those that are known.
                    run.start(stack, &open);
                } else {
                    run.take(step, &contract.replaced);
                }
            }
        }
    }
}

/// A service that runs, and what names stand for.
struct Run {
    place: String,
    address: SocketAddr,
    clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
    names: HashMap<String, String>,
    /// Keys and secrets that were shown: this once.
    shown: Vec<String>,
    /// Whether the clock was moved: until the store has been asked again, its keys count as old.
    waiting: bool,
}

impl Run {
    fn new(place: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("selfie.jpg"), b"\xff\xd8\xff\xe0 a face").unwrap();
        fs::write(folder.path().join("large.jpg"), vec![b'.'; 3 << 20]).unwrap();
        Self {
            place,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            clock: Arc::new(ManualClock::at(NOW)),
            folder,
            names: HashMap::new(),
            shown: Vec::new(),
            waiting: false,
        }
    }

    /// Starts the service, and gives the keys that it prints.
    fn start(
        &mut self,
        stack: Stack,
        open: &impl AsyncFn(Setting) -> Result<Opened, Box<dyn Error>>,
    ) -> HashMap<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        self.address = listener.local_addr().unwrap();
        let database = self.folder.path().join("service.db");
        let options = SqliteOptions::new().poll_interval(Duration::from_millis(10));
        let clock = Arc::<ManualClock>::clone(&self.clock);
        let setting = Setting::open(&database, options, clock, self.address).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let opened = runtime.block_on(open(setting)).unwrap();
        self.names
            .insert("at".into(), format!("http://{}", self.address));
        let keys: HashMap<_, _> = opened.names.iter().map(owned).collect();
        let secrets = keys.values().filter(|key| KeyId::parse(key).is_err());
        self.shown.extend(secrets.cloned());
        start(stack, listener, opened);
        keys
    }

    fn take(&mut self, step: &Step, replaced: &[(String, String)]) {
        let place = format!("{}, line {}", self.place, step.line);
        match &step.doing {
            Doing::Later(seconds) => {
                self.clock.advance(Duration::from_secs(*seconds));
                self.waiting = true;
            }
            Doing::Again => {}
            Doing::Curl(command) => {
                let command = replaced
                    .iter()
                    .fold(command.clone(), |command, (there, here)| {
                        command.replace(there, here)
                    });
                let answer = curl(&self.fill_in(&command), self.folder.path());
                self.demand(&place, step.answer.as_ref(), &answer);
            }
            Doing::Request {
                method,
                path,
                fields,
                body,
                times,
            } => {
                let mut request = format!("{method} {} HTTP/1.1\r\n", self.fill_in(path));
                let body = self.fill_in(body);
                for (name, value) in fields {
                    request += &format!("{name}: {}\r\n", self.fill_in(value));
                }
                let (host, length) = (self.address, body.len());
                request += &format!(
                    "host: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                );
                for _ in 0..*times {
                    let mut answer = send(self.address, &request);
                    for _ in 0..500 {
                        if !self.waiting || answer.status != 503 {
                            break;
                        }
                        answer = send(self.address, &request);
                    }
                    self.waiting = false;
                    for _ in 0..PATIENCE {
                        if !step.soon || self.compare(step.answer.as_ref(), &answer).is_ok() {
                            break;
                        }
                        thread::sleep(Duration::from_millis(50));
                        answer = send(self.address, &request);
                    }
                    self.demand(&place, step.answer.as_ref(), &answer);
                }
            }
        }
    }

    fn demand(&mut self, place: &str, expected: Option<&Expected>, answer: &Answer) {
        if let Err(other) = self.compare(expected, answer) {
            panic!("{place}: {other}");
        }
        let again = self.shown.iter().find(|key| answer.body.contains(*key));
        assert_eq!(again, None, "{place}: it shows a secret again");
        let json: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let secrets = [&json["key"], &json["secret"]].map(Value::as_str);
        let secrets = secrets.into_iter().flatten().map(str::to_owned);
        self.shown.extend(secrets);
    }

    /// Whether an answer is as expected; what it is, if not.
    fn compare(&mut self, expected: Option<&Expected>, answer: &Answer) -> Result<(), String> {
        let Some(expected) = expected else {
            return Ok(());
        };
        let (status, body) = (answer.status, &answer.body);
        if status != expected.status {
            return Err(format!(
                "expected {}, and it is {status}: {body}",
                expected.status
            ));
        }
        if let Some(pattern) = &expected.body
            && !matches(&mut self.names, pattern, body)
        {
            return Err(format!("expected {pattern}, and it is {body}"));
        }
        for (name, value) in &expected.fields {
            let name = name.to_ascii_lowercase();
            let there: Vec<_> = answer.fields.iter().filter(|(of, _)| *of == name).collect();
            let mut own = there.iter().map(|(_, own)| own);
            if !own.any(|own| matches(&mut self.names, value, own)) {
                return Err(format!("expected {name}: {value}, and it is {there:?}"));
            }
        }
        Ok(())
    }

    fn fill_in(&self, text: &str) -> String {
        fill_in(&self.names, text)
    }
}

fn owned((name, value): &(&str, String)) -> (String, String) {
    ((*name).to_owned(), value.clone())
}

pub(super) struct Answer {
    pub(super) status: u16,
    fields: Vec<(String, String)>,
    pub(super) body: String,
}

/// Sends one request on a connection of its own, and reads to its end.
pub(super) fn send(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let fields = lines.filter_map(|line| line.split_once(": "));
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Answer {
        status: status.unwrap().parse().unwrap(),
        fields: fields.collect(),
        body: body.to_owned(),
    }
}

/// Runs a command of curl's.
fn curl(command: &str, folder: &Path) -> Answer {
    let output = Command::new("sh")
        .args(["-c", &format!("{command} -s -w '\\n%{{http_code}}'")])
        .current_dir(folder)
        .output()
        .expect("curl is installed");
    let output = String::from_utf8(output.stdout).unwrap();
    let (body, status) = output.rsplit_once('\n').expect("a body and a status");
    Answer {
        status: status.parse().unwrap(),
        fields: Vec::new(),
        body: body.to_owned(),
    }
}
