//! The source of a connection's address, supplied by an adapter.

use std::any::Any;
use std::fmt;

/// A source of the address at the other end of a connection.
///
/// An adapter defines it, and a gate holds it for the adapter, so that it is set once instead of on
/// each layer. See [`GateBuilder::peer`](crate::gate::GateBuilder::peer) and
/// [`Gate::peer`](crate::gate::Gate::peer).
pub trait PeerSource: Any + fmt::Debug + Send + Sync {}
