//! What the targets share: a request as text, and keys that are always the same.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use keyward::{AccountId, Environment, KeyFormat, KeyId, KeyScheme};
use keyward::denial::DenialKind;
use keyward::gate::{Decision, Verdict};
use keyward::key::{DigestScheme, Hint, KeyDigest};
use keyward::record::{Account, KeyRecord};
use keyward::replica::{Replica, Revision};
use keyward::request::RequestHead;
use sha2::{Digest, Sha256};

/// The time at which everything happens.
pub const NOW: Duration = Duration::from_secs(1_700_000_000);

/// Keys of the format `fuzz_{env}_`, each with its checksum.
pub const LIVE: &str = "fuzz_live_000000000000000000000000000000002kl4Bt";
pub const TEST: &str = "fuzz_test_000000000000000000000000000000000hQKtQ";
pub const REVOKED: &str = "fuzz_live_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa4cIUSk";

/// The form of these keys.
pub fn format() -> KeyFormat {
    KeyFormat::new("fuzz_{env}_").unwrap()
}

/// The scheme of these keys.
pub fn scheme() -> KeyScheme {
    KeyScheme::new(format())
}

/// The digest under which a key is kept.
pub fn digest(key: &str) -> KeyDigest {
    KeyDigest::new(DigestScheme::Sha256, Sha256::digest(key).into())
}

/// What is kept of a key of the account `acme`, which is good; the id ends like this.
pub fn record(key: &str, environment: Environment, id: &str) -> KeyRecord {
    let hint = format!("{}…{}", &key[..10], &key[key.len() - 4..]);
    KeyRecord::new(
        KeyId::parse(&format!("key_0000000000{id}")).unwrap(),
        digest(key),
        Hint::parse(&hint).unwrap(),
        AccountId::parse("acme").unwrap(),
        environment,
        SystemTime::UNIX_EPOCH,
    )
}

/// A memory with these keys and their account.
pub fn fill(replica: &Replica, number: u64, records: &[KeyRecord]) {
    let mut poll = replica.poll();
    poll.account(Account::new(AccountId::parse("acme").unwrap()));
    records.iter().for_each(|record| poll.key(record));
    poll.finish(Revision { number, nonce: 0 }).unwrap();
}

/// The head of a request.
pub struct Head {
    pub method: String,
    pub peer: Option<IpAddr>,
    pub fields: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// Reads `GET 192.0.2.1`, where the address may be missing, and then a field on each line.
    pub fn read(text: &[u8]) -> Self {
        let mut lines = text.split(|byte| *byte == b'\n');
        let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let (method, peer) = first.split_once(' ').unwrap_or((&first, ""));
        Self {
            method: method.to_owned(),
            peer: peer.parse().ok(),
            fields: lines.filter_map(field).collect(),
        }
    }

    /// All that is on the lines of these fields.
    pub fn lines<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.fields.iter();
        let lines = lines.filter(move |(name, _)| names.contains(&&**name));
        lines.map(|(_, value)| &value[..])
    }
}

fn field(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = str::from_utf8(&line[..colon]).ok()?.to_ascii_lowercase();
    let value = &line[colon + 1..];
    // What no server hands on (RFC 9110 §5.5).
    let value = value.strip_prefix(b" ").unwrap_or(value).to_vec();
    (!value.contains(&0) && !value.contains(&b'\r')).then_some((name, value))
}

impl RequestHead for Head {
    fn method(&self) -> &str {
        &self.method
    }

    fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.fields.iter().filter(move |(name, _)| name == field);
        lines.map(|(_, value)| &value[..])
    }
}

/// Why it is refused; `None` where it is not.
pub fn denial(decision: &Decision) -> Option<DenialKind> {
    match decision {
        Decision::Ready(Verdict::Admit(_)) => None,
        Decision::Ready(Verdict::Refuse(refusal)) => {
            Some(refusal.denial.as_ref().expect("no preflight").kind())
        }
        Decision::Pending(_) => panic!("nothing waits in memory"),
    }
}

/// Whether this stands somewhere in that.
pub fn holds(text: &[u8], part: &str) -> bool {
    text.windows(part.len())
        .any(|window| window == part.as_bytes())
}
