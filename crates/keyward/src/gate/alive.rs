//! Checks whether the key of a long-running request is still alive.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::gate::{Gate, Principal};
use crate::replica::freshness::Moment;

/// The lower limit of the staleness tolerated for a stream.
///
/// A gate with `max_staleness(0)` has each request wait for the store, which a stream cannot do
/// four times a second.
const LEAST_STALENESS: Duration = Duration::from_secs(1);

impl Gate {
    /// The maximum interval between two checks by the adapters' `WhileAlive`.
    pub const ALIVE_INTERVAL: Duration = Duration::from_millis(250);

    /// Returns whether the key of an admitted request is still alive.
    ///
    /// A request is checked once, when it arrives. Call this from time to time during anything that
    /// stays open after that, such as server-sent events, a WebSocket, a long download or a job.
    /// The adapters' `WhileAlive` does so.
    ///
    /// It returns `false` if the key is revoked, expired, disabled or deleted, if all keys of its
    /// account were revoked, if its account is suspended or gone, or if the keys in memory are
    /// older than the gate's [`max_staleness`](crate::gate::GateBuilder::max_staleness), but at
    /// least a second. Scopes, origins, plan and limits are not checked again. The answer comes
    /// from memory: no lock, no I/O.
    ///
    /// ```
    /// # let world = keyward::testing::World::new();
    /// # let (gate, admin, operator) = (world.gate(), world.admin(), world.operator());
    /// # let principal = world.principal(&world.key("kyc"));
    /// # keyward::testing::block_on(async {
    /// assert!(gate.is_alive(&principal));
    /// admin.revoke(&operator, principal.key_id(), "laptop stolen").await?;
    /// assert!(!gate.is_alive(&principal));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn is_alive(&self, principal: &Principal) -> bool {
        let replica = &self.inner.replica;
        // In the order of `look`: an entry that is read after the freshness is at least that fresh.
        let fresh_as_of = replica.fresh_as_of();
        let entry = replica.current(&principal.entry);
        let now = Moment::now(&**replica.clock());
        let max_staleness = self.inner.max_staleness.max(LEAST_STALENESS);
        !fresh_as_of.is_older_than(max_staleness, now)
            && entry.is_some_and(|entry| {
                entry.dead(now.unix()).is_none() && entry.account_state.is_active()
            })
    }
}

/// The error of a response that was aborted because its key is no longer alive.
///
/// The body of the adapters' `WhileAlive` ends with it, which aborts the transfer, so that the
/// client does not take a partial response for the whole.
///
/// ```
/// let error = keyward::gate::KeyDied::default();
/// assert_eq!(error.to_string(), "the API key was revoked or expired during the response");
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct KeyDied;

impl fmt::Display for KeyDied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the API key was revoked or expired during the response")
    }
}

impl Error for KeyDied {}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use crate::clock::Clock;
    use crate::environment::Environment;

    use crate::gate::tests::{World, principal};
    use crate::ids::KeyId;
    use crate::key::{DigestScheme, KeyDigest};
    use crate::record::{AccountStatus, KeyStatus};
    use crate::replica::Revision;
    use crate::scope::Scopes;

    type Change = fn(&mut World);

    fn expire(world: &mut World) {
        world.record.expires_at = Some(SystemTime::UNIX_EPOCH + world.clock.unix());
    }

    #[test]
    fn a_principal_dies_with_its_key_its_account_or_the_memory() {
        let changes: [(&str, bool, Change); 10] = [
            ("nothing", true, |_| {}),
            ("scopes", true, |world| {
                world.record.scopes = Scopes::parse(["kyc"]).unwrap();
            }),
            ("plan", true, |world| world.account.api_access = false),
            ("revoked", false, |world| {
                world.record.status = KeyStatus::Revoked;
            }),
            ("disabled", false, |world| {
                world.record.status = KeyStatus::Disabled;
            }),
            ("expired", false, expire),
            ("suspended", false, |world| {
                world.account.status = AccountStatus::Suspended;
            }),
            ("all revoked", false, |world| {
                world.account.revoked.insert(Environment::LIVE, 1);
            }),
            ("another key in its place", false, |world| {
                world.record.id = KeyId::random().unwrap();
            }),
            ("too old", false, |world| {
                world.clock.advance(std::time::Duration::from_secs(31));
            }),
        ];
        for (what, lives, change) in changes {
            let mut world = World::new();
            world.feed();
            let gate = world.builder().build().unwrap();
            let principal = principal(world.verdict(&gate));
            assert!(gate.is_alive(&principal));
            change(&mut world);
            if what != "too old" {
                world.feed();
            }
            assert_eq!(gate.is_alive(&principal), lives, "{what}");
        }
    }

    #[test]
    fn a_principal_outlives_the_move_of_its_key_to_another_digest() {
        let mut world = World::new();
        world.feed();
        let gate = world.builder().build().unwrap();
        let principal = principal(world.verdict(&gate));
        for n in [1, 2] {
            world.record.digest = KeyDigest::new(DigestScheme::Sha256, [n; 32]);
            world.record.redigested = n.into();
            world.feed();
            assert!(gate.is_alive(&principal), "move {n}");
        }
        world.record.status = KeyStatus::Revoked;
        world.feed();
        assert!(!gate.is_alive(&principal));
    }

    #[test]
    fn a_key_that_is_gone_from_the_store_is_dead_and_so_is_that_of_another_service() {
        let world = World::new();
        world.feed();
        let gate = world.builder().build().unwrap();
        let principal = principal(world.verdict(&gate));
        let other = World::new();
        other.feed();
        assert!(!other.builder().build().unwrap().is_alive(&principal));
        let mut poll = world.replica.poll();
        poll.restart();
        poll.account(world.account.clone());
        poll.finish(Revision {
            number: 9,
            nonce: 9,
        })
        .unwrap();
        assert!(!gate.is_alive(&principal));
    }
}
