//! Turns a decision into a verdict: admission or reply, usage counts and log lines.

use std::sync::Arc;
use std::time::Duration;

use crate::denial::{DenialKind, ErrorCode};
use crate::gate::charging::{Cost, Insufficient};
use crate::gate::cors::{CorsHeaders, CorsReplies};
use crate::gate::drain::UnreadBody;
use crate::gate::gate::Inner;
use crate::gate::prove::Presented;
use crate::gate::rendered::{RouteReplies, WithCors};
use crate::gate::{
    Access, Admitted, Anonymous, Cors, Denial, Finish, Gate, KeyHeaderAction, Principal, Refusal,
    Requirement, Verdict,
};
use crate::key::KeyKind;
use crate::limit::quota::{headers, seconds};
use crate::origin::OriginPolicy;
use crate::replica::cached_key::CachedKey;
use crate::request::RequestHead;
use crate::request::client::client_address;
use crate::usage::ClientNetwork;

impl Gate {
    pub(super) fn count(
        &self,
        entry: &CachedKey,
        admitted: bool,
        now: Duration,
        requirement: &Requirement,
    ) {
        if !admitted {
            self.count_refused(entry, requirement);
        }
        // Also if usage is not counted: the service may record units of its own.
        if let Some(usage_counter) = self.inner.replica.usage_counter(entry)
            && self.inner.counts_usage
        {
            usage_counter.count(admitted, now);
        }
    }

    /// Records the network of the client.
    pub(super) fn note_network<R: RequestHead>(&self, entry: &CachedKey, request: &R) {
        if let Some(client) = client_address(request, &self.inner.trusted_proxies)
            && let Some(usage_counter) = self.inner.replica.usage_counter(entry)
        {
            usage_counter.note_network(ClientNetwork::of(client));
        }
    }

