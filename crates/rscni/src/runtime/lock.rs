//! What keeps operations apart, in this process and across processes: `flock` on files in `locks/` of the cache's
//! directory, where libcni does not look. The kernel gives a lock back when its holder dies.
//!
//! An operation on an attachment holds the network, shared with others, and the attachment for itself; GC holds the
//! network for itself (spec: "Lifecycle & Ordering"). Who waits, and for how long, is left to the engine.

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

/// With whom a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Alone,
}

/// A lock that is held.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
    removed_after: Option<PathBuf>,
}

impl Lock {
    /// Takes the lock of that file; none if it is another's.
    pub(super) fn try_take(path: &Path, mode: Mode) -> io::Result<Option<Self>> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let operation = match mode {
            Mode::Shared => FlockOperation::NonBlockingLockShared,
            Mode::Alone => FlockOperation::NonBlockingLockExclusive,
        };
        loop {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            // A link in its place is not followed: there would be a lock elsewhere.
            let file = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path)?;
            match flock(&file, operation) {
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => continue,
                locked => locked?,
            }
            // Its last holder may have removed it since it was opened; then it keeps no one out.
            if is_at(&file, path)? {
                return Ok(Some(Self { _file: file, removed_after: None }));
            }
        }
    }

    /// The same, with the file removed in the end: there would be one for each container that ever was. Only for a
    /// lock that is held alone.
    pub(super) fn removed_after(mut self, path: &Path) -> Self {
        self.removed_after = Some(path.to_owned());
        self
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the file is closed, and with it the lock. What cannot be removed is an empty file.
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
    fn a_lock_is_held_by_one_or_shared_by_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks/networks/net");
        let take = |mode| Lock::try_take(&path, mode).unwrap();
        let shared = [take(Mode::Shared), take(Mode::Shared)];
        assert!(shared.iter().all(Option::is_some) && take(Mode::Alone).is_none());
        drop(shared);
        let alone = take(Mode::Alone);
        assert!(alone.is_some() && take(Mode::Shared).is_none() && take(Mode::Alone).is_none());
        drop(alone);
        assert!(take(Mode::Shared).is_some());
    }

    #[test]
    fn a_file_that_is_removed_in_the_end_still_keeps_others_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let count = std::sync::atomic::AtomicU32::new(0);
        // Many take, hold and remove it at once; no two may ever hold it.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut times = 0;
                    while times < 200 {
                        let Some(lock) = Lock::try_take(&path, Mode::Alone).unwrap() else {
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
