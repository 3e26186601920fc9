//! A directory of network configurations, such as `/etc/cni/net.d`.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::NetConfList;
use crate::Error;

/// The networks of a directory, in the lexical order of their files.
///
/// A file that cannot be read is in [`broken`](ConfDir::broken), and in the error of a
/// [`find`](ConfDir::find) that finds nothing.
///
/// ```no_run
/// use rscni::runtime::ConfDir;
///
/// for (file, network) in &ConfDir::load("/etc/cni/net.d".as_ref())? {
///     println!("{}: {}", file.display(), network.name);
/// }
/// # Ok::<(), rscni::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConfDir {
    /// The directory.
    pub path: PathBuf,
    /// The networks, each with its file.
    pub networks: Vec<(PathBuf, NetConfList)>,
    /// The files that are not valid configurations, each with an error that names it.
    pub broken: Vec<(PathBuf, Error)>,
}

impl ConfDir {
    /// Reads the files `*.conflist`, `*.conf` and `*.json` of a directory, if it exists.
    ///
    /// # Errors
    /// [`Error::IOFailure`] if the directory cannot be read.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let mut dir = Self { path: path.to_owned(), networks: Vec::new(), broken: Vec::new() };
        for file in files(path, is_config).map_err(|error| cannot_list(path, error))? {
            match NetConfList::from_file(&file) {
                Ok(list) => dir.networks.push((file, list)),
                Err(error) => dir.broken.push((file, error)),
            }
        }
        Ok(dir)
    }

    /// Returns the default network: that of the first file, in lexical order, as containerd
    /// chooses it. `None` if there are no files.
    ///
    /// # Errors
    /// The error of the first file if it is invalid, even if others are valid.
    pub fn first(&self) -> Result<Option<&NetConfList>, Error> {
        match (self.networks.first(), self.broken.first()) {
            (Some((valid, list)), Some((broken, _))) if valid < broken => Ok(Some(list)),
            (_, Some((_, error))) => Err(error.clone()),
            (network, None) => Ok(network.map(|(_, list)| list)),
        }
    }

    /// Finds a network by its name. As in libcni, lists win over single plugins, then the first
    /// file.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] if it is not found, with the existing names and broken
    /// files.
    pub fn find(&self, name: &str) -> Result<&NetConfList, Error> {
        let matching = || self.networks.iter().filter(|(_, list)| list.name == name);
        let network = matching()
            .find(|(file, _)| has_extension(file, "conflist"))
            .or_else(|| matching().next());
        network.map(|(_, list)| list).ok_or_else(|| {
            let names: Vec<_> = self.networks.iter().map(|(_, list)| list.name.as_str()).collect();
            let existing = if names.is_empty() {
                "there is no network configuration (*.conflist, *.conf, *.json)".to_owned()
            } else {
                format!("existing networks: {}", names.join(", "))
            };
            let broken = self.broken.iter().map(|(_, error)| format!("; invalid file: {error}"));
            Error::InvalidNetworkConfig(format!(
                "no network named {name:?} in {}: {existing}{}",
                self.path.display(),
                broken.collect::<String>()
            ))
        })
    }
}

impl ConfDir {
    /// Iterates over the networks with their files.
    pub fn iter(&self) -> std::slice::Iter<'_, (PathBuf, NetConfList)> {
        self.networks.iter()
    }
}

impl<'a> IntoIterator for &'a ConfDir {
    type Item = &'a (PathBuf, NetConfList);
    type IntoIter = std::slice::Iter<'a, (PathBuf, NetConfList)>;

    fn into_iter(self) -> Self::IntoIter {
        self.networks.iter()
    }
}

impl IntoIterator for ConfDir {
    type Item = (PathBuf, NetConfList);
    type IntoIter = std::vec::IntoIter<(PathBuf, NetConfList)>;

    fn into_iter(self) -> Self::IntoIter {
        self.networks.into_iter()
    }
}

/// Whether a file of a directory of networks is read.
fn is_config(file: &Path) -> bool {
    ["conflist", "conf", "json"].iter().any(|extension| has_extension(file, extension))
        && !file.is_dir()
}

/// Identity and time of the last change of a file, without its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    file: PathBuf,
    inode: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds. Unlike the modification time, a program cannot set it back.
    pub(super) changed: (i64, i64),
}

