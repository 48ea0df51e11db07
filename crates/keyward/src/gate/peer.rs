//! How adapters find the address of a connection.

use std::any::Any;
use std::fmt;

/// A way to find the address at the other end of a connection, which an adapter defines.
///
/// A gate holds it for the adapter, so that it is set once instead of on each layer. See
/// [`GateBuilder::peer`](crate::gate::GateBuilder::peer) and [`Gate::peer`](crate::gate::Gate::peer).
pub trait PeerSource: Any + fmt::Debug + Send + Sync {}
