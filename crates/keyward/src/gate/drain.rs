//! Drains the unread body of a refused request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::request::RequestHead;

/// The number of bodies that this process is draining.
static DRAINING: AtomicUsize = AtomicUsize::new(0);

/// A permit to read and discard the body of a refused HTTP/1 request.
///
/// If the server closes the connection while a client is still sending its body, the client sees a
/// reset instead of the response. An adapter whose server would close at once therefore reads on
/// for a while, within the limits below. [`Refusal::drain`](crate::gate::Refusal::drain) hands out
/// at most [`MAX_AT_ONCE`](Self::MAX_AT_ONCE) permits at a time in a process; dropping a permit
/// releases it.
///
/// ```
/// # use std::sync::Arc;
/// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore};
/// # use keyward::gate::{Decision, Verdict};
/// # use keyward::testing::TestRequest;
/// # let store = MemoryStore::new();
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let gate = Gate::new(&store, &scheme)?;
/// let upload = TestRequest::new("POST").http1().header("content-length", "5000000");
/// let decision = gate.check(&upload, &Arc::default(), None);
/// let Decision::Ready(Verdict::Refuse(refusal)) = decision else { panic!("{decision:?}") };
/// assert!(refusal.reply.headers().any(|field| field == ("connection", "close")));
/// let mut drain = refusal.drain().expect("it has a body, and nobody else is draining");
/// assert!(drain.read(1_000_000));
/// assert!(!drain.read(100_000), "that is over 1 MiB");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "the body is to be read while it is held"]
pub struct BodyDrain {
    left: usize,
}

impl BodyDrain {
    /// The maximum number of bytes to read of a body: 1 MiB.
    pub const MAX_BYTES: usize = 1 << 20;
    /// The maximum time for which a body is read.
    pub const MAX_TIME: Duration = Duration::from_secs(1);
    /// The maximum number of bodies that are read at once in a process.
    pub const MAX_AT_ONCE: usize = 100;

    fn begin() -> Option<Self> {
        let place = |taken| (taken < Self::MAX_AT_ONCE).then_some(taken + 1);
        let found = DRAINING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place);
        let left = Self::MAX_BYTES;
        found.ok().map(|_| Self { left })
    }

    /// Counts bytes that were read; `false` means that the connection must be closed now.
    #[must_use]
    pub fn read(&mut self, bytes: usize) -> bool {
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

impl Drop for BodyDrain {
    fn drop(&mut self) {
        DRAINING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The state of a request's body, according to its head.
///
/// ```
/// # use keyward::testing::TestRequest;
/// use keyward::gate::UnreadBody;
///
/// let upload = TestRequest::new("POST").http1().header("content-length", "5000000");
/// let body = UnreadBody::of(&upload);
/// assert_eq!(body, UnreadBody::Coming);
/// assert!(body.drain().is_some());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "there is no fourth state of a body that nobody has read"
)]
pub enum UnreadBody {
    /// The request has no body, or the body has its own stream (HTTP/2).
    #[default]
    None,
    /// The client waits for permission to send it (RFC 9110 §10.1.1).
    Announced,
    /// The client is sending it.
    Coming,
}

impl UnreadBody {
    /// Reads the headers of a request.
    pub fn of<R: RequestHead>(request: &R) -> Self {
        let has = |field| request.values(field).next().is_some();
        let has_length = || {
            request
                .values("content-length")
                .any(|length| length != b"0")
        };
        if !request.is_http1() || !(has_length() || has("transfer-encoding")) {
            Self::None
        } else if has("expect") {
            Self::Announced
        } else {
            Self::Coming
        }
    }

    /// Returns the state after the server has told the client to send the body.
    #[must_use]
    pub fn asked_for(self) -> Self {
        match self {
            Self::Announced => Self::Coming,
            other => other,
        }
    }

    /// Begins to drain a body that is being sent, if a permit is available.
    pub fn drain(self) -> Option<BodyDrain> {
        (self == Self::Coming).then(BodyDrain::begin).flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;
    use crate::gate::{Decision, Gate, Refusal, Verdict};
    use crate::key::KeyFormat;
    use crate::replica::Replica;
    use crate::scheme::KeyScheme;

    /// Serializes the tests, as the permits are those of the process.
    static ALONE: Mutex<()> = Mutex::new(());

    struct Post<'a> {
        is_http1: bool,
        fields: &'a [(&'a str, &'a str)],
    }

    impl RequestHead for Post<'_> {
        fn method(&self) -> &'static str {
            "POST"
        }

        fn peer(&self) -> Option<IpAddr> {
            None
        }

        fn is_http1(&self) -> bool {
            self.is_http1
        }

        fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
            let lines = self.fields.iter().filter(move |(name, _)| *name == field);
            lines.map(|(_, value)| value.as_bytes())
        }
    }

    fn refused(is_http1: bool, fields: &[(&str, &str)]) -> Refusal {
        let scheme = KeyScheme::new(KeyFormat::new("x_").unwrap());
        let gate = Gate::builder_from_replica(&Replica::new(), &scheme)
            .build()
            .unwrap();
        let decision = gate.check(&Post { is_http1, fields }, &Arc::default(), None);
        let Decision::Ready(Verdict::Refuse(refusal)) = decision else {
            panic!("{decision:?}")
        };
        refusal
    }

    fn closes(refusal: &Refusal) -> bool {
        let mut fields = refusal.reply.headers();
        fields.any(|field| field == ("connection", "close"))
    }

    #[test]
    fn a_refusal_closes_the_connection_where_a_body_is_unread_and_never_in_http_2() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let length = ("content-length", "7");
        for (is_http1, fields, is_closed, is_drained) in [
            (true, &[][..], false, false),
            (true, &[("content-length", "0")], false, false),
            (true, &[length], true, true),
            (true, &[("transfer-encoding", "chunked")], true, true),
            (true, &[length, ("expect", "100-continue")], true, false),
            (false, &[length], false, false),
        ] {
            let refusal = refused(is_http1, fields);
            assert_eq!(closes(&refusal), is_closed, "{is_http1} {fields:?}");
            let drain = refusal.drain();
            assert_eq!(drain.is_some(), is_drained, "{is_http1} {fields:?}");
        }
    }

    #[test]
    fn no_more_bodies_are_drained_at_once_than_there_are_places() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let refusal = refused(true, &[("content-length", "7")]);
        let drains: Vec<_> = std::iter::from_fn(|| refusal.drain()).collect();
        assert_eq!(drains.len(), BodyDrain::MAX_AT_ONCE);
        drop(drains);
        assert!(refusal.drain().is_some());
    }
}
