//! Texts, statuses and body format of refusals.

use std::borrow::Cow;
use std::sync::Arc;

use crate::denial::{DenialKind, ErrorCode};
use crate::key::KeyKind;
use crate::reply::{ErrorBody, Problem, ProblemJson, Reply, ReplyCode};
use crate::request::KeyLocation;

/// The texts, statuses and body format of a service's refusals.
///
/// The parts that HTTP requires stay in place: a 401 always carries a challenge, and no refusal may
/// be cached.
///
/// ```
/// use keyward::Replies;
/// use keyward::denial::ErrorCode;
/// use keyward::reply::ErrorJson;
/// # use std::sync::Arc;
/// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore};
/// # use keyward::gate::{Decision, Verdict};
/// # use keyward::testing::TestRequest;
/// # let store = MemoryStore::new();
///
/// let replies = Replies::new(ErrorJson)
///     .text(ErrorCode::OriginNotAllowed, "Origin not allowed for this key")
///     .text(ErrorCode::InvalidApiKey, "Invalid API key")
///     .status(ErrorCode::MissingApiKey, 403);
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// let gate = Gate::builder(&store, &scheme).replies(replies).build()?;
///
/// let decision = gate.check(&TestRequest::get().key("nonsense"), &Arc::default(), None);
/// let Decision::Ready(Verdict::Refuse(refusal)) = decision else { panic!("{decision:?}") };
/// assert_eq!(refusal.reply.body(), br#"{"error":"Invalid API key"}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Replies {
    body: Arc<dyn ErrorBody>,
    texts: Vec<(&'static str, Cow<'static, str>)>,
    statuses: Vec<MappedStatus>,
    tells_dead_keys_apart: bool,
}

/// A status that replaces the default one.
#[derive(Clone, Copy, Debug)]
struct MappedStatus {
    code: &'static str,
    default: u16,
    status: u16,
}

/// The scopes that a key lacks for a request.
pub(crate) struct MissingScopes {
    /// The form for people: `a and (b or c)`.
    pub(crate) words: String,
    /// The form for the challenge: `a b c` (RFC 6750 §3).
    pub(crate) list: String,
}

impl Replies {
    /// Creates replies with this body format and the default texts and statuses.
    pub fn new(body: impl ErrorBody) -> Self {
        Self {
            body: Arc::new(body),
            texts: Vec::new(),
            statuses: Vec::new(),
            tells_dead_keys_apart: false,
        }
    }

    /// Replaces the default text of a code.
    pub fn text(mut self, code: impl ReplyCode, text: impl Into<Cow<'static, str>>) -> Self {
        self.texts.push((code.as_str(), text.into()));
        self
    }

    /// Replaces the default status of a code.
    ///
    /// A 4xx can only replace a 4xx, and a 5xx a 5xx; see [`is_valid`](Self::is_valid).
    pub fn status(mut self, code: impl ReplyCode, status: u16) -> Self {
        let (code, default) = (code.as_str(), code.status());
        self.statuses.push(MappedStatus {
            code,
            default,
            status,
        });
        self
    }

    /// Reports revoked, disabled and expired keys with codes of their own.
    ///
    /// By default, all of them are `invalid_api_key`. The separate codes are sent only in response
    /// to the complete key, and only within 30 days after it stopped working. Later it is reported
    /// as invalid, like a key that never existed. A key that is not valid yet is always reported as
    /// invalid.
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

