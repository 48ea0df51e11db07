//! Address allowlists beside Python's `ipaddress`, and in the hands of those who may do a little.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use keyward::address::AddressPolicy;
use keyward::admin::KeyChange;
use keyward::gate::{Access, Admitted, Verdict};
use keyward::record::{AdminErrorKind, KeyRecord};
use keyward::testing::{TestRequest, World, block_on};
use keyward::{
    AccountId, Actor, Environment, Gate, Grace, KeyFormat, KeyScheme, NewKey, Peppers, Permission,
    Requirement, Scopes,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::secrecy::capture;
use crate::service::{PROXY, Service};
use crate::stacks::{Answer, Ask, everywhere};

/// Says what `ipaddress` makes of each line: a list, another one, and an address.
const PYTHON: &str = r#"
import json, sys
from ipaddress import collapse_addresses, ip_address, ip_network

mapped = ip_network("::ffff:0:0/96")

def network(text):
    parsed = ip_network(text)
    if parsed.version == 6 and parsed.subnet_of(mapped):
        parsed = ip_network((parsed.network_address.ipv4_mapped, parsed.prefixlen - 96))
    if parsed.version == 6 and parsed.supernet_of(mapped):
        raise ValueError("every IPv4 address")
    return parsed

def union(networks):
    return [one for version in (4, 6)
            for one in collapse_addresses(n for n in networks if n.version == version)]

def listed(texts):
    try:
        networks = [network(text) for text in texts]
    except ValueError:
        return None
    return networks if all(n.prefixlen for n in union(networks)) else None

def written(n):
    return str(n.network_address if n.prefixlen == n.max_prefixlen else n)

for line in sys.stdin:
    one, other, address = json.loads(line)
    one, other, address = listed(one), listed(other), ip_address(address)
    if address.version == 6 and address.ipv4_mapped:
        address = address.ipv4_mapped
    says = None
    if one is not None:
        order = sorted(set(one), key=lambda n: (n.version, n.network_address, n.prefixlen))
        says = {"ranges": [written(n) for n in order], "allows": any(address in n for n in one)}
        if other is not None:
            covered = lambda n: any(n.version == o.version and n.subnet_of(o) for o in union(one))
            says["covers"] = all(covered(n) for n in other)
    print(json.dumps(says))
"#;

/// The starts of the ranges of which lists are made: few, so that they often meet.
const NEAR: [&str; 8] = [
    "10.0.0.0",
    "10.0.1.0",
    "127.255.255.0",
    "255.255.255.0",
    "2001:db8::",
    "2001:db8::100",
    "::",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00",
];

/// An address, its family's longest prefix, and its bits.
fn near(place: u8, last: u8) -> (IpAddr, u8) {
    let start: IpAddr = NEAR[usize::from(place) % NEAR.len()].parse().unwrap();
    match start {
        IpAddr::V4(start) => (
            IpAddr::from((start.to_bits() + u32::from(last)).to_be_bytes()),
            32,
        ),
        IpAddr::V6(start) => (
            IpAddr::from((start.to_bits() + u128::from(last)).to_be_bytes()),
            128,
        ),
    }
}

/// Clears the bits after the prefix.
fn truncated(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::from((address.to_bits() & mask).to_be_bytes())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::from((address.to_bits() & mask).to_be_bytes())
        }
    }
}

/// One of the ways in which an address can be written.
fn written(address: IpAddr, form: u8) -> String {
    match address {
        IpAddr::V4(address) if form.is_multiple_of(4) => format!("::ffff:{address}"),
        IpAddr::V6(address) if form.is_multiple_of(4) => {
            let groups = address.segments().map(|group| format!("{group:04X}"));
            groups.join(":")
        }
        address => address.to_string(),
    }
}

