//! Creates a file under a temporary name and puts it in its place when complete.

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use keyward::store::StoreError;

use crate::error::unavailable;

/// Creates a file under another name, and links it to the path when complete.
///
/// It is on the disk by then. An existing file is never overwritten; the result is then `false`. So
/// of concurrent processes one succeeds, and a crash leaves nothing at the path.
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
        // Most of them do not exist.
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
    // Other platforms cannot open a directory.
    #[cfg(unix)]
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(true)
}

/// Follows symbolic links, even if nothing is at the target.
fn followed(mut path: PathBuf) -> io::Result<PathBuf> {
    // The same limit as in Linux.
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
