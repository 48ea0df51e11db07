//! What the gate has decided, for an adapter to carry out.

use std::fmt;
use std::sync::Arc;

use crate::gate::charging::Charged;
use crate::gate::cors::CorsHeaders;
use crate::gate::drain::UnreadBody;
use crate::gate::{BodyDrain, Denial, Pending, Principal};
use crate::reply::cache::{keep_private, vary_by};
use crate::reply::{Reply, ResponseHead};

/// The gate's answer: at once from memory, or after something had to be fetched.
///
/// What an adapter does with it:
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
///         assert_eq!(admitted.key_field, KeyHeaderAction::Remove(0));
///         assert_eq!(gate.locations()[0].header_name(), "x-api-key");
///         // The inner service is called here.
///         admitted.finish.apply(&mut response);
///         assert_eq!(response.lines(), ["cache-control: private"]);
///     }
///     Decision::Ready(Verdict::Refuse(refusal)) => panic!("{:?}", refusal.denial),
///     Decision::Pending(_) => panic!("memory is fresh"), // else the adapter lends a timer
/// }
/// ```
#[expect(clippy::exhaustive_enums, reason = "an adapter must handle both")]
#[expect(
    clippy::large_enum_variant,
    reason = "an allocation for each request costs more than to move it"
)]
pub enum Decision {
    /// Decided.
    Ready(Verdict),
    /// Decided later; [`Pending::with_timer`] says when.
    Pending(Pending),
}

impl Decision {
    /// With its refusals changed.
    pub(crate) fn refusing(self, change: impl FnOnce(Refusal) -> Refusal + Send + 'static) -> Self {
        match self {
            Self::Ready(verdict) => Self::Ready(verdict.refusing(change)),
            Self::Pending(pending) => {
                Self::Pending(pending.map(move |verdict| verdict.refusing(change)))
            }
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

/// What to do with a request. See [`Decision`].
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "an adapter must handle both")]
#[expect(
    clippy::large_enum_variant,
    reason = "an allocation for each request costs more than to move it"
)]
pub enum Verdict {
    /// Hand it to the inner service.
    Admit(Admitted),
    /// Answer it here; the inner service is not called.
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

/// How to hand a request on. See [`Decision`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Admitted {
    /// What to put into the request's extensions; `None` leaves them as they are.
    pub access: Option<Access>,
    /// What to do with the field that held the key.
    pub key_field: KeyHeaderAction,
    /// What to do with the response.
    pub finish: Finish,
}

impl Admitted {
    /// After it has paid.
    pub(crate) fn with(mut self, charged: Option<Charged>) -> Self {
        if let (Some(Access::Principal(principal)), Some(charged)) = (&mut self.access, &charged) {
            principal.quota = charged.quota;
        }
        self.finish.charged = charged;
        self
    }

    /// An inner layer has nothing to do with the key itself.
    pub(crate) fn again(
        principal: Option<Principal>,
        charged: Option<Charged>,
        (cors_headers, by_origin): (Option<CorsHeaders>, bool),
    ) -> Self {
        Self {
            access: principal.map(Access::Principal),
            key_field: KeyHeaderAction::None,
            finish: Finish {
                charged,
                cors_headers,
                by_origin,
                ..Finish::default()
            },
        }
    }
}

/// Who may go on: a key, or nobody in particular. See [`Decision`].
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "an adapter must handle both")]
pub enum Access {
    /// A key has passed.
    Principal(Principal),
    /// There was no key, and none was needed. A principal that another gate has left goes away.
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
    /// The answer for whoever needs a key after all: 401 `missing_api_key`, as in [`Reply`].
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

/// What to do, before the inner service, with the field that held the key.
///
/// See [`Decision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "an adapter must handle all three")]
pub enum KeyHeaderAction {
    /// There was none, or an outer layer has dealt with it.
    None,
    /// Remove the field of this location, by its place among [`Gate::locations`](crate::gate::Gate::locations).
    Remove(usize),
    /// Leave the field of this location, and mark its value as sensitive.
    MarkSensitive(usize),
}

/// What to do with the inner service's response. See [`Decision`].
///
/// One that is dropped leaves what the request has paid where it is: whoever hangs up has been served
/// nevertheless.
#[derive(Debug, Default)]
#[must_use = "a response needs it"]
pub struct Finish {
    /// Whether it is the answer to a key.
    pub(crate) private: bool,
    pub(crate) charged: Option<Charged>,
    pub(crate) cors_headers: Option<CorsHeaders>,
    /// Whether another origin might have got another answer.
    pub(crate) by_origin: bool,
    /// The headers of the locations, where whoever has no key might have got another answer.
    pub(crate) by_key: Option<Arc<[Box<str>]>>,
}

impl Finish {
    /// Adds what the response needs. What the request has paid is given back where a layer further
    /// inside has refused it.
    pub fn apply<R: ResponseHead>(&mut self, response: &mut R) {
        if self.private {
            keep_private(response);
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

    /// Gives back what the request has paid: it cannot be handed on.
    pub fn give_back(self) {
        if let Some(mut charged) = self.charged {
            charged.give_back();
        }
    }
}

/// How to refuse a request.
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
    /// What to answer.
    pub reply: Reply,
    /// Why, for the response's extensions; `None` for a preflight.
    pub denial: Option<Denial>,
    pub(crate) body: UnreadBody,
}

impl Refusal {
    /// Lets the adapter read on for a while, so that a client that is still sending gets the answer.
    ///
    /// `None` where the connection is simply to be closed: there is no body, the client waits for leave
    /// to send it (`Expect: 100-continue`), or too many bodies are being read already. See [`BodyDrain`].
    #[must_use]
    pub fn drain(&self) -> Option<BodyDrain> {
        self.body.drain()
    }

    /// As gRPC has it: it has its own place for a status.
    pub(crate) fn in_grpc(
        mut self,
        content_type: &str,
        cors_headers: Option<&CorsHeaders>,
    ) -> Self {
        let exposed = cors_headers.map(CorsHeaders::names);
        self.reply = self.reply.in_grpc(content_type, exposed);
        self
    }

    /// Before the body was read: what is left of it must not be taken for the next request.
    pub(crate) fn before(mut self, body: UnreadBody) -> Self {
        self.body = body;
        self.reply.push_header("connection", "close".to_owned());
        self
    }

    /// Says in how many seconds to try again.
    pub(crate) fn retry_after(mut self, seconds: Option<u64>) -> Self {
        if let Some(seconds) = seconds {
            let seconds = itoa::Buffer::new().format(seconds).to_owned();
            self.reply.push_header("retry-after", seconds);
        }
        self
    }
}
