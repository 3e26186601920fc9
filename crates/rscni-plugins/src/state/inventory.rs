//! The resources of attachments on a node outside their namespaces, as far as owner tags, comments
//! and file contents tell: `rscni gc` removes them and `rscni doctor` reports them.
//!
//! The chains of the Go plugins for `macspoofchk`, and their rules of nftables, name no network and
//! are not listed.

use std::{
    fmt::{self, Display},
    io::ErrorKind,
    net::IpAddr,
    path::{Path, PathBuf},
};

use rscni::{Attachment, Error};
use serde_json::Value;

use super::{
    owner::{Owner, hashed_network, untagged},
    state_file,
};
use crate::error::Result;

/// Something that an attachment owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The resource.
    pub item: Item,
    /// The owner.
    pub by: OwnedBy,
}

/// A kind of thing that an attachment can own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A link on the host.
    Link {
        /// Its name.
        name: String,
        /// Its kind, such as `veth`; `device` for a physical one.
        kind: String,
    },
    /// An element of a set or map of nftables.
    Element {
        /// Family, table and set, as `nft` names them.
        set: String,
        /// The key, or the part of it that identifies the element.
        key: String,
        /// The purpose.
        purpose: Purpose,
    },
    /// A chain of iptables in the table `nat`.
    Chain {
        /// The program that shows it: `iptables` or `ip6tables`.
        program: &'static str,
        /// Its name.
        name: String,
        /// The purpose.
        purpose: Purpose,
    },
    /// An address that host-local has reserved.
    Reservation {
        /// The address.
        address: IpAddr,
        /// The file that reserves it.
        file: PathBuf,
    },
    /// A file that a plugin keeps for the attachment.
    File(PathBuf),
}

/// The purpose of a rule or an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `ipMasq`.
    Masquerade,
    /// A published port, of IPv4 or IPv6.
    PublishedPort {
        /// Whether it is one of IPv4.
        v4: bool,
    },
    /// It lets packets through the firewall.
    Firewall,
    /// It records that firewall uses rules of iptables.
    FirewallInIptables,
    /// `macspoofchk`.
    MacSpoofFilter,
    /// Not known.
    Unknown,
}

impl Item {
    /// The kind in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Link { .. } => "link",
            Self::Element { .. } => "element",
            Self::Chain { .. } => "chain",
            Self::Reservation { .. } => "address",
            Self::File(_) => "file",
        }
    }

    /// The purpose of a rule or an element.
    pub fn purpose(&self) -> Option<Purpose> {
        match self {
            Self::Element { purpose, .. } | Self::Chain { purpose, .. } => Some(*purpose),
            _ => None,
        }
    }

    /// The address that it reserves.
    pub fn reserved_address(&self) -> Option<IpAddr> {
        match self {
            Self::Reservation { address, .. } => Some(address.to_canonical()),
            _ => None,
        }
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Reservation { file, .. } | Self::File(file) => Some(file),
            _ => None,
        }
    }
}

/// The item without its kind.
impl Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link { name, kind } => write!(f, "{name} ({kind})"),
            Self::Element { set, key, .. } => write!(f, "{set} {key}"),
            Self::Chain { program, name, .. } => write!(f, "{program} nat {name}"),
            Self::Reservation { file, .. } | Self::File(file) => file.display().fmt(f),
        }
    }
}

impl Display for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {}", self.item.kind(), self.item, self.by)
    }
}

/// The owner of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedBy {
    /// An attachment.
    Attachment {
        /// Its network.
        network: String,
        /// Its container.
        container_id: String,
        /// Its interface.
        ifname: String,
    },
    /// A container; the interface is not known.
    Container {
        /// The network.
        network: String,
        /// The container.
        container_id: String,
    },
    /// An attachment whose names are too long for an owner tag: hashes of them.
    Hashed(String),
    /// No attachment: an interrupted call left it.
    Interrupted {
        /// The network, if the place tells it.
        network: Option<String>,
    },
    /// An owner that cannot be read.
    Unreadable {
        /// The network, if the place tells it.
        network: Option<String>,
        /// The reason.
        why: String,
    },
}

