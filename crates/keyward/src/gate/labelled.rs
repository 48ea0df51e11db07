//! Counts requests under the labels of their routes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::gate::{Gate, Principal, Requirement};
use crate::replica::cached_key::CachedKey;
use crate::replica::usage::{LabelCounter, Outcome, SharedCounter};
use crate::usage::label::LabelNumber;

/// The label of a request, shared by the layers that it crosses.
///
/// The outermost layer with a label counts the request, under the label of the innermost.
pub(crate) struct RequestLabel {
    usage_counter: SharedCounter,
    label: AtomicU8,
}

impl RequestLabel {
    /// Records units under the label.
    pub(crate) fn record(&self, units: u64) {
        self.counter(|counter| counter.record(units));
    }

    fn count(&self, outcome: Outcome) {
        self.counter(|counter| counter.count(outcome));
    }

    fn counter(&self, count: impl FnOnce(&LabelCounter)) {
        count(self.usage_counter.label(self.label.load(Ordering::Relaxed)));
    }
}

impl fmt::Debug for RequestLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestLabel").field(&self.label).finish()
    }
}

/// The duty to count a request once its outcome is known.
#[derive(Debug, Default)]
pub(crate) struct LabelDuty(Option<Arc<RequestLabel>>);

impl LabelDuty {
    /// Counts the request, once.
    pub(crate) fn settle(&mut self, outcome: Outcome) {
        if let Some(label) = self.0.take() {
            label.count(outcome);
        }
    }
}

impl Drop for LabelDuty {
    /// Counts a request without a response.
    fn drop(&mut self) {
        self.settle(Outcome::Unanswered);
    }
}

impl Gate {
    /// Returns the label of a request that enters the outermost layer with one.
    pub(super) fn labelled(
        &self,
        entry: &CachedKey,
        requirement: &Requirement,
    ) -> Option<(Arc<RequestLabel>, LabelDuty)> {
        let label = self.label_of(requirement)?;
        let usage_counter = self.inner.replica.usage_counter(entry)?;
        let label = Arc::new(RequestLabel {
            usage_counter: SharedCounter::clone(usage_counter),
            label: AtomicU8::new(label),
        });
        Some((Arc::clone(&label), LabelDuty(Some(label))))
    }

    /// Returns the same for an inner layer, if no outer one has a label.
    pub(super) fn labelled_inside(
        &self,
        principal: &Principal,
        requirement: &Requirement,
    ) -> (Option<Arc<RequestLabel>>, LabelDuty) {
        let outermost = principal.label.is_none();
        let labelled = outermost.then(|| self.labelled(&principal.entry, requirement));
        let (label, duty) = labelled.flatten().unzip();
        (label, duty.unwrap_or_default())
    }

    /// Sets the label of a request that enters an inner layer, if that has one.
    pub(super) fn relabel(&self, label: &RequestLabel, requirement: &Requirement) {
        if let Some(inner) = self.label_of(requirement) {
            label.label.store(inner, Ordering::Relaxed);
        }
    }

    /// Counts a refused request under the label of the route, if it has one.
    pub(super) fn count_refused(&self, entry: &CachedKey, requirement: &Requirement) {
        if let Some(label) = self.label_of(requirement)
            && let Some(usage_counter) = self.inner.replica.usage_counter(entry)
        {
            usage_counter.label(label).count(Outcome::Refused);
        }
    }

    fn label_of(&self, requirement: &Requirement) -> Option<LabelNumber> {
        let label = requirement
            .own_label()
            .filter(|_| self.inner.counts_usage)?;
        Some(self.inner.replica.labels().number(label))
    }
}