/// An entry of a list, now and then one that is not valid.
fn entry() -> impl Strategy<Value = String> {
    any::<[u8; 6]>().prop_map(|[place, last, short, form, odd, at]| {
        let (address, longest) = near(place, last);
        let prefix = match odd {
            0..4 => short % (longest + 2),
            _ => longest - short % 12,
        };
        let keeps_host_bits = (4..7).contains(&odd);
        let address = if keeps_host_bits {
            address
        } else {
            truncated(address, prefix.min(longest))
        };
        let address = written(address, form);
        let added = if address.starts_with("::ffff:") {
            96
        } else {
            0
        };
        let mut text = match form % 3 {
            0 if prefix == longest => address,
            _ => format!("{address}/{}", u16::from(prefix) + added),
        };
        if (7..11).contains(&odd) {
            let at = usize::from(at) % text.len();
            let other = char::from(b"0123456789abcdef:./g"[usize::from(short) % 20]);
            text.replace_range(at..=at, &other.to_string());
        }
        text
    })
}

/// The parts of a network, perhaps without one of them, beside the whole.
fn parts() -> impl Strategy<Value = (Vec<String>, Vec<String>)> {
    let shape = (any::<[u8; 5]>(), vec(entry(), 0..3));
    shape.prop_map(|([place, last, short, depth, missing], mut list)| {
        let (address, longest) = near(place, last);
        let depth = 1 + depth % 3;
        let prefix = longest - depth - short % 8;
        let start = truncated(address, prefix);
        let step = u128::from(longest - prefix - depth);
        for part in 0..1_u8 << depth {
            if part == missing % 12 {
                continue;
            }
            let more = u128::from(part) << step;
            let part = match start {
                IpAddr::V4(start) => {
                    let more = u32::try_from(more).unwrap();
                    IpAddr::from((start.to_bits() + more).to_be_bytes())
                }
                IpAddr::V6(start) => IpAddr::from((start.to_bits() + more).to_be_bytes()),
            };
            list.push(format!("{part}/{}", prefix + depth));
        }
        (list, vec![format!("{start}/{prefix}")])
    })
}

fn lists() -> impl Strategy<Value = (Vec<String>, Vec<String>)> {
    prop_oneof![(vec(entry(), 1..12), vec(entry(), 1..4)), parts(),]
}

#[test]
fn membership_and_containment_are_those_of_python() {
    const CASES: usize = 4000;
    let mut runner = TestRunner::new(Config::default());
    let strategy = (lists(), any::<[u8; 3]>());
    let cases: Vec<_> = (0..CASES)
        .map(|_| {
            let ((one, other), [place, last, form]) =
                strategy.new_tree(&mut runner).unwrap().current();
            (one, other, written(near(place, last).0, form))
        })
        .collect();
    let lines: String = cases
        .iter()
        .map(|case| json!(case).to_string() + "\n")
        .collect();
    let mut python = Command::new("python3")
        .args(["-c", PYTHON])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3, which scripts/test installs");
    let mut stdin = python.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let answers = String::from_utf8(output.stdout).unwrap();
    let mut seen = BTreeMap::new();
    for ((one, other, address), says) in cases.iter().zip(answers.lines()) {
        let says: Value = serde_json::from_str(says).unwrap();
        let policy = AddressPolicy::listed(one);
        let Ok(policy) = policy else {
            assert_eq!(says, Value::Null, "{one:?} {policy:?}");
            *seen.entry("refused").or_insert(0) += 1;
            continue;
        };
        let ranges: Vec<_> = policy.ranges().collect();
        let allows = policy.allows(address.parse().unwrap());
        let mut ours = json!({ "ranges": ranges, "allows": allows });
        *seen
            .entry(if allows { "allowed" } else { "not allowed" })
            .or_insert(0) += 1;
        if let Ok(other) = AddressPolicy::listed(other) {
            let covers = policy.covers(&other);
            ours["covers"] = json!(covers);
            let whole = |range: &String| AddressPolicy::listed([range]).unwrap().covers(&other);
            let about = match covers {
                true if ranges.iter().any(whole) => "covered by one",
                true => "covered by several",
                false => "not covered",
            };
            *seen.entry(about).or_insert(0) += 1;
        }
        assert_eq!(ours, says, "{one:?} {other:?} {address}");
    }
    assert_eq!(answers.lines().count(), CASES);
    // Each outcome is there often enough to be tested.
    assert!(
        seen.len() == 6 && seen.values().all(|times| *times > 100),
        "{seen:?}"
    );
}

