//! Files: the addresses of host-local, and what tuning, host-device, flannel and dhcp keep of an attachment.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{DataDirs, HeldBy, Holding, Holdings};
use crate::{
    interface::host_device,
    ipam::{
        dhcp,
        host_local::{self, Content},
    },
    meta::{flannel, tuning},
    state::state_file,
};

/// Looks at the directories, and at those that plugins use by themselves.
pub(super) fn look(holdings: &mut Holdings, dirs: &DataDirs) {
    for dir in with(&dirs.host_local, host_local::DATA_DIR) {
        addresses(holdings, &dir);
    }
    for dir in with(&dirs.tuning, tuning::DATA_DIR) {
        let of = |name: &str, json: &Value| {
            is_json(name).then(|| tagged(json.pointer("/rscni/owner"))).flatten()
        };
        saved(holdings, &dir, is_json, of);
    }
    for dir in with(&[], host_device::DIRECTORY) {
        saved(holdings, &dir, |_| true, |_, json| tagged(json.get("owner")));
    }
    for dir in with(&dirs.flannel, flannel::DATA_DIR) {
        let of = |name: &str, json: &Value| {
            let network = json.get("name")?.as_str()?.to_owned();
            Some(match flannel::about(name, Some(json))? {
                (container_id, Some(ifname)) => {
                    HeldBy::Attachment { network, container_id, ifname }
                }
                (container_id, None) => HeldBy::Container { network, container_id },
            })
        };
        saved(holdings, &dir, |name| flannel::about(name, None).is_some(), of);
    }
    for socket in with(&dirs.dhcp_sockets, dhcp::SOCKET) {
        let of = |_: &str, json: &Value| {
            let text = |key: &str| json.get("key")?.get(key)?.as_str().map(ToOwned::to_owned);
            let (network, container_id) = (text("network")?, text("container_id")?);
            Some(HeldBy::Attachment { network, container_id, ifname: text("ifname")? })
        };
        saved(holdings, &dhcp::leases(&socket), is_json, of);
    }
}

fn is_json(name: &str) -> bool {
    name.strip_suffix(".json").is_some()
}

/// The directories, each once, and the one that is used without a key.
fn with(dirs: &[PathBuf], default: &str) -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from(default)];
    for dir in dirs {
        if !all.contains(dir) {
            all.push(dir.clone());
        }
    }
    all
}

fn tagged(tag: Option<&Value>) -> Option<HeldBy> {
    Some(HeldBy::of_tag(tag?.as_str()?))
}

/// The reservations of all networks of a `dataDir`.
fn addresses(holdings: &mut Holdings, data_dir: &Path) {
    for (network, _) in names(holdings, data_dir, true) {
        match host_local::reservations(data_dir, &network) {
            Err(error) => holdings.unseen.push(error.details().to_owned()),
            Ok(found) => holdings.all.extend(found.into_iter().map(|(file, content)| {
                let network = network.clone();
                let by = match content {
                    Content::Attachment(container_id, ifname) => {
                        HeldBy::Attachment { network, container_id, ifname }
                    }
                    Content::Container(container_id) => HeldBy::Container { network, container_id },
                    Content::Remains => HeldBy::Nobody { network: Some(network) },
                    Content::Unreadable(why) => HeldBy::Unknown { network: Some(network), why },
                };
                Holding { kind: "address", what: file.display().to_string(), by }
            })),
        }
    }
}

/// The files of a directory that are of attachments, as JSON; `of` says whose one is, none if it does not tell.
fn saved(
    holdings: &mut Holdings,
    dir: &Path,
    is_wanted: impl Fn(&str) -> bool,
    of: impl Fn(&str, &Value) -> Option<HeldBy>,
) {
    for (name, path) in names(holdings, dir, false).into_iter().filter(|(name, _)| is_wanted(name))
    {
        let by = match state_file::read(&path).map(|bytes| serde_json::from_slice::<Value>(&bytes))
        {
            Ok(Ok(json)) => of(&name, &json),
            Ok(Err(_)) => Some(HeldBy::Nobody { network: None }),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => Some(HeldBy::Unknown { network: None, why: error.to_string() }),
        };
        holdings.all.extend(by.map(|by| Holding {
            kind: "file",
            what: path.display().to_string(),
            by,
        }));
    }
}

/// The files, or the directories, in a directory. Those with a dot in front are nobody's, and drafts not yet anybody's.
fn names(holdings: &mut Holdings, dir: &Path, directories: bool) -> Vec<(String, PathBuf)> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            holdings.unseen.push(format!("{}: {error}", dir.display()));
            return Vec::new();
        }
    };
    let is_kind =
        |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.is_dir() == directories);
    let with_name =
        |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    let mut names: Vec<_> = entries.flatten().filter_map(with_name).collect();
    names.retain(|(name, path)| {
        !name.starts_with('.') && !state_file::is_draft(name.as_ref()) && is_kind(path)
    });
    names
}
