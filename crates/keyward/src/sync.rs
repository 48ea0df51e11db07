//! Atomics and locks: the standard library's, but for those of loom while it tries every order in which
//! threads can run (`scripts/loom`).

#[cfg(not(all(test, keyward_loom)))]
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, atomic};

#[cfg(all(test, keyward_loom))]
pub(crate) use loom::sync::{Arc, Mutex, MutexGuard, atomic};
