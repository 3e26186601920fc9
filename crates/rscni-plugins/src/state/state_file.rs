//! The files that plugins keep from ADD to DEL, in directories that a configuration may choose.
//!
//! The last component of a path is never followed if it is a link, because another user may be able
//! to write into the directory. Modes do not depend on the umask of the caller. A file is replaced
//! by renaming a complete one.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{Error, ErrorKind, Read, Result, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::retry_on_intr,
};

/// The start of the name of a file that is being written. Container ids and interface names contain
/// no colon.
const DRAFT: &str = "new:";

/// The age after which a draft has no writer any more.
const ABANDONED: Duration = Duration::from_secs(60);

/// Locks a file until it is closed. Waits for other holders, also across signals.
pub(crate) fn lock(file: impl AsFd) -> rustix::io::Result<()> {
    retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
}

/// Reads a regular file. A pipe in its place does not block.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    whole(
        OpenOptions::new()
            .read(true)
            .custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK))
            .open(path)?,
    )
}

/// More than the size of any file that plugins keep. A device in its place has no end.
const LONGEST: u64 = 1 << 24;

pub(crate) fn whole(mut file: File) -> Result<Vec<u8>> {
    // Most files fit. A short read means the end of the file.
    let mut content = vec![0; 512];
    let length = file.read(&mut content)?;
    let is_whole = length < content.len();
    content.truncate(length);
    if !is_whole && file.take(LONGEST).read_to_end(&mut content)? as u64 == LONGEST {
        return Err(Error::new(ErrorKind::InvalidData, "it is longer than any file of a plugin"));
    }
    Ok(content)
}

/// Writes the file with mode 0600, replacing it in place if it exists.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<File> {
    match create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => replace(path, content),
        created => {
            let mut file = created?;
            file.write_all(content)?;
            Ok(file)
        }
    }
}

/// Replaces the file, or creates it. Readers see either the old or the new content.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<File> {
    let draft = draft_of(path)?;
    let mut file = match create(&draft) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            // Its writer was killed before the rename.
            std::fs::remove_file(&draft)?;
            create(&draft)?
        }
        created => created?,
    };
    match file.write_all(content).and_then(|()| std::fs::rename(&draft, path)) {
        Ok(()) => Ok(file),
        Err(error) => {
            // The first error is reported.
            let _ = std::fs::remove_file(&draft);
            Err(error)
        }
    }
}

/// Removes a file. A missing one is not an error.
pub(crate) fn remove(path: &Path) -> std::result::Result<(), rscni::Error> {
    match std::fs::remove_file(path) {
        Err(error) if !is_absent(&error) => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Whether the file or its directory is missing.
pub(crate) fn is_absent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Adds the failed step and its file to an error.
pub(crate) fn failed<'a>(verb: &'a str, path: &'a Path) -> impl Fn(Error) -> rscni::Error + 'a {
    move |error| rscni::Error::IOFailure(format!("{verb} {}: {error}", path.display()))
}

/// Removes a draft whose writer was killed. Returns whether the file is a draft.
pub(crate) fn sweep(path: &Path) -> bool {
    let is_draft = path.file_name().is_some_and(is_draft);
    let age =
        || path.symlink_metadata().and_then(|metadata| metadata.modified()).ok()?.elapsed().ok();
    if is_draft && age().is_some_and(|age| age > ABANDONED) {
        // Another process may have removed it.
        let _ = std::fs::remove_file(path);
    }
    is_draft
}

pub(crate) fn is_draft(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(DRAFT.as_bytes())
}

/// Creates a new file with mode 0600. The umask must not clear the owner bits.
fn create(path: &Path) -> Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn draft_of(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
    let mut draft = OsString::from(DRAFT);
    draft.push(name);
    Ok(path.with_file_name(draft))
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn entries(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_replaced_and_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, file) = (dir.path().join("victim"), dir.path().join("file"));
        std::fs::write(&victim, "untouched").unwrap();
        for link in [&file, &draft_of(&file).unwrap()] {
            symlink(&victim, link).unwrap();
            assert!(read(link).is_err());
            write(&file, b"ours").unwrap();
            replace(&file, b"ours again").unwrap();
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
            assert_eq!(read(&file).unwrap(), b"ours again");
        }
        assert_eq!(entries(dir.path()), ["file", "victim"]);
    }

    #[test]
    fn a_pipe_in_place_of_a_file_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(read(&pipe).unwrap(), b"");
    }

    #[test]
    fn an_endless_file_is_not_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        File::create(&file).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&file).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_file_of_any_length_is_read_completely() {
        let dir = tempfile::tempdir().unwrap();
        for length in [0, 1, 511, 512, 513, 10_000] {
            let file = dir.path().join("file");
            write(&file, &vec![b'x'; length]).unwrap();
            assert_eq!(read(&file).unwrap().len(), length);
        }
    }

    #[test]
    fn only_a_draft_that_is_old_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let [young, old, other] =
            ["new:young", "new:old", "other"].map(|name| dir.path().join(name));
        for file in [&young, &old, &other] {
            File::create(file).unwrap();
        }
        let long_ago = std::time::SystemTime::now() - 2 * ABANDONED;
        for file in [&old, &other] {
            File::options().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
        }
        assert_eq!([&young, &old, &other].map(|file| sweep(file)), [true, true, false]);
        assert_eq!(entries(dir.path()), ["new:young", "other"]);
    }
}
