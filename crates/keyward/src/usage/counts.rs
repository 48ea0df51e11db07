//! Numbers of requests and units.

use std::ops::AddAssign;

/// Numbers of requests and units, of a key, an account or a label.
///
/// ```
/// use keyward::usage::RequestCounts;
///
/// let mut counts = RequestCounts { admitted: 10, refused: 1, units: 25, ..RequestCounts::default() };
/// counts += RequestCounts { admitted: 5, client_errors: 2, ..RequestCounts::default() };
/// assert_eq!((counts.admitted, counts.refused, counts.units), (15, 1, 25));
/// assert_eq!(counts.succeeded(), 13);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a store must keep every number, so a new one must not be missed"
)]
pub struct RequestCounts {
    /// The number of admitted requests.
    pub admitted: u64,
    /// The number of requests that were refused although the key was proved.
    ///
    /// A missing scope or an expired key are examples.
    pub refused: u64,
    /// The number of admitted requests to which the handler responded with a 4xx.
    ///
    /// Like the other outcomes, it is known of requests with a
    /// [label](crate::gate::Requirement::label) only, and zero otherwise.
    pub client_errors: u64,
    /// The number of admitted requests to which the handler responded with a 5xx.
    pub server_errors: u64,
    /// The number of admitted requests without a response.
    ///
    /// The client disconnected, or the handler panicked or returned an error of the framework.
    pub unanswered: u64,
    /// The units that the service recorded with
    /// [`Principal::record`](crate::gate::Principal::record).
    pub units: u64,
}

impl RequestCounts {
    /// Returns the number of admitted requests with a response below 400.
    ///
    /// Without a label, it is that of all admitted requests.
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        let failed = [self.client_errors, self.server_errors, self.unanswered];
        let failed = failed.into_iter().fold(0, u64::saturating_add);
        self.admitted.saturating_sub(failed)
    }

    /// Returns whether nothing was counted.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

impl AddAssign for RequestCounts {
    /// Adds each number; a sum stops at the maximum.
    fn add_assign(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.admitted, other.admitted),
            (&mut self.refused, other.refused),
            (&mut self.client_errors, other.client_errors),
            (&mut self.server_errors, other.server_errors),
            (&mut self.unanswered, other.unanswered),
            (&mut self.units, other.units),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}
