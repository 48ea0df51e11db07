//! The gate, which decides about every request.

use std::any::Any;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ipnet::IpNet;

use crate::denial::DenialKind;
use crate::environment::Environment;
use crate::gate::charging::{Charging, Cost, Paid};
use crate::gate::cors::CorsReplies;
use crate::gate::drain::UnreadBody;
use crate::gate::judge::{enforce, judge_key};
use crate::gate::prove::{Presented, Proved};
use crate::gate::rendered::GateReplies;
use crate::gate::reports::Reports;
use crate::gate::waiting::WaitingRequest;
use crate::gate::{
    Admitted, Decision, GateBuilder, GateError, PeerSource, Pending, Principal, Refusal,
    Requirement, Verdict,
};
use crate::key::ForeignFormat;
use crate::limit::{Limiter, RateLimits, ResetUnit};
use crate::log_limit::LogLimit;
use crate::replica::Replica;
use crate::replica::freshness::Moment;
use crate::reply::Replies;
use crate::reply::grpc;
use crate::request::head::is_preflight;
use crate::request::{KeyLocation, RequestHead};
use crate::scheme::KeyScheme;
use crate::store::Store;
use crate::throttle::throttle::Throttle;

/// Decides whether a request may pass. All routes of a service share one gate.
///
/// Clones are cheap and share the same gate. It checks, in this order:
///
/// 1. a CORS preflight is answered directly: 204, with `cache-control: no-store` and the headers of
///    [`Cors`](crate::gate::Cors), if configured;
/// 2. exactly one key, of an accepted format, in an accepted location (401, 400);
/// 3. with an [`AuthFailureLimiter`](crate::throttle::AuthFailureLimiter): not too many failed
///    requests from the client's address (429);
/// 4. the replica is fresh enough (503), and the key is in it and belongs to the route's account
///    (401);
/// 5. the key is not revoked, disabled or expired (401);
/// 6. its account is active (403), its environment is the route's (401), its kind and place are
///    accepted and its plan includes the API (403);
/// 7. the request's origin and the client's address are on its allowlists (403);
/// 8. it has the route's scopes (403);
/// 9. its rate limits are not exceeded, and it has credits left (429).
///
/// The first check that fails determines the response: see [`ErrorCode`](crate::denial::ErrorCode).
/// Nothing about a key is revealed before step 5.
///
/// ```
/// use std::sync::Arc;
/// use keyward::{Gate, KeyFormat, KeyLocation, KeyScheme, MemoryStore, Requirement};
/// use keyward::gate::{Decision, Verdict};
/// # use keyward::testing::TestRequest;
///
/// let store = MemoryStore::new();
/// let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// let gate = Gate::builder(&store, &scheme)
///     .location(KeyLocation::x_api_key())
///     .location(KeyLocation::client_key())
///     .realm("api.example.com")
///     .build()?;
///
/// let request = TestRequest::get().key("vhk_live_nonsense");
/// match gate.check(&request, &Arc::new(Requirement::new()), None) {
///     Decision::Ready(Verdict::Refuse(refusal)) => assert_eq!(refusal.reply.status(), 401),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Gate {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// Distinguishes the principals of this gate from those of others.
    pub(crate) id: u64,
    pub(crate) replica: Replica,
    pub(crate) scheme: KeyScheme,
    pub(crate) foreign: Vec<ForeignFormat>,
    pub(crate) locations: Vec<KeyLocation>,
    /// The headers of the locations, without duplicates.
    pub(crate) headers: Arc<[Box<str>]>,
    /// The same and `authorization`.
    pub(crate) headers_and_authorization: Arc<[Box<str>]>,
    /// The location of keys among the subprotocols of a WebSocket.
    pub(crate) websocket: Option<usize>,
    pub(crate) forwards_key: bool,
    pub(crate) realm: String,
    pub(crate) replies: Replies,
    pub(crate) rendered: GateReplies,
    pub(crate) cors: CorsReplies,
    pub(crate) peers: Vec<Box<dyn PeerSource>>,
    pub(crate) max_staleness: Duration,
    pub(crate) refresh_wait: Duration,
    pub(crate) counts_usage: bool,
    pub(crate) records_networks: bool,
    /// Limits of keys without limits of their own or of their account's plan.
    pub(crate) rate_limits: Vec<(Environment, RateLimits)>,
    /// Limits of every key, in addition to its own.
    pub(crate) rate_ceilings: Vec<(Environment, RateLimits)>,
    pub(crate) limiter: Option<Arc<dyn Limiter>>,
    pub(crate) legacy_fields: Option<ResetUnit>,
    pub(crate) refunds_from: u16,
    pub(crate) reports: Reports,
    /// Bounds the log lines about refused requests with a known key.
    pub(crate) log: LogLimit,
    pub(crate) throttle: Option<Throttle>,
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Set once a peer has been logged that may be a proxy of the service.
    pub(crate) warned_of_proxy: AtomicBool,
}

