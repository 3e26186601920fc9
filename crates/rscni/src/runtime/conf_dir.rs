//! A directory of network configurations, such as `/etc/cni/net.d`.
//!
//! What stands in one file is [`NetConfList`]'s; this is which files there are, in which order, and what is wrong
//! with those that cannot be read.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::NetConfList;
use crate::Error;

/// The networks of a directory, in the lexical order of their files.
///
/// A file that cannot be read does not hide the others: it is in [`broken`](ConfDir::broken), and in the error of a
/// [`find`](ConfDir::find) that finds nothing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConfDir {
    /// The directory.
    pub path: PathBuf,
    /// The networks, each with its file.
    pub networks: Vec<(PathBuf, NetConfList)>,
    /// The files that are no network configurations, each with what is wrong; the text names the file.
    pub broken: Vec<(PathBuf, Error)>,
}

impl ConfDir {
    /// Reads the files `*.conflist`, `*.conf` and `*.json` of a directory. One that does not exist is empty.
    ///
    /// # Errors
    /// [`Error::IOFailure`] if the directory cannot be read.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let mut dir = Self { path: path.to_owned(), networks: Vec::new(), broken: Vec::new() };
        for file in files(path, &["conflist", "conf", "json"])? {
            match NetConfList::from_file(&file) {
                Ok(list) => dir.networks.push((file, list)),
                Err(error) => dir.broken.push((file, error)),
            }
        }
        Ok(dir)
    }

    /// The network of that name. As in libcni, lists come before single plugins; within each the first file wins.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] if there is none, with the names that there are and the files that are broken.
    pub fn find(&self, name: &str) -> Result<&NetConfList, Error> {
        let is_list =
            |file: &Path| file.extension().is_some_and(|extension| extension == "conflist");
        let named = || self.networks.iter().filter(|(_, list)| list.name == name);
        named()
            .find(|(file, _)| is_list(file))
            .or_else(|| named().next())
            .map(|(_, list)| list)
            .ok_or_else(|| {
                let there = match self.networks.as_slice() {
                    [] => {
                        "there is no network configuration (*.conflist, *.conf, *.json)".to_owned()
                    }
                    some => format!(
                        "there are {}",
                        some.iter()
                            .map(|(_, list)| list.name.as_str())
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                };
                let broken: Vec<_> = self
                    .broken
                    .iter()
                    .map(|(_, error)| format!("; cannot be used: {error}"))
                    .collect();
                Error::InvalidNetworkConfig(format!(
                    "no network named {name:?} in {}: {there}{}",
                    self.path.display(),
                    broken.concat()
                ))
            })
    }
}

/// The files of a directory with one of these extensions, in lexical order; none if there is no such directory.
pub(super) fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
        entries
            .filter(|path| {
                path.as_ref().map_or(true, |path| {
                    path.extension()
                        .is_some_and(|extension| extensions.iter().any(|known| extension == *known))
                        && !path.is_dir()
                })
            })
            .collect()
    };
    let mut files = match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(|e| Error::IOFailure(format!("list {}: {e}", dir.display())))?,
    };
    files.sort();
    Ok(files)
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
    fn files_come_in_lexical_order_and_others_are_left_alone() {
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
    fn a_broken_file_does_not_hide_the_others_and_is_told() {
        let (_, dir) = dir(&[
            ("10-bad.conflist", "{ \"name\": \"bad\",\n oops }"),
            ("20-good.conflist", r#"{ "name": "good", "plugins": [{ "type": "x" }] }"#),
        ]);
        assert_eq!(dir.find("good").unwrap().name, "good");
        let error = dir.find("bad").unwrap_err();
        assert_eq!(error.code(), 7);
        for part in ["\"bad\"", "there are good", "10-bad.conflist", "line 2 column 2"] {
            assert!(error.details().contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_empty() {
        let (temp, _) = dir(&[]);
        let dir = ConfDir::load(&temp.path().join("none")).unwrap();
        assert!(dir.find("net").unwrap_err().details().contains("no network configuration"));
    }
}
