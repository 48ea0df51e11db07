//! Who calls.

use std::fmt;
use std::sync::Arc;

use crate::store::entry::Entry;
use crate::{AccountId, Environment, Hint, KeyId, KeyKind, Scope, Scopes};

/// Who calls: what a handler gets of a key that has passed. It cannot yield the secret.
///
/// A clone is one reference more to the same memory.
#[derive(Clone)]
pub struct Principal {
    pub(crate) entry: Arc<Entry>,
    /// Which gate let it pass.
    pub(crate) gate: u64,
    /// Where the key stood, as an index into the gate's locations.
    pub(crate) location: u8,
}

impl Principal {
    /// The key's public name.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.entry.id
    }

    /// What may be shown of the key.
    #[must_use]
    pub fn hint(&self) -> Hint {
        self.entry.hint()
    }

    /// Who owns the key.
    #[must_use]
    pub fn account(&self) -> &AccountId {
        &self.entry.group.account
    }

    /// The world the key acts in.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.entry.group.environment
    }

    /// Where the key may live.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.entry.kind
    }

    /// What the key was granted.
    #[must_use]
    pub fn scopes(&self) -> &Scopes {
        &self.entry.scopes
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("key_id", &self.key_id())
            .field("hint", &self.hint())
            .field("account", self.account())
            .field("environment", &self.environment())
            .field("kind", &self.kind())
            .field("scopes", self.scopes())
            .finish()
    }
}

impl Principal {
    /// Whether the key was granted this scope by name or wildcard; a catalog's implications are the
    /// gate's to know.
    #[must_use]
    pub fn holds(&self, scope: &Scope) -> bool {
        self.entry.scopes.allow(scope)
    }
}
