//! The head of a response, written down.

use std::borrow::Cow;

use crate::reply::ResponseHead;

/// The head of a response, for tests without a web framework.
///
/// ```
/// use keyward::gate::Finish;
/// use keyward::testing::TestResponse;
///
/// let mut response = TestResponse::new(200).header("etag", "\"1\"");
/// Finish::default().apply(&mut response); // the finish of an anonymous request adds nothing
/// assert_eq!(response.lines(), ["etag: \"1\""]);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct TestResponse {
    status: u16,
    is_denied: bool,
    headers: Vec<(&'static str, String)>,
}

impl TestResponse {
    /// Creates a response with this status and no headers.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            is_denied: false,
            headers: Vec::new(),
        }
    }

    /// Adds a header line, with its name in lower case.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Makes it the response of an inner layer that has refused the request.
    ///
    /// ```
    /// use keyward::reply::ResponseHead;
    ///
    /// assert!(keyward::testing::TestResponse::new(403).denied().is_denied());
    /// ```
    pub fn denied(mut self) -> Self {
        self.is_denied = true;
        self
    }

    /// Returns the header lines in order, each as `name: value`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let lines = self.headers.iter();
        lines
            .map(|(name, value)| format!("{name}: {value}"))
            .collect()
    }
}

impl ResponseHead for TestResponse {
    fn status(&self) -> u16 {
        self.status
    }

    fn is_denied(&self) -> bool {
        self.is_denied
    }

    fn values<'a>(&'a self, field: &'static str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.headers.iter().filter(move |(name, _)| *name == field);
        lines.map(|(_, value)| value.as_bytes())
    }

    fn append(&mut self, field: &'static str, value: Cow<'static, str>) {
        self.headers.push((field, value.into_owned()));
    }

    fn replace(&mut self, field: &'static str, value: Cow<'static, str>) {
        self.headers.retain(|(name, _)| *name != field);
        self.append(field, value);
    }
}
