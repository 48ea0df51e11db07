//! Imports an export of any size.

use std::future::poll_fn;
use std::io::BufRead;
use std::task::Poll;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use sha2::{Digest, Sha256};

use crate::admin::{Actor, AdminError, KeyAdmin, NewKey};
use crate::import::lines::{Line, next_line};
use crate::import::{
    ImportError, ImportOutcome, ImportReport, ImportRow, ImportSource, ImportTotals, Skipped,
};
use crate::key::KeyDigest;
use crate::record::AdminErrorKind;

/// The number of lines that are imported at the same time, so that a store can write them together.
const AT_ONCE: usize = 64;

/// Imports the keys of another system from its export, with a report for each line.
///
/// The memory that it takes does not depend on the length of the export. An import can be
/// interrupted at any time and run again: a key that was imported before is reported as
/// [`AlreadyImported`](ImportOutcome::AlreadyImported) and is not changed, even if it has been
/// rehashed, renamed or revoked in the meantime, as long as its row is mapped to the same account.
///
/// A key that the actor may not grant is refused, as by [`KeyAdmin::import`].
///
/// ```
/// # use std::sync::Arc;
/// # use keyward::{AccountId, Actor, Environment, Gate, KeyAdmin, KeyFormat, KeyScheme, MemoryStore, Requirement};
/// # use keyward::import::{ImportRow, ImportSource, Importer, Skipped};
/// # use keyward::gate::{Decision, Verdict};
/// # use keyward::key::ForeignFormat;
/// # use keyward::testing::TestRequest;
/// # keyward::testing::block_on(async {
/// # let store = MemoryStore::new();
/// # let scheme = KeyScheme::new(KeyFormat::new("vhk_{env}_")?);
/// # let admin = KeyAdmin::new(&store, &scheme);
/// # let operator = Actor::operator("import");
/// let export = br#"{"hash":"C8fXOFq1ucmvN9aF+FmT8sP9LUKZP33rkvhsWWQ7sR8=","name":"ci","owner_id":"acme"}
/// {"hash":"C8fXOFq1ucmvN9aF+FmT8sP9LUKZP33rkvhsWWQ7sR9=","name":"old","owner_id":"acme","enabled":0}"#;
///
/// let importer = Importer::new(&admin, &operator, ImportSource::unkey()).opening_accounts();
/// let map = |row: &mut ImportRow| {
///     let owner = row.owner.as_deref().ok_or(Skipped::OwnerMissing)?;
///     row.new_key(AccountId::parse(owner)?, Environment::LIVE)
/// };
/// let mut reports = Vec::new();
/// let totals = importer.run(&export[..], map, |report| reports.push(report.to_string())).await?;
/// assert_eq!((totals.imported, totals.skipped), (1, 1));
/// assert_eq!(reports[1], "line 2: skipped: the key is disabled");
///
/// let totals = importer.run(&export[..], map, |_| ()).await?;
/// assert_eq!((totals.imported, totals.already_imported), (0, 1));
/// # let gate = Gate::builder(&store, &scheme).foreign_format(ForeignFormat::new("re_")?).build()?;
/// # let request = TestRequest::get().key("re_3ZMWxBfZNpGdcLXDRbyPA7QW");
/// # let decision = gate.check(&request, &Arc::new(Requirement::new()), None);
/// # assert!(matches!(decision, Decision::Ready(Verdict::Admit(_))));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Importer<'a> {
    admin: &'a KeyAdmin,
    actor: &'a Actor,
    source: ImportSource,
    opens_accounts: bool,
}

/// A row that is ready to be imported.
struct Ready {
    new: NewKey,
    row: ImportRow,
}

impl<'a> Importer<'a> {
    /// Creates an importer from the export of a system.
    pub fn new(admin: &'a KeyAdmin, actor: &'a Actor, source: ImportSource) -> Self {
        Self {
            admin,
            actor,
            source,
            opens_accounts: false,
        }
    }

    /// Opens accounts that do not exist. Requires an operator.
    ///
    /// By default, a row whose account does not exist is skipped as
    /// [`UnknownAccount`](AdminErrorKind::UnknownAccount).
    pub fn opening_accounts(mut self) -> Self {
        self.opens_accounts = true;
        self
    }

