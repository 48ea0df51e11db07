//! Refusals as gRPC sends them.

use std::fmt::Write as _;

use crate::limit::quota::{HEADERS, LEGACY_HEADERS};
use crate::reply::Reply;
use crate::request::RequestHead;

/// Whether a field of a refusal is of use to a gRPC client too, as metadata.
fn is_kept(field: &str) -> bool {
    HEADERS.contains(&field)
        || LEGACY_HEADERS.contains(&field)
        || matches!(
            field,
            "retry-after" | "vary" | "access-control-allow-origin"
        )
}

/// The content type of an answer to this request, if it is a gRPC call: of gRPC itself, or of gRPC for
/// browsers, which has four.
///
/// Every call is a `POST` (gRPC over HTTP/2, "Requests"): a `GET` that says so is none.
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
    /// The same refusal as a response of trailers only (gRPC over HTTP/2, "Responses").
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

/// The status code of gRPC for a status of HTTP.
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

/// The percent-encoding of gRPC: every byte but visible ASCII and spaces, and the percent sign.
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
    fn an_answer_has_the_content_type_of_its_kind() {
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
    fn a_message_is_encoded_as_grpc_has_it() {
        assert_eq!(message("50 % of Ünï~\n"), "50 %25 of %C3%9Cn%C3%AF~%0A");
    }

    #[test]
    fn every_status_has_one_of_grpc() {
        let of = |all: &[u16]| all.iter().map(|http| status(*http)).collect::<Vec<_>>();
        assert_eq!(of(&[400, 401, 402, 403, 404, 429]), [3, 16, 7, 7, 5, 8]);
        assert_eq!(of(&[500, 502, 503, 504]), [13, 13, 14, 13]);
    }
}