/// The lists that keys and changes have: of every two, it is plain who has more.
const LISTS: [&[&str]; 7] = [
    &[],
    &["192.0.2.0/25", "192.0.2.128/25"],
    &["192.0.2.0/24"],
    &["192.0.2.0/23", "2001:db8::/64"],
    &["192.0.2.7"],
    &["::ffff:192.0.2.7", "2001:db8::7"],
    &["198.51.100.0/24"],
];

/// Addresses within and without each of them.
const PROBES: [&str; 7] = [
    "192.0.2.7",
    "192.0.2.200",
    "192.0.3.7",
    "2001:db8::7",
    "2001:db8::8",
    "198.51.100.7",
    "203.0.113.7",
];

fn policy(list: u8) -> AddressPolicy {
    match LISTS[usize::from(list) % LISTS.len()] {
        [] => AddressPolicy::Any,
        list => AddressPolicy::listed(list).unwrap(),
    }
}

/// The addresses from which a policy lets a key be used.
fn reach(policy: &AddressPolicy) -> BTreeSet<&'static str> {
    let allowed = |probe: &&str| policy.allows(probe.parse().unwrap());
    PROBES.into_iter().filter(allowed).collect()
}

/// A call: what it does, who makes it, and the list that it asks for.
type Call = (u8, u8, u8);

