//! The suites for every store, over a file.

use std::env::temp_dir;
use std::fs::OpenOptions;
use std::sync::{Arc, Mutex, Once};

use keyward::clock::Clock;

use crate::{SqliteOptions, SqliteStore};

keyward::testing::suites!(|clock| database()(clock), processes: database());

/// Makes a file in a folder that is kept, to be opened on a clock, and logs everything beside it.
///
/// `scripts/test` looks for keys in both.
fn database() -> impl Fn(Arc<dyn Clock>) -> SqliteStore {
    static LOG: Once = Once::new();
    LOG.call_once(|| {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(temp_dir().join("keyward.log"));
        let all = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false);
        // Another test may have set one already, which writes to its own place.
        drop(all.with_writer(Mutex::new(log.unwrap())).try_init());
    });
    let path = tempfile::tempdir().unwrap().keep().join("keys.db");
    move |clock| SqliteOptions::new().clock(clock).open(&path).unwrap()
}
