//! A file that is made complete under another name, and then put into its place.

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use keyward::store::StoreError;

use crate::error::unavailable;

/// Makes a file under another name beside the path, and links it there when it is on the disk.
///
/// A file that is there already is never written over: `false` says so. So of processes that do this at
/// once one succeeds, and whoever crashes leaves nothing at the path.
pub(crate) fn put_in_place(
    path: &Path,
    make: impl FnOnce(&Path) -> Result<(), StoreError>,
) -> Result<bool, StoreError> {
    let path = followed(path.to_owned()).map_err(unavailable)?;
    let mut new = OsString::from(&path);
    new.push(format!(
        ".new-{:016x}",
        RandomState::new().build_hasher().finish()
    ));
    let new = PathBuf::from(new);
    let placed = make(&new).and_then(|()| link(&new, &path).map_err(unavailable));
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut left = OsString::from(&new);
        left.push(suffix);
        // Most of them are not there.
        drop(fs::remove_file(left));
    }
    placed
}

fn link(new: &Path, path: &Path) -> io::Result<bool> {
    File::open(new)?.sync_all()?;
    match fs::hard_link(new, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        linked => linked?,
    }
    // A directory cannot be opened elsewhere.
    #[cfg(unix)]
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(true)
}

/// Where symbolic links lead, also when nothing is there.
fn followed(mut path: PathBuf) -> io::Result<PathBuf> {
    // As many as Linux follows.
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(target) => {
                path.pop();
                path.push(target);
            }
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}
