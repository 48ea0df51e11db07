//! The suites for every store, over a server.

use std::env::temp_dir;
use std::fs::OpenOptions;
use std::sync::{Arc, Mutex, Once};

use keyward::clock::Clock;
use keyward::testing::block_on;

use crate::PostgresStore;
use crate::fixture::{patient, url_for_this_test};

keyward::testing::suites!(|clock| database()(clock), processes: database());

/// Makes a database, to be opened on a clock, and logs everything.
///
/// `scripts/test` looks for keys in the log, and in the files of the server.
fn database() -> impl Fn(Arc<dyn Clock>) -> PostgresStore {
    static LOG: Once = Once::new();
    LOG.call_once(|| {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(temp_dir().join("keyward-postgres.log"));
        let all = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false);
        // Another test may have set one already, which writes to its own place.
        drop(all.with_writer(Mutex::new(log.unwrap())).try_init());
    });
    let url = url_for_this_test();
    move |clock| block_on(patient().clock(clock).connect(&url)).unwrap()
}
