//! Counters of requests that `report_only` routes would have refused.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::denial::DenialKind;

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
