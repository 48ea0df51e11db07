//! The file at a path, even if it is replaced.

use std::ffi::OsString;
use std::path::{self, Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use keyward::store::StoreError;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::error::{PATIENCE, failed, unavailable};
use crate::migration::{NoTables, migrate};
use crate::place::put_in_place;

/// The time per attempt to wait for other users of a moved file's log.
const LEAVING: Duration = Duration::from_millis(100);

/// The size of the statement cache, larger than the number of statements.
const STATEMENTS: usize = 128;

/// The file at a path, even if it is replaced.
///
/// An operator may move another file to the path while this one is open. SQLite would keep using
/// the old one, which no other process sees any more, so the path is checked before every use.
#[derive(Debug)]
pub(crate) struct KeyFile {
    path: PathBuf,
    /// The path without symbolic links; the file's log and the log's index are beside it.
    real: PathBuf,
    connection: Connection,
    identity: Identity,
    log: Option<Identity>,
    index: Option<Identity>,
    opened: Arc<Opened>,
}

/// Identifies the file that the writing thread has open.
///
/// Other connections wait for it: a file that was just moved to the path still has the log of the
/// previous one beside it, which SQLite would take for the log of the new one.
#[derive(Debug)]
pub(crate) struct Opened {
    identity: Mutex<Identity>,
    changed: Condvar,
}

impl Opened {
    /// Opens the file at the path once the writing thread has.
    ///
    /// `look` makes that thread check the path.
    pub(crate) fn connect(
        &self,
        path: &Path,
        look: impl Fn(),
    ) -> Result<(Connection, Identity), StoreError> {
        let mut opened = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + PATIENCE;
        loop {
            if identity(path).map_err(unavailable)? == *opened {
                let (connection, identity) = connect(path)?;
                if identity == *opened {
                    return Ok((connection, identity));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(unavailable("the file was replaced and is not open yet"));
            }
            look();
            let waited = self.changed.wait_timeout(opened, left);
            opened = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn set(&self, identity: Identity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
        self.changed.notify_all();
    }
}

impl KeyFile {
    /// Opens the file, or creates one if there is none.
    ///
    /// A file of zero bytes, or of one, which SQLite treats as empty, is the rest of a truncated
    /// file or was created by a mount: it must not count as a store without keys.
    pub(crate) fn open(path: &Path, initialise_empty: bool) -> Result<Self, StoreError> {
        let path = absolute(path)?;
        match fs::metadata(&path) {
            Ok(there) if there.is_file() && there.len() <= 1 && !initialise_empty => {
                return Err(unavailable(
                    "the file is empty: remove it to begin a new store, or restore the keys' file \
                     (SqliteOptions::initialise_empty begins one in an empty file)",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // If another process was faster, its file is opened.
                put_in_place(&path, create)?;
            }
            _ => {}
        }
        Self::open_with(path, NoTables::Create)
    }

    /// Returns the connection to the file that is at the path now.
    pub(crate) fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        if identity(&self.path).map_err(unavailable)? != self.identity {
            self.leave()?;
            // A foreign file must not count as a store without keys.
            let path = self.path.clone();
            let file = Self::open_with(path, NoTables::Refuse)
                .map_err(|error| error.at(self.path.display()))?;
            let opened = Arc::clone(&self.opened);
            *self = Self { opened, ..file };
            self.opened.set(self.identity);
            tracing::warn!(path = %self.path.display(), "the key file was replaced by another file");
        }
        Ok(&mut self.connection)
    }

    /// Copies the log into the main file, and returns whether all of it is there.
    ///
    /// A reader of an older snapshot keeps the log, and so does another process that is
    /// checkpointing: it is retried until this time.
    pub(crate) fn checkpoint(&mut self, until: Instant) -> Result<bool, StoreError> {
        let connection = self.connection()?;
        loop {
            // It waits for no other process, and both files are synced once all is copied.
            let all = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                let [busy, log, copied]: [i64; 3] = [row.get(0)?, row.get(1)?, row.get(2)?];
                Ok(busy == 0 && log == copied)
            });
            if all.map_err(failed)? {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Returns the connection of the last check, for the rest of a transaction.
    pub(crate) fn same_connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    fn open_with(path: PathBuf, tables: NoTables) -> Result<Self, StoreError> {
        let (mut connection, identity) = connect(&path)?;
        let real = fs::canonicalize(&path).map_err(unavailable)?;
        prepare(&connection)?;
        migrate(&mut connection, tables)?;
        write_ahead(&connection)?;
        // The last of these makes SQLite open its log.
        let settings =
            "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; SELECT * FROM keyward_meta";
        connection.execute_batch(settings).map_err(failed)?;
        let [log, index] = beside(&real).map(|path| self::identity(&path).ok());
        Ok(Self {
            path,
            real,
            connection,
            identity,
            log,
            index,
            opened: Arc::new(Opened {
                identity: Mutex::new(identity),
                changed: Condvar::new(),
            }),
        })
    }

    /// Returns the path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the identity of the open file, for readers.
    pub(crate) fn opened(&self) -> &Arc<Opened> {
        &self.opened
    }

    /// Copies the whole log into the main file.
    ///
    /// Other processes may read it, write it, or do the same; none of them delays the thread for
    /// long.
    fn empty_log(&self) -> Result<(), StoreError> {
        let began = Instant::now();
        let connection = &self.connection;
        let empty = || {
            let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
            while connection.query_row(sql, [], |row| row.get(0))? {
                if began.elapsed() > LEAVING {
                    return Err(rusqlite::Error::SqliteFailure(
                        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
                        Some("the write-ahead log of the moved file is in use".to_owned()),
                    ));
                }
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        };
        connection.busy_timeout(Duration::ZERO).map_err(failed)?;
        let emptied = empty().map_err(failed);
        connection.busy_timeout(PATIENCE).map_err(failed)?;
        emptied
    }

    /// Completes the file that was moved away from its log, and removes the log.
    ///
    /// SQLite would otherwise find the log beside the new file and replay it into that.
    fn leave(&mut self) -> Result<(), StoreError> {
        if identity(&self.real).is_ok_and(|there| there == self.identity) {
            return Ok(()); // It has not moved: a symbolic link points elsewhere now.
        }
        self.empty_log()?;
        // Every process that had the file open does this now. They take turns; otherwise one would
        // remove the log that another has begun for the new file.
        let _turn = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        for (path, own) in beside(&self.real).into_iter().zip([self.log, self.index]) {
            if own.is_some() && identity(&path).ok() == own {
                fs::remove_file(&path).map_err(unavailable)?;
            }
        }
        Ok(())
    }
}

/// Returns the absolute path.
///
/// SQLite does the same, so the two agree even if the process changes its directory.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    path::absolute(path).map_err(unavailable)
}

/// Configures a connection.
pub(crate) fn prepare(connection: &Connection) -> Result<(), StoreError> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.busy_timeout(PATIENCE).map_err(failed)
}

/// Creates a file with all tables.
fn create(path: &Path) -> Result<(), StoreError> {
    let mut connection = Connection::open(path).map_err(failed)?;
    prepare(&connection)?;
    migrate(&mut connection, NoTables::Create)?;
    write_ahead(&connection)?;
    connection.close().map_err(|(_, error)| failed(error))
}

/// Opens the file and returns its identity, which SQLite does not tell.
fn connect(path: &Path) -> Result<(Connection, Identity), StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    for _ in 0..8 {
        let before = identity(path);
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        // The same before and after, so also in between.
        match (before, identity(path)) {
            (Ok(before), Ok(after)) if before == after => return Ok((connection, after)),
            _ => {}
        }
    }
    Err(unavailable("the file keeps being replaced"))
}

/// Puts the file into WAL mode, in which readers and writers run concurrently.
fn write_ahead(connection: &Connection) -> Result<(), StoreError> {
    let since = Instant::now();
    loop {
        let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| {
            row.get::<_, String>(0)
        });
        match mode {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => return Err(unavailable("the file cannot be put into WAL mode")),
            // If two connections switch at the same time, SQLite does not wait by itself.
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && since.elapsed() < PATIENCE =>
            {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Returns the paths of the file's log and the log's index.
fn beside(path: &Path) -> [PathBuf; 2] {
    ["-wal", "-shm"].map(|suffix| {
        let mut path = OsString::from(path);
        path.push(suffix);
        path.into()
    })
}

/// The device and inode of a file. An open file keeps its own.
pub(crate) type Identity = (u64, u64);

#[cfg(unix)]
pub(crate) fn identity(path: &Path) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;

    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// On other platforms, an open file cannot be moved away.
#[cfg(not(unix))]
pub(crate) fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|_| (0, 0))
}

#[cfg(all(test, unix))]
mod tests {
    use keyward::Store;
    use keyward::denial::DenialKind;
    use keyward::store::StoreErrorKind;
    use keyward::testing::block_on;

    use super::*;
    use crate::fixture::{Fixture, add, ask, ask_strictly, commit, eventually, key, stored};
    use crate::{SqliteOptions, SqliteStore};

    #[test]
    fn a_file_put_in_its_place_is_taken_up() {
        let fixture = Fixture::new();
        let backup = SqliteStore::open(fixture.at("backup.db")).unwrap();
        let (restored, record) = add(&backup, "acme");
        drop(backup);
        let store = fixture.open();
        let (lost, lost_record) = add(&store, "other");
        let second = fixture.open_slow();

        fs::rename(fixture.path(), fixture.at("old.db")).unwrap();
        fs::rename(fixture.at("backup.db"), fixture.path()).unwrap();
        let (later, new) = key("acme");
        commit(&store, vec![], vec![new]).unwrap();
        // The second comes to the new file after the first has begun a log for it.
        for store in [&store, &second] {
            assert_eq!(ask_strictly(store, &restored), Ok(()));
            assert_eq!(ask_strictly(store, &later), Ok(()));
            assert_eq!(ask_strictly(store, &lost), Err(DenialKind::Unknown));
            assert_eq!(stored(store, record.id), record);
        }
        drop((store, second));

        assert_eq!(ask(&fixture.open(), &later), Ok(()), "in the new file");
        let old = SqliteStore::open(fixture.at("old.db")).unwrap();
        let kept = stored(&old, lost_record.id);
        assert_eq!(kept, lost_record, "which was in the old log only");
    }

    #[test]
    fn a_reader_of_a_moved_file_delays_writes_no_longer_than_their_deadline() {
        let fixture = Fixture::new();
        let backup = SqliteStore::open(fixture.at("backup.db")).unwrap();
        drop(add(&backup, "acme"));
        drop(backup);
        let store = fixture.open();
        drop(add(&store, "other"));
        let reader = Connection::open(fixture.path()).unwrap();
        reader
            .execute_batch("BEGIN; SELECT * FROM keyward_key")
            .unwrap();

        fs::rename(fixture.at("backup.db"), fixture.path()).unwrap();
        let since = Instant::now();
        let writes = || commit(&store, vec![], vec![key("acme").1]);
        thread::scope(|threads| {
            let held: Vec<_> = (0..4).map(|_| threads.spawn(writes)).collect();
            for write in held {
                assert_eq!(write.join().unwrap(), Err(StoreErrorKind::Unavailable));
            }
        });
        let took = since.elapsed();
        assert!(took < PATIENCE + Duration::from_secs(4), "{took:?}");

        // A later write is answered as soon as the reader is done.
        thread::scope(|threads| {
            let write = threads.spawn(writes);
            thread::sleep(Duration::from_millis(300));
            reader.execute_batch("COMMIT").unwrap();
            assert_eq!(write.join().unwrap(), Ok(()));
        });
    }

    #[test]
    fn all_stores_of_a_file_leave_it_at_once_for_another() {
        let fixture = Fixture::new();
        let backup = SqliteStore::open(fixture.at("backup.db")).unwrap();
        let (restored, _) = add(&backup, "acme");
        drop(backup);
        let stores: Vec<_> = (0..6).map(|_| fixture.open_slow()).collect();
        add(&stores[0], "other");

        fs::rename(fixture.at("backup.db"), fixture.path()).unwrap();
        thread::scope(|threads| {
            for store in &stores {
                let restored = &restored;
                threads.spawn(move || {
                    let (_, new) = key("acme");
                    commit(store, vec![], vec![new]).unwrap();
                    assert_eq!(ask_strictly(store, restored), Ok(()));
                });
            }
        });
    }

    #[test]
    fn a_reader_does_not_open_a_file_beside_the_log_of_another() {
        let fixture = Fixture::new();
        let backup = SqliteStore::open(fixture.at("backup.db")).unwrap();
        let (restored, record) = add(&backup, "acme");
        drop(backup);
        let store = fixture.open_slow();
        let (_, lost) = add(&store, "other");
        assert_eq!(stored(&store, lost.id), lost);

        fs::rename(fixture.at("backup.db"), fixture.path()).unwrap();
        assert_eq!(block_on(store.key(lost.id)).unwrap(), None);
        assert_eq!(stored(&store, record.id), record);
        assert_eq!(ask_strictly(&store, &restored), Ok(()));
        let whole = fixture.open_slow();
        assert_eq!(ask(&whole, &restored), Ok(()));
        for (status, answer) in [
            ("disabled", DenialKind::Disabled),
            ("revoked", DenialKind::Revoked),
        ] {
            fixture
                .type_in(&format!("UPDATE keyward_key SET status = '{status}'"))
                .unwrap();
            for store in [&store, &whole] {
                assert_eq!(ask_strictly(store, &restored), Err(answer));
                assert_eq!(stored(store, record.id).status.as_str(), status);
            }
        }
    }

    #[test]
    fn a_file_that_is_gone_is_neither_read_nor_written() {
        let fixture = Fixture::new();
        let store = fixture.open();
        let (secret, _) = add(&store, "acme");
        fs::rename(fixture.path(), fixture.at("elsewhere.db")).unwrap();
        assert_eq!(ask_strictly(&store, &secret), Err(DenialKind::Unavailable));
        let (_, record) = key("acme");
        let written = commit(&store, vec![], vec![record]);
        assert_eq!(written, Err(StoreErrorKind::Unavailable));
        assert!(!fixture.path().exists(), "and none is made");

        fs::write(fixture.path(), "").unwrap();
        assert_eq!(
            ask_strictly(&store, &secret),
            Err(DenialKind::Unavailable),
            "empty"
        );
        fs::rename(fixture.at("elsewhere.db"), fixture.path()).unwrap();
        eventually(|| ask_strictly(&store, &secret) == Ok(()));
    }

    #[test]
    fn an_empty_file_is_rejected_unless_it_may_become_a_store() {
        let fixture = Fixture::new();
        fs::write(fixture.at("keys.db-wal"), "what is left of the keys").unwrap();
        // SQLite treats a file of one byte as empty.
        for empty in ["\n", ""] {
            fs::write(fixture.path(), empty).unwrap();
            let error = SqliteStore::open(fixture.path()).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Unavailable);
            let said = std::error::Error::source(&error).unwrap().to_string();
            assert!(said.contains("the file is empty"), "{said}");
            assert_eq!(fs::read(fixture.path()).unwrap(), empty.as_bytes());
        }
        let log = fs::read(fixture.at("keys.db-wal")).unwrap();
        assert_eq!(log, b"what is left of the keys");

        let options = SqliteOptions::new().initialise_empty();
        let (secret, _) = add(&options.open(fixture.path()).unwrap(), "acme");
        assert_eq!(ask(&fixture.open(), &secret), Ok(()));
    }

    #[test]
    fn a_new_file_appears_complete_and_over_no_other() {
        let fixture = Fixture::new();
        let complete = |path: &Path| {
            let file = Connection::open(path).unwrap();
            let tables = "SELECT count(*) FROM keyward_meta";
            file.query_row(tables, [], |row| row.get::<_, isize>(0))
                .is_ok_and(|run| run.cast_unsigned() == crate::MIGRATIONS.len())
        };
        thread::scope(|threads| {
            let watch = threads.spawn(|| {
                while !fixture.path().exists() {
                    thread::yield_now();
                }
                assert!(complete(&fixture.path()), "from the first moment");
            });
            drop(SqliteStore::open(fixture.path()).unwrap());
            watch.join().unwrap();
        });
        assert!(!put_in_place(&fixture.path(), create).unwrap());
        let names = fs::read_dir(fixture.at("")).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["keys.db"], "nothing else is left");
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_followed() {
        let fixture = Fixture::new();
        let [one, two] = ["one.db", "two.db"].map(|name| fixture.at(name));
        let (second, _) = add(&SqliteStore::open(&two).unwrap(), "acme");
        std::os::unix::fs::symlink(&one, fixture.path()).unwrap();
        let store = fixture.open();
        let (first, _) = add(&store, "acme");
        let stays = SqliteStore::open(&one).unwrap();
        fs::remove_file(fixture.path()).unwrap();
        std::os::unix::fs::symlink(&two, fixture.path()).unwrap();
        assert_eq!(ask_strictly(&store, &second), Ok(()));
        assert_eq!(ask_strictly(&store, &first), Err(DenialKind::Unknown));

        // The first file is still where it was, and so is its log.
        let (later, _) = add(&stays, "later");
        let again = SqliteStore::open(&one).unwrap();
        for key in [&first, &later] {
            assert_eq!(ask(&again, key), Ok(()));
        }
    }

    #[test]
    fn the_file_is_in_wal_mode() {
        let fixture = Fixture::new();
        let store = SqliteOptions::new().open(fixture.path()).unwrap();
        assert!(store.replica().is_empty());
        let other = Connection::open(fixture.path()).unwrap();
        let mode = other.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0));
        assert_eq!(mode.unwrap(), "wal");
    }
}
