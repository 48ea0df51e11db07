//! Bodies of error responses.

use std::fmt;

use serde_json::Value;

/// The format in which a service writes its error bodies.
///
/// It renders the body only. The gate sets the status and the headers, so that no implementation
/// can break what HTTP requires of them.
///
/// ```
/// use keyward::Replies;
/// use keyward::reply::{ErrorBody, Problem};
/// # use std::sync::Arc;
/// # use keyward::{Gate, KeyFormat, KeyScheme, MemoryStore};
/// # use keyward::gate::{Decision, Verdict};
/// # use keyward::testing::TestRequest;
/// # let store = MemoryStore::new();
///
/// #[derive(Debug)]
/// struct Plain;
///
/// impl ErrorBody for Plain {
///     fn content_type(&self) -> &'static str {
///         "text/plain; charset=utf-8"
///     }
///
///     fn render(&self, error: &Problem<'_>) -> Vec<u8> {
///         format!("{}: {}\n", error.code, error.detail).into_bytes()
///     }
/// }
///
/// let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// let gate = Gate::builder(&store, &scheme).replies(Replies::new(Plain)).build()?;
/// let decision = gate.check(&TestRequest::get().key("nonsense"), &Arc::default(), None);
/// let Decision::Ready(Verdict::Refuse(refusal)) = decision else { panic!("{decision:?}") };
/// assert!(refusal.reply.body().starts_with(b"invalid_api_key: The API key is not valid."));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait ErrorBody: fmt::Debug + Send + Sync + 'static {
    /// Returns the media type of the body, in visible ASCII characters and spaces.
    fn content_type(&self) -> &'static str;

    /// Renders the body. Called when the gate is built and when a scope is missing.
    fn render(&self, error: &Problem<'_>) -> Vec<u8>;
}

/// The content of an error body, which [`ErrorBody`] renders.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Problem<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The reason phrase of the status, such as `Forbidden`.
    pub title: &'a str,
    /// The machine-readable code, such as `invalid_api_key`.
    pub code: &'a str,
    /// The human-readable explanation of what to do.
    pub detail: &'a str,
}

/// The default error body: `application/problem+json` (RFC 9457).
///
/// ```json
/// {"type":"about:blank","title":"Unauthorized","status":401,"detail":"…","code":"invalid_api_key"}
/// ```
///
/// [`Reply`](crate::reply::Reply) shows a complete response.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "written by its name")]
pub struct ProblemJson;

impl ErrorBody for ProblemJson {
    fn content_type(&self) -> &'static str {
        "application/problem+json"
    }

    fn render(&self, error: &Problem<'_>) -> Vec<u8> {
        let (title, detail) = (quoted(error.title), quoted(error.detail));
        let (status, code) = (error.status, error.code);
        format!(
            r#"{{"type":"about:blank","title":{title},"status":{status},"detail":{detail},"code":"{code}"}}"#
        )
        .into_bytes()
    }
}

/// An error body of the form `{"error":"…"}`, which contains the detail.
///
/// See [`Replies`](crate::reply::Replies).
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "written by its name")]
pub struct ErrorJson;

impl ErrorBody for ErrorJson {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn render(&self, error: &Problem<'_>) -> Vec<u8> {
        format!(r#"{{"error":{}}}"#, quoted(error.detail)).into_bytes()
    }
}

/// An error body of the form `{"error":"Unauthorized","message":"…"}`.
///
/// It contains the reason phrase of the status and the detail.
///
/// See [`Replies`](crate::reply::Replies).
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "written by its name")]
pub struct ErrorMessageJson;

impl ErrorBody for ErrorMessageJson {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn render(&self, error: &Problem<'_>) -> Vec<u8> {
        let (title, detail) = (quoted(error.title), quoted(error.detail));
        format!(r#"{{"error":{title},"message":{detail}}}"#).into_bytes()
    }
}

/// An error body of the form `{"detail":"…"}`, which contains the detail.
///
/// See [`Replies`](crate::reply::Replies).
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "written by its name")]
pub struct DetailJson;

impl ErrorBody for DetailJson {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn render(&self, error: &Problem<'_>) -> Vec<u8> {
        format!(r#"{{"detail":{}}}"#, quoted(error.detail)).into_bytes()
    }
}

/// Returns the text as a JSON string, with its quotes.
fn quoted(text: &str) -> Value {
    Value::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_is_valid_json_for_any_text() {
        let error = Problem {
            status: 403,
            title: "Forbidden",
            code: "origin_not_allowed",
            detail: "a \"quoted\"\nline \u{7}",
        };
        let shapes: [(&dyn ErrorBody, &[&str]); 4] = [
            (&ProblemJson, &["type", "title", "status", "detail", "code"]),
            (&ErrorJson, &["error"]),
            (&ErrorMessageJson, &["error", "message"]),
            (&DetailJson, &["detail"]),
        ];
        for (shape, members) in shapes {
            let body: Value = serde_json::from_slice(&shape.render(&error)).unwrap();
            let mut found: Vec<_> = body
                .as_object()
                .unwrap()
                .keys()
                .map(String::as_str)
                .collect();
            let mut members = members.to_vec();
            found.sort_unstable();
            members.sort_unstable();
            assert_eq!(found, members);
            assert!(
                body.as_object()
                    .unwrap()
                    .values()
                    .any(|v| v == error.detail)
            );
        }
    }
}
