//! Backups of the file while it is in use.

use std::io::{Error, ErrorKind};
use std::path::Path;

use keyward::store::StoreError;

use crate::error::{failed, unavailable};
use crate::file;
use crate::place::put_in_place;
use crate::reader::Place;

/// Writes one snapshot of the file to a new file.
pub(crate) fn backup(from: &Place, to: &Path) -> Result<(), StoreError> {
    let there = || {
        unavailable(Error::new(
            ErrorKind::AlreadyExists,
            "the file already exists",
        ))
    };
    let to = file::absolute(to)?;
    if to.exists() {
        return Err(there());
    }
    let (connection, _) = from.connect()?;
    let copy = |new: &Path| {
        let name = new
            .to_str()
            .ok_or_else(|| unavailable("the path is not UTF-8"))?;
        connection
            .execute("VACUUM INTO ?1", [name])
            .map_err(failed)?;
        Ok(())
    };
    if put_in_place(&to, copy)? {
        Ok(())
    } else {
        Err(there())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::{fs, thread};

    use keyward::denial::DenialKind;
    use keyward::record::KeyStatus;
    use keyward::store::StoreErrorKind;
    use keyward::testing::block_on;
    use rusqlite::Connection;

    use crate::SqliteStore;
    use crate::fixture::{Fixture, add, ask, commit, key};

    #[test]
    fn a_backup_holds_all_that_was_acknowledged_while_others_write() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (alive, _) = add(&store, "acme");
        let (dead, mut record) = add(&store, "other");
        record.status = KeyStatus::Revoked;
        commit(&store, vec![], vec![record]).unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|threads| {
            threads.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    commit(&store, vec![], vec![key("acme").1]).unwrap();
                }
            });
            for n in 0..5 {
                let to = fixture.at(&format!("backup-{n}.db"));
                block_on(store.backup(&to)).unwrap();
                let copy = Connection::open(&to).unwrap();
                let whole = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0));
                assert_eq!(whole, Ok("ok".to_owned()));
                drop(copy);
                let copy = SqliteStore::open(&to).unwrap();
                assert_eq!(ask(&copy, &alive), Ok(()));
                assert_eq!(ask(&copy, &dead), Err(DenialKind::Revoked));
            }
            over.store(true, Ordering::Release);
        });
    }

    #[test]
    fn a_backup_writes_over_no_file_and_leaves_none_by_halves() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let there = fixture.at("there");
        fs::write(&there, "precious").unwrap();
        for to in [there.clone(), fixture.path(), fixture.at("no/such/folder")] {
            let error = block_on(store.backup(&to)).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        }
        assert_eq!(fs::read(&there).unwrap(), b"precious");
        let names = fs::read_dir(fixture.at("")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(!names.into_iter().any(|name| name.contains(".new-")));
    }
}
