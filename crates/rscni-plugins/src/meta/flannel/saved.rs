//! The configurations that the other plugin got at ADD, each in a file.
//!
//! The first attachment of a container has the file that Go's plugin knows, which is named after the container alone. In
//! it a key of ours says which interface it is about. Those after it have one each, with the interface in its name.

use crate::{
    plugin::Call,
    state::{
        inventory,
        inventory::{Owned, OwnedBy},
    },
};
use std::{
    fmt::{self, Display},
    fs, io,
    path::{Path, PathBuf},
};

use rscni::{Error, NetConf};
use serde_json::{Value, json};

use super::config::FLANNEL;
use crate::{plugin::error::Result, state::state_file};

/// The file of an attachment. It is there from ADD to DEL.
pub(super) struct Saved {
    path: PathBuf,
    container_id: String,
    /// The interface in its name.
    ifname: Option<String>,
}

/// What is in a file, for one network.
pub(super) enum Content {
    /// There is no file.
    Missing,
    /// No configuration of another plugin: the process that wrote it was ended.
    Broken,
    /// The same container on another network, or by another interface.
    OfAnother,
    /// The configuration of the ADD.
    Ours(Box<NetConf>),
}

/// The key of ours in a file: an object with `ifname`. The other plugin is not told.
const KEY: &str = "rscni";

impl Saved {
    /// The file of an attachment, and what is in it: the one that bears its interface's name, or else the container's.
    pub(super) fn find(data_dir: &str, call: &Call<'_>) -> Result<(Self, Content)> {
        let own = Self::own(data_dir, call);
        match own.read(call)?.0 {
            Content::Missing => {}
            content => return Ok((own, content)),
        }
        let shared = Self::shared(data_dir, &call.args.container_id);
        let content = match shared.read(call)? {
            (Content::Ours(_), Some(ifname)) if ifname != call.args.ifname => Content::OfAnother,
            (content, _) => content,
        };
        Ok((shared, content))
    }

    /// The file that an ADD writes. It is nobody else's.
    pub(super) fn to_write(data_dir: &str, call: &Call<'_>) -> Result<Self> {
        let own = Self::own(data_dir, call);
        let shared = Self::shared(data_dir, &call.args.container_id);
        if own.bytes()?.is_some() {
            return Ok(own);
        }
        Ok(match shared.read(call)? {
            (Content::Missing | Content::Broken, _) => shared,
            (Content::Ours(_), Some(ifname)) if ifname == call.args.ifname => shared,
            // Go's does not say which interface it is about.
            (Content::Ours(_) | Content::OfAnother, _) => own,
        })
    }

    fn own(data_dir: &str, call: &Call<'_>) -> Self {
        let (container_id, ifname) = (call.args.container_id.clone(), call.args.ifname.clone());
        // Neither name can have a colon.
        let path = Path::new(data_dir).join(format!("{container_id}:{ifname}"));
        Self { path, container_id, ifname: Some(ifname) }
    }

    fn shared(data_dir: &str, container_id: &str) -> Self {
        let path = Path::new(data_dir).join(container_id);
        Self { path, container_id: container_id.to_owned(), ifname: None }
    }

    pub(super) fn container_id(&self) -> &str {
        &self.container_id
    }

    /// What is in it, and the interface that it is about, if the file tells.
    pub(super) fn read(&self, call: &Call<'_>) -> Result<(Content, Option<String>)> {
        let Some(bytes) = self.bytes()? else { return Ok((Content::Missing, None)) };
        Ok(match NetConf::from_json(&bytes) {
            Err(_) => (Content::Broken, None),
            Ok(conf) if conf.name != call.conf.name => (Content::OfAnother, None),
            // To delete with it would be to read it again, without end.
            Ok(conf) if call.kind(&conf.r#type) == FLANNEL => (Content::Broken, None),
            Ok(mut conf) => {
                let ifname = self.ifname.clone().or_else(|| ifname_in(conf.custom.get(KEY)?));
                conf.custom = conf
                    .custom
                    .iter()
                    .filter(|(key, _)| *key != KEY)
                    .map(|(k, v)| (k, v.clone()))
                    .collect();
                (Content::Ours(conf.into()), ifname)
            }
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

    pub(super) fn write(&self, delegated: &NetConf, ifname: &str) -> Result<()> {
        let mut map = delegated.to_json();
        map.insert(KEY.into(), json!({ "ifname": ifname }));
        self.put(&serde_json::to_vec(&map).map_err(Error::from)?)
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
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("remove", &error))
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, what: &str, error: &io::Error) -> crate::plugin::error::Failure {
        Error::IOFailure(format!("{what} {self}: {error}")).into()
    }
}

impl Display for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// The container and, where it is told, the interface that a file is about, by its name and by what is in it; none if it
/// is no file of ours.
fn about(name: &str, content: Option<&Value>) -> Option<(String, Option<String>)> {
    let (container_id, ifname) =
        name.split_once(':').map_or((name, None), |(id, ifname)| (id, Some(ifname)));
    rscni::name::check_container_id(container_id).ok()?;
    ifname.map(rscni::name::check_interface_name).transpose().ok()?;
    let ifname = ifname.map(ToOwned::to_owned).or_else(|| ifname_in(content?.get(KEY)?));
    Some((container_id.to_owned(), ifname))
}

/// Lists the files of a directory for the inventory.
pub(super) fn inventory(data_dir: &Path) -> Result<Vec<Owned>> {
    let owner = |name: &str, json: &Value| {
        let network = json.get("name")?.as_str()?.to_owned();
        Some(match about(name, Some(json))? {
            (container_id, Some(ifname)) => OwnedBy::Attachment { network, container_id, ifname },
            (container_id, None) => OwnedBy::Container { network, container_id },
        })
    };
    inventory::json_files(data_dir, |name| about(name, None).is_some(), owner)
}

fn ifname_in(ours: &Value) -> Option<String> {
    Some(ours.get("ifname")?.as_str()?.to_owned())
}

/// The files of all attachments; other files in the directory are not ours.
pub(super) fn list(data_dir: &str) -> Result<Vec<Saved>> {
    let entries = match fs::read_dir(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let entries = entries.map_err(|error| Error::IOFailure(format!("list {data_dir}: {error}")))?;
    let entries = entries.iter().filter(|entry| !state_file::sweep(&entry.path()));
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let saved = files.filter_map(|entry| {
        let (container_id, ifname) = about(entry.file_name().to_str()?, None)?;
        Some(Saved { path: entry.path(), container_id, ifname })
    });
    Ok(saved.collect())
}