impl OwnedBy {
    /// Reads an owner tag.
    pub(crate) fn of_tag(tag: &str) -> Self {
        match untagged(tag) {
            Some(Owner { network, container_id, ifname }) => Self::Attachment {
                network: network.to_owned(),
                container_id: container_id.to_owned(),
                ifname: ifname.to_owned(),
            },
            None => Self::Hashed(tag.to_owned()),
        }
    }

    /// The network, if known.
    pub fn network(&self) -> Option<&str> {
        match self {
            Self::Attachment { network, .. } | Self::Container { network, .. } => Some(network),
            Self::Hashed(_) => None,
            Self::Interrupted { network } | Self::Unreadable { network, .. } => network.as_deref(),
        }
    }

    /// The container, if known.
    pub fn container_id(&self) -> Option<&str> {
        match self {
            Self::Attachment { container_id, .. } | Self::Container { container_id, .. } => {
                Some(container_id)
            }
            Self::Hashed(_) | Self::Interrupted { .. } | Self::Unreadable { .. } => None,
        }
    }

    /// The attachment, if the owner is one whose full name is known.
    pub fn attachment(&self) -> Option<Attachment> {
        let Self::Attachment { container_id, ifname, .. } = self else { return None };
        Some(Attachment { container_id: container_id.clone(), ifname: ifname.clone() })
    }

    /// Whether the owner belongs to the network.
    pub fn is_of(&self, network: &str) -> bool {
        match self {
            Self::Hashed(tag) => tag.starts_with(&hashed_network(network)),
            other => other.network() == Some(network),
        }
    }

    /// Whether the owner is this attachment, or its container.
    pub fn is(&self, network: &str, attachment: &Attachment) -> bool {
        let Attachment { container_id, ifname } = attachment;
        self.is_owner(Owner { network, container_id, ifname })
    }

    /// Whether the owner is this one, or its container.
    pub(crate) fn is_owner(&self, owner: Owner<'_>) -> bool {
        match self {
            Self::Attachment { network, container_id, ifname } => {
                owner == Owner { network, container_id, ifname }
            }
            Self::Container { network, container_id } => {
                (owner.network, owner.container_id) == (network.as_str(), container_id.as_str())
            }
            Self::Hashed(tag) => owner.tag() == *tag,
            Self::Interrupted { .. } | Self::Unreadable { .. } => false,
        }
    }
}

impl Display for OwnedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attachment { container_id, ifname, .. } => write!(f, "{container_id}/{ifname}"),
            Self::Container { container_id, .. } => f.write_str(container_id),
            Self::Hashed(tag) => write!(f, "an attachment with long names ({tag})"),
            Self::Interrupted { .. } => f.write_str("no attachment"),
            Self::Unreadable { .. } => f.write_str("an unknown owner"),
        }
    }
}

/// Lists the JSON files of a directory that belong to attachments. `owner` reads the owner from
/// the name and the content of a file, and returns `None` for files of others.
pub(crate) fn json_files(
    dir: &Path,
    is_wanted: impl Fn(&str) -> bool,
    owner: impl Fn(&str, &Value) -> Option<OwnedBy>,
) -> Result<Vec<Owned>> {
    let mut found = Vec::new();
    for (name, path) in entries(dir, false)?.into_iter().filter(|(name, _)| is_wanted(name)) {
        let by = match state_file::read(&path).map(|bytes| serde_json::from_slice::<Value>(&bytes))
        {
            Ok(Ok(json)) => owner(&name, &json),
            Ok(Err(_)) => Some(OwnedBy::Interrupted { network: None }),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => Some(OwnedBy::Unreadable { network: None, why: error.to_string() }),
        };
        found.extend(by.map(|by| Owned { item: Item::File(path), by }));
    }
    Ok(found)
}

/// Lists the files, or the directories, in a directory. Hidden ones and drafts are left out.
pub(crate) fn entries(dir: &Path, directories: bool) -> Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Error::IOFailure(format!("{}: {error}", dir.display())).into());
        }
    };
    let is_kind = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir() == directories)
    };
    let with_name =
        |entry: std::fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    let mut names: Vec<_> = entries.flatten().filter_map(with_name).collect();
    names.retain(|(name, path)| {
        !name.starts_with('.') && !state_file::is_draft(name.as_ref()) && is_kind(path)
    });
    Ok(names)
}

/// Whether a file name ends in `.json`.
pub(crate) fn is_json(name: &str) -> bool {
    name.strip_suffix(".json").is_some()
}
