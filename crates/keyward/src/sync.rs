//! Atomics and locks of the standard library, or of loom while it explores thread interleavings
//! (`scripts/loom`).

#[cfg(not(all(test, keyward_loom)))]
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, atomic};

#[cfg(all(test, keyward_loom))]
pub(crate) use loom::sync::{Arc, Mutex, MutexGuard, atomic};
