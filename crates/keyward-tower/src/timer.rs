//! The timer of tokio, if there is one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Sleep;

/// Creates a timer, or returns `None` if tokio has none.
///
/// It has none outside of a runtime, and in one without `enable_time`.
pub(crate) fn sleep(duration: Duration) -> Option<Sleep> {
    static TOLD: Once = Once::new();
    Handle::try_current().ok()?;
    // tokio panics if the runtime was built without timers, and offers no way to ask beforehand.
    let sleep = catch_unwind(AssertUnwindSafe(|| tokio::time::sleep(duration)));
    if sleep.is_err() {
        TOLD.call_once(|| {
            tracing::error!("the tokio runtime has no timer; call `enable_time` on its builder");
        });
    }
    sleep.ok()
}
