//! How a service words its refusals.

use std::borrow::Cow;
use std::sync::Arc;

use crate::denial::{DenialKind, ErrorCode};
use crate::gate::Requirement;
use crate::gate::requirement::join;
use crate::key::KeyKind;
use crate::reply::{ErrorBody, ErrorText, ProblemJson, Reply};
use crate::request::KeyLocation;

/// How a service words its refusals.
///
/// The shape of the body, its own texts and statuses. What HTTP demands stays as it is: a 401
/// always carries a challenge, nothing is cached.
///
/// ```
/// use keyward::Replies;
/// use keyward::denial::ErrorCode;
/// use keyward::reply::ErrorJson;
/// # use std::sync::Arc;
/// # use keyward::{Gate, KeyFormat, MemoryStore, Store};
/// # use keyward::gate::{Decision, Verdict};
/// # use keyward::request::RequestHead;
/// # struct Get<'a>(Option<&'a str>);
/// # impl RequestHead for Get<'_> {
/// #     fn method(&self) -> &str { "GET" }
/// #     fn peer(&self) -> Option<std::net::IpAddr> { None }
/// #     fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
/// #         self.0.filter(|_| field == "x-api-key").map(str::as_bytes).into_iter()
/// #     }
/// # }
/// # let store = MemoryStore::new();
///
/// let replies = Replies::new(ErrorJson)
///     .text(ErrorCode::OriginNotAllowed, "Origin not allowed for this key")
///     .text(ErrorCode::InvalidApiKey, "Invalid API key")
///     .status(ErrorCode::MissingApiKey, 403);
/// # let format = KeyFormat::new("vhk_{env}_")?;
/// let gate = Gate::builder(store.replica()).format(format).replies(replies).build()?;
///
/// let decision = gate.check(&Get(Some("nonsense")), &Arc::default(), None);
/// let Decision::Ready(Verdict::Refuse(refusal)) = decision else { panic!("{decision:?}") };
/// assert_eq!(refusal.reply.body(), br#"{"error":"Invalid API key"}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Replies {
    body: Arc<dyn ErrorBody>,
    texts: Vec<(ErrorCode, Cow<'static, str>)>,
    statuses: Vec<(ErrorCode, u16)>,
    tells_dead_keys_apart: bool,
}

impl Replies {
    /// Replies of this shape, with our texts.
    pub fn new(body: impl ErrorBody) -> Self {
        Self {
            body: Arc::new(body),
            texts: Vec::new(),
            statuses: Vec::new(),
            tells_dead_keys_apart: false,
        }
    }

    /// Says this instead of our text.
    pub fn text(mut self, code: ErrorCode, text: impl Into<Cow<'static, str>>) -> Self {
        self.texts.push((code, text.into()));
        self
    }

    /// Answers with this status instead. A 4xx for a 4xx; a 503 stays a 5xx.
    pub fn status(mut self, code: ErrorCode, status: u16) -> Self {
        self.statuses.push((code, status));
        self
    }

    /// Tells revoked, disabled and expired keys apart, instead of calling them invalid.
    ///
    /// Only whoever has the whole key learns it, within 30 days of the key's end: then it is invalid like
    /// one that never was.
    pub fn tell_dead_keys_apart(mut self) -> Self {
        self.tells_dead_keys_apart = true;
        self
    }

    pub(crate) fn code(&self, kind: DenialKind) -> ErrorCode {
        match kind {
            DenialKind::Revoked if self.tells_dead_keys_apart => ErrorCode::RevokedApiKey,
            DenialKind::Disabled if self.tells_dead_keys_apart => ErrorCode::DisabledApiKey,
            DenialKind::Expired if self.tells_dead_keys_apart => ErrorCode::ExpiredApiKey,
            kind => kind.code(),
        }
    }

    /// Whether every status is of the class it must be, and the content type can stand in a field.
    pub(crate) fn are_valid(&self) -> bool {
        let class = |status: u16| status / 100;
        let mut statuses = self.statuses.iter();
        let is_text = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        statuses.all(|(code, status)| class(*status) == class(code.status()))
            && self.body.content_type().bytes().all(is_text)
    }

