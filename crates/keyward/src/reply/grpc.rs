//! Refusals in gRPC form.

use std::fmt::Write as _;

use crate::limit::quota::{HEADERS, LEGACY_HEADERS};
use crate::reply::Reply;
use crate::request::RequestHead;

/// Returns whether a header of a refusal is useful to a gRPC client as metadata.
fn is_kept(name: &str) -> bool {
    HEADERS.contains(&name)
        || LEGACY_HEADERS.contains(&name)
        || matches!(name, "retry-after" | "vary" | "access-control-allow-origin")
}

/// Returns the content type for the response to a gRPC or gRPC-Web call; `None` for any other
/// request.
///
/// Every call is a `POST` (gRPC over HTTP/2, "Requests"). A `GET` with this content type is not a
/// call.
pub(crate) fn content_type<R: RequestHead>(request: &R) -> Option<&'static str> {
    if request.method() != "POST" {
        return None;
    }
    let asked = request.values("content-type").next()?;
    let rest = asked.strip_prefix(b"application/grpc")?;
    let end = rest.iter().position(|b| matches!(b, b';' | b' '));
    match rest.get(..end.unwrap_or(rest.len()))? {
        b"-web" => Some("application/grpc-web"),
        b"-web+proto" => Some("application/grpc-web+proto"),
        b"-web-text" => Some("application/grpc-web-text"),
        b"-web-text+proto" => Some("application/grpc-web-text+proto"),
        [] | [b'+', ..] => Some("application/grpc"),
        _ => None,
    }
}

impl Reply {
    /// Converts a refusal to a trailers-only response (gRPC over HTTP/2, "Responses").
    pub(crate) fn in_grpc(&self, content_type: &str, exposed: Option<&str>) -> Self {
        let mut reply = Self::new(200, Vec::new());
        reply.push_shared_header("content-type", content_type.to_owned());
        for (name, value) in self.headers().filter(|(name, _)| is_kept(name)) {
            reply.push_shared_header(name, value.to_owned());
        }
        if let Some(names) = exposed {
            reply.push_shared_header("access-control-expose-headers", names.to_owned());
        }
        reply.push_shared_header("grpc-status", status(self.status()).to_string());
        reply.push_shared_header("grpc-message", message(self.detail()));
        reply
    }
}

/// Maps an HTTP status to a gRPC status code.
const fn status(http: u16) -> u8 {
    match http {
        400 => 3,             // INVALID_ARGUMENT
        401 => 16,            // UNAUTHENTICATED
        404 => 5,             // NOT_FOUND
        429 => 8,             // RESOURCE_EXHAUSTED
        503 => 14,            // UNAVAILABLE
        500..=u16::MAX => 13, // INTERNAL
        _ => 7,               // PERMISSION_DENIED
    }
}

/// Percent-encodes a gRPC message: every byte except visible ASCII and spaces, and the percent
/// sign.
fn message(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            // Writing to a string never fails.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    struct Head(&'static str, &'static str);

    impl RequestHead for Head {
        fn method(&self) -> &'static str {
            self.0
        }

        fn peer(&self) -> Option<IpAddr> {
            None
        }

        fn values<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a [u8]> {
            (field == "content-type")
                .then_some(self.1.as_bytes())
                .into_iter()
        }
    }

    #[test]
    fn a_response_has_the_content_type_of_its_call() {
        for (asked, answered) in [
            ("application/grpc", Some("application/grpc")),
            ("application/grpc+proto", Some("application/grpc")),
            (
                "application/grpc+json; charset=utf-8",
                Some("application/grpc"),
            ),
            ("application/grpc-web", Some("application/grpc-web")),
            (
                "application/grpc-web-text+proto",
                Some("application/grpc-web-text+proto"),
            ),
            ("application/grpc-weblog", None),
            ("application/grpcx", None),
            ("application/json", None),
            ("", None),
        ] {
            assert_eq!(content_type(&Head("POST", asked)), answered, "{asked}");
            assert_eq!(content_type(&Head("GET", asked)), None, "{asked}");
        }
    }

    #[test]
    fn a_message_is_percent_encoded_as_grpc_requires() {
        assert_eq!(message("50 % of Ünï~\n"), "50 %25 of %C3%9Cn%C3%AF~%0A");
    }

    #[test]
    fn every_http_status_maps_to_a_grpc_status() {
        let of = |all: &[u16]| all.iter().map(|http| status(*http)).collect::<Vec<_>>();
        assert_eq!(of(&[400, 401, 402, 403, 404, 429]), [3, 16, 7, 7, 5, 8]);
        assert_eq!(of(&[500, 502, 503, 504]), [13, 13, 14, 13]);
    }
}