/// Returns the stamps of all files that a directory of networks consists of, including the folders
/// that add plugins to a network.
pub(super) fn stamps(dir: &Path) -> io::Result<Vec<Stamp>> {
    let mut all = files(dir, is_config)?;
    for folder in files(dir, Path::is_dir)? {
        all.extend(files(&folder, |file| has_extension(file, "conf"))?);
    }
    let stamp = |file: PathBuf| {
        // A dangling link has a stamp too, so that its repair is a change.
        let metadata = file.metadata().ok();
        let of = |value: fn(&std::fs::Metadata) -> u64| metadata.as_ref().map_or(0, value);
        Stamp {
            inode: (of(MetadataExt::dev), of(MetadataExt::ino)),
            size: of(MetadataExt::size),
            changed: metadata.map_or((0, 0), |it| (it.ctime(), it.ctime_nsec())),
            file,
        }
    };
    Ok(all.into_iter().map(stamp).collect())
}

pub(super) fn has_extension(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|own| own == extension)
}

/// Returns the matching files of a directory in lexical order; none if it does not exist.
pub(super) fn files(dir: &Path, is_wanted: impl Fn(&Path) -> bool) -> io::Result<Vec<PathBuf>> {
    let list =
        || std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut files = match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed?,
    };
    files.retain(|file| is_wanted(file));
    files.sort();
    Ok(files)
}

/// Returns the error for a directory of configurations that cannot be listed.
pub(super) fn cannot_list(dir: &Path, error: io::Error) -> Error {
    Error::IOFailure(format!("cannot list {}: {error}", dir.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(files: &[(&str, &str)]) -> (tempfile::TempDir, ConfDir) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let loaded = ConfDir::load(dir.path()).unwrap();
        (dir, loaded)
    }

    #[test]
    fn files_are_read_in_lexical_order_and_others_are_ignored() {
        let (_, dir) = dir(&[
            ("20-b.conf", r#"{ "name": "b", "type": "x" }"#),
            ("30-c.json", r#"{ "name": "c", "type": "x" }"#),
            ("10-a.conflist", r#"{ "name": "a", "plugins": [{ "type": "x" }] }"#),
            ("05-d.conflist.bak", "{"),
            ("README", "{"),
        ]);
        assert_eq!(
            dir.networks.iter().map(|(_, list)| list.name.as_str()).collect::<Vec<_>>(),
            ["a", "b", "c"]
        );
        assert!(dir.broken.is_empty());
        let mut names = Vec::new();
        for (file, network) in &dir {
            names.push((file.file_name().unwrap().to_str().unwrap(), network.name.as_str()));
        }
        assert_eq!(names, [("10-a.conflist", "a"), ("20-b.conf", "b"), ("30-c.json", "c")]);
        assert!(
            dir.clone()
                .into_iter()
                .map(|(_, network)| network)
                .eq(dir.networks.iter().map(|(_, network)| network.clone()))
        );
    }

    #[test]
    fn a_list_wins_over_a_single_plugin_of_the_same_name() {
        let (_, dir) = dir(&[
            ("10.conf", r#"{ "name": "net", "type": "single" }"#),
            ("20.conflist", r#"{ "name": "net", "plugins": [{ "type": "first" }] }"#),
            ("30.conflist", r#"{ "name": "net", "plugins": [{ "type": "second" }] }"#),
        ]);
        assert_eq!(dir.find("net").unwrap().plugins[0].plugin_type(), "first");
    }

    #[test]
    fn a_broken_file_does_not_hide_others_and_is_reported() {
        let (_, dir) = dir(&[
            ("10-bad.conflist", "{ \"name\": \"bad\",\n oops }"),
            ("20-good.conflist", r#"{ "name": "good", "plugins": [{ "type": "x" }] }"#),
        ]);
        assert_eq!(dir.find("good").unwrap().name, "good");
        let error = dir.find("bad").unwrap_err();
        assert_eq!(error.code(), 7);
        for part in ["\"bad\"", "networks: good", "10-bad.conflist", "line 2 column 2"] {
            assert!(error.details().contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_missing_directory_is_empty() {
        let (temp, _) = dir(&[]);
        let dir = ConfDir::load(&temp.path().join("none")).unwrap();
        assert!(dir.find("net").unwrap_err().details().contains("no network configuration"));
    }
}
