//! The store that the key lifecycle tests in this crate use.

use std::sync::Arc;

use crate::clock::Clock;
use crate::store::{MemoryStore, Store};

pub(crate) fn open(clock: Arc<dyn Clock>) -> Arc<dyn Store> {
    Arc::new(MemoryStore::with_clock(clock))
}
