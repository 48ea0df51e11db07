//! What the gate has decided, for an adapter to carry out.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use crate::{Denial, Principal, Reply};

/// The gate's answer: at once from memory, or after something had to be fetched.
#[expect(clippy::exhaustive_enums, reason = "an adapter must handle both")]
pub enum Decision {
    /// Decided.
    Ready(Verdict),
    /// Decided when this ends. It owns all it needs.
    Pending(Pin<Box<dyn Future<Output = Verdict> + Send>>),
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(verdict) => f.debug_tuple("Ready").field(verdict).finish(),
            Self::Pending(_) => f.write_str("Pending(..)"),
        }
    }
}

/// What to do with a request.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "an adapter must handle both")]
pub enum Verdict {
    /// Hand it to the inner service.
    Admit(Admitted),
    /// Answer it here; the inner service is not called.
    Refuse(Refusal),
}

/// How to hand a request on.
#[derive(Debug)]
#[non_exhaustive]
pub struct Admitted {
    /// What to put into the request's extensions; `None` leaves them as they are.
    pub access: Option<Access>,
    /// What to do with the field that held the key.
    pub key_field: KeyField,
    /// What to do with the response.
    pub finish: Finish,
}

/// Who may go on: a key, or nobody in particular.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "an adapter must handle both")]
pub enum Access {
    /// A key has passed.
    Principal(Principal),
    /// There was no key, and none was needed. A principal that another gate has left goes away.
    Anonymous(Anonymous),
}

/// The marker of a request that passed without a key.
#[derive(Clone)]
pub struct Anonymous(pub(crate) Arc<Reply>);

impl Anonymous {
    /// The answer for whoever needs a key after all: 401 `missing_api_key`.
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

/// What to do with the field that held the key, before the inner service sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "an adapter must handle all three")]
pub enum KeyField {
    /// There was none, or an outer layer has dealt with it.
    None,
    /// Remove this field, in lower case.
    Remove(Arc<str>),
    /// Leave this field, in lower case, and mark its value as sensitive.
    MarkSensitive(Arc<str>),
}

/// What to do with the inner service's response.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finish {
    /// A shared cache knows that an answer to `Authorization` is private (RFC 9111 §3.5), and
    /// nothing of the kind about other fields.
    pub(crate) private: bool,
}

impl Finish {
    /// Adds what the response needs.
    pub fn apply<R: ResponseHead>(self, response: &mut R) {
        if self.private && !response.has("cache-control") {
            response.append("cache-control", "private");
        }
    }
}

/// The head of a response, as far as core touches it; names are in lower case.
pub trait ResponseHead {
    /// Whether there is such a field.
    fn has(&self, field: &'static str) -> bool;

    /// Adds a line.
    fn append(&mut self, field: &'static str, value: &'static str);
}

/// How to refuse a request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Refusal {
    /// What to answer.
    pub reply: Arc<Reply>,
    /// Why, for the response's extensions; `None` for a preflight.
    pub denial: Option<Denial>,
}
