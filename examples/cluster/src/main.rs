//! Three processes of one service, one `PostgreSQL` and one Redis, under load, with a live view.
//!
//! ```text
//! examples/cluster/run                # starts a private PostgreSQL and Redis, and stops them at the end
//! examples/cluster/run --seconds 20   # ends by itself
//! DATABASE_URL=postgres://.. REDIS_URL=redis://.. cargo run -p cluster
//! ```
//!
//! The view says how to freeze, kill and cut off the processes and servers while it runs. A process that
//! dies is started again.

mod load;
mod node;
mod revoke;
mod view;

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyward::{
    AccountId, Actor, ApiKey, Environment, KeyAdmin, KeyFormat, KeyScheme, NewKey, RateLimit,
};
use keyward_postgres::{PostgresOptions, PostgresStore};
use tokio::signal::unix::{SignalKind, signal};

use crate::load::{Client, Load};
use crate::node::Node;
use crate::revoke::Revocations;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The number of processes.
const NODES: u32 = 3;

/// How long a process answers without the database, and a revoked key may be accepted at most.
pub(crate) const MAX_STALENESS: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["node", label] => node::serve(label).await,
        [] => cluster(Duration::MAX).await,
        ["--seconds", seconds] => match seconds.parse() {
            Ok(seconds) => cluster(Duration::from_secs(seconds)).await,
            Err(_) => Err("--seconds takes a whole number".into()),
        },
        _ => Err("usage: cluster [--seconds N]".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn database_url() -> Result<String, Failure> {
    env::var("DATABASE_URL")
        .map_err(|_| "DATABASE_URL is missing; examples/cluster/run starts a database".into())
}

pub(crate) fn scheme() -> Result<KeyScheme, Failure> {
    Ok(KeyScheme::new(KeyFormat::new("demo_{env}_")?))
}

/// Runs the processes, the load, the revocations and the view until the time is over.
async fn cluster(time: Duration) -> Result<(), Failure> {
    let url = database_url()?;
    PostgresStore::migrate(&url).await?;
    let nodes: Vec<_> = (1..=NODES)
        .map(|number| Node::new(&format!("node-{number}")))
        .collect();
    for node in &nodes {
        node.start().await?;
    }

    let options = PostgresOptions::new().label("operator");
    let store = Arc::new(options.connect(&url).await?);
    let admin = KeyAdmin::new(&store, &scheme()?);
    let customer = AccountId::parse("acme")?;
    let operator = Actor::operator("cluster");
    admin.open_account(&operator, &customer).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let revocations = Arc::new(Revocations::default());
    let mut tasks = Vec::new();

    // Four keys within their limits, and one that sends more than its limit to all processes together.
    let mut keys = Vec::new();
    for name in ["orders", "reports", "backup", "mobile"] {
        let new = NewKey::new(customer.clone(), Environment::LIVE, name);
        keys.push(whole(admin.create(&operator, new).await?.key)?);
    }
    let new = NewKey::new(customer.clone(), Environment::LIVE, "flood");
    let new = new.rate_limits(RateLimit::per_second(50).burst(50));
    let flood = whole(admin.create(&operator, new).await?.key)?;
    let loads: Vec<_> = nodes.iter().map(|_| Arc::new(Load::default())).collect();
    for (node, load) in nodes.iter().zip(&loads) {
        // A key that is new works in all processes some milliseconds later.
        for key in keys.iter().chain([&flood]) {
            drop(Client::once_accepted(node, key).await?);
        }
        let mut pace = |key: &str, every| {
            let (node, load) = (node.clone(), Arc::clone(load));
            tasks.push(tokio::spawn(load::send(
                node,
                load,
                key.to_owned(),
                every,
                Arc::clone(&stop),
            )));
        };
        for key in &keys {
            pace(key, Duration::from_millis(10));
        }
        pace(&flood, Duration::from_millis(20));
    }
    tasks.push(tokio::spawn(revoke::again_and_again(
        admin.clone(),
        customer,
        nodes.clone(),
        Arc::clone(&revocations),
        Arc::clone(&stop),
    )));

    let mut terminate = signal(SignalKind::terminate())?;
    let seen = tokio::select! {
        seen = view::show(&url, &nodes, &loads, &revocations, Instant::now(), time) => seen,
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await?;
    }
    admin
        .revoke_all(
            &operator,
            &AccountId::parse("acme")?,
            None,
            "the demonstration has ended",
        )
        .await?;
    seen?;
    println!("{}", revocations.summary());
    if revocations.worst() > MAX_STALENESS {
        return Err("a revoked key was accepted for longer than the bound".into());
    }
    Ok(())
}

fn whole(key: Option<ApiKey>) -> Result<String, Failure> {
    let key = key.ok_or("a new key has a text")?;
    Ok(key.expose_secret().to_owned())
}