    /// The answer to a denial that has a text of its own beside that of its code, on a route that accepts
    /// keys of these kinds at these locations.
    pub(crate) fn render_denial(
        &self,
        kind: DenialKind,
        realm: &str,
        locations: &[KeyLocation],
        accepts: &[KeyKind],
    ) -> Reply {
        let detail = denial_detail(kind, locations, accepts);
        self.render_detail(self.code(kind), detail, realm, locations, None)
    }

    /// The answer to a denial. `requirement` where it says what was missing.
    pub(crate) fn render(
        &self,
        code: ErrorCode,
        realm: &str,
        locations: &[KeyLocation],
        requirement: Option<&Requirement>,
    ) -> Reply {
        let detail = default_detail(code, locations, requirement);
        self.render_detail(code, detail, realm, locations, requirement)
    }

    /// The answer with this text, unless the service has its own for the code.
    fn render_detail(
        &self,
        code: ErrorCode,
        detail: Cow<'static, str>,
        realm: &str,
        locations: &[KeyLocation],
        requirement: Option<&Requirement>,
    ) -> Reply {
        let own = self.statuses.iter().rev().find(|(of, _)| *of == code);
        let status = own.map_or(code.status(), |(_, status)| *status);
        let own = self.texts.iter().rev().find(|(of, _)| *of == code);
        let detail = match own {
            Some((_, text)) => Cow::clone(text),
            None => detail,
        };
        let error = ErrorText {
            status,
            title: title(status),
            code,
            detail: &detail,
        };
        let mut reply = Reply::new(status, self.body.render(&error));
        reply.says(&detail);
        reply.field("content-type", self.body.content_type().to_owned());
        if status == 401 || code.always_challenges() {
            if code.is_of_webhook() {
                // RFC 9110 §11.6.1 wants one in every 401, and there is none registered.
                let challenge = format!("WebhookSignature realm=\"{realm}\"");
                reply.field("www-authenticate", challenge);
            }
            let of_keys = if code.is_of_webhook() {
                &[][..]
            } else {
                locations
            };
            for scheme in schemes(of_keys) {
                reply.field(
                    "www-authenticate",
                    challenge(scheme, realm, code, requirement),
                );
            }
        }
        if code.status() == 503 {
            reply.field("retry-after", "1".to_owned());
        }
        if code.depends_on_origin() {
            reply.field("vary", "Origin".to_owned());
        }
        reply
    }
}

impl Default for Replies {
    fn default() -> Self {
        Self::new(ProblemJson)
    }
}

fn default_detail(
    code: ErrorCode,
    locations: &[KeyLocation],
    requirement: Option<&Requirement>,
) -> Cow<'static, str> {
    let text = code.detail();
    match (code, requirement) {
        (ErrorCode::MissingApiKey, _) => format!("{text}{}.", ways(locations)).into(),
        (ErrorCode::InsufficientScope, Some(requirement)) => {
            format!("{text}{}.", requirement.in_words()).into()
        }
        _ => text.into(),
    }
}

/// How to send a key, in words.
fn ways<'a>(locations: impl IntoIterator<Item = &'a KeyLocation>) -> String {
    let ways = locations
        .into_iter()
        .map(|way| format!("`{}`", way.usage()));
    ways.collect::<Vec<_>>().join(" or ")
}

/// What helps beside the text of the code. Nothing in it is about the state of a key.
fn denial_detail(
    kind: DenialKind,
    locations: &[KeyLocation],
    accepts: &[KeyKind],
) -> Cow<'static, str> {
    const ONLY_SECRET: &str =
        "This is a publishable API key, and only secret ones are accepted here.";
    const ONLY_PUBLISHABLE: &str =
        "This is a secret API key, and only publishable ones are accepted here.";
    const LEAKED: &str = "If it stands in a page or an app, it has leaked: replace it.";
    let ways_for = |kind: KeyKind| {
        let of_kind = |way: &&KeyLocation| way.accepts() == kind && accepts.contains(&kind);
        let ways = ways(locations.iter().filter(of_kind));
        (!ways.is_empty()).then_some(ways)
    };
    match kind {
        DenialKind::SchemeInKey => "The name of an authentication scheme, such as `Bearer`, stands before the API key, where the key is expected alone. Leave it out.".into(),
        DenialKind::QuotedKey => "The API key stands in quotation marks or brackets. Send it without them.".into(),
        DenialKind::KindNotAccepted if accepts.contains(&KeyKind::Secret) => ONLY_SECRET.into(),
        DenialKind::KindNotAccepted => ONLY_PUBLISHABLE.into(),
        DenialKind::KindMisplaced => match ways_for(KeyKind::Publishable) {
            Some(ways) => format!("This is a publishable API key. Send it as {ways}.").into(),
            None => ONLY_SECRET.into(),
        },
        DenialKind::SecretExposed => match ways_for(KeyKind::Secret) {
            Some(ways) => format!("This is a secret API key in a place for publishable ones. {LEAKED} A server sends it as {ways}.").into(),
            None => format!("{ONLY_PUBLISHABLE} {LEAKED}").into(),
        },
        DenialKind::NoApiAccess => "The plan of the account that owns the API key does not include the API.".into(),
        DenialKind::CostTooHigh => "A limit of the API key lets less pass at once than this request costs.".into(),
        kind => kind.code().detail().into(),
    }
}