impl Gate {
    /// Creates a gate that accepts the keys of a store.
    ///
    /// It reads a key from `X-API-Key` or `Authorization: Bearer`. Use [`builder`](Self::builder)
    /// for more options.
    ///
    /// # Errors
    /// See [`GateBuilder::build`].
    pub fn new<S: Store + ?Sized>(store: &S, scheme: &KeyScheme) -> Result<Self, GateError> {
        Self::builder(store, scheme).build()
    }

    /// Creates a builder for a gate that accepts the keys of a store.
    ///
    /// Give the same scheme to the [`KeyAdmin`](crate::admin::KeyAdmin).
    pub fn builder<S: Store + ?Sized>(store: &S, scheme: &KeyScheme) -> GateBuilder {
        Self::builder_from_replica(store.replica(), scheme)
    }

    /// Creates a builder for a gate over a replica without a [`Store`].
    ///
    /// ```
    /// use keyward::{Gate, KeyFormat, KeyScheme};
    /// use keyward::replica::Replica;
    ///
    /// let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// let replica = Replica::new(); // fed with `replica.poll()`
    /// assert!(Gate::builder_from_replica(&replica, &scheme).build().is_ok());
    /// # Ok::<(), keyward::error::ParseError>(())
    /// ```
    pub fn builder_from_replica(replica: &Replica, scheme: &KeyScheme) -> GateBuilder {
        GateBuilder::new(replica.clone(), scheme.clone())
    }

