//! Imports a key once, however often it is tried.

use crate::admin::create::create_token;
use crate::admin::{Actor, AdminError, KeyAdmin, NewKey};
use crate::ids::KeyId;
use crate::key::{Hint, KeyDigest};
use crate::record::{AdminErrorKind, AuditAction};
use crate::store::Commit;

/// The number of attempts if other commits come first. More would not help: then the digest is
/// stored.
const ATTEMPTS: usize = 8;

impl KeyAdmin {
    /// Imports a key unless its token has imported one before.
    ///
    /// Returns the id, and whether the key is new.
    pub(crate) async fn import_once(
        &self,
        actor: &Actor,
        new: &NewKey,
        digest: &KeyDigest,
        hint: &Hint,
        opens_account: bool,
    ) -> Result<(KeyId, bool), AdminError> {
        let call = self.audited_create(actor, AuditAction::Import, new);
        let done = async {
            for attempt in 0..ATTEMPTS {
                let (account, permitted) = match self.prepare(actor, new).await {
                    Err(error)
                        if opens_account
                            && error.kind() == AdminErrorKind::UnknownAccount
                            && actor.must_be_operator().is_ok() =>
                    {
                        self.open_account(actor, new.account()).await?;
                        self.prepare(actor, new).await?
                    }
                    prepared => prepared?,
                };
                if let Some(id) = self.id_made_before(new).await? {
                    return Ok((id, false));
                }
                // After a conflict, the digest may be that of a key without this token.
                if attempt > 0 && self.store.replica().find(&digest.bytes()).is_some() {
                    break;
                }
                let (digest, hint) = (digest.clone(), hint.clone());
                let record =
                    self.record_of(actor, new, &account, Some(&permitted), digest, hint)?;
                let id = record.id;
                let mut line = call.line();
                line.key = Some(id);
                let commit = Commit {
                    keys: vec![record],
                    credits: self.first_credits(new, id),
                    active_keys: Some(self.active_keys(&account, 0)),
                    token: create_token(new, id),
                    audit: vec![line],
                    ..Commit::default()
                };
                let done = self.store.commit(permitted.bind(&account, commit)).await;
                match done.map_err(AdminError::from) {
                    Err(error) if error.is_conflicting_commit() => {}
                    done => return done.map(|()| (id, true)),
                }
            }
            Err(AdminErrorKind::Conflict.into())
        };
        call.check(done.await).await
    }
}
