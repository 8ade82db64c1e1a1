//! One executor per host: a lock on a file of the host, which the kernel gives back when the process ends, however.

use std::fs::{File, OpenOptions};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::Error;

/// The lock; held until it is dropped.
#[derive(Debug)]
pub struct HostLock(#[allow(dead_code, reason = "held for its drop")] Flock<File>);

/// Takes the lock, or fails at once.
///
/// # Errors
/// [`Error::HostLocked`] when another executor holds it, [`Error::LockFile`] when the file cannot be used.
pub fn try_lock(path: &Path) -> Result<HostLock, Error> {
    match Flock::lock(open(path)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(HostLock(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(Error::HostLocked { path: path.display().to_string() }),
        Err((_, error)) => Err(unusable(path, error.into())),
    }
}

/// Takes the lock, and waits as long as another executor holds it. Blocks its thread.
///
/// # Errors
/// [`Error::LockFile`] when the file cannot be used.
pub fn wait_for_lock(path: &Path) -> Result<HostLock, Error> {
    Flock::lock(open(path)?, FlockArg::LockExclusive).map(HostLock).map_err(|(_, error)| unusable(path, error.into()))
}

fn open(path: &Path) -> Result<File, Error> {
    let opened = OpenOptions::new().create(true).write(true).truncate(false).open(path);
    opened.map_err(|error| unusable(path, error))
}

fn unusable(path: &Path, source: std::io::Error) -> Error {
    Error::LockFile { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_executor_is_kept_out_until_the_first_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = try_lock(&path).unwrap();
        assert!(matches!(try_lock(&path), Err(Error::HostLocked { .. })));
        drop(first);
        wait_for_lock(&path).unwrap();
        assert!(matches!(try_lock(&directory.path().join("no/such")), Err(Error::LockFile { .. })));
    }
}