/// Makes one key, and lets a key, users and an operator change it. Nobody may have more than he had.
fn run(held: u8, first: u8, calls: &[Call]) {
    let world = World::new();
    let acme = AccountId::parse("acme").unwrap();
    let new = |list, scopes: &[&str]| {
        NewKey::new(acme.clone(), Environment::LIVE, "key")
            .scopes(Scopes::parse(scopes).unwrap())
            .addresses(policy(list))
    };
    let held = policy(held);
    let holder = {
        let scopes = ["api_keys.create", "api_keys.update", "api_keys.revoke"];
        let new = new(0, &scopes).addresses(held.clone());
        let key = world.create(new).key.unwrap();
        let peer: IpAddr = reach(&held).first().unwrap().parse().unwrap();
        let request = TestRequest::get().key(key.expose_secret()).peer(peer);
        match world.verdict(&request, Requirement::new()) {
            Verdict::Admit(Admitted {
                access: Some(Access::Principal(principal)),
                ..
            }) => Actor::key(&principal),
            other => panic!("{other:?}"),
        }
    };
    let editor = Actor::user("ed", acme.clone(), [Permission::Update, Permission::Revoke]);
    let owner = Actor::user("ann", acme.clone(), Permission::ALL);
    let operator = Actor::operator("ops");
    let mut record = world.create(new(first, &[])).record;
    for (call, who, list) in calls {
        let (actor, may_widen) = match who % 4 {
            0 => (&holder, false),
            1 => (&editor, false),
            2 => (&owner, true),
            _ => (&operator, true),
        };
        let before = reach(&record.addresses);
        let asked = reach(&policy(*list));
        let made = match call % 4 {
            0 | 1 => {
                let change = KeyChange::new().addresses(policy(*list));
                block_on(world.admin().update(actor, record.id, change)).map(|view| view.record)
            }
            2 => block_on(world.admin().rotate(actor, record.id, Grace::None))
                .map(|made| made.record),
            _ => {
                let key = KeyFormat::new("old_")
                    .unwrap()
                    .generate(Environment::LIVE)
                    .unwrap();
                let digest = Peppers::none().digest(&key);
                block_on(world.admin().import(actor, new(*list, &[]), digest, None))
            }
        };
        let made: KeyRecord = match made {
            Ok(made) => made,
            Err(error) => {
                let kinds = [AdminErrorKind::TooWide, AdminErrorKind::NotPermitted];
                assert!(kinds.contains(&error.kind()), "{error}");
                // What is within what he holds, and what the key had, is refused to nobody.
                let within = asked.is_subset(&reach(&held)) && asked.is_subset(&before);
                assert!(!(call % 4 < 2 && within), "{actor:?} {list}");
                continue;
            }
        };
        let after = reach(&made.addresses);
        if call % 4 == 2 {
            assert_eq!(after, before, "a successor can do the same");
        } else {
            assert_eq!(after, asked);
        }
        match who % 4 {
            0 => assert!(after.is_subset(&reach(&held)), "{made:?}"),
            1 => assert!(after.is_subset(&before), "{made:?}"),
            _ => assert!(may_widen),
        }
        record = made;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn nobody_widens_a_list_by_update_rotation_or_import(
        held in any::<u8>(), first in any::<u8>(), calls in vec(any::<(u8, u8, u8)>(), 1..12),
    ) {
        run(held, first, &calls);
    }
}

fn ask(service: &Service, key: &str, forwarded: Option<&str>) -> Ask {
    let key = service.keys[key].clone().into_bytes();
    let forwarded = forwarded.map(|line| ("x-forwarded-for", line.into()));
    Ask {
        method: "GET",
        path: "/live".to_owned(),
        fields: [("x-api-key", key)].into_iter().chain(forwarded).collect(),
    }
}

/// The answers to these requests, and what is logged of them: each is sent through three stacks.
fn logged(service: &Arc<Service>, asks: &[Ask]) -> (Vec<Answer>, Vec<String>) {
    let (log, subscriber) = capture();
    let answers = tracing::subscriber::with_default(subscriber, || everywhere(service, asks));
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines = log.lines().filter(|line| line.contains(" keyward::gate"));
    (answers, lines.map(str::to_owned).collect())
}

#[test]
fn the_log_says_from_where_a_key_was_refused() {
    let service = Arc::new(Service::new());
    let asks = [ask(&service, "office", Some("203.0.113.7, 192.0.2.1"))];
    let (_, lines) = logged(&service, &asks);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for line in lines {
        for part in [
            " INFO ",
            "address not on the allowlist",
            "client.address=192.0.2.1",
            "key.id=key_",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }
}

#[test]
fn the_log_says_what_to_set_up_where_no_address_is_known() {
    let mut service = Service::new();
    service.peer = None;
    let service = Arc::new(service);
    let asks = [ask(&service, "office", Some("203.0.113.7"))];
    let (_, lines) = logged(&service, &asks);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for line in lines {
        assert!(
            line.contains(" ERROR ") && line.contains("GateBuilder::peer"),
            "{line}"
        );
    }
}

#[test]
fn a_proxy_that_is_not_trusted_is_logged_once_whether_it_is_listed_or_not() {
    for (key, status) in [("office", 403), ("proxy", 200)] {
        let mut service = Service::new();
        let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_").unwrap());
        let gate = Gate::builder(&service.store, &scheme).build().unwrap();
        service.routes = vec![("/live", gate, Requirement::new())];
        let service = Arc::new(service);
        let send = |asks: &[Ask]| {
            let (answers, mut lines) = logged(&service, asks);
            lines.retain(|line| line.contains(" WARN "));
            let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
            (statuses, lines)
        };
        // Without the header, or without a list, there is nothing to say.
        let unheard = [
            ask(&service, key, None),
            ask(&service, "live", Some("192.0.2.1")),
        ];
        assert_eq!(send(&unheard), (vec![status, 200], vec![]));
        let forwarded = ["192.0.2.1", "192.0.2.2"].map(|from| ask(&service, key, Some(from)));
        let (statuses, lines) = send(&forwarded);
        assert_eq!(statuses, [status, status]);
        let [line] = &lines[..] else {
            panic!("{lines:#?}")
        };
        for part in ["trusted_proxies", &format!("peer.address={PROXY}")] {
            assert!(line.contains(part), "{line}");
        }
    }
}
