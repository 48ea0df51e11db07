//! The store over which the life of keys is tested here.

use std::sync::Arc;

use keyward::{Clock, Store};
use keyward_sqlite::SqliteOptions;

pub(crate) fn open(clock: Arc<dyn Clock>) -> Arc<dyn Store> {
    // Kept until the test process ends: the store outlives this function.
    let folder = tempfile::tempdir().unwrap().keep();
    Arc::new(
        SqliteOptions::new()
            .clock(clock)
            .open(folder.join("keys.db"))
            .unwrap(),
    )
}
