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
use keyward::record::{Account, KeyRecord};
use keyward::replica::{Replica, Revision};
use keyward::{AccountId, Environment, KeyFormat, KeyId, Peppers};

fn main() {
    // `cargo test --benches` runs it once, to see that it works.
    let whole = env::args().any(|arg| arg == "--bench");
    println!("| keys | of one account | in accounts of 50 |");
    println!("|---|---|---|");
    for keys in [1000, 100_000, 1_000_000]
        .into_iter()
        .take(if whole { 3 } else { 1 })
    {
        println!(
            "| {keys} | {:.1} B | {:.1} B |",
            taken(keys, keys),
            taken(keys, 50)
        );
    }
}

/// Bytes for a key.
#[expect(clippy::cast_precision_loss, reason = "both are small")]
fn taken(keys: usize, of_an_account: usize) -> f64 {
    let format = KeyFormat::new("bench_{env}_").unwrap();
    let replica = Replica::new();
    let load = || {
        let mut poll = replica.poll();
        for number in 0..keys {
            let name = format!("account-{}", number / of_an_account);
            let account = AccountId::parse(&name).unwrap();
            if number % of_an_account == 0 {
                poll.account(Account::new(account.clone()));
            }
            let key = format.generate(Environment::LIVE).unwrap();
            poll.key(&KeyRecord::new(
                KeyId::random().unwrap(),
                Peppers::none().digest(&key),
                key.hint().clone(),
                account,
                Environment::LIVE,
                SystemTime::UNIX_EPOCH,
            ));
        }
        let (number, nonce) = (1, 0);
        poll.finish(Revision { number, nonce }).unwrap();
    };
    let bytes = measure(load).bytes_current;
    bytes as f64 / keys as f64
}
