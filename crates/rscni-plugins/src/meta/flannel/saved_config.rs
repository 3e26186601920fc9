//! The configurations of the delegate, saved by ADD in one file each.
//!
//! The first attachment of a container uses the file of the Go plugin, which is named after the
//! container alone. A key of ours in it names the interface. Further attachments have files with
//! the interface in the name.

use std::{
    fmt::{self, Display},
    fs, io,
    path::{Path, PathBuf},
};

use rscni::{Error, NetConf};
use serde_json::{Value, json};

use super::config::FLANNEL;
use crate::{
    plugin::{Call, Result},
    state::{Owned, OwnedBy, inventory, state_file},
};

/// The file of an attachment, from ADD to DEL.
pub(super) struct SavedConfig {
    path: PathBuf,
    container_id: String,
    /// The interface in the file name.
    ifname: Option<String>,
}

/// The content of a file, as seen by one attachment.
pub(super) enum Content {
    /// There is no file.
    Missing,
    /// Not a configuration: the process that wrote it was killed.
    Broken,
    /// The configuration of another network or interface of the container.
    OfAnother,
    /// The configuration of the ADD.
    Ours(Box<NetConf>),
}

/// Our key in a file: an object with `ifname`. The delegate does not get it.
const KEY: &str = "rscni";

impl SavedConfig {
    /// Finds the file of an attachment: the one with its interface in the name, or else the one of
    /// the container.
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

    /// Returns the file for ADD, which no other attachment uses.
    pub(super) fn to_write(data_dir: &str, call: &Call<'_>) -> Result<Self> {
        let own = Self::own(data_dir, call);
        let shared = Self::shared(data_dir, &call.args.container_id);
        if own.bytes()?.is_some() {
            return Ok(own);
        }
        Ok(match shared.read(call)? {
            (Content::Missing | Content::Broken, _) => shared,
            (Content::Ours(_), Some(ifname)) if ifname == call.args.ifname => shared,
            // A file of the Go plugin does not name the interface.
            (Content::Ours(_) | Content::OfAnother, _) => own,
        })
    }

    fn own(data_dir: &str, call: &Call<'_>) -> Self {
        let (container_id, ifname) = (call.args.container_id.clone(), call.args.ifname.clone());
        // Neither name can contain a colon.
        let path = Path::new(data_dir).join(format!("{container_id}:{ifname}"));
        Self { path, container_id, ifname: Some(ifname) }
    }

    fn shared(data_dir: &str, container_id: &str) -> Self {
        let path = Path::new(data_dir).join(container_id);
        Self { path, container_id: container_id.to_owned(), ifname: None }
    }

    /// Returns the owner, given the network and the interface in the file.
    pub(super) fn owner(&self, network: &str, ifname: Option<String>) -> OwnedBy {
        owner(network, self.container_id.clone(), ifname)
    }

    /// Reads the file. Returns its content and its interface, if known.
    pub(super) fn read(&self, call: &Call<'_>) -> Result<(Content, Option<String>)> {
        let Some(bytes) = self.bytes()? else { return Ok((Content::Missing, None)) };
        Ok(match NetConf::from_json(&bytes) {
            Err(_) => (Content::Broken, None),
            Ok(conf) if conf.name != call.conf.name => (Content::OfAnother, None),
            // DEL with it would read the same file again, without end.
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

    /// Reads the file. Returns `None` if it does not exist.
    pub(super) fn bytes(&self) -> Result<Option<Vec<u8>>> {
        match state_file::read(&self.path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(state_file::failed("read", &self.path)(error).into()),
        }
    }

    pub(super) fn write(&self, delegated: &NetConf, ifname: &str) -> Result<()> {
        let mut map = delegated.to_json();
        map.insert(KEY.into(), json!({ "ifname": ifname }));
        self.put(&serde_json::to_vec(&map).map_err(Error::from)?)
    }

    /// Restores the file after a failed ADD.
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
        Ok(write().map_err(state_file::failed("write", &self.path))?)
    }

    /// Removes the file. A missing one is not an error.
    pub(super) fn remove(&self) -> Result<()> {
        Ok(state_file::remove(&self.path)?)
    }
}

impl Display for SavedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// Returns the container and the interface of a file, from its name and content. Returns `None` for
/// files of other programs.
fn about(name: &str, content: Option<&Value>) -> Option<(String, Option<String>)> {
    let (container_id, ifname) =
        name.split_once(':').map_or((name, None), |(id, ifname)| (id, Some(ifname)));
    rscni::name::check_container_id(container_id).ok()?;
    ifname.map(rscni::name::check_interface_name).transpose().ok()?;
    let ifname = ifname.map(ToOwned::to_owned).or_else(|| ifname_in(content?.get(KEY)?));
    Some((container_id.to_owned(), ifname))
}

/// Returns an owner. A file without an interface belongs to all attachments of the container.
fn owner(network: &str, container_id: String, ifname: Option<String>) -> OwnedBy {
    let network = network.to_owned();
    match ifname {
        Some(ifname) => OwnedBy::Attachment { network, container_id, ifname },
        None => OwnedBy::Container { network, container_id },
    }
}

pub(super) fn inventory(data_dir: &Path) -> Result<Vec<Owned>> {
    let owner = |name: &str, json: &Value| {
        let (container_id, ifname) = about(name, Some(json))?;
        Some(self::owner(json.get("name")?.as_str()?, container_id, ifname))
    };
    inventory::json_files(data_dir, |name| about(name, None).is_some(), owner)
}

fn ifname_in(ours: &Value) -> Option<String> {
    Some(ours.get("ifname")?.as_str()?.to_owned())
}

/// Lists the files of all attachments, without those of other programs.
pub(super) fn list(data_dir: &str) -> Result<Vec<SavedConfig>> {
    let entries = match fs::read_dir(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let entries = entries.map_err(state_file::failed("list", Path::new(data_dir)))?;
    let entries = entries.iter().filter(|entry| !state_file::sweep(&entry.path()));
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let saved = files.filter_map(|entry| {
        let (container_id, ifname) = about(entry.file_name().to_str()?, None)?;
        Some(SavedConfig { path: entry.path(), container_id, ifname })
    });
    Ok(saved.collect())
}
