//! The files that plugins keep from ADD to DEL, in directories that a configuration may put anywhere.
//!
//! No link is followed at the end of a path: who may write into such a directory could have one lead elsewhere. Modes
//! do not depend on the umask of whoever calls. What a file is replaced by is whole before it has the file's name.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{Error, ErrorKind, Read, Result, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::OFlags;

/// How the name of a file begins that is being written. No container and no interface has a colon in its name.
const DRAFT: &str = "new:";

/// After that nobody is writing a draft any more.
const ABANDONED: Duration = Duration::from_secs(60);

/// What is in a regular file; a pipe in its place does not make anybody wait.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    whole(
        OpenOptions::new()
            .read(true)
            .custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK))
            .open(path)?,
    )
}

/// Longer than any file that plugins keep. What is in its place may have no end, as a device.
const LONGEST: u64 = 1 << 24;

/// What is in an open file.
pub(crate) fn whole(mut file: File) -> Result<Vec<u8>> {
    // Nearly always it fits, and a file gives less than it is asked for only at its end.
    let mut content = vec![0; 512];
    let length = file.read(&mut content)?;
    let is_whole = length < content.len();
    content.truncate(length);
    if !is_whole && file.take(LONGEST).read_to_end(&mut content)? as u64 == LONGEST {
        return Err(Error::new(ErrorKind::InvalidData, "it is longer than any file of a plugin"));
    }
    Ok(content)
}

/// Makes the file, for its owner alone, or replaces it.
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

/// Replaces the file, or makes it: whoever reads it finds all of the one or all of the other.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<File> {
    let draft = draft_of(path)?;
    let mut file = match create(&draft) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            // Its writer did not live to rename it.
            std::fs::remove_file(&draft)?;
            create(&draft)?
        }
        created => created?,
    };
    match file.write_all(content).and_then(|()| std::fs::rename(&draft, path)) {
        Ok(()) => Ok(file),
        Err(error) => {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&draft);
            Err(error)
        }
    }
}

/// Removes a draft whose writer did not live to rename it. Gives whether the file is a draft at all.
pub(crate) fn sweep(path: &Path) -> bool {
    let is_draft = path.file_name().is_some_and(is_draft);
    let age =
        || path.symlink_metadata().and_then(|metadata| metadata.modified()).ok()?.elapsed().ok();
    if is_draft && age().is_some_and(|age| age > ABANDONED) {
        // Somebody else may have done so.
        let _ = std::fs::remove_file(path);
    }
    is_draft
}

/// Whether this is the name of a file that is being written.
pub(crate) fn is_draft(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(DRAFT.as_bytes())
}

/// Makes a file that has not been there, for its owner alone. No umask takes anything away from that but one that shuts
/// out the owner.
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
    fn a_pipe_in_the_place_of_a_file_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(read(&pipe).unwrap(), b"");
    }

    #[test]
    fn what_has_no_end_is_not_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        File::create(&file).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&file).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_file_of_any_length_is_read_whole() {
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
