//! Keys among the subprotocols of a WebSocket handshake (RFC 6455 §1.9).

use std::mem;

use crate::request::RequestHead;
use crate::request::list::elements;
use crate::request::location::trim;

pub(crate) const HEADER: &str = "sec-websocket-protocol";

/// The subprotocol that precedes the key.
pub(crate) const BEARER: &str = "bearer";

/// Returns whether a request is a WebSocket handshake: over HTTP/1, or over HTTP/2 (RFC 8441 §5).
pub(crate) fn is_handshake<R: RequestHead>(request: &R) -> bool {
    let mut upgrades = request.values("upgrade").flat_map(elements);
    match request.method() {
        "GET" => upgrades.any(|name| name.eq_ignore_ascii_case(b"websocket")),
        method => method == "CONNECT",
    }
}

/// Returns the subprotocols that a client offers, each with whether it comes after `bearer`.
///
/// Every comma separates two, as in the handlers that read them: no subprotocol is a quoted string.
pub(crate) fn offered<'a>(
    lines: impl Iterator<Item = &'a [u8]>,
) -> impl Iterator<Item = (&'a [u8], bool)> {
    let names = lines.flat_map(|line| line.split(|byte| *byte == b','));
    let names = names.map(trim).filter(|name| !name.is_empty());
    let mut is_next = false;
    names.map(move |name| (name, mem::replace(&mut is_next, name == BEARER.as_bytes())))
}
