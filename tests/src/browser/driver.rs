//! A browser of its own for each test.

use std::env;
use std::io::{BufRead, BufReader, Write as _, stderr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Headless Chromium with a fresh profile; ends with this value.
pub struct Browser {
    pub client: Client,
    driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// A new browser; `None` where `KEYWARD_NO_BROWSER` says to do without.
    pub async fn start() -> Option<Self> {
        if env::var_os("KEYWARD_NO_BROWSER").is_some() {
            // Past the capture of the test's output: nobody shall think that they ran.
            writeln!(
                stderr(),
                "NOT RUN: browser tests, for KEYWARD_NO_BROWSER is set"
            )
            .unwrap();
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        let (driver, port) = drive(&profile);
        let mut capabilities = serde_json::Map::new();
        let options = json!({ "args": arguments(&profile) });
        capabilities.insert("goog:chromeOptions".to_owned(), options);
        // Before the browser, so that the driver ends if that cannot start.
        let mut starting = Starting(Some(driver));
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("chromium starts");
        Some(Self {
            client,
            driver: starting.0.take().unwrap(),
            _profile: profile,
        })
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// What an asynchronous function of the page gives that has these arguments, under their names.
    pub async fn run(&self, body: &str, arguments: &[(&str, &str)]) -> Value {
        let names: Vec<_> = arguments.iter().map(|(name, _)| *name).collect();
        let names: String = names.iter().map(|name| format!("{name}, ")).collect();
        let script = format!(
            "const [{names}done] = arguments; (async () => {{ {body} }})()\
             .then(done, error => done({{ error: String(error) }}));"
        );
        let values = arguments.iter().map(|(_, value)| json!(value)).collect();
        self.client.execute_async(&script, values).await.unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        stop(&mut self.driver);
    }
}

struct Starting(Option<Child>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(driver) = &mut self.0 {
            stop(driver);
        }
    }
}

/// Starts the driver on a free port.
fn drive(files: &TempDir) -> (Child, u16) {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .env("TMPDIR", files.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // The browser is in it too, so that it ends with its driver.
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "the browser tests did not run: no chromedriver ({error}). Install chromium and \
                 chromium-driver, as scripts/test does, or set KEYWARD_NO_BROWSER=1"
            )
        });
    let output = BufReader::new(driver.stdout.take().unwrap());
    let port = output.lines().map_while(Result::ok).find_map(|line| {
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    (driver, port.expect("chromedriver says its port"))
}

fn stop(driver: &mut Child) {
    let group = format!("-{}", driver.id());
    let killed = Command::new("kill").args(["-9", "--", &group]).status();
    drop((killed, driver.wait()));
}

fn arguments(profile: &TempDir) -> Vec<String> {
    let profile = format!(
        "--user-data-dir={}",
        profile.path().join("profile").display()
    );
    let arguments = [
        "--headless",
        // Keeps what it loads in memory: `scripts/test` looks for keys in files.
        "--incognito",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        &profile,
    ];
    arguments.map(str::to_owned).into()
}
