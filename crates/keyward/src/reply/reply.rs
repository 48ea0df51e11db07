//! An answer of the layer's own.

use std::fmt;

/// What the layer answers itself: a refusal or a preflight.
///
/// The same for every adapter: each field on a line of its own, lines of one name in this order.
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
/// # use keyward::*;
/// # struct Get<'a>(Option<&'a str>);
/// # impl RequestHead for Get<'_> {
/// #     fn method(&self) -> &str { "GET" }
/// #     fn peer(&self) -> Option<std::net::IpAddr> { None }
/// #     fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
/// #         self.0.filter(|_| field == "x-api-key").map(str::as_bytes).into_iter()
/// #     }
/// # }
/// # let store = MemoryStore::new();
/// # let gate = Gate::builder(store.replica()).format(KeyFormat::new("vhk_{env}_")?).build()?;
/// # let decision = gate.check(&Get(None), &Arc::default(), None);
/// # let Decision::Ready(Verdict::Refuse(refusal)) = decision else { panic!("{decision:?}") };
/// # let reply = refusal.reply;
/// assert_eq!(reply.status(), 401);
/// assert!(reply.fields().eq([
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
    status: u16,
    fields: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// What the body says to the client, where a protocol has another place for it.
    detail: String,
}

impl Reply {
    pub(crate) fn new(status: u16, body: Vec<u8>) -> Self {
        let mut reply = Self {
            status,
            fields: Vec::new(),
            body,
            detail: String::new(),
        };
        reply.field("cache-control", "no-store".to_owned());
        reply
    }

    pub(crate) fn field(&mut self, name: &'static str, value: String) {
        self.fields.push((name, value));
    }

    pub(crate) fn says(&mut self, detail: &str) {
        detail.clone_into(&mut self.detail);
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The fields: names in lower case, values of visible ASCII characters and spaces.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.fields.iter().map(|(name, value)| (*name, &**value))
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("fields", &self.fields)
            .field("body", &String::from_utf8_lossy(&self.body))
            .finish_non_exhaustive()
    }
}
