//! The replies of a gate, rendered when it is built.

use crate::denial::{DenialKind, ErrorCode};
use crate::gate::Requirement;
use crate::gate::cors::{CorsHeaders, CorsReplies};
use crate::key::KeyKind;
use crate::reply::{Replies, Reply};
use crate::request::KeyLocation;

/// The replies of a gate, by the kinds of keys that a route accepts.
///
/// A reply only names locations where a key of an accepted kind may be.
pub(crate) struct GateReplies {
    secret: RouteReplies,
    publishable: RouteReplies,
    both: RouteReplies,
}

/// The replies of routes that accept the same kinds of keys.
pub(crate) struct RouteReplies {
    /// The locations at which these routes accept keys.
    pub(crate) locations: Vec<KeyLocation>,
    /// The replies in the order of [`ErrorCode::ALL`].
    of_code: Vec<Reply>,
    /// The replies in the order of [`DenialKind::WITH_OWN_TEXT`].
    of_kind: Vec<Reply>,
}

/// The answers of a route that has a [`Cors`](crate::gate::Cors) of its own.
pub(crate) struct WithCors {
    pub(crate) cors: CorsReplies,
    pub(crate) replies: RouteReplies,
}

impl GateReplies {
    pub(crate) fn made(
        replies: &Replies,
        realm: &str,
        locations: &[KeyLocation],
        cors_headers: Option<&CorsHeaders>,
    ) -> Self {
        let route =
            |kinds: &[KeyKind]| RouteReplies::made(replies, realm, locations, kinds, cors_headers);
        Self {
            secret: route(&[KeyKind::Secret]),
            publishable: route(&[KeyKind::Publishable]),
            both: route(&[KeyKind::Secret, KeyKind::Publishable]),
        }
    }

    pub(crate) fn of(&self, requirement: &Requirement) -> &RouteReplies {
        match [KeyKind::Secret, KeyKind::Publishable].map(|kind| requirement.accepts(kind)) {
            [true, true] => &self.both,
            [false, true] => &self.publishable,
            _ => &self.secret,
        }
    }
}

impl RouteReplies {
    pub(crate) fn made(
        replies: &Replies,
        realm: &str,
        locations: &[KeyLocation],
        kinds: &[KeyKind],
        cors_headers: Option<&CorsHeaders>,
    ) -> Self {
        let accepted = locations
            .iter()
            .filter(|way| kinds.contains(&way.accepts()));
        let mut accepted: Vec<_> = accepted.cloned().collect();
        // A 401 has a challenge even if no location of the gate is for this kind (RFC 9110
        // §11.6.1).
        if accepted.is_empty() {
            accepted = locations.to_vec();
        }
        let mark = |mut reply: Reply| {
            if let Some(cors_headers) = cors_headers {
                cors_headers.mark(&mut reply);
            }
            reply
        };
        let of_kind = DenialKind::WITH_OWN_TEXT
            .map(|kind| mark(replies.render_denial(kind, realm, &accepted, kinds)));
        Self {
            of_code: ErrorCode::ALL
                .map(|code| mark(replies.render_key_error(code, realm, &accepted)))
                .into(),
            of_kind: of_kind.into(),
            locations: accepted,
        }
    }

    /// Returns the reply to a denial, given the code that the client is told.
    pub(crate) fn to(&self, kind: DenialKind, code: ErrorCode) -> Reply {
        let mut own = DenialKind::WITH_OWN_TEXT.iter().zip(&self.of_kind);
        match own.find(|(own, _)| **own == kind) {
            Some((_, reply)) => reply.clone(),
            None => match self.of_code.get(code as usize) {
                Some(reply) => reply.clone(),
                None => Reply::new(500, Vec::new()),
            },
        }
    }
}
