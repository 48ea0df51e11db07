//! One process of the service, and the handle by which the others see it.

use std::env;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use keyward::{Environment, Gate, RateLimit, Requirement, Store};
use keyward_postgres::PostgresOptions;
use keyward_redis::{Fallback, RedisLimiter};
use keyward_tower::RequireKeyLayer;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::{Failure, MAX_STALENESS, NODES, database_url, scheme};

/// Serves until the process that started this one ends. Prints its address first.
pub(crate) async fn serve(label: &str) -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let store = Arc::new(
        PostgresOptions::new()
            .label(label)
            .connect(&database_url()?)
            .await?,
    );
    let redis = env::var("REDIS_URL").map_err(|_| "REDIS_URL is missing")?;
    let limiter = RedisLimiter::builder(&redis)?
        .fallback(Fallback::share(NODES)) // while Redis is down, each process counts a third
        .connect()
        .await?;
    let gate = Gate::builder(&store, &scheme()?)
        .max_staleness(MAX_STALENESS)
        .rate_limits(Environment::LIVE, RateLimit::per_second(1000).burst(1000))
        .limiter(limiter)
        .build()?;
    let replica = store.replica().clone();
    let health = async move || match replica.staleness() {
        Some(age) => age.as_millis().to_string(),
        None => String::new(),
    };
    let app = Router::new()
        .route("/", get(async || "ok\n"))
        .layer(RequireKeyLayer::new(&gate, Requirement::new()))
        .route("/staleness", get(health)); // milliseconds, for whoever watches
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let parent = async {
        drop(tokio::io::stdin().read_to_end(&mut Vec::new()).await);
    };
    axum::serve(listener, app)
        .with_graceful_shutdown(parent)
        .await?;
    Ok(())
}

/// A process of the service. A clone is another handle to the same process.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) label: String,
    state: Arc<Mutex<Option<(Child, SocketAddr)>>>,
}

impl Node {
    pub(crate) fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            state: Arc::default(),
        }
    }

    /// Starts the process, and waits until it has read the keys.
    pub(crate) async fn start(&self) -> Result<(), Failure> {
        let mut child = Command::new(env::current_exe()?)
            .args(["node", &self.label])
            .stdin(Stdio::piped()) // its end tells the process to end
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = child.stdout.take().ok_or("its output is not piped")?;
        let mut address = String::new();
        let mut output = BufReader::new(output);
        tokio::time::timeout(Duration::from_secs(30), output.read_line(&mut address)).await??;
        let address = address.trim().parse();
        let address = address.map_err(|_| format!("{} did not start", self.label))?;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some((child, address));
        Ok(())
    }

    /// Returns the process id and the address; `None` if the process has ended.
    pub(crate) fn alive(&self) -> Option<(u32, SocketAddr)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (child, address) = state.as_mut()?;
        let has_ended = !matches!(child.try_wait(), Ok(None));
        if has_ended {
            None
        } else {
            Some((child.id()?, *address))
        }
    }
}
