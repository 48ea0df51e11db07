//! How much memory the replica takes for a key.
//!
//! ```text
//! cargo bench -p tests --bench memory
//! ```
//!
//! Apart from the gate's bench: counting allocations makes each of them slower.

use std::env;
use std::time::SystemTime;

use allocation_counter::measure;
use keyward::record::{Account, KeyRecord, Metadata};
use keyward::replica::{Replica, Revision};
use keyward::{AccountId, Environment, KeyFormat, KeyId, Peppers, Scopes};

fn main() {
    // `cargo test --benches` runs it once, to see that it works.
    let whole = env::args().any(|arg| arg == "--bench");
    println!("| keys | of one account | in accounts of 50 | in accounts of 50, with details |");
    println!("|---|---|---|---|");
    for keys in [1000, 100_000, 1_000_000]
        .into_iter()
        .take(if whole { 3 } else { 1 })
    {
        println!(
            "| {keys} | {:.1} B | {:.1} B | {:.1} B |",
            taken(keys, keys, false),
            taken(keys, 50, false),
            taken(keys, 50, true)
        );
    }
}

/// Bytes for a key. With details, each has a name of its own, a creator, a scope and 16 bytes of metadata.
#[expect(clippy::cast_precision_loss, reason = "both are small")]
fn taken(keys: usize, of_an_account: usize, with_details: bool) -> f64 {
    let format = KeyFormat::new("bench_{env}_").unwrap();
    let replica = Replica::new();
    if with_details {
        replica.hold_details();
    }
    let load = || {
        let mut poll = replica.poll();
        for number in 0..keys {
            let name = format!("account-{}", number / of_an_account);
            let account = AccountId::parse(&name).unwrap();
            if number % of_an_account == 0 {
                poll.account(Account::new(account.clone()));
            }
            let key = format.generate(Environment::LIVE).unwrap();
            let mut record = KeyRecord::new(
                KeyId::random().unwrap(),
                Peppers::none().digest(&key),
                key.hint().clone(),
                account,
                Environment::LIVE,
                SystemTime::UNIX_EPOCH,
            );
            if with_details {
                record.name = format!("production {number}");
                record.metadata = Metadata::parse(r#"{"team":"sales"}"#).unwrap();
                record.created_by = Some("ann@acme.x".to_owned());
                record.scopes = Scopes::parse(["reports.read"]).unwrap();
            }
            poll.key(&record);
        }
        let (number, nonce) = (1, 0);
        poll.finish(Revision { number, nonce }).unwrap();
    };
    let bytes = measure(load).bytes_current;
    bytes as f64 / keys as f64
}