    /// Returns whether every status keeps the class of its default and the content type is valid.
    ///
    /// Building a gate fails if this is `false`.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let is_text = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        let keeps_class = |own: &MappedStatus| own.status / 100 == own.default / 100;
        self.statuses.iter().all(keeps_class) && self.body.content_type().bytes().all(is_text)
    }

    /// Renders a refusal with a code of another crate or service.
    ///
    /// A 401 carries the `challenges` (RFC 9110 §11.6.1), a 503 carries `retry-after: 1`.
    ///
    /// ```
    /// use keyward::Replies;
    /// use keyward::reply::{ErrorJson, ReplyCode};
    ///
    /// #[derive(Clone, Copy)]
    /// struct Unsigned;
    ///
    /// impl ReplyCode for Unsigned {
    ///     fn as_str(self) -> &'static str { "unsigned" }
    ///     fn status(self) -> u16 { 401 }
    ///     fn detail(self) -> &'static str { "Sign the request." }
    /// }
    ///
    /// let reply = Replies::new(ErrorJson).render(Unsigned, &[r#"Signature realm="api""#]);
    /// assert_eq!(reply.status(), 401);
    /// assert_eq!(reply.body(), br#"{"error":"Sign the request."}"#);
    /// assert!(reply.headers().any(|header| header == ("www-authenticate", r#"Signature realm="api""#)));
    /// ```
    #[must_use]
    pub fn render(&self, code: impl ReplyCode, challenges: &[&str]) -> Reply {
        let mut reply = self.without_challenge(code, code.detail().into());
        if reply.status() == 401 {
            for challenge in challenges {
                reply.push_shared_header("www-authenticate", (*challenge).to_owned());
            }
        }
        finish(reply, code)
    }

    /// Renders a refusal of an API key, with a challenge for each accepted scheme.
    ///
    /// ```
    /// use keyward::denial::ErrorCode;
    /// use keyward::{KeyLocation, Replies};
    ///
    /// let locations = [KeyLocation::x_api_key()];
    /// let reply = Replies::default().render_key_error(ErrorCode::MissingApiKey, "api", &locations);
    /// assert!(reply.headers().any(|header| header == ("www-authenticate", r#"ApiKey realm="api""#)));
    /// ```
    #[must_use]
    pub fn render_key_error(
        &self,
        code: ErrorCode,
        realm: &str,
        locations: &[KeyLocation],
    ) -> Reply {
        self.render_detail(
            code,
            default_detail(code, locations),
            realm,
            locations,
            None,
        )
    }

    /// Renders a denial, whose text may be more specific than that of its code.
    ///
    /// `accepts` are the kinds of keys that the route accepts.
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

    /// Renders the refusal that names the missing scopes.
    pub(crate) fn render_missing_scopes(
        &self,
        missing: &MissingScopes,
        realm: &str,
        locations: &[KeyLocation],
    ) -> Reply {
        let code = ErrorCode::InsufficientScope;
        let detail = format!("{}{}.", code.detail(), missing.words).into();
        self.render_detail(code, detail, realm, locations, Some(missing))
    }

    fn render_detail(
        &self,
        code: ErrorCode,
        detail: Cow<'static, str>,
        realm: &str,
        locations: &[KeyLocation],
        missing: Option<&MissingScopes>,
    ) -> Reply {
        let mut reply = self.without_challenge(code, detail);
        if reply.status() == 401 || code.always_challenges() {
            for scheme in schemes(locations) {
                let challenge = challenge(scheme, realm, code, missing);
                reply.push_shared_header("www-authenticate", challenge);
            }
        }
        finish(reply, code)
    }

    /// Renders a reply with this text, or with the service's own text for the code.
    fn without_challenge(&self, code: impl ReplyCode, detail: Cow<'static, str>) -> Reply {
        let name = code.as_str();
        let own = self.statuses.iter().rev().find(|own| own.code == name);
        let status = own.map_or(code.status(), |own| own.status);
        let own = self.texts.iter().rev().find(|(of, _)| *of == name);
        let detail = match own {
            Some((_, text)) => Cow::clone(text),
            None => detail,
        };
        let problem = Problem {
            status,
            title: title(status),
            code: name,
            detail: &detail,
        };
        let mut reply = Reply::new(status, self.body.render(&problem));
        reply.says(&detail);
        reply.push_shared_header("content-type", self.body.content_type().to_owned());
        reply
    }
}

/// Adds the headers that follow the challenges.
fn finish(mut reply: Reply, code: impl ReplyCode) -> Reply {
    if code.status() == 503 {
        reply.push_shared_header("retry-after", "1".to_owned());
    }
    if code.depends_on_origin() {
        reply.push_shared_header("vary", "Origin".to_owned());
    }
    reply
}

impl Default for Replies {
    fn default() -> Self {
        Self::new(ProblemJson)
    }
}

fn default_detail(code: ErrorCode, locations: &[KeyLocation]) -> Cow<'static, str> {
    let text = code.detail();
    match code {
        ErrorCode::MissingApiKey => format!("{text}{}.", ways(locations)).into(),
        _ => text.into(),
    }
}

/// Describes how to send a key.
fn ways<'a>(locations: impl IntoIterator<Item = &'a KeyLocation>) -> String {
    let ways = locations
        .into_iter()
        .map(|way| format!("`{}`", way.usage()));
    ways.collect::<Vec<_>>().join(" or ")
}

/// Returns the specific text for a denial. It reveals nothing about the state of a key.
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
        DenialKind::OtherCredential => "Send either the API key or the other credential: the request holds both.".into(),
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

/// Renders one challenge (RFC 9110 §11.6.1, RFC 6750 §3). Scope tokens contain no quotes and no
/// backslashes.
fn challenge(
    scheme: &str,
    realm: &str,
    code: ErrorCode,
    missing: Option<&MissingScopes>,
) -> String {
    let mut text = format!("{scheme} realm=\"{realm}\"");
    if let Some(error) = code.challenge_error() {
        text.push_str(", error=\"");
        text.push_str(error);
        text.push('"');
    }
    if let Some(missing) = missing {
        text.push_str(", scope=\"");
        text.push_str(&missing.list);
        text.push('"');
    }
    text
}

/// Yields each scheme once, in the order of the locations.
fn schemes(locations: &[KeyLocation]) -> impl Iterator<Item = &str> {
    let schemes = locations.iter().map(KeyLocation::challenge).enumerate();
    let first = |(at, scheme): &(usize, &str)| {
        let mut before = locations.iter().take(*at);
        !before.any(|earlier| earlier.challenge().eq_ignore_ascii_case(scheme))
    };
    schemes.filter(first).map(|(_, scheme)| scheme)
}

/// Returns the reason phrase of a status (RFC 9110 §15).
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
        let reply =
            Replies::default().render_key_error(ErrorCode::InvalidApiKey, "api", &locations());
        let lines: Vec<_> = reply
            .headers()
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
            let reply = replies.render_key_error(code, "api", &locations());
            reply.headers().any(|(name, _)| name == "www-authenticate")
        };
        assert!(has_challenge(ErrorCode::OriginNotAllowed));
        assert!(!has_challenge(ErrorCode::InvalidApiKey));
    }

    #[test]
    fn a_status_keeps_its_class() {
        let maps = |code, status| Replies::default().status(code, status).is_valid();
        assert!(maps(ErrorCode::InvalidApiKey, 404));
        assert!(!maps(ErrorCode::InvalidApiKey, 200));
        assert!(!maps(ErrorCode::InvalidApiKey, 500));
        assert!(maps(ErrorCode::AuthUnavailable, 500));
        assert!(!maps(ErrorCode::AuthUnavailable, 401));
    }
}
