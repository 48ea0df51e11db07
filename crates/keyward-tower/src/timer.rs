//! The timer of tokio, where there is one.

use std::panic::catch_unwind;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Sleep;

/// Waits so long; `None` outside of a tokio runtime and in one that has no timer.
pub(crate) fn sleep(wait: Duration) -> Option<Sleep> {
    Handle::try_current().ok()?;
    // It panics where time is not enabled, which nothing tells beforehand.
    catch_unwind(|| tokio::time::sleep(wait)).ok()
}
