//! What every store must keep to, as suites that run over any of them.

mod store;

pub use self::store::check;
