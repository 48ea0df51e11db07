//! Helpers for tests: of handlers, of services behind a gate, and of stores.
//!
//! They need the feature `testing`, which belongs under `[dev-dependencies]`:
//!
//! ```toml
//! [dev-dependencies]
//! keyward = { version = "0.1", features = ["testing"] }
//! ```
//!
//! - [`principal`] creates a principal for the unit test of a handler, without a gate or a key.
//! - [`World`] is a service in memory: a store, a gate, an admin and, in one line, a key that passes.
//! - [`TestRequest`] and [`TestResponse`] are heads of messages, for tests without a framework.
//! - [`block_on`] and [`decided`] wait without a runtime.
//! - [`suites!`](crate::testing::suites!) tests that a store of your own keeps every promise of [`Store`](crate::store::Store).
//!
//! The functions here panic where a real service would return an error.
//!
//! ```
//! use keyward::Requirement;
//! use keyward::testing::{TestRequest, World};
//!
//! let world = World::new();
//! let request = TestRequest::get().key(&world.key("kyc"));
//! assert_eq!(world.status(&request, Requirement::new().scope("kyc")), 200);
//! assert_eq!(world.status(&request, Requirement::new().scope("reports")), 403);
//! assert_eq!(world.status(&TestRequest::get(), Requirement::new()), 401);
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what fails here ends a test"
)]

pub(crate) mod principal;
#[doc(hidden)]
pub mod probe;
pub(crate) mod request;
pub(crate) mod response;
pub mod suites;
pub(crate) mod wait;
pub(crate) mod world;

pub use self::principal::{TestPrincipal, principal};
pub use self::request::TestRequest;
pub use self::response::TestResponse;
pub use self::suites::suites;
pub use self::wait::{block_on, decided};
pub use self::world::World;
