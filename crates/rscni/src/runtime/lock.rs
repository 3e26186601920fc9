//! Locks between operations, within this process and across processes: `flock` on files in `locks/`
//! of the cache directory, which libcni does not use. The kernel releases a lock when its holder
//! dies.
//!
//! An operation on an attachment takes a shared lock of the network and an exclusive lock of the
//! attachment; GC takes an exclusive lock of the network (spec: "Lifecycle & Ordering").

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

/// The mode of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

/// A lock, released on drop.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
    removed_after: Option<PathBuf>,
}

impl Lock {
    /// Takes the lock of a file; `None` if it is held elsewhere.
    pub(super) fn try_take(path: &Path, mode: Mode) -> io::Result<Option<Self>> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let operation = match mode {
            Mode::Shared => FlockOperation::NonBlockingLockShared,
            Mode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        loop {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            // Does not follow a symbolic link, which would lock another file.
            let file = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path)?;
            match flock(&file, operation) {
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => continue,
                locked => locked?,
            }
            // The last holder may have removed the file since it was opened; a lock on it is
            // useless.
            if is_at(&file, path)? {
                return Ok(Some(Self { _file: file, removed_after: None }));
            }
        }
    }

    /// Removes the file with the lock, so that files of old containers do not accumulate. Only for
    /// an exclusive lock.
    pub(super) fn removed_after(mut self, path: &Path) -> Self {
        self.removed_after = Some(path.to_owned());
        self
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removes the file before the lock is released. If this fails, an empty file is left.
        let _ = self.removed_after.as_ref().map(fs::remove_file);
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(theirs) => Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_exclusive_or_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks/networks/net");
        let take = |mode| Lock::try_take(&path, mode).unwrap();
        let shared = [take(Mode::Shared), take(Mode::Shared)];
        assert!(shared.iter().all(Option::is_some) && take(Mode::Exclusive).is_none());
        drop(shared);
        let alone = take(Mode::Exclusive);
        assert!(alone.is_some() && take(Mode::Shared).is_none() && take(Mode::Exclusive).is_none());
        drop(alone);
        assert!(take(Mode::Shared).is_some());
    }

    #[test]
    fn a_lock_whose_file_is_removed_on_release_is_exclusive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let count = std::sync::atomic::AtomicU32::new(0);
        // Several threads take and release it concurrently; only one may hold it at a time.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut times = 0;
                    while times < 200 {
                        let Some(lock) = Lock::try_take(&path, Mode::Exclusive).unwrap() else {
                            continue;
                        };
                        let _lock = lock.removed_after(&path);
                        assert_eq!(count.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        assert_eq!(count.fetch_sub(1, std::sync::atomic::Ordering::SeqCst), 1);
                        times += 1;
                    }
                });
            }
        });
        assert!(!path.exists());
    }
}