/// One challenge (RFC 9110 §11.6.1, RFC 6750 §3). Scope tokens hold no quote and no backslash.
fn challenge(
    scheme: &str,
    realm: &str,
    code: ErrorCode,
    requirement: Option<&Requirement>,
) -> String {
    let mut text = format!("{scheme} realm=\"{realm}\"");
    if let Some(error) = code.challenge_error() {
        text.push_str(", error=\"");
        text.push_str(error);
        text.push('"');
    }
    if let (ErrorCode::InsufficientScope, Some(requirement)) = (code, requirement) {
        text.push_str(", scope=\"");
        text.push_str(&join(requirement.asked(), " "));
        text.push('"');
    }
    text
}

/// Every scheme once, in the order of the locations.
fn schemes(locations: &[KeyLocation]) -> impl Iterator<Item = &str> {
    let schemes = locations.iter().map(KeyLocation::challenge).enumerate();
    let first = |(at, scheme): &(usize, &str)| {
        let mut before = locations.iter().take(*at);
        !before.any(|earlier| earlier.challenge().eq_ignore_ascii_case(scheme))
    };
    schemes.filter(first).map(|(_, scheme)| scheme)
}

/// The status in words (RFC 9110 §15).
const fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        418 => "I'm a teapot",
        422 => "Unprocessable Content",
        423 => "Locked",
        429 => "Too Many Requests",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ if status < 500 => "Client Error",
        _ => "Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locations() -> [KeyLocation; 4] {
        [
            KeyLocation::x_api_key(),
            KeyLocation::bearer(),
            KeyLocation::client_key(),
            KeyLocation::x_client_key(),
        ]
    }

    #[test]
    fn a_401_has_one_challenge_line_for_every_scheme() {
        let reply = Replies::default().render(ErrorCode::InvalidApiKey, "api", &locations(), None);
        let lines: Vec<_> = reply
            .fields()
            .filter(|(name, _)| *name == "www-authenticate")
            .collect();
        assert_eq!(
            lines,
            [
                (
                    "www-authenticate",
                    r#"ApiKey realm="api", error="invalid_token""#
                ),
                (
                    "www-authenticate",
                    r#"Bearer realm="api", error="invalid_token""#
                ),
                (
                    "www-authenticate",
                    r#"ClientKey realm="api", error="invalid_token""#
                ),
            ]
        );
    }

    #[test]
    fn mapping_to_401_adds_the_challenge_and_away_from_it_drops_it() {
        let replies = Replies::default()
            .status(ErrorCode::OriginNotAllowed, 401)
            .status(ErrorCode::InvalidApiKey, 403);
        let has_challenge = |code| {
            let reply = replies.render(code, "api", &locations(), None);
            reply.fields().any(|(name, _)| name == "www-authenticate")
        };
        assert!(has_challenge(ErrorCode::OriginNotAllowed));
        assert!(!has_challenge(ErrorCode::InvalidApiKey));
    }

    #[test]
    fn a_status_keeps_its_class() {
        let maps = |code, status| Replies::default().status(code, status).are_valid();
        assert!(maps(ErrorCode::InvalidApiKey, 404));
        assert!(!maps(ErrorCode::InvalidApiKey, 200));
        assert!(!maps(ErrorCode::InvalidApiKey, 500));
        assert!(maps(ErrorCode::AuthUnavailable, 500));
        assert!(!maps(ErrorCode::AuthUnavailable, 401));
    }
}