    /// Returns the locations in which a key may be sent, in the order of search.
    ///
    /// ```
    /// # use keyward::{Gate, KeyFormat, KeyLocation, KeyScheme, MemoryStore};
    /// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
    /// let gate = Gate::new(&store, &scheme)?;
    /// assert_eq!(gate.locations(), [KeyLocation::x_api_key(), KeyLocation::bearer()]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn locations(&self) -> &[KeyLocation] {
        &self.inner.locations
    }

    /// Returns the [peer source](GateBuilder::peer) of this type, for the adapter that it belongs to.
    ///
    /// ```
    /// use std::net::IpAddr;
    /// use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore};
    /// use keyward::gate::PeerSource;
    ///
    /// /// What an adapter defines.
    /// #[derive(Debug)]
    /// struct FromRequest(fn(&[u8]) -> Option<IpAddr>);
    /// impl PeerSource for FromRequest {}
    ///
    /// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
    /// let gate = Gate::builder(&store, &scheme).peer(FromRequest(|_| None)).build()?;
    /// assert!(gate.peer::<FromRequest>().is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn peer<P: PeerSource>(&self) -> Option<&P> {
        let peers = self.inner.peers.iter().rev();
        let mut peers = peers.map(|peer| -> &dyn Any { &**peer });
        peers.find_map(|peer| peer.downcast_ref())
    }

    /// Decides about a request.
    ///
    /// `outer` is the principal that an outer layer may have put into the request's extensions. If
    /// it comes from this gate, only this requirement is checked. If it comes from another gate,
    /// the request must prove a key to this one too.
    ///
    /// An adapter carries out the [`Decision`], whose docs show how.
    pub fn check<R: RequestHead>(
        &self,
        request: &R,
        requirement: &Arc<Requirement>,
        outer: Option<&Principal>,
    ) -> Decision {
        let mut decision = self.decide(request, requirement, outer);
        if let Some(location) = self.inner.websocket {
            decision = self.keep_protocols(decision, request, location);
        }
        if matches!(decision, Decision::Ready(Verdict::Admit(_))) {
            return decision;
        }
        // Only if the route says so: what a client claims about itself changes no status.
        if requirement.is_grpc()
            && let Some(content_type) = grpc::content_type(request)
        {
            let cors_headers = self.cors(requirement, |cors| cors.grpc_readable.clone());
            decision = decision
                .refusing(move |refusal| refusal.in_grpc(content_type, cors_headers.as_ref()));
        }
        match UnreadBody::of(request) {
            UnreadBody::None => decision,
            body => decision.refusing(move |refusal| refusal.before(body)),
        }
    }

    fn decide<R: RequestHead>(
        &self,
        request: &R,
        requirement: &Arc<Requirement>,
        outer: Option<&Principal>,
    ) -> Decision {
        if is_preflight(request) {
            return Decision::Ready(Verdict::Refuse(Refusal {
                reply: self.cors(requirement, |cors| cors.preflight(requirement).clone()),
                denial: None,
                body: UnreadBody::None,
            }));
        }
        if let Some(principal) = outer.filter(|principal| principal.gate == self.inner.id) {
            return self.check_again(request, requirement, principal);
        }
        let mut presented = match self.present(request, requirement) {
            Ok(Some(presented)) => presented,
            Ok(None) => return Decision::Ready(self.admit_anonymous(requirement)),
            Err(kind) => {
                if let Some(throttle) = &self.inner.throttle {
                    throttle.note_early(kind, request, &self.inner.trusted_proxies);
                }
                return Decision::Ready(self.refuse(kind, None, requirement));
            }
        };
        if let Some(throttle) = &self.inner.throttle {
            presented.client = match throttle.admit(request, &self.inner.trusted_proxies) {
                Ok(client) => Some(client),
                Err((kind, seconds)) => {
                    let refusal = self.refusal(kind, None, requirement);
                    let refusal = refusal.retry_after(seconds.map(u64::from));
                    return Decision::Ready(Verdict::Refuse(refusal));
                }
            };
        }
        match self.prove(&presented, self.inner.max_staleness) {
            Err(DenialKind::Unavailable) => self.refresh(&presented, request, requirement),
            proved => self.conclude(proved, &presented, request, requirement),
        }
    }

    /// Asserts that some key can meet a requirement.
    ///
    /// # Panics
    /// Panics if the catalog does not know one of its scopes, or its cost exceeds the burst of a
    /// rate limit of the service. It also panics if another credential is accepted in place of a key,
    /// and a [`ForeignFormat`] of the gate claims arbitrary ones: it has no prefix, no separator that
    /// tokens lack, and more than one length.
    ///
    /// ```should_panic
    /// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore, Requirement, ScopeCatalog};
    /// # let (store, scheme) = (MemoryStore::new(), KeyScheme::new(KeyFormat::new("vhk_{env}_")?));
    /// let scheme = scheme.catalog(ScopeCatalog::new(["kyc"])?);
    /// Gate::new(&store, &scheme)?.assert_meetable(&Requirement::new().scope("kcy")); // a typo
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn assert_meetable(&self, requirement: &Requirement) {
        let catalog = self.inner.scheme.catalog.iter();
        for (catalog, scope) in catalog.flat_map(|own| requirement.asked().map(move |s| (own, s))) {
            assert!(catalog.knows(scope), "the catalog has no scope {scope:?}");
        }
        let is_vague = self.inner.foreign.iter().any(ForeignFormat::is_vague);
        assert!(
            !(is_vague && requirement.other_credential().is_accepted()),
            "a foreign format without a prefix claims other credentials too: give it a prefix, a separator or one length"
        );
        let limits = [&self.inner.rate_limits, &self.inner.rate_ceilings];
        for (environment, limits) in limits.into_iter().flatten() {
            for limit in limits.iter().filter(|_| requirement.serves(*environment)) {
                let cost = requirement.own_cost().unwrap_or(1);
                assert!(
                    cost <= limit.max_burst(),
                    "a cost of {cost} can never pass the limit {limit}"
                );
            }
        }
    }

    /// Waits for a poll because memory is too old, and decides again.
    fn refresh<R: RequestHead>(
        &self,
        presented: &Presented<'_>,
        request: &R,
        requirement: &Arc<Requirement>,
    ) -> Decision {
        let max_staleness = self.inner.max_staleness;
        let may_wait = !self.inner.refresh_wait.is_zero();
        let refreshed = may_wait.then(|| self.inner.replica.refreshed(max_staleness));
        let Some(refreshed) = refreshed.flatten() else {
            let too_old = Err(DenialKind::Unavailable);
            return self.conclude(too_old, presented, request, requirement);
        };
        let gate = self.clone();
        let waiting = WaitingRequest::of(presented, request, requirement);
        let (wait, over) = (self.inner.refresh_wait, refreshed.over());
        Decision::Pending(Pending::at_most(wait, over, async move {
            let refreshed = refreshed.await;
            let decision = {
                let presented = waiting.presented();
                let proved = match refreshed {
                    false => Err(DenialKind::Unavailable),
                    // The poll began after the request, however long it has taken.
                    true if max_staleness.is_zero() => gate.prove(&presented, Duration::MAX),
                    true => gate.prove(&presented, max_staleness),
                };
                gate.conclude(proved, &presented, &waiting.head, &waiting.requirement)
            };
            match decision {
                Decision::Ready(verdict) => verdict,
                Decision::Pending(pending) => pending.without_timer().await,
            }
        }))
    }

    fn conclude<R: RequestHead>(
        &self,
        proved: Result<Proved, DenialKind>,
        presented: &Presented<'_>,
        request: &R,
        requirement: &Arc<Requirement>,
    ) -> Decision {
        let Proved { entry, now } = match proved {
            Ok(proved) => proved,
            Err(kind) => {
                self.note_failure(kind, presented);
                return Decision::Ready(self.refuse(kind, None, requirement));
            }
        };
        let mut reported = None;
        let judged = {
            let on_check = &mut enforce(requirement, &mut reported);
            match judge_key(&entry, now.unix(), presented, requirement, on_check) {
                ControlFlow::Continue(()) => {
                    self.judge_use(&entry, presented.location, request, requirement, on_check)
                }
                refused @ ControlFlow::Break(_) => refused,
            }
        };
        // Changed while it was checked, perhaps together with its account: the two halves may never
        // have been true at the same time.
        if judged.is_continue() && entry.is_superseded() {
            let proved = self.prove(presented, Duration::MAX);
            return self.conclude(proved, presented, request, requirement);
        }
        if let ControlFlow::Break(kind) = judged {
            self.count(&entry, false, now.unix(), requirement);
            self.note_failure(kind, presented);
            return Decision::Ready(self.refuse_judged(kind, entry, request, requirement));
        }
        self.report(reported, &entry, requirement);
        if self.inner.records_networks {
            self.note_network(&entry, request);
        }
        let (location, cost) = (presented.location, Cost::first(requirement));
        if self.never_charges(&entry) {
            self.count(&entry, true, now.unix(), requirement);
            return Decision::Ready(Verdict::Admit(self.admit(
                entry,
                location,
                cost,
                requirement,
            )));
        }
        let charging = self.charge(&entry, cost, now);
        self.after(charging, requirement, move |gate, paid, requirement| {
            gate.count(&entry, paid.is_ok(), now.unix(), requirement);
            match paid {
                Ok(charged) => {
                    let admitted = gate.admit(entry, location, cost, requirement);
                    Verdict::Admit(admitted.with(charged))
                }
                Err(short) => gate.refuse_short(&short, entry, requirement, now.unix()),
            }
        })
    }

    /// Continues once it is known whether a request can pay.
    #[inline]
    fn after(
        &self,
        charging: Charging,
        requirement: &Arc<Requirement>,
        conclude: impl FnOnce(&Self, Paid, &Requirement) -> Verdict + Send + 'static,
    ) -> Decision {
        match charging {
            Charging::Ready(paid) => Decision::Ready(conclude(self, paid, requirement)),
            Charging::Pending(paid) => {
                let (gate, requirement) = (self.clone(), Arc::clone(requirement));
                Decision::Pending(Pending::new(async move {
                    conclude(&gate, paid.await, &requirement)
                }))
            }
        }
    }

    /// Checks the requirement of an inner layer of the same gate.
    ///
    /// The key is already proved and may have paid.
    fn check_again<R: RequestHead>(
        &self,
        request: &R,
        requirement: &Arc<Requirement>,
        principal: &Principal,
    ) -> Decision {
        let entry = &principal.entry;
        let mut reported = None;
        let other = requirement.other_credential();
        let judged =
            if other.is_accepted() && self.refuses_beside(request, principal.location, other) {
                ControlFlow::Break(DenialKind::OtherCredential)
            } else if requirement.is_for(&entry.account_state.account) {
                let on_check = &mut enforce(requirement, &mut reported);
                self.judge_use(entry, principal.location, request, requirement, on_check)
            } else {
                ControlFlow::Break(DenialKind::ForeignAccount)
            };
        if let Some(label) = &principal.label {
            self.relabel(label, requirement);
        }
        if let ControlFlow::Break(kind) = judged {
            self.uncount(principal, requirement);
            let entry = Arc::clone(entry);
            return Decision::Ready(self.refuse_judged(kind, entry, request, requirement));
        }
        self.report(reported, entry, requirement);
        let more = principal.paid.beyond(requirement);
        let cors = self.cors_of_inner(entry, requirement);
        if more.is_nothing() {
            let (label, duty) = self.labelled_inside(principal, requirement);
            let principal = label.map(|label| Principal {
                label: Some(label),
                ..principal.clone()
            });
            return Decision::Ready(Verdict::Admit(Admitted::again(principal, None, duty, cors)));
        }
        let now = Moment::now(&**self.inner.replica.clock());
        let charging = self.charge(entry, more, now);
        let mut principal = principal.clone();
        self.after(
            charging,
            requirement,
            move |gate, paid, requirement| match paid {
                Ok(mut charged) => {
                    principal.paid = principal.paid.and(more);
                    if let Some(charged) = &mut charged {
                        charged.share_with(&mut principal);
                    }
                    let (label, duty) = gate.labelled_inside(&principal, requirement);
                    principal.label = label.or(principal.label);
                    Verdict::Admit(Admitted::again(Some(principal), charged, duty, cors))
                }
                Err(short) => {
                    gate.uncount(&principal, requirement);
                    gate.refuse_short(&short, principal.entry, requirement, now.unix())
                }
            },
        )
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("realm", &self.inner.realm)
            .field("scheme", &self.inner.scheme)
            .field("locations", &self.inner.locations)
            .field("replica", &self.inner.replica)
            .finish_non_exhaustive()
    }
}
