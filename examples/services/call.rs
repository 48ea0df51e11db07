//! A request as a handler sees it, and what it answers; the same on both stacks.

use std::collections::HashMap;
use std::net::IpAddr;

use keyward::admin::AdminError;
use keyward::record::AdminErrorKind;
use keyward::request::RequestHead;
use serde_json::{Value, json};

/// What a handler gives: `?` turns a failure into its answer.
pub type Answered = Result<Answer, Answer>;

/// A request, without its key: the layer has taken it out.
#[derive(Debug)]
pub struct Call {
    /// What stands in the path for each `{name}`.
    pub params: HashMap<String, String>,
    /// What stands after the `?`, in its order.
    pub(crate) query: Vec<(String, String)>,
    /// The field lines, names in lower case.
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// Whether the body is all that was sent: one over [`MOST`] is left out.
    pub(crate) is_whole: bool,
}

/// How long a body may be.
pub(crate) const MOST: usize = 2 << 20;

impl Call {
    /// What stands in the path for this name.
    #[must_use]
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }

    /// What the query holds for this name; nothing where it is not there once.
    #[must_use]
    pub fn queried(&self, name: &str) -> Option<&str> {
        let mut pairs = self.query.iter().filter(|(own, _)| own == name);
        match (pairs.next(), pairs.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }

    /// What the field holds; nothing where it is not there once.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        let mut lines = self.fields.iter().filter(|(own, _)| own == name);
        match (lines.next(), lines.next()) {
            (Some((_, value)), None) => std::str::from_utf8(value).unwrap_or_default(),
            _ => "",
        }
    }

    /// The body as JSON; `null` where it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A text that says something.
#[must_use]
pub fn text(sent: &Value) -> Option<&str> {
    sent.as_str().filter(|text| !text.trim().is_empty())
}

/// A text of one line that says something, such as a name.
#[must_use]
pub fn line(sent: &Value) -> Option<&str> {
    text(sent).filter(|text| !text.contains(char::is_control))
}

/// An email address, as far as its form tells.
#[must_use]
pub fn email(sent: &Value) -> Option<&str> {
    line(sent).filter(|text| {
        let parts = text.split_once('@');
        !text.contains(char::is_whitespace)
            && parts.is_some_and(|(name, domain)| {
                !name.is_empty() && domain.contains('.') && !domain.contains('@')
            })
    })
}

/// So that a handler can verify a webhook whose secret it learns from elsewhere.
impl RequestHead for Call {
    fn method(&self) -> &'static str {
        "POST"
    }

    fn peer(&self) -> Option<IpAddr> {
        None
    }

    fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.fields.iter().filter(move |(name, _)| name == field);
        lines.map(|(_, value)| &**value)
    }
}

/// An answer: a status, JSON or a page, and further header fields.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub json: Value,
    page: Option<String>,
    pub fields: Vec<(&'static str, String)>,
}

impl Answer {
    #[must_use]
    pub fn new(status: u16, json: Value) -> Self {
        Self {
            status,
            json,
            page: None,
            fields: Vec::new(),
        }
    }

    /// A page of HTML, for a browser. It has no scripts, and stands in no other page.
    #[must_use]
    pub fn page(html: String) -> Self {
        let mut answer = Self::ok(Value::Null);
        answer.page = Some(html);
        let policy = "default-src 'none'; frame-ancestors 'none'";
        answer.field("content-security-policy", policy).unkept()
    }

    #[must_use]
    pub fn ok(json: Value) -> Self {
        Self::new(200, json)
    }

    /// What is no fault of the client's: the log has the error.
    fn failed(error: &dyn std::error::Error) -> Self {
        eprintln!("a request has failed: {error}");
        Self::new(503, json!({ "error": "try again" }))
    }

    #[must_use]
    pub fn field(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.to_owned()));
        self
    }

    /// No cache keeps it: it may hold a key.
    #[must_use]
    pub fn unkept(self) -> Self {
        self.field("cache-control", "no-store")
    }

    /// Its media type and its body; nothing, where there is nothing to say.
    pub(crate) fn body(self) -> (Option<&'static str>, String) {
        match (self.page, self.json) {
            (Some(html), _) => (Some("text/html; charset=utf-8"), html),
            (None, Value::Null) => (None, String::new()),
            (None, json) => (Some("application/json"), json.to_string()),
        }
    }
}

/// What the key page says where nothing was done.
impl From<AdminError> for Answer {
    fn from(error: AdminError) -> Self {
        let status = match error.kind() {
            AdminErrorKind::UnknownKey
            | AdminErrorKind::UnknownAccount
            | AdminErrorKind::UnknownEndpoint => 404,
            AdminErrorKind::NotPermitted | AdminErrorKind::TooWide => 403,
            AdminErrorKind::TooManyKeys
            | AdminErrorKind::TooManyEndpoints
            | AdminErrorKind::Conflict
            | AdminErrorKind::Revoked
            | AdminErrorKind::Expired => 409,
            AdminErrorKind::Sealed
            | AdminErrorKind::Random
            | AdminErrorKind::Thread
            | AdminErrorKind::Store => 503,
            _ => 422,
        };
        Self::new(status, json!({ "error": error.to_string() }))
    }
}

/// What cannot be read is the client's mistake.
impl From<keyward::error::ParseError> for Answer {
    fn from(error: keyward::error::ParseError) -> Self {
        Self::new(422, json!({ "error": error.to_string() }))
    }
}

impl From<rusqlite::Error> for Answer {
    fn from(error: rusqlite::Error) -> Self {
        Self::failed(&error)
    }
}

impl From<keyward_webhooks::sealing::SealError> for Answer {
    fn from(error: keyward_webhooks::sealing::SealError) -> Self {
        Self::failed(&error)
    }
}

impl From<keyward::key::RandomError> for Answer {
    fn from(error: keyward::key::RandomError) -> Self {
        Self::failed(&error)
    }
}

impl From<Box<dyn std::error::Error>> for Answer {
    fn from(error: Box<dyn std::error::Error>) -> Self {
        Self::failed(&*error)
    }
}
