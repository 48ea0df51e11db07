//! What the outbox promises, beside what every store of it does.

use crate::store::MemoryStore;

#[test]
fn memory_keeps_the_promises_of_a_store_of_webhooks() {
    crate::conformance::check_webhooks(MemoryStore::new);
}
