//! A response of the layer itself.

use std::any::Any;
use std::fmt;
use std::mem;
use std::sync::{Arc, OnceLock};

/// A response that the layer sends itself: a refusal or a CORS preflight response.
///
/// Every adapter sends the same bytes: each header on a line of its own, and lines with the same
/// name in this order.
///
/// ```text
/// HTTP/1.1 401 Unauthorized
/// cache-control: no-store
/// content-type: application/problem+json
/// www-authenticate: ApiKey realm="api"
/// www-authenticate: Bearer realm="api"
///
/// {"type":"about:blank","title":"Unauthorized","status":401,"detail":"Send an API key as `x-api-key: <key>` or `Authorization: Bearer <key>`.","code":"missing_api_key"}
/// ```
///
/// ```
/// # use std::sync::Arc;
/// # use keyward::{ApiKey, Gate, KeyFormat, KeyScheme, MemoryStore};
/// # use keyward::gate::{Decision, Verdict};
/// # use keyward::testing::TestRequest;
/// # let store = MemoryStore::new();
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let gate = Gate::new(&store, &scheme)?;
/// # let decision = gate.check(&TestRequest::get(), &Arc::default(), None);
/// # let Decision::Ready(Verdict::Refuse(refusal)) = decision else { panic!("{decision:?}") };
/// # let reply = refusal.reply;
/// assert_eq!(reply.status(), 401);
/// assert!(reply.headers().eq([
///     ("cache-control", "no-store"),
///     ("content-type", "application/problem+json"),
///     ("www-authenticate", r#"ApiKey realm="api""#),
///     ("www-authenticate", r#"Bearer realm="api""#),
/// ]));
/// assert!(reply.body().ends_with(br#","code":"missing_api_key"}"#));
/// # assert_eq!(reply.body(), br#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"Send an API key as `x-api-key: <key>` or `Authorization: Bearer <key>`.","code":"missing_api_key"}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    rendered: Arc<Rendered>,
    /// Headers of this clone alone, such as `retry-after`.
    own: Vec<(&'static str, String)>,
}

/// The part that all clones of a reply share.
struct Rendered {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The explanation in the body, for protocols that send it elsewhere.
    detail: String,
    prepared: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Reply {
    /// Creates a reply with a status, a body, and `cache-control: no-store`.
    ///
    /// ```
    /// use keyward::reply::Reply;
    ///
    /// let reply = Reply::new(204, Vec::new());
    /// assert!(reply.headers().eq([("cache-control", "no-store")]));
    /// ```
    #[must_use]
    pub fn new(status: u16, body: Vec<u8>) -> Self {
        let rendered = Rendered {
            status,
            headers: vec![("cache-control", "no-store".to_owned())],
            body,
            detail: String::new(),
            prepared: OnceLock::new(),
        };
        Self {
            rendered: Arc::new(rendered),
            own: Vec::new(),
        }
    }

    /// Adds a header that all later clones of this reply share.
    ///
    /// The value consists of visible ASCII characters and spaces. A reply that has clones already
    /// gets the header alone, as from [`push_header`](Self::push_header).
    pub fn push_shared_header(&mut self, name: &'static str, value: String) {
        match Arc::get_mut(&mut self.rendered) {
            Some(rendered) => rendered.headers.push((name, value)),
            None => self.push_header(name, value),
        }
    }

    /// Adds a header to this clone alone, such as `retry-after`.
    ///
    /// The value consists of visible ASCII characters and spaces.
    pub fn push_header(&mut self, name: &'static str, value: String) {
        self.own.push((name, value));
    }

    pub(crate) fn says(&mut self, detail: &str) {
        if let Some(rendered) = Arc::get_mut(&mut self.rendered) {
            detail.clone_into(&mut rendered.detail);
        }
    }

    pub(crate) fn detail(&self) -> &str {
        &self.rendered.detail
    }

    /// Returns the HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.rendered.status
    }

    /// Returns the headers: lower-case names, and values of visible ASCII characters and spaces.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = self.rendered.headers.iter().chain(&self.own);
        all.map(|(name, value)| (*name, &**value))
    }

    /// Removes and returns the headers that this clone does not share with others.
    ///
    /// They are the last ones in [`headers`](Self::headers).
    #[must_use]
    pub fn take_own_headers(
        &mut self,
    ) -> impl ExactSizeIterator<Item = (&'static str, String)> + use<> {
        mem::take(&mut self.own).into_iter()
    }

    /// Returns the shared part converted by `make`, which runs once for all clones.
    ///
    /// An adapter caches its rendered form of a refusal here. `make` receives the reply without its
    /// [own headers](Self::take_own_headers). Returns `None` if the cached value has another type,
    /// because another adapter made it.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore};
    /// # use keyward::gate::{Decision, Verdict};
    /// # use keyward::reply::Reply;
    /// # use keyward::testing::TestRequest;
    /// # let store = MemoryStore::new();
    /// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
    /// # let gate = Gate::new(&store, &scheme)?;
    /// # let decision = gate.check(&TestRequest::get(), &Arc::default(), None);
    /// # let Decision::Ready(Verdict::Refuse(refusal)) = decision else { panic!("{decision:?}") };
    /// # let reply = refusal.reply;
    /// let text = |reply: &Reply| String::from_utf8_lossy(reply.body()).into_owned();
    /// assert!(reply.prepared(text).is_some_and(|text| text.contains("missing_api_key")));
    /// assert_eq!(reply.prepared(|_| 0), None); // the cached value is a `String`
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn prepared<T: Any + Send + Sync>(&self, make: impl FnOnce(&Self) -> T) -> Option<&T> {
        let prepared = self.rendered.prepared.get_or_init(|| {
            let (rendered, own) = (Arc::clone(&self.rendered), Vec::new());
            Box::new(make(&Self { rendered, own }))
        });
        prepared.downcast_ref()
    }

    /// Returns the body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.rendered.body
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status())
            .field("headers", &self.headers().collect::<Vec<_>>())
            .field("body", &String::from_utf8_lossy(self.body()))
            .finish()
    }
}

impl PartialEq for Rendered {
    fn eq(&self, other: &Self) -> bool {
        let parts = |own: &Self| (own.status, own.headers.clone(), own.body.clone());
        parts(self) == parts(other)
    }
}

impl Eq for Rendered {}
