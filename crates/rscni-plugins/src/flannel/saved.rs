//! The configurations that the other plugin got at ADD, each in a file named after the container, as Go's plugin keeps
//! them.

use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rscni::{Error, NetConf};

use crate::failure::Result;
use crate::state_file;

/// The file of a container. It is there from ADD to DEL.
pub(super) struct Saved {
    path: PathBuf,
    container_id: String,
}

/// What is in a file, for one network.
pub(super) enum Content {
    /// There is no file.
    Missing,
    /// No configuration: the process that wrote it was ended.
    Broken,
    /// The same container on another network. A file is named after the container alone.
    OfAnother,
    /// The configuration of the ADD.
    Ours(Box<NetConf>),
}

impl Saved {
    /// The file of a container whose id has been validated.
    pub(super) fn of(data_dir: &str, container_id: &str) -> Self {
        Self { path: Path::new(data_dir).join(container_id), container_id: container_id.to_owned() }
    }

    pub(super) fn container_id(&self) -> &str {
        &self.container_id
    }

    pub(super) fn read(&self, network: &str) -> Result<Content> {
        let Some(bytes) = self.bytes()? else { return Ok(Content::Missing) };
        Ok(match NetConf::from_json(&bytes) {
            Err(_) => Content::Broken,
            Ok(conf) if conf.name != network => Content::OfAnother,
            Ok(conf) => Content::Ours(conf.into()),
        })
    }

    /// What is in the file; none if there is no file.
    pub(super) fn bytes(&self) -> Result<Option<Vec<u8>>> {
        match state_file::read(&self.path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", &error)),
        }
    }

    pub(super) fn write(&self, delegated: &NetConf) -> Result<()> {
        self.put(&serde_json::to_vec(delegated).map_err(Error::from)?)
    }

    /// Puts back what was there before an ADD that failed.
    pub(super) fn restore(&self, earlier: Option<Vec<u8>>) -> Result<()> {
        match earlier {
            Some(bytes) => self.put(&bytes),
            None => self.remove(),
        }
    }

    fn put(&self, bytes: &[u8]) -> Result<()> {
        let write = || {
            if let Some(dir) = self.path.parent() {
                rscni_linux::make_directory(dir, 0o700)?;
            }
            state_file::write(&self.path, bytes)?.sync_all()
        };
        write().map_err(|error| self.failed("write", &error))
    }

    /// Removes the file; that it is gone already is as good.
    pub(super) fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", &error)),
            _ => Ok(()),
        }
    }

    fn failed(&self, what: &str, error: &io::Error) -> crate::failure::Failure {
        Error::IOFailure(format!("{what} {self}: {error}")).into()
    }
}

impl Display for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// The files of all containers; other files in the directory are not ours.
pub(super) fn list(data_dir: &str) -> Result<Vec<Saved>> {
    let entries = match fs::read_dir(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let entries = entries.map_err(|error| Error::IOFailure(format!("list {data_dir}: {error}")))?;
    let names = entries.iter().filter(|entry| !state_file::sweep(&entry.path()));
    let names = names.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| rscni::name::check_container_id(name).is_ok()).map(|id| Saved::of(data_dir, &id)).collect())
}
