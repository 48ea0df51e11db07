//! Suites of tests for stores.
//!
//! A store keeps keys, and much of what [`Gate`](crate::gate::Gate) and [`KeyAdmin`](crate::admin::KeyAdmin)
//! promise depends on it. The macro [`suites!`](crate::testing::suites!) tests every promise over your store,
//! each as a test of its own; the functions here run one suite as a whole.

mod key_lifecycle;
mod limits;
mod processes;
mod retention;
mod search;
mod store;
mod usage;
mod validity;

use std::sync::Arc;

use crate::clock::Clock;
use crate::store::Store;

pub use self::key_lifecycle::key_lifecycle;
pub use self::limits::{limiter, limits};
pub use self::retention::retention;
pub use self::search::search;
pub use self::store::store;
pub use self::usage::usage;
pub use self::validity::validity;

/// Opens a new, empty store on a clock.
pub(crate) type Open<'a> = &'a dyn Fn(Arc<dyn Clock>) -> Arc<dyn Store>;

/// The promises of every suite, for the macro.
#[doc(hidden)]
pub mod promises {
    pub use super::key_lifecycle::promises as key_lifecycle;
    pub use super::limits::promises as limits;
    pub use super::processes::promises as processes;
    pub use super::retention::promises as retention;
    pub use super::search::promises as search;
    pub use super::store::promises as store;
    pub use super::usage::promises as usage;
    pub use super::validity::promises as validity;
}

/// Tests that a store keeps every promise, each as a test of its own.
///
/// It takes a function that opens a new, empty store on an `Arc<dyn Clock>`, and stands for about a hundred
/// functions with `#[test]`. Give it a module of its own.
///
/// ```
/// #[cfg(test)]
/// mod suites {
///     keyward::testing::suites!(keyward::MemoryStore::with_clock);
/// }
/// ```
///
/// ```text
/// test suites::a_commit_is_in_force_when_it_returns ... ok
/// test suites::a_rotation_doubles_no_limit ... ok
/// test suites::neither_a_revoked_nor_an_expired_key_is_rotated ... ok
/// ```
///
/// A store that several processes share also has the promises between them. `processes:` takes an expression
/// that makes a new, empty database, and returns a function that opens it on a clock, each time as one more
/// process.
///
/// ```text
/// keyward::testing::suites!(|clock| database()(clock), processes: database());
/// ```
#[doc(inline)]
pub use crate::__suites as suites;

#[doc(hidden)]
#[macro_export]
macro_rules! __suites {
    ($open:expr) => {
        $crate::__store_promises!(__test_promises $open);
        $crate::__key_lifecycle_promises!(__test_promises $open);
        $crate::__limits_promises!(__test_promises $open);
        $crate::__search_promises!(__test_promises $open);
        $crate::__retention_promises!(__test_promises $open);
        $crate::__validity_promises!(__test_promises $open);
        $crate::__usage_promises!(__test_promises $open);
    };
    ($open:expr, processes: $database:expr) => {
        $crate::testing::suites!($open);
        $crate::__processes_promises!(__test_promises $database);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __test_promises {
    ([$open:expr] $suite:ident $($promise:ident)*) => {
        $(
            #[test]
            fn $promise() {
                $crate::testing::suites::promises::$suite::$promise($open);
            }
        )*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __run_promises {
    ([$open:expr] $suite:ident $($promise:ident)*) => {
        $($promise($open);)*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __publish_promises {
    ([] $suite:ident $($promise:ident)*) => {
        $(
            #[doc(hidden)]
            pub fn $promise<S: $crate::store::Store>(
                open: impl Fn(std::sync::Arc<dyn $crate::clock::Clock>) -> S,
            ) {
                let open: $crate::testing::suites::Open<'_> =
                    &|clock| std::sync::Arc::new(open(clock));
                super::$promise(open.into());
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    use crate::store::MemoryStore;

    #[test]
    #[should_panic(expected = "Conflict")]
    fn a_store_that_breaks_a_promise_fails() {
        let not_empty = MemoryStore::new();
        super::store(|_| not_empty.clone());
    }

    crate::testing::suites!(MemoryStore::with_clock);
}
