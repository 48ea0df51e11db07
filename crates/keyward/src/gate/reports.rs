//! Counters of requests that `report_only` routes would have refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::denial::DenialKind;
use crate::gate::{Denial, Gate, Requirement};
use crate::replica::cached_key::CachedKey;

/// A counter for each reason for which a requirement is not met.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    environment: AtomicU64,
    kind: AtomicU64,
    scopes: AtomicU64,
}

impl Reports {
    pub(crate) fn count(&self, kind: DenialKind) {
        if let Some(counter) = self.counter(kind) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn of(&self, kind: DenialKind) -> u64 {
        let counter = self.counter(kind);
        counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    fn counter(&self, kind: DenialKind) -> Option<&AtomicU64> {
        match kind {
            DenialKind::EnvironmentMismatch => Some(&self.environment),
            DenialKind::KindNotAccepted => Some(&self.kind),
            DenialKind::ScopeMissing => Some(&self.scopes),
            _ => None,
        }
    }
}

impl Gate {
    /// Reports an unmet requirement of a `report_only` route.
    pub(super) fn report(
        &self,
        reported: Option<DenialKind>,
        entry: &Arc<CachedKey>,
        requirement: &Requirement,
    ) {
        let Some(kind) = reported else { return };
        self.inner.reports.count(kind);
        let code = self.inner.replies.code(kind);
        let status = self.inner.rendered.of(requirement).to(kind, code).status();
        let clock = &**self.inner.replica.clock();
        Denial::new(kind, Some(Arc::clone(entry))).log_report(code, status, &self.inner.log, clock);
    }

    /// Returns how often a [`report_only`](Requirement::report_only) requirement was not met for
    /// this reason.
    ///
    /// The reasons are `EnvironmentMismatch`, `KindNotAccepted` and `ScopeMissing`.
    #[must_use]
    pub fn reported(&self, kind: DenialKind) -> u64 {
        self.inner.reports.of(kind)
    }
}
