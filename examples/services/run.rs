//! Starts a service, and tries the lines that it prints.

use std::env;
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use keyward::{Clock, SystemClock};
use keyward_sqlite::{SqliteOptions, SqliteStore};

use crate::{Route, on_actix, on_axum};

/// Which framework serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    Axum,
    Actix,
}

/// Where a service keeps its things and reads the time.
#[derive(Clone, Debug)]
pub struct Setting {
    pub database: PathBuf,
    pub clock: Arc<dyn Clock>,
    pub options: SqliteOptions,
    /// Where the service can be reached, as its own webhooks and links need it.
    pub address: SocketAddr,
}

impl Setting {
    /// The store of its keys.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn store(&self) -> Result<Arc<SqliteStore>, Box<dyn Error>> {
        let options = self.options.clone().clock(Arc::clone(&self.clock));
        Ok(Arc::new(options.open(&self.database)?))
    }
}

/// A service that can be served, and what may be written as `{name}` in the lines to try: its keys.
#[derive(Debug)]
pub struct Opened {
    pub routes: Vec<Route>,
    pub names: Vec<(&'static str, String)>,
}

/// Runs a service as its arguments and the environment say.
///
/// # Errors
/// When one of those is wrong, or the service cannot be opened or served.
pub fn run(
    name: &str,
    open: impl AsyncFn(Setting) -> Result<Opened, Box<dyn Error>>,
    lines: &[&str],
) -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let stack = match arguments[..] {
        [] | ["--stack", "axum"] => Stack::Axum,
        ["--stack", "actix"] => Stack::Actix,
        _ => return Err("the one argument is --stack axum or --stack actix".into()),
    };
    let port = env::var("PORT").unwrap_or("3000".into());
    let database = match env::var("DATABASE_URL") {
        Ok(url) => url
            .strip_prefix("sqlite://")
            .filter(|path| !path.is_empty() && !path.contains(['?', ':']))
            .ok_or("DATABASE_URL must be sqlite://path, without options")?
            .into(),
        Err(_) => env::temp_dir().join(format!("{name}.db")),
    };
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    let setting = Setting {
        database,
        clock: Arc::new(SystemClock),
        options: SqliteOptions::new(),
        address: listener.local_addr()?,
    };
    let opened = block_on(open(setting.clone()))?;
    println!(
        "{name} is open at {} on {stack:?}. Try, each with the status it gets:\n",
        setting.address
    );
    for line in lines {
        println!("{}", fill_in(line, &setting, &opened.names));
    }
    let database = setting.database.display();
    println!(
        "\nAll is in {database}, keys by their digest only: this is the one time they are shown."
    );
    println!("The next start revokes these and makes new ones.");
    serve(stack, listener, &opened.routes.into())
}

/// Serves routes in a thread of its own, for as long as the process runs.
///
/// # Panics
/// That thread does, when they cannot be served.
pub fn start(stack: Stack, listener: TcpListener, routes: Vec<Route>) {
    thread::spawn(move || serve(stack, listener, &routes.into()).expect("it can be served"));
}

/// Tries every line on both stacks, each twice: what is stored is still there after a restart. Where a
/// line sends many requests, its status is that of the last.
///
/// # Panics
/// When one gets another status than it says.
pub fn check(open: impl AsyncFn(Setting) -> Result<Opened, Box<dyn Error>>, lines: &[&str]) {
    for stack in [Stack::Axum, Stack::Actix] {
        let folder = tempfile::tempdir().expect("there is room");
        for _ in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
            let setting = Setting {
                database: folder.path().join("service.db"),
                clock: Arc::new(SystemClock),
                options: SqliteOptions::new(),
                address: listener.local_addr().expect("it is bound"),
            };
            let opened = block_on(open(setting.clone())).expect("it opens");
            start(stack, listener, opened.routes);
            for line in lines {
                let line = fill_in(line, &setting, &opened.names);
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

fn serve(stack: Stack, listener: TcpListener, routes: &Arc<[Route]>) -> Result<(), Box<dyn Error>> {
    match stack {
        Stack::Axum => on_axum::serve(listener, routes)?,
        Stack::Actix => on_actix::serve(listener, routes)?,
    }
    Ok(())
}

fn block_on<T>(opening: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("there is room").block_on(opening)
}
