//! The time for which a rotated key keeps working.

use std::time::Duration;

/// The time for which a rotated key keeps working. See
/// [`KeyAdmin::rotate`](crate::admin::KeyAdmin::rotate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "now or later, there is no third")]
pub enum Grace {
    /// The old key stops working at once.
    None,
    /// The old key works for this long, but never beyond its expiry.
    ///
    /// The end is rounded up to a whole second.
    For(Duration),
}
