//! A checker of the bound on revocations, with real processes and real faults.
//!
//! Three node processes, each with a gate over the store, decide requests all the time. Writers revoke keys
//! and create others. The log of commits is then compared with the log of decisions: no node accepts a key
//! later than `max_staleness` after its revocation was committed, and none refuses a valid key with 401.
//! All processes read the boot clock of one machine. A run is void, and fails, unless every fault saw
//! enough revocations, and a stale acceptance within the bound.
//!
//! Network faults need root, `unshare` and `nft`: the test then runs in a network namespace of its own.
//! `KEYWARD_CHECKER_REVOCATIONS` sets the number of revocations of each fault (60; `scripts/checker`: 1000).

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, thread};

use keyward::clock::{Clock, SystemClock};
use keyward::gate::Verdict;
use keyward::testing::{TestRequest, block_on, decided};
use keyward::{ApiKey, Gate, Store};

use crate::PostgresOptions;
use crate::fixture::{Fixture, Psql, Server, connect, key, scheme};

/// The `max_staleness` of all gates.
const STALENESS: Duration = Duration::from_secs(1);

const NODES: usize = 3;
const LIVE: usize = 100;
const WRITERS: usize = 6;

/// Precedes the decisions in the output of a node.
const READY: &[u8] = b"\0the decisions\0";

const ADMITTED: u8 = 0;
const REFUSED: u8 = 1;
const UNAVAILABLE: u8 = 2;

fn now() -> Duration {
    SystemClock.boot()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}

/// The number of a key, and a request with it.
type Asked = (u32, Arc<TestRequest>);

/// A decision: made after `from` and before `to`.
#[derive(Clone, Copy)]
struct Made {
    node: usize,
    key: usize,
    from: u64,
    to: u64,
    outcome: u8,
}

