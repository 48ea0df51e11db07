//! What the processes do, once a second.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_postgres::NoTls;

use crate::Failure;
use crate::load::{Client, Load};
use crate::node::Node;
use crate::revoke::Revocations;

/// The counters of a process at the last glance.
type Counts = [u64; 5];

/// Shows a table every second, and starts processes again that have died.
pub(crate) async fn show(
    url: &str,
    nodes: &[Node],
    loads: &[Arc<Load>],
    revocations: &Revocations,
    began: Instant,
    time: Duration,
) -> Result<(), Failure> {
    let mut before: Vec<_> = loads.iter().map(|load| counts(load)).collect();
    let mut glance = Instant::now();
    while began.elapsed() < time {
        sleep(Duration::from_secs(1)).await;
        let now: Vec<_> = loads.iter().map(|load| counts(load)).collect();
        let seconds = glance.elapsed().as_secs_f64();
        glance = Instant::now();
        let revisions = revisions(url).await.unwrap_or_default();
        let mut text = String::new();
        writeln!(
            text,
            "{:8} {:>8} {:>9} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>10}",
            "process",
            "pid",
            "revision",
            "behind",
            "age ms",
            "200 /s",
            "429 /s",
            "503 /s",
            "401 /s",
            "lost /s",
        )?;
        for (number, node) in nodes.iter().enumerate() {
            let pid = node.alive().map(|(pid, _)| pid.to_string());
            let pid = pid.unwrap_or("dead".into());
            let of_node = revisions.iter().find(|(label, ..)| *label == node.label);
            let (applied, behind) = of_node
                .map_or_else(Default::default, |(_, applied, behind)| {
                    (applied.to_string(), behind.to_string())
                });
            let age = age(node).await.unwrap_or("?".into());
            write!(
                text,
                "{:8} {pid:>8} {applied:>9} {behind:>9} {age:>7}",
                node.label
            )?;
            for (now, before) in now[number].iter().zip(before[number]) {
                #[expect(clippy::cast_precision_loss, reason = "a number for people")]
                let rate = (now - before) as f64 / seconds;
                write!(text, " {rate:>9.0}")?;
            }
            writeln!(text)?;
        }
        before = now;
        writeln!(text, "\n{}", revocations.summary())?;
        draw(&text, nodes, url)?;
        for node in nodes {
            if node.alive().is_none() {
                // If the database is down, it is tried again in a second.
                drop(node.start().await);
            }
        }
    }
    Ok(())
}

fn draw(text: &str, nodes: &[Node], url: &str) -> Result<(), Failure> {
    let mut out = stdout().lock();
    if !out.is_terminal() {
        writeln!(out, "{text}")?;
        return Ok(());
    }
    let pid = nodes.iter().find_map(Node::alive).map_or(0, |(pid, _)| pid);
    write!(out, "\x1b[H\x1b[J{text}")?;
    writeln!(out, "\nTry in another terminal:")?;
    writeln!(
        out,
        "  kill -9 {pid}       a process dies, and is started again"
    )?;
    writeln!(out, "  kill -STOP {pid}    it is frozen (kill -CONT {pid})")?;
    writeln!(
        out,
        "  pkill -STOP -f redis-server    each process counts a third of each limit"
    )?;
    writeln!(
        out,
        "  pkill -STOP -f 'postgres.*postgres'    keys work for 3 seconds, then 503"
    )?;
    writeln!(
        out,
        "  psql {url} -c \"UPDATE keyward.key SET status = 'revoked' WHERE name = 'orders'\""
    )?;
    out.flush()?;
    Ok(())
}

fn counts(load: &Load) -> Counts {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    [
        read(&load.allowed),
        read(&load.limited),
        read(&load.unavailable),
        read(&load.unauthorized),
        read(&load.unanswered),
    ]
}

/// Asks a process how old its memory is, in milliseconds.
async fn age(node: &Node) -> Result<String, Failure> {
    let ask = async { Client::connect(node).await?.get("/staleness", "").await };
    let (_, age) = timeout(Duration::from_millis(300), ask).await??;
    Ok(age)
}

/// Returns the label of each process, the revision that it has applied, and how many it lacks.
async fn revisions(url: &str) -> Result<Vec<(String, i64, i64)>, Failure> {
    let ask = async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let connection = tokio::spawn(connection);
        // A process that was started again has a second row until the first is forgotten.
        let rows = client
            .query(
                "SELECT DISTINCT ON (label) label, acked_rev, \
                   greatest((SELECT max(rev) FROM keyward.rev_log) - acked_rev, 0) \
                 FROM keyward.node ORDER BY label, heartbeat_at DESC",
                &[],
            )
            .await?;
        drop(client);
        connection.await??;
        Ok(rows
            .iter()
            .map(|row| (row.get(0), row.get(1), row.get(2)))
            .collect())
    };
    timeout(Duration::from_millis(500), ask).await?
}
