//! The file of the network list.
//!
//! The list is in a directory that a reboot empties, with a symbolic link to it where runtimes look
//! for it. So the list of the previous boot cannot be used before the first sync, and a restart of
//! the daemon changes nothing.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

#[derive(Debug)]
pub(super) struct ListFile {
    link: PathBuf,
    target: PathBuf,
    written: Option<Vec<u8>>,
}

impl ListFile {
    pub(super) fn new(link: &Path, run_dir: &Path) -> Self {
        let name = link.file_name().unwrap_or_default();
        Self { link: link.to_owned(), target: run_dir.join(name), written: None }
    }

    pub(super) fn is_written(&self) -> bool {
        self.written.is_some()
    }

    /// The name of the network in the list that this process or an earlier one wrote.
    pub(super) fn network(&self) -> Option<String> {
        let list: serde_json::Value = serde_json::from_slice(&fs::read(&self.target).ok()?).ok()?;
        Some(list["name"].as_str()?.to_owned())
    }

    /// Writes the list, unless it was written before. No reader sees a part of it.
    pub(super) fn write(&mut self, list: &[u8]) -> io::Result<()> {
        if self.written.as_deref() == Some(list) {
            return Ok(());
        }
        for path in [&self.target, &self.link] {
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))
                .map_err(|error| failed(path, &error))?;
        }
        let is_same = fs::read(&self.target).is_ok_and(|found| found == list);
        if !is_same {
            replace(&self.target, |draft| {
                let mut options = fs::OpenOptions::new();
                let mut file = options.write(true).create_new(true).mode(0o644).open(draft)?;
                file.write_all(list)
            })?;
        }
        let is_linked = fs::read_link(&self.link).is_ok_and(|found| found == self.target);
        // A new link tells runtimes, which watch its directory, to read the list again.
        if !is_same || !is_linked {
            replace(&self.link, |draft| symlink(&self.target, draft))?;
        }
        self.written = Some(list.to_owned());
        Ok(())
    }
}

/// Creates a draft beside `path` and renames it.
fn replace(path: &Path, create: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.draft"));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed(&draft, &error));
        }
        _ => {}
    }
    create(&draft).and_then(|()| fs::rename(&draft, path)).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("write the network list {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_is_linked_and_gone_after_a_reboot() {
        let dir = tempfile::tempdir().unwrap();
        let (link, run) = (dir.path().join("net.d/10-x.conflist"), dir.path().join("run"));
        let mut file = ListFile::new(&link, &run);
        file.write(b"one").unwrap();
        assert_eq!(fs::read(&link).unwrap(), b"one");
        file.write(b"two").unwrap();
        assert_eq!(fs::read(&link).unwrap(), b"two");
        assert_eq!(fs::read_dir(link.parent().unwrap()).unwrap().count(), 1);
        fs::remove_dir_all(&run).unwrap();
        assert!(fs::read(&link).is_err());
        ListFile::new(&link, &run).write(b"two").unwrap();
        assert_eq!(fs::read(&link).unwrap(), b"two");
    }

    #[test]
    fn restart_does_not_replace_the_link() {
        let dir = tempfile::tempdir().unwrap();
        let (link, run) = (dir.path().join("net.d/10-x.conflist"), dir.path().join("run"));
        ListFile::new(&link, &run).write(b"one").unwrap();
        let inode =
            |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::symlink_metadata(path).unwrap());
        let before = (inode(&link), inode(&run.join("10-x.conflist")));
        ListFile::new(&link, &run).write(b"one").unwrap();
        assert_eq!((inode(&link), inode(&run.join("10-x.conflist"))), before);
    }

    #[test]
    fn file_of_another_program_is_replaced_by_the_link() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("10-x.conflist");
        fs::write(&link, "old").unwrap();
        ListFile::new(&link, &dir.path().join("run")).write(b"new").unwrap();
        assert!(fs::read_link(&link).is_ok());
    }
}
