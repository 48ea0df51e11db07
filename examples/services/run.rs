//! Starts a service, and tries the lines that it prints.

use std::convert::Infallible;
use std::env::{self, VarError};
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use keyward::Store as _;
use keyward::clock::{Clock, SystemClock};
use keyward_sqlite::{SqliteOptions, SqliteStore};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Records, Route, on_actix, on_axum};

/// How long a request that has begun may take once the service is to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Which framework serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    Axum,
    Actix,
}

/// Where a service keeps its things, reads the time and can be reached.
#[derive(Clone, Debug)]
pub struct Setting {
    pub store: Arc<SqliteStore>,
    pub clock: Arc<dyn Clock>,
    /// As its own webhooks and links need it.
    pub address: SocketAddr,
    database: Arc<Path>,
}

impl Setting {
    /// Opens the store of the service's keys.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn open(
        database: &Path,
        options: SqliteOptions,
        clock: Arc<dyn Clock>,
        address: SocketAddr,
    ) -> Result<Self, Box<dyn Error>> {
        let store = options.clock(Arc::clone(&clock)).open(database);
        let store = store
            .map_err(|error| format!("cannot open {}: {}", database.display(), told(&error)))?;
        Ok(Self {
            store: Arc::new(store),
            clock,
            address,
            database: database.into(),
        })
    }

    /// What a service stores beside its keys, in this table.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn records(&self, table: &'static str) -> rusqlite::Result<Arc<Records>> {
        Records::open(&self.database, table).map(Arc::new)
    }
}

/// A service that can be served.
pub struct Opened {
    pub routes: Vec<Route>,
    /// What may be written as `{name}` in the lines to try: its keys.
    pub names: Vec<(&'static str, String)>,
    /// What delivers its webhooks, if it has some.
    pub sending: Option<Sending>,
}

/// Delivers webhooks, for good.
pub type Sending = Pin<Box<dyn Future<Output = Infallible> + Send>>;

/// Runs a service as its arguments and the environment say, until it is interrupted or terminated.
pub fn run(
    name: &str,
    open: impl AsyncFn(Setting) -> Result<Opened, Box<dyn Error>>,
    lines: &[&str],
) -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    match try_run(name, open, lines) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {}", told(&*error));
            ExitCode::FAILURE
        }
    }
}

fn try_run(
    name: &str,
    open: impl AsyncFn(Setting) -> Result<Opened, Box<dyn Error>>,
    lines: &[&str],
) -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let stack = match arguments[..] {
        [] | ["--stack", "axum"] => Stack::Axum,
        ["--stack", "actix"] => Stack::Actix,
        _ => return Err("the one argument is --stack axum or --stack actix".into()),
    };
    let port = env::var("PORT").unwrap_or("3000".into());
    let database = match env::var("DATABASE_URL") {
        Ok(url) => at_url(&url)?,
        Err(VarError::NotPresent) => env::temp_dir().join(format!("{name}.db")),
        Err(error) => return Err(error.into()),
    };
    let listener = listen(&port)?;
    let clock = Arc::new(SystemClock);
    let address = listener.local_addr()?;
    let setting = Setting::open(&database, SqliteOptions::new(), clock, address)?;
    let opened = block_on(open(setting.clone()))?;
    println!("{name} is open at {address} on {stack:?}. Try, each with the status it gets:\n");
    for line in lines {
        println!("{}", fill_in(line, &setting, &opened.names));
    }
    println!(
        "\nAll is in {}, keys by their digest only: this is the one time they are shown.",
        database.display()
    );
    println!("The next start makes new ones; these work until the start after that.");
    serve(stack, listener, opened, terminated())?;
    block_on(setting.store.flush())?;
    Ok(())
}

/// Serves a service in a thread of its own, for as long as the process runs.
///
/// # Panics
/// That thread does, when it cannot be served.
pub fn start(stack: Stack, listener: TcpListener, opened: Opened) {
    let never = std::future::pending();
    thread::spawn(move || serve(stack, listener, opened, never).expect("it can be served"));
}

