//! The gate's decision, for an adapter to carry out.

use std::fmt;
use std::sync::Arc;

use crate::gate::charging::Charged;
use crate::gate::cors::CorsHeaders;
use crate::gate::drain::UnreadBody;
use crate::gate::labelled::LabelDuty;
use crate::gate::{BodyDrain, Denial, Pending, Principal};
use crate::replica::usage::Outcome;
use crate::reply::cache::{keep_private, vary_by};
use crate::reply::{Reply, ResponseHead};
use crate::request::websocket;

/// The gate's decision: immediate from memory, or after waiting for the store or a limiter.
///
/// An adapter carries it out like this:
///
/// ```
/// # use std::sync::Arc;
/// # use keyward::gate::{Access, Decision, KeyHeaderAction, Verdict};
/// # use keyward::testing::{TestRequest, TestResponse, World};
/// # let world = World::new();
/// # let (gate, request) = (world.gate(), TestRequest::get().key(&world.key("kyc")));
/// # let mut response = TestResponse::new(200);
/// match gate.check(&request, &Arc::default(), None) {
///     Decision::Ready(Verdict::Admit(mut admitted)) => {
///         assert!(matches!(admitted.access, Some(Access::Principal(_)))); // into the extensions
///         assert_eq!(admitted.key_header, KeyHeaderAction::Remove(0));
///         assert_eq!(gate.locations()[0].header_name(), "x-api-key");
///         // The inner service is called here.
///         admitted.finish.apply(&mut response);
///         assert_eq!(response.lines(), ["cache-control: private"]);
///     }
///     Decision::Ready(Verdict::Refuse(refusal)) => panic!("{:?}", refusal.denial),
///     Decision::Pending(_) => panic!("memory is fresh"), // otherwise the adapter supplies a timer
/// }
/// ```
#[expect(clippy::exhaustive_enums, reason = "an adapter must handle both")]
#[expect(
    clippy::large_enum_variant,
    reason = "an allocation for each request would cost more than moving it"
)]
pub enum Decision {
    /// The verdict is known.
    Ready(Verdict),
    /// The verdict follows later; see [`Pending::with_timer`].
    Pending(Pending),
}

impl Decision {
    /// Applies a change to a refusal.
    pub(crate) fn refusing(self, change: impl FnOnce(Refusal) -> Refusal + Send + 'static) -> Self {
        match self {
            Self::Ready(verdict) => Self::Ready(verdict.refusing(change)),
            Self::Pending(pending) => {
                Self::Pending(pending.map(move |verdict| verdict.refusing(change)))
            }
        }
    }
}

impl Decision {
    /// Applies a change to an admission.
    pub(crate) fn admitting(
        self,
        change: impl FnOnce(Admitted) -> Admitted + Send + 'static,
    ) -> Self {
        let change = |verdict| match verdict {
            Verdict::Admit(admitted) => Verdict::Admit(change(admitted)),
            refuse @ Verdict::Refuse(_) => refuse,
        };
        match self {
            Self::Ready(verdict) => Self::Ready(change(verdict)),
            Self::Pending(pending) => Self::Pending(pending.map(change)),
        }
    }
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(verdict) => f.debug_tuple("Ready").field(verdict).finish(),
            Self::Pending(pending) => pending.fmt(f),
        }
    }
}

/// The verdict about a request. See [`Decision`].
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "an adapter must handle both")]
#[expect(
    clippy::large_enum_variant,
    reason = "an allocation for each request would cost more than moving it"
)]
pub enum Verdict {
    /// Pass the request to the inner service.
    Admit(Admitted),
    /// Answer the request without calling the inner service.
    Refuse(Refusal),
}

impl Verdict {
    fn refusing(self, change: impl FnOnce(Refusal) -> Refusal) -> Self {
        match self {
            Self::Refuse(refusal) => Self::Refuse(change(refusal)),
            admit @ Self::Admit(_) => admit,
        }
    }
}

/// An admitted request. See [`Decision`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Admitted {
    /// The access to put into the request's extensions; `None` leaves them unchanged.
    pub access: Option<Access>,
    /// The change to the header that held the key.
    pub key_header: KeyHeaderAction,
    /// The processing of the response.
    pub finish: Finish,
}

impl Admitted {
    /// Adds the charges of the request.
    pub(crate) fn with(mut self, mut charged: Option<Charged>) -> Self {
        if let (Some(Access::Principal(principal)), Some(charged)) =
            (&mut self.access, &mut charged)
        {
            charged.share_with(principal);
        }
        self.finish.charged = charged;
        self
    }

    /// Admits a request at an inner layer, which leaves the key's header alone.
    pub(crate) fn again(
        principal: Option<Principal>,
        charged: Option<Charged>,
        duty: LabelDuty,
        (cors_headers, by_origin): (Option<CorsHeaders>, bool),
    ) -> Self {
        Self {
            access: principal.map(Access::Principal),
            key_header: KeyHeaderAction::None,
            finish: Finish {
                charged,
                duty,
                cors_headers,
                by_origin,
                ..Finish::default()
            },
        }
    }
}

/// The access of a request: a principal, or anonymous. See [`Decision`].
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "an adapter must handle both")]
pub enum Access {
    /// A key was admitted.
    Principal(Principal),
    /// The request has no key, and none is required. The principal of another gate is removed.
    Anonymous(Anonymous),
}

/// The marker of a request that passed without a key.
///
/// ```
/// # use std::sync::Arc;
/// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore, Requirement};
/// # use keyward::gate::{Access, Decision, Verdict};
/// # use keyward::testing::TestRequest;
/// # let store = MemoryStore::new();
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let gate = Gate::new(&store, &scheme)?;
/// let decision = gate.check(&TestRequest::get(), &Arc::new(Requirement::new().optional()), None);
/// let Decision::Ready(Verdict::Admit(admitted)) = decision else { panic!("{decision:?}") };
/// let Some(Access::Anonymous(anonymous)) = admitted.access else { unreachable!() };
/// assert_eq!(anonymous.missing_key().status(), 401);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Anonymous(pub(crate) Reply);

