//! Imports the keys of Laravel Sanctum and prints a line for each.
//!
//! ```text
//! cargo run --example import                      # two rows of a test, in memory
//! cargo run --example import -- keys.jsonl keys.db
//! ```

use std::env;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};

use keyward::import::{ImportRow, ImportSource, Importer, Skipped};
use keyward::key::DigestScheme;
use keyward::{
    AccountId, Actor, Environment, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, NewKey, Peppers,
    Scopes, Store,
};
use keyward_sqlite::SqliteStore;

/// Rows of `personal_access_tokens`; `docs/importing.md` has the query that exports them.
const ROWS: &str = r#"{"id":1,"tokenable_id":7,"name":"laptop","abilities":"[\"*\"]","token":"0bc7d7385ab5b9c9af37d685f85993f2c3fd2d42993f7deb92f86c59643bb11f"}
{"id":2,"tokenable_id":7,"name":"old","abilities":"[]","expires_at":"2020-01-01 00:00:00","token":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match &*arguments {
        [export, file] => {
            let export = BufReader::new(File::open(export)?);
            import(&SqliteStore::open(file)?, export).await
        }
        _ => import(&MemoryStore::new(), ROWS.as_bytes()).await,
    }
}

async fn import<S: Store + Clone>(store: &S, export: impl BufRead) -> Result<(), Box<dyn Error>> {
    // A gate with this scheme needs `ForeignFormat::new("")?.secret_after('|')`, too.
    let peppers = Peppers::none().accepting(DigestScheme::Sha256OfSecret)?;
    let scheme = KeyScheme::new(KeyFormat::new("acme_{env}_")?).peppers(peppers);
    let admin = KeyAdmin::new(store, &scheme).max_active_keys(1000);
    let operator = Actor::operator("import");
    let importer = Importer::new(&admin, &operator, ImportSource::sanctum()).opening_accounts();
    // line 1: imported as key_…
    // line 2: skipped: the key has expired
    let totals = importer
        .run(export, map, |report| println!("{report}"))
        .await?;
    println!("{totals:?}");
    Ok(())
}

fn map(row: &mut ImportRow) -> Result<NewKey, Skipped> {
    let user = row.owner.as_deref().ok_or(Skipped::OwnerMissing)?;
    let scopes = match &*row.grants {
        [all] if all == "*" => Scopes::parse(["orders.*"])?, // all that a token could do so far
        abilities => Scopes::parse(abilities)?,
    };
    let account = AccountId::parse(&format!("user-{user}"))?;
    Ok(row.new_key(account, Environment::LIVE)?.scopes(scopes))
}
