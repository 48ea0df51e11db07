//! The store over which the life of keys is tested here.

use std::env::temp_dir;
use std::fs::OpenOptions;
use std::sync::{Arc, Mutex, Once};

use keyward::Store;
use keyward::clock::Clock;
use keyward_sqlite::SqliteOptions;

/// Opens a store in a folder that stays, and has everything logged beside it: `scripts/test` looks
/// for keys in both.
pub(crate) fn open(clock: Arc<dyn Clock>) -> Arc<dyn Store> {
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
    let folder = tempfile::tempdir().unwrap().keep();
    let store = SqliteOptions::new()
        .clock(clock)
        .open(folder.join("keys.db"));
    Arc::new(store.unwrap())
}
