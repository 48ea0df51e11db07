//! Reasons for refusing a request, for logs, metrics and audits, not for the client.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tracing::Level;

use crate::clock::Clock;
use crate::denial::DenialKind;
use crate::denial::ErrorCode;
use crate::ids::{AccountId, KeyId};
use crate::key::Hint;
use crate::log_limit::{LogLimit, Unlogged};
use crate::replica::cached_key::CachedKey;

/// The reason why a request was refused. Adapters put it into the response's extensions.
///
/// It contains more than the client is told, but never the key.
///
/// ```
/// # use std::sync::Arc;
/// # use keyward::{Environment, Gate, KeyFormat, KeyScheme, MemoryStore};
/// # use keyward::denial::DenialKind;
/// # use keyward::gate::{Decision, Verdict};
/// # use keyward::testing::TestRequest;
/// # let store = MemoryStore::new();
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let gate = Gate::new(&store, &scheme)?;
/// let unknown = KeyFormat::new("vhk_{env}_")?.generate(Environment::LIVE)?;
/// let decision = gate.check(&TestRequest::get().key(unknown.expose_secret()), &Arc::default(), None);
/// let Decision::Ready(Verdict::Refuse(refusal)) = decision else { panic!("{decision:?}") };
/// let denial = refusal.denial.expect("only a preflight has none");
/// assert_eq!((denial.kind(), denial.key_id()), (DenialKind::Unknown, None));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Denial {
    kind: DenialKind,
    entry: Option<Arc<CachedKey>>,
    pub(super) client: Option<IpAddr>,
}

impl Denial {
    pub(crate) fn new(kind: DenialKind, entry: Option<Arc<CachedKey>>) -> Self {
        Self {
            kind,
            entry,
            client: None,
        }
    }

    /// Returns the reason.
    #[must_use]
    pub fn kind(&self) -> DenialKind {
        self.kind
    }

    /// Returns the id of the refused key, if the client proved to have the key.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.entry.as_ref().map(|entry| entry.id)
    }

    /// Returns the part of that key that may be displayed.
    #[must_use]
    pub fn hint(&self) -> Option<Hint> {
        self.entry.as_ref().map(|entry| entry.hint())
    }

    /// Returns the account that owns that key.
    #[must_use]
    pub fn account(&self) -> Option<&AccountId> {
        self.entry
            .as_ref()
            .map(|entry| &entry.account_state.account)
    }

    /// Returns the client's address if it is not on the key's allowlist.
    ///
    /// It is `None` for every other reason. Behind a proxy that is not one of the [trusted
    /// proxies](crate::gate::GateBuilder::trusted_proxies), it is the address of the proxy.
    #[must_use]
    pub fn client_address(&self) -> Option<IpAddr> {
        self.client
    }

    /// Logs a request that would have been refused.
    pub(crate) fn log_report(
        &self,
        code: ErrorCode,
        status: u16,
        limit: &LogLimit,
        clock: &dyn Clock,
    ) {
        let (reason, code) = (self.kind.reason(), code.as_str());
        if let Some(entry) = &self.entry
            && tracing::enabled!(Level::INFO)
            && let Some(Unlogged(unlogged)) = limit.admit((entry.id, code), clock.boot())
        {
            let (id, hint, account) = (entry.id, entry.hint(), &entry.account_state.account);
            tracing::info!(status, code, reason, unlogged, key.id = %id, key.hint = %hint, %account, "request would be refused");
        }
        tracing::Span::current().record("keyward.would_refuse", code);
    }

    /// Logs a refusal, with `key.id` and `key.hint` if a key was proved.
    ///
    /// At most ten lines a minute are logged for each key and reason, so that a client that keeps
    /// sending an expired key cannot fill the disk. The next line has the number of omitted ones as
    /// `unlogged`.
    pub(crate) fn log(&self, limit: &LogLimit, clock: &dyn Clock) {
        let reason = self.kind.reason();
        let code = self.kind.code().as_str();
        match &self.entry {
            None if self.kind == DenialKind::PeerUnknown => {
                tracing::error!(code, reason, "request refused");
            }
            // Any client can cause these, as often as it likes.
            None => tracing::debug!(code, reason, "request refused"),
            Some(_) if !tracing::enabled!(Level::ERROR) => {}
            Some(entry) => {
                let about = (entry.id, self.kind);
                let Some(Unlogged(unlogged)) = limit.admit(about, clock.boot()) else {
                    return;
                };
                let (id, account) = (entry.id, &entry.account_state.account);
                let client = self.client.map(tracing::field::display);
                match self.kind {
                    DenialKind::AddressUnknown => {
                        tracing::error!(code, reason, unlogged, key.id = %id, key.hint = %entry.hint(), %account, "request refused");
                    }
                    DenialKind::SecretExposed => {
                        tracing::warn!(code, reason, unlogged, key.id = %id, key.hint = %entry.hint(), %account, "request refused");
                    }
                    _ => {
                        tracing::info!(code, reason, unlogged, key.id = %id, key.hint = %entry.hint(), %account, client.address = client, "request refused");
                    }
                }
            }
        }
    }
}

impl fmt::Debug for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Denial")
            .field("kind", &self.kind)
            .field("key_id", &self.key_id())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.reason())
    }
}

impl Error for Denial {}