/// Tries every line on both stacks, each twice: what is stored is still there after a restart. Where a
/// line sends many requests, its status is that of the last.
///
/// # Panics
/// When one gets another status than it says.
pub fn check(open: impl AsyncFn(Setting) -> Result<Opened, Box<dyn Error>>, lines: &[&str]) {
    for stack in [Stack::Axum, Stack::Actix] {
        let folder = tempfile::tempdir().expect("there is room");
        let database = folder.path().join("service.db");
        for _ in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
            let address = listener.local_addr().expect("it is bound");
            let clock = Arc::new(SystemClock);
            let setting = Setting::open(&database, SqliteOptions::new(), clock, address);
            let setting = setting.expect("it opens");
            let mut opened = block_on(open(setting.clone())).expect("it opens");
            let names = std::mem::take(&mut opened.names);
            start(stack, listener, opened);
            for line in lines {
                let line = fill_in(line, &setting, &names);
                let (command, comment) = line.split_once("  # ").expect("a line says its status");
                let command = format!("{command} -s -o /dev/null -w '%{{http_code}}'");
                let output = Command::new("sh").args(["-c", &command]).output();
                let status = output.expect("curl is installed").stdout;
                let status = String::from_utf8_lossy(&status);
                let said = &comment[..3];
                assert!(status.ends_with(said), "{stack:?}: {comment}: {status}");
            }
        }
    }
}

/// Puts the address and the keys into a line.
#[must_use]
pub fn fill_in(line: &str, setting: &Setting, names: &[(&'static str, String)]) -> String {
    let line = line.replace("{at}", &setting.address.to_string());
    names.iter().fold(line, |line, (name, value)| {
        line.replace(&format!("{{{name}}}"), value)
    })
}

fn at_url(url: &str) -> Result<PathBuf, &'static str> {
    let path = url.strip_prefix("sqlite://");
    let path = path.filter(|path| !path.is_empty() && !path.contains(['?', ':']));
    path.map(PathBuf::from)
        .ok_or("DATABASE_URL must be sqlite://path, without options")
}

fn listen(port: &str) -> Result<TcpListener, String> {
    let address = format!("127.0.0.1:{port}");
    TcpListener::bind(&address)
        .map_err(|error| format!("cannot listen at {address}, set PORT to another: {error}"))
}

fn serve(
    stack: Stack,
    listener: TcpListener,
    opened: Opened,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    match stack {
        Stack::Axum => on_axum::serve(listener, opened, end),
        Stack::Actix => on_actix::serve(listener, opened, end),
    }
}

/// Waits for SIGINT or SIGTERM.
async fn terminated() {
    let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    if let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    } else {
        std::future::pending::<()>().await;
    }
}

fn block_on<T>(opening: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("there is room").block_on(opening)
}

/// An error and what has caused it.
fn told(error: &dyn Error) -> String {
    match error.source().map(told) {
        Some(source) if source != error.to_string() => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong_with_its_environment() {
        for url in [
            "",
            "keys.db",
            "sqlite://",
            "sqlite://a?mode=ro",
            "postgres://a/b",
        ] {
            assert!(
                at_url(url).unwrap_err().starts_with("DATABASE_URL"),
                "{url}"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("no/such/folder");
        let text = folder.path().join("text");
        std::fs::write(&text, "this is no database, it is a text, and a long one").unwrap();
        for (database, why) in [
            (nowhere, "unable to open database file"),
            (text, "file is not a database"),
        ] {
            let address = "127.0.0.1:0".parse().unwrap();
            let clock = Arc::new(SystemClock);
            let opened = Setting::open(&database, SqliteOptions::new(), clock, address);
            let error = opened.unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let taken = listen("0").unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        assert!(listen(&port).unwrap_err().contains("set PORT"));
        assert!(listen("many").unwrap_err().contains("set PORT"));
    }
}
