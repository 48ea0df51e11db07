//! What comes of a decision: who is let in, what is answered, and what is noted of it.

use std::sync::Arc;
use std::time::Duration;

use crate::denial::{DenialKind, ErrorCode};
use crate::gate::charging::{Cost, Insufficient};
use crate::gate::cors::CorsHeaders;
use crate::gate::drain::UnreadBody;
use crate::gate::gate::Inner;
use crate::gate::prove::Presented;
use crate::gate::{
    Access, Admitted, Anonymous, Denial, Finish, Gate, KeyHeaderAction, Principal, Refusal,
    Requirement, Verdict,
};
use crate::limit::quota::seconds;
use crate::origin::OriginPolicy;
use crate::replica::cached_key::CachedKey;

impl Gate {
    /// Tells that a demand which is only to be reported is not met.
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

    /// How often a demand that is [only reported](Requirement::report_only) was not met for this reason:
    /// `EnvironmentMismatch`, `KindNotAccepted` or `ScopeMissing`.
    #[must_use]
    pub fn reported(&self, kind: DenialKind) -> u64 {
        self.inner.reports.of(kind)
    }

    pub(super) fn count(&self, entry: &CachedKey, admitted: bool, now: Duration) {
        // Also where nothing is counted: the service may record units of its own.
        if let Some(tally) = self.inner.replica.tally(entry)
            && self.inner.counts_usage
        {
            tally.count(admitted, now);
        }
    }

    /// What was counted as let in is refused after all.
    pub(super) fn uncount(&self, entry: &CachedKey) {
        if self.inner.counts_usage
            && let Some(tally) = entry.tally()
        {
            tally.refuse_after_all();
        }
    }

    pub(super) fn note_failure(&self, kind: DenialKind, presented: &Presented<'_>) {
        if let (Some(throttle), Some(client)) = (&self.inner.throttle, presented.client) {
            throttle.note(kind, client);
        }
    }

    pub(super) fn admit(
        &self,
        entry: Arc<CachedKey>,
        location: usize,
        paid: Cost,
        requirement: &Requirement,
    ) -> Admitted {
        note(&entry);
        let is_listed = entry.grant.origins != OriginPolicy::Any;
        let key_field = if self.inner.forwards_key {
            KeyHeaderAction::MarkSensitive(location)
        } else {
            KeyHeaderAction::Remove(location)
        };
        Admitted {
            access: Some(Access::Principal(Principal {
                entry,
                gate: self.inner.id,
                location,
                paid,
                quota: None,
            })),
            key_field,
            finish: Finish {
                private: true,
                charged: None,
                readable: self.readable(requirement),
                by_origin: is_listed && self.inner.readable.is_some(),
                by_key: requirement
                    .is_optional()
                    .then(|| Arc::clone(&self.inner.headers)),
            },
        }
    }

    /// What a page may read of a passed answer.
    fn readable(&self, requirement: &Requirement) -> Option<CorsHeaders> {
        let own = &self.inner;
        if requirement.is_grpc() {
            own.grpc_readable.clone()
        } else {
            own.readable.clone()
        }
    }

    pub(super) fn admit_anonymous(&self, requirement: &Requirement) -> Verdict {
        let replies = self.inner.rendered.of(requirement);
        Verdict::Admit(Admitted {
            access: Some(Access::Anonymous(Anonymous(
                replies.to(DenialKind::Missing, ErrorCode::MissingApiKey),
            ))),
            key_field: KeyHeaderAction::None,
            finish: Finish {
                readable: self.readable(requirement),
                by_key: Some(Arc::clone(&self.inner.headers)),
                ..Finish::default()
            },
        })
    }

    pub(super) fn refuse(
        &self,
        kind: DenialKind,
        entry: Option<Arc<CachedKey>>,
        requirement: &Requirement,
    ) -> Verdict {
        Verdict::Refuse(self.refusal(kind, entry, requirement))
    }

    pub(super) fn refusal(
        &self,
        kind: DenialKind,
        entry: Option<Arc<CachedKey>>,
        requirement: &Requirement,
    ) -> Refusal {
        let denial = Denial::new(kind, entry);
        denial.log(&self.inner.log, &**self.inner.replica.clock());
        let code = self.inner.replies.code(kind);
        let rendered = self.inner.rendered.of(requirement);
        let reply = if code == ErrorCode::InsufficientScope {
            let Inner { realm, replies, .. } = &*self.inner;
            let locations = &rendered.locations;
            requirement.scope_missing(self.inner.id, || {
                let missing = requirement.missing_scopes();
                let mut reply = replies.render_missing_scopes(&missing, realm, locations);
                if let Some(readable) = &self.inner.readable {
                    readable.mark(&mut reply);
                }
                reply
            })
        } else {
            rendered.to(kind, code)
        };
        Refusal {
            reply,
            denial: Some(denial),
            body: UnreadBody::None,
        }
    }

    /// Rows 90 and 91: the key could pass, and its limits do not let it.
    pub(super) fn refuse_short(
        &self,
        short: &Insufficient,
        entry: Arc<CachedKey>,
        requirement: &Requirement,
        now: Duration,
    ) -> Verdict {
        let refusal = self.refusal(short.kind, Some(entry), requirement);
        let wait = short.quota.map(|quota| seconds(quota.wait()).max(1));
        let mut refusal = refusal.retry_after(wait);
        if let Some(quota) = short.quota {
            for (name, value) in quota.headers(self.inner.legacy_fields, now) {
                refusal.reply.push_header(name, value);
            }
        }
        Verdict::Refuse(refusal)
    }
}

/// Tells who calls: to the log, and to the span of the request if it has room for it.
fn note(entry: &CachedKey) {
    // Where nobody listens there is no span, and to ask for it would cost more than this.
    if !tracing::dispatcher::has_been_set() {
        return;
    }
    tracing::debug!(key.id = %entry.id, key.hint = %entry.hint(), "request admitted");
    let span = tracing::Span::current();
    if !span.is_disabled() {
        span.record("key.id", tracing::field::display(entry.id));
        span.record("key.hint", tracing::field::display(entry.hint()));
    }
}