    /// Counts a request as refused that was counted as admitted.
    pub(super) fn uncount(&self, principal: &Principal, requirement: &Requirement) {
        if self.inner.counts_usage
            && let Some(usage_counter) = principal.entry.usage_counter()
        {
            usage_counter.refuse_after_all();
        }
        // If an outer layer has a label, it counts the request when it sees the refusal.
        if principal.label.is_none() {
            self.count_refused(&principal.entry, requirement);
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
        let (label, duty) = self.labelled(&entry, requirement).unzip();
        let is_listed = entry.grant.origins != OriginPolicy::Any;
        let cors_headers = self.cors_headers(requirement);
        let key_header = if self.inner.forwards_key {
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
                refund: None,
                label,
            })),
            key_header,
            finish: Finish {
                private: true,
                charged: None,
                duty: duty.unwrap_or_default(),
                selects_bearer_at: None,
                by_origin: is_listed && cors_headers.is_some(),
                cors_headers,
                by_key: self.varies(requirement),
            },
        }
    }

    /// Reads the CORS replies of a route: its own, else the gate's.
    pub(super) fn cors<T>(
        &self,
        requirement: &Requirement,
        read: impl FnOnce(&CorsReplies) -> T,
    ) -> T {
        match requirement.own_cors() {
            None => read(&self.inner.cors),
            Some(cors) => self.with_cors(cors, requirement, |own| read(&own.cors)),
        }
    }

    /// Reads the replies of a route: its own, else the gate's.
    fn replies<T>(&self, requirement: &Requirement, read: impl FnOnce(&RouteReplies) -> T) -> T {
        match requirement.own_cors() {
            None => read(self.inner.rendered.of(requirement)),
            Some(cors) => self.with_cors(cors, requirement, |own| read(&own.replies)),
        }
    }

    #[cold]
    fn with_cors<T>(
        &self,
        cors: &Cors,
        requirement: &Requirement,
        read: impl FnOnce(&WithCors) -> T,
    ) -> T {
        let own = &*self.inner;
        let render = || {
            let legacy = own.legacy_fields.is_some();
            let cors = CorsReplies::made(Some(cors), &own.locations, legacy);
            let kinds = [KeyKind::Secret, KeyKind::Publishable];
            let kinds = kinds.into_iter().filter(|kind| requirement.accepts(*kind));
            let kinds: Vec<_> = kinds.collect();
            let cors_headers = cors.cors_headers.as_ref();
            let replies = RouteReplies::made(
                &own.replies,
                &own.realm,
                &own.locations,
                &kinds,
                cors_headers,
            );
            Box::new(WithCors { cors, replies })
        };
        requirement.with_cors(own.id, render, read)
    }

    /// Returns the CORS headers of an admitted response.
    fn cors_headers(&self, requirement: &Requirement) -> Option<CorsHeaders> {
        self.cors(requirement, |cors| {
            if requirement.is_grpc() {
                cors.grpc_readable.clone()
            } else {
                cors.cors_headers.clone()
            }
        })
    }

    /// Returns the CORS headers that an inner layer adds to those of an outer one.
    ///
    /// The flag says whether the response depends on the origin.
    pub(super) fn cors_of_inner(
        &self,
        entry: &CachedKey,
        requirement: &Requirement,
    ) -> (Option<CorsHeaders>, bool) {
        if requirement.own_cors().is_none() {
            return (None, false);
        }
        let is_listed = entry.grant.origins != OriginPolicy::Any;
        (self.cors_headers(requirement), is_listed)
    }

    pub(super) fn admit_anonymous(&self, requirement: &Requirement) -> Verdict {
        let missing = self.replies(requirement, |replies| {
            replies.to(DenialKind::Missing, ErrorCode::MissingApiKey)
        });
        Verdict::Admit(Admitted {
            access: Some(Access::Anonymous(Anonymous(missing))),
            key_header: KeyHeaderAction::None,
            finish: Finish {
                // The gate does not see whether it is the response to a session's cookie.
                private: requirement.other_credential().replaces_key,
                cors_headers: self.cors_headers(requirement),
                by_key: self.varies(requirement),
                ..Finish::default()
            },
        })
    }

    /// Returns the request headers on whose presence the responses of a route depend.
    fn varies(&self, requirement: &Requirement) -> Option<Arc<[Box<str>]>> {
        if requirement.other_credential().replaces_key {
            Some(Arc::clone(&self.inner.headers_and_authorization))
        } else {
            { requirement.is_optional() }.then(|| Arc::clone(&self.inner.headers))
        }
    }

    pub(super) fn refuse(
        &self,
        kind: DenialKind,
        entry: Option<Arc<CachedKey>>,
        requirement: &Requirement,
    ) -> Verdict {
        Verdict::Refuse(self.refusal(kind, entry, requirement))
    }

    /// Refuses a request whose key did not pass a check.
    pub(super) fn refuse_judged<R: RequestHead>(
        &self,
        kind: DenialKind,
        entry: Arc<CachedKey>,
        request: &R,
        requirement: &Requirement,
    ) -> Verdict {
        let mut denial = Denial::new(kind, Some(entry));
        if kind == DenialKind::AddressNotAllowed {
            denial.client = client_address(request, &self.inner.trusted_proxies);
        }
        Verdict::Refuse(self.refusal_for(denial, requirement))
    }

    pub(super) fn refusal(
        &self,
        kind: DenialKind,
        entry: Option<Arc<CachedKey>>,
        requirement: &Requirement,
    ) -> Refusal {
        self.refusal_for(Denial::new(kind, entry), requirement)
    }

    fn refusal_for(&self, denial: Denial, requirement: &Requirement) -> Refusal {
        let kind = denial.kind();
        denial.log(&self.inner.log, &**self.inner.replica.clock());
        let code = self.inner.replies.code(kind);
        let reply = if code == ErrorCode::InsufficientScope {
            let Inner { realm, replies, .. } = &*self.inner;
            let locations = &self.inner.rendered.of(requirement).locations;
            requirement.scope_missing(self.inner.id, || {
                let missing = requirement.missing_scopes();
                let mut reply = replies.render_missing_scopes(&missing, realm, locations);
                self.cors(requirement, |cors| {
                    if let Some(cors_headers) = &cors.cors_headers {
                        cors_headers.mark(&mut reply);
                    }
                });
                reply
            })
        } else {
            self.replies(requirement, |replies| replies.to(kind, code))
        };
        Refusal {
            reply,
            denial: Some(denial),
            body: UnreadBody::None,
        }
    }

    /// Refuses a request of a valid key whose limits or credits are used up.
    pub(super) fn refuse_short(
        &self,
        short: &Insufficient,
        entry: Arc<CachedKey>,
        requirement: &Requirement,
        now: Duration,
    ) -> Verdict {
        let refusal = self.refusal(short.kind, Some(entry), requirement);
        let wait = short.quota.map(|quota| seconds(quota.wait()));
        let wait = wait.or(short.refill_in).map(|wait| wait.max(1));
        let mut refusal = refusal.retry_after(wait);
        let legacy = self.inner.legacy_fields;
        for (name, value) in headers(short.quota, short.credits, legacy, now) {
            refusal.reply.push_header(name, value);
        }
        Verdict::Refuse(refusal)
    }
}

/// Records the key in the log and, if it declares the fields, the span.
fn note(entry: &CachedKey) {
    // Without a subscriber there is no span, and asking for it would cost more than this.
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