impl Anonymous {
    /// Returns the reply for a handler that requires a key after all: 401 `missing_api_key`.
    #[must_use]
    pub fn missing_key(&self) -> &Reply {
        &self.0
    }
}

impl fmt::Debug for Anonymous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Anonymous")
    }
}

/// The change, before the inner service is called, to the header that held the key.
///
/// See [`Decision`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "an adapter must handle all four")]
pub enum KeyHeaderAction {
    /// Leave the headers as they are.
    ///
    /// There was no key, or an outer layer has handled it.
    None,
    /// Remove the header of this location, an index into
    /// [`Gate::locations`](crate::gate::Gate::locations).
    Remove(usize),
    /// Replace all lines of the header of this location with this value, which has no key.
    Replace(usize, Box<str>),
    /// Keep the header of this location, and mark its values as sensitive.
    MarkSensitive(usize),
}

/// The processing of the inner service's response. See [`Decision`].
///
/// If it is dropped, the request stays charged: a client that disconnects has been served
/// nevertheless.
#[derive(Debug, Default)]
#[must_use = "a response needs it"]
pub struct Finish {
    /// A flag for responses to requests with a key.
    pub(crate) private: bool,
    pub(crate) charged: Option<Charged>,
    pub(crate) duty: LabelDuty,
    pub(crate) cors_headers: Option<CorsHeaders>,
    /// A flag for responses that depend on the `Origin` header.
    pub(crate) by_origin: bool,
    /// The status at which a handshake of a WebSocket has succeeded, if `bearer` may be selected.
    pub(crate) selects_bearer_at: Option<u16>,
    /// The headers of the locations, if the response depends on the presence of a key.
    pub(crate) by_key: Option<Arc<[Box<str>]>>,
}

impl Finish {
    /// Adds the necessary headers to the response.
    ///
    /// If an inner layer has refused the request, its charges are refunded.
    pub fn apply<R: ResponseHead>(&mut self, response: &mut R) {
        if self.private {
            keep_private(response);
        }
        self.duty.settle(if response.is_denied() {
            Outcome::Refused
        } else {
            Outcome::of_status(response.status())
        });
        if let Some(status) = self.selects_bearer_at
            && response.status() == status
            && !response.has(websocket::HEADER)
        {
            response.append(websocket::HEADER, websocket::BEARER.into());
        }
        // In place: it is large, and most requests have none.
        if let Some(charged) = &mut self.charged {
            charged.settle(response);
        }
        if let Some(cors_headers) = &self.cors_headers {
            cors_headers.apply(response);
        }
        if let Some(headers) = &self.by_key {
            let headers = headers.iter().map(|header| &**header);
            let origin = self.by_origin.then_some("Origin");
            vary_by(response, &headers.chain(origin).collect::<Vec<_>>());
        } else if self.by_origin {
            vary_by(response, &["Origin"]);
        }
    }

    /// Refunds the charges, as the request cannot be passed on.
    pub fn give_back(mut self) {
        self.duty.settle(Outcome::ServerError);
        if let Some(mut charged) = self.charged {
            charged.give_back();
        }
    }
}

/// A refusal of a request.
///
/// ```
/// # use std::sync::Arc;
/// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore};
/// # use keyward::denial::DenialKind;
/// # use keyward::gate::{Decision, Verdict};
/// # use keyward::testing::TestRequest;
/// # let store = MemoryStore::new();
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let gate = Gate::new(&store, &scheme)?;
/// let decision = gate.check(&TestRequest::get(), &Arc::default(), None);
/// let Decision::Ready(Verdict::Refuse(refusal)) = decision else { panic!("{decision:?}") };
/// assert_eq!(refusal.reply.status(), 401);
/// assert_eq!(refusal.denial.map(|denial| denial.kind()), Some(DenialKind::Missing));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Refusal {
    /// The reply to send.
    pub reply: Reply,
    /// The reason, for the response's extensions; `None` for a preflight.
    pub denial: Option<Denial>,
    pub(crate) body: UnreadBody,
}

impl Refusal {
    /// Permits the adapter to drain the rest of the body.
    ///
    /// Draining lets a client that is still sending receive the reply. Returns `None` if the
    /// connection can simply be closed: there is no body, the client waits for permission to send
    /// it (`Expect: 100-continue`), or too many bodies are being drained already. See
    /// [`BodyDrain`].
    #[must_use]
    pub fn drain(&self) -> Option<BodyDrain> {
        self.body.drain()
    }

    /// Converts the refusal to gRPC, which has its own place for a status.
    pub(crate) fn in_grpc(
        mut self,
        content_type: &str,
        cors_headers: Option<&CorsHeaders>,
    ) -> Self {
        let exposed = cors_headers.map(CorsHeaders::names);
        self.reply = self.reply.in_grpc(content_type, exposed);
        self
    }

    /// Closes the connection, so that the unread body is not taken for the next request.
    pub(crate) fn before(mut self, body: UnreadBody) -> Self {
        self.body = body;
        self.reply.push_header("connection", "close".to_owned());
        self
    }

    /// Sets the number of seconds after which to try again.
    pub(crate) fn retry_after(mut self, seconds: Option<u64>) -> Self {
        if let Some(seconds) = seconds {
            let seconds = itoa::Buffer::new().format(seconds).to_owned();
            self.reply.push_header("retry-after", seconds);
        }
        self
    }
}