    /// Imports all lines, and calls `report` for each of them in their order.
    ///
    /// `map` turns a row into the key to create, and chooses account, environment and scopes. Blank
    /// lines are passed over without a report; CRLF line breaks and a byte order mark are allowed.
    /// Reading blocks the thread: in a server, call it from `spawn_blocking`.
    ///
    /// # Errors
    /// Returns an error if the export cannot be read or the store fails. Lines that were reported
    /// are done, and up to 64 following ones may be.
    pub async fn run(
        &self,
        mut lines: impl BufRead,
        mut map: impl FnMut(&mut ImportRow) -> Result<NewKey, Skipped>,
        mut report: impl FnMut(ImportReport),
    ) -> Result<ImportTotals, ImportError> {
        let (mut number, mut totals, mut is_over) = (0, ImportTotals::default(), false);
        while !is_over {
            let mut batch = Vec::new();
            let mut failed = None;
            while batch.len() < AT_ONCE && failed.is_none() && !is_over {
                number += 1;
                match next_line(&mut lines) {
                    Ok(Some(Line::Text(line))) if line.trim_ascii().is_empty() => {}
                    Ok(Some(line)) => batch.push((number, self.prepare(line, &mut map))),
                    Ok(None) => is_over = true,
                    Err(error) => failed = Some(ImportError::read(number, error)),
                }
            }
            let imports = batch.into_iter().map(async |(number, prepared)| {
                let outcome = match prepared {
                    Ok(ready) => self.import(ready).await,
                    Err(skipped) => Ok(ImportOutcome::Skipped(skipped)),
                };
                outcome
                    .map(|outcome| ImportReport::new(number, outcome))
                    .map_err(|error| ImportError::store(number, error))
            });
            for done in all(imports).await {
                let done = done?;
                totals.count(done.outcome);
                report(done);
            }
            if let Some(failed) = failed {
                return Err(failed);
            }
        }
        Ok(totals)
    }

    fn prepare(
        &self,
        line: Line,
        map: &mut impl FnMut(&mut ImportRow) -> Result<NewKey, Skipped>,
    ) -> Result<Ready, Skipped> {
        let Line::Text(line) = line else {
            return Err(Skipped::TooLong);
        };
        let mut row = self.source.row(&line, self.admin.now())?;
        let new = map(&mut row)?.token(&token(&row.digest));
        Ok(Ready { new, row })
    }

    async fn import(&self, ready: Ready) -> Result<ImportOutcome, AdminError> {
        let Ready { new, row } = ready;
        let done = self
            .admin
            .import_once(
                self.actor,
                &new,
                &row.digest,
                &row.hint,
                self.opens_accounts,
            )
            .await;
        match done {
            Ok((id, true)) => Ok(ImportOutcome::Imported(id)),
            Ok((id, false)) => Ok(ImportOutcome::AlreadyImported(id)),
            Err(error) => match error.kind() {
                AdminErrorKind::Store | AdminErrorKind::Random => Err(error),
                AdminErrorKind::Conflict => Ok(ImportOutcome::Skipped(Skipped::DigestStored)),
                kind => Ok(ImportOutcome::Skipped(Skipped::Refused(kind))),
            },
        }
    }
}

/// Returns the token by which a row is recognised when it is imported again.
///
/// The digest of the export stays the same when that of the record is rehashed. It is hashed once
/// more, as with a pepper nothing that is stored for long should recognise a key without it.
fn token(digest: &KeyDigest) -> String {
    let hash = Sha256::new_with_prefix(b"keyward import")
        .chain_update(digest.expose_bytes())
        .finalize();
    format!("import:{}", BASE64_URL_SAFE_NO_PAD.encode(hash))
}

/// Runs futures at the same time and returns their results in order.
async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(Box::pin).map(Ok).collect();
    poll_fn(|context| {
        let mut is_done = true;
        for one in &mut running {
            if let Ok(future) = one {
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => *one = Err(output),
                    Poll::Pending => is_done = false,
                }
            }
        }
        if is_done {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    running.into_iter().filter_map(Result::err).collect()
}