/// A node: decides about the keys of its input, and writes the decisions to its output for errors, as
/// the test harness writes to the other one.
#[test]
#[ignore = "the node processes of the checker run it"]
fn node_process() {
    let Ok(url) = env::var("KEYWARD_CHECKER_NODE") else {
        return;
    };
    let store = block_on(PostgresOptions::new().connect(&url)).unwrap();
    let gate = Gate::builder_from_replica(store.replica(), &scheme());
    // A thread that waits for a poll would ask about fewer keys.
    let gate = gate.max_staleness(STALENESS).refresh_wait(Duration::ZERO);
    let gate = gate.build().unwrap();
    let requirement = Arc::default();
    let keys: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let known = Arc::clone(&keys);
    thread::spawn(move || {
        for line in BufReader::new(std::io::stdin()).lines() {
            let line = line.unwrap();
            let (number, secret) = line.split_once(' ').unwrap();
            let number = number.parse().unwrap();
            let mut known = known.lock().unwrap();
            if secret.is_empty() {
                known.retain(|(key, _)| *key != number);
            } else {
                known.push((number, Arc::new(TestRequest::get().key(secret))));
            }
        }
        std::process::exit(0);
    });
    let mut out = std::io::stderr();
    out.write_all(READY).unwrap();
    loop {
        let round = keys.lock().unwrap().clone();
        for some in round.chunks(32) {
            let mut made = Vec::with_capacity(32 * 24);
            for (number, request) in some {
                let from = micros(now());
                let outcome = match decided(gate.check(&**request, &requirement, None)) {
                    Verdict::Admit(_) => ADMITTED,
                    Verdict::Refuse(refusal) if refusal.reply.status() == 401 => REFUSED,
                    Verdict::Refuse(_) => UNAVAILABLE,
                };
                made.extend(from.to_le_bytes());
                made.extend(micros(now()).to_le_bytes());
                made.extend(number.to_le_bytes());
                made.extend([outcome, 0, 0, 0]);
            }
            out.write_all(&made).unwrap();
            thread::sleep(Duration::from_millis(2));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// What the writers did to a key.
struct History {
    id: String,
    secret: ApiKey,
    /// When its creation had returned.
    created: u64,
    /// When its revocation was first tried, and when it had returned.
    tried: Option<u64>,
    revoked: Option<u64>,
}

#[derive(Default)]
struct Ledger {
    keys: Vec<History>,
    live: VecDeque<usize>,
    old: VecDeque<(u64, usize)>,
    /// The keys that nodes ask about, and the inputs of the nodes.
    asked: Vec<usize>,
    inputs: Vec<Option<Sender<String>>>,
}

impl Ledger {
    fn tell(&self, line: &str) {
        for input in self.inputs.iter().flatten() {
            // A node that was killed reads nothing.
            drop(input.send(line.to_owned()));
        }
    }

    fn add(&mut self, id: String, secret: ApiKey) {
        let number = self.keys.len();
        self.tell(&format!("{number} {}\n", secret.expose_secret()));
        self.keys.push(History {
            id,
            secret,
            created: micros(now()),
            tried: None,
            revoked: None,
        });
        self.live.push_back(number);
        self.asked.push(number);
    }
}

struct Node {
    child: Child,
}

struct Cluster {
    fixture: Fixture,
    server: Server,
    in_namespace: bool,
    ledger: Arc<Mutex<Ledger>>,
    made: Arc<Mutex<Vec<Made>>>,
    nodes: Vec<Node>,
    revocations: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

fn insert(psql: &mut Psql, id: &str, secret: &ApiKey, hint: &str) -> bool {
    let digest = keyward::Peppers::none().digest(secret);
    let bytes = digest.expose_bytes().iter();
    let hex: Vec<_> = bytes.map(|byte| format!("{byte:02x}")).collect();
    let hex = hex.concat();
    let sql = format!(
        "INSERT INTO keyward.key (id, digest_scheme, digest, hint, account, environment, lineage) \
         VALUES ('{id}', 'sha256', '\\x{hex}', '{hint}', 'acme', 'live', '{id}') ON CONFLICT DO NOTHING"
    );
    psql.execute(&sql).is_ok()
}

/// Revokes a key and creates another, again and again.
fn write(url: &str, ledger: &Mutex<Ledger>, revocations: &AtomicU64, is_over: &AtomicBool) {
    let again = || loop {
        if let Ok(psql) = connect(url) {
            return psql;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let mut psql = again();
    let mut round = 0_u64;
    while !is_over.load(Ordering::Acquire) {
        round += 1;
        let taken = {
            let mut ledger = ledger.lock().unwrap();
            let long_ago = micros(now()).saturating_sub(4 * micros(STALENESS));
            while let Some(&(_, old)) = ledger.old.front().filter(|(at, _)| *at < long_ago) {
                ledger.old.pop_front();
                ledger.asked.retain(|key| *key != old);
                ledger.tell(&format!("{old} \n"));
            }
            let taken = ledger.live.pop_front();
            taken.map(|key| {
                ledger.keys[key].tried = Some(micros(now()));
                (key, ledger.keys[key].id.clone())
            })
        };
        let Some((number, id)) = taken else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        // Half of them with work of the application before the commit.
        let revoke = format!("UPDATE keyward.key SET status = 'revoked' WHERE id = '{id}'");
        let revoke = match round % 2 {
            0 => revoke,
            _ => format!("BEGIN; {revoke}; SELECT pg_sleep(0.004); COMMIT"),
        };
        while psql.execute(&revoke).is_err() {
            psql = again();
        }
        {
            let mut ledger = ledger.lock().unwrap();
            let at = micros(now());
            ledger.keys[number].revoked = Some(at);
            ledger.old.push_back((at, number));
        }
        revocations.fetch_add(1, Ordering::Relaxed);
        let (secret, record) = key("acme");
        let (id, hint) = (record.id.to_string(), record.hint.to_string());
        while !insert(&mut psql, &id, &secret, &hint) {
            psql = again();
        }
        ledger.lock().unwrap().add(id, secret);
        thread::sleep(Duration::from_millis(25));
    }
}

impl Cluster {
    fn start(in_namespace: bool) -> Self {
        let server = Server::start();
        let fixture = Fixture::on(&server);
        fixture
            .type_in("INSERT INTO keyward.account (id) VALUES ('acme')")
            .unwrap();
        let mut cluster = Self {
            fixture,
            server,
            in_namespace,
            ledger: Arc::default(),
            made: Arc::default(),
            nodes: Vec::new(),
            revocations: Arc::default(),
            is_over: Arc::default(),
        };
        let mut psql = cluster.fixture.psql();
        for _ in 0..LIVE {
            let (secret, record) = key("acme");
            let (id, hint) = (record.id.to_string(), record.hint.to_string());
            assert!(insert(&mut psql, &id, &secret, &hint));
            cluster.ledger.lock().unwrap().add(id, secret);
        }
        for node in 0..NODES {
            cluster.ledger.lock().unwrap().inputs.push(None);
            let node = cluster.spawn(node);
            cluster.nodes.push(node);
        }
        cluster
    }

    /// Starts the process of a node.
    fn spawn(&self, node: usize) -> Node {
        let mut url = self.fixture.url.clone();
        if self.in_namespace {
            // An address of its own, so that the way to it can be cut.
            url = url.replace("127.0.0.1", &address(node));
        }
        let url = format!("{url}?application_name=node{node}");
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "checker::node_process",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env("KEYWARD_CHECKER_NODE", url)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let (sender, lines) = channel::<String>();
        thread::spawn(move || {
            for line in lines {
                if input.write_all(line.as_bytes()).is_err() {
                    return;
                }
            }
        });
        let mut output = BufReader::new(child.stderr.take().unwrap());
        let made = Arc::clone(&self.made);
        thread::spawn(move || {
            let mut before = Vec::new();
            while !before.ends_with(READY) {
                if output.read_until(0, &mut before).unwrap_or(0) == 0 {
                    return;
                }
            }
            let mut bytes = [0; 24];
            while output.read_exact(&mut bytes).is_ok() {
                let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
                let key = u32::from_le_bytes(bytes[16..20].try_into().unwrap());
                made.lock().unwrap().push(Made {
                    node,
                    key: usize::try_from(key).unwrap(),
                    from: number(0),
                    to: number(8),
                    outcome: bytes[20],
                });
            }
        });
        let mut ledger = self.ledger.lock().unwrap();
        for &key in &ledger.asked {
            let secret = ledger.keys[key].secret.expose_secret();
            sender.send(format!("{key} {secret}\n")).unwrap();
        }
        ledger.inputs[node] = Some(sender);
        Node { child }
    }

    fn signal(&self, node: usize, signal: &str) {
        let pid = self.nodes[node].child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits until every node answers as a healthy one.
    fn settle(&self) {
        let until = now() + Duration::from_secs(60);
        loop {
            let since = micros(now());
            thread::sleep(Duration::from_millis(300));
            let made = self.made.lock().unwrap();
            let healthy = (0..NODES).all(|node| {
                let own = made.iter().rev().take_while(|made| made.to > since);
                let mut own = own.filter(|made| made.node == node).peekable();
                own.peek().is_some() && own.all(|made| made.outcome != UNAVAILABLE)
            });
            if healthy {
                return;
            }
            assert!(now() < until, "a node never recovered");
        }
    }

    /// Repeats a fault until there were enough revocations, and judges the decisions.
    fn run(&mut self, fault: &str, longer: bool, most: u64, inject: impl Fn(&mut Self)) {
        self.settle();
        self.made.lock().unwrap().clear();
        let before = self.revocations.load(Ordering::Relaxed);
        let revocations = loop {
            inject(self);
            let revocations = self.revocations.load(Ordering::Relaxed) - before;
            if revocations >= most {
                break revocations;
            }
        };
        self.settle();
        let made = std::mem::take(&mut *self.made.lock().unwrap());
        let ledger = self.ledger.lock().unwrap();
        let (mut worst, mut stale, mut unavailable, mut wrong) = (0, 0, 0, 0);
        for made in &made {
            let key = &ledger.keys[made.key];
            match (made.outcome, key.revoked) {
                (ADMITTED, Some(revoked)) if made.from > revoked => {
                    stale += 1;
                    worst = worst.max(made.from - revoked);
                }
                // A new key may be unknown for as long as a revoked one is accepted.
                (REFUSED, _)
                    if key.tried.is_none_or(|tried| made.to < tried)
                        && made.from > key.created + micros(STALENESS) =>
                {
                    wrong += 1;
                }
                (UNAVAILABLE, _) => unavailable += 1,
                _ => {}
            }
        }
        let decisions = made.len();
        println!(
            "| {fault} | {revocations} | {decisions} | {stale} | {:.1} ms | {unavailable} | {wrong} |",
            Duration::from_micros(worst).as_secs_f64() * 1000.0
        );
        assert!(
            Duration::from_micros(worst) <= STALENESS,
            "{fault}: too late"
        );
        assert_eq!(wrong, 0, "{fault}: 401 for a valid key");
        assert!(stale > 0, "{fault}: void, nothing stale was seen");
        if longer {
            assert!(unavailable > 0, "{fault}: void, no node gave up");
            assert!(
                worst > micros(STALENESS) / 4,
                "{fault}: void, it did nothing"
            );
        }
    }

    /// Cuts the way to and from the first node, runs the rest, and heals it.
    fn cut(&mut self, rules: &[&str], meanwhile: impl FnOnce(&mut Self)) {
        for rule in rules {
            nft(&format!(
                "add rule inet keyward out ip {rule} {} drop",
                address(0)
            ));
        }
        meanwhile(self);
        thread::sleep(STALENESS * 5 / 2);
        nft("flush chain inet keyward out");
        thread::sleep(STALENESS);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        for node in &mut self.nodes {
            drop((node.child.kill(), node.child.wait()));
        }
    }
}

fn address(node: usize) -> String {
    format!("127.0.0.{}", 11 + node)
}

fn nft(rule: &str) {
    let done = Command::new("nft").arg(rule).status();
    assert!(done.unwrap().success(), "{rule}");
}

/// Runs the test again in a network namespace; `false` if the machine does not permit it.
fn ran_in_namespace(test: &str) -> bool {
    let set_up = "ip link set lo up && nft add table inet keyward && \
        nft 'add chain inet keyward out { type filter hook output priority 0; }'";
    let unshare = |script: String| {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", &script]);
        command.env("KEYWARD_CHECKER_INSIDE", "1");
        command
    };
    let permitted = unshare(set_up.to_owned()).stderr(Stdio::null()).status();
    if !permitted.is_ok_and(|status| status.success()) {
        return false;
    }
    let exe = env::current_exe().unwrap();
    let run = format!(
        "{set_up} && exec '{}' {test} --exact --nocapture",
        exe.display()
    );
    assert!(unshare(run).status().unwrap().success());
    true
}

#[test]
fn no_node_accepts_a_revoked_key_beyond_the_staleness_whatever_fails() {
    let in_namespace = env::var_os("KEYWARD_CHECKER_INSIDE").is_some();
    let test = "checker::no_node_accepts_a_revoked_key_beyond_the_staleness_whatever_fails";
    if !in_namespace && ran_in_namespace(test) {
        return;
    }
    if !in_namespace {
        // Written past the capture of a test's output.
        let told = b"NOT RUN: partitions in the checker, which need root, unshare and nft\n";
        std::io::stderr().write_all(told).unwrap();
    }
    let most = env::var("KEYWARD_CHECKER_REVOCATIONS");
    let most = most.map_or(60, |most| most.parse().unwrap());
    let mut cluster = Cluster::start(in_namespace);
    for _ in 0..WRITERS {
        let (url, ledger) = (cluster.fixture.url.clone(), Arc::clone(&cluster.ledger));
        let revocations = Arc::clone(&cluster.revocations);
        let is_over = Arc::clone(&cluster.is_over);
        thread::spawn(move || write(&url, &ledger, &revocations, &is_over));
    }
    println!("| fault | revocations | decisions | stale | worst | 503 | 401 of a valid key |");
    println!("|---|---|---|---|---|---|---|");
    let cluster = &mut cluster;
    cluster.run("none", false, most, |_| thread::sleep(STALENESS));
    if in_namespace {
        let (to, from) = ("daddr", "saddr");
        cluster.run("partition both ways", true, most, |it| {
            it.cut(&[to, from], |_| ());
        });
        cluster.run("partition to the server", true, most, |it| {
            it.cut(&[to], |_| ());
        });
        cluster.run("partition from the server", true, most, |it| {
            it.cut(&[from], |_| ());
        });
        cluster.run("ended backends, dead sockets", true, most, |it| {
            it.cut(&[to, from], |it| {
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE application_name = 'node0'";
                it.fixture.type_in(end).unwrap();
            });
        });
        cluster.run("pruned change log", true, most, |it| {
            it.cut(&[to, from], |it| {
                thread::sleep(STALENESS);
                it.fixture.type_in("SELECT keyward.prune(1)").unwrap();
            });
        });
    }
    cluster.run("frozen database", false, most, |it| {
        for part in [8, 16] {
            it.server.signal("STOP");
            thread::sleep(STALENESS * part / 10);
            it.server.signal("CONT");
            thread::sleep(STALENESS / 2);
        }
    });
    cluster.run("frozen node", false, most, |it| {
        for part in [8, 16] {
            it.signal(0, "STOP");
            thread::sleep(STALENESS * part / 10);
            it.signal(0, "CONT");
            thread::sleep(STALENESS / 2);
        }
    });
    cluster.run("killed database", false, most, |it| {
        it.server.signal("KILL");
        it.server.start_again();
        thread::sleep(STALENESS);
    });
    cluster.run("killed node", false, most, |it| {
        it.signal(0, "KILL");
        it.nodes[0].child.wait().unwrap();
        it.nodes[0] = it.spawn(0);
        thread::sleep(STALENESS);
    });
}
