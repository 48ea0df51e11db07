//! Runs the suites of stores over the store in memory.

use crate::store::MemoryWebhooks;

#[test]
fn memory_keeps_the_promises_of_a_store_of_webhooks() {
    crate::testing::check_webhooks(MemoryWebhooks::new);
}

#[test]
fn memory_with_webhooks_keeps_the_promises_of_a_store_of_keys() {
    keyward::testing::suites::store(|_| MemoryWebhooks::new());
}
