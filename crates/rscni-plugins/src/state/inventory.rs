//! What attachments hold on this node outside their namespaces, whoever made it, as far as marks tell whose it is. It
//! looks, and changes nothing: for operators' tools that say what GC would remove, and what is wrong.
//!
//! What has no mark of its owner's network is not here: what the Go plugins make for `macspoofchk` and with nftables.

mod files;
pub(crate) mod rules;

pub use crate::meta::firewall::forward_policy::{Dropping, Packet, dropped_by, dropping};

use std::{
    collections::{HashMap, HashSet},
    fmt::{self, Display},
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rscni::Attachment;
use rscni_linux::{Link, Netlink, Netns};

pub use crate::ipam::host_local::{Reservations, Usage, usage};
use crate::state::owner::{Owner, hashed_network, untagged};

/// Who holds something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// An attachment.
    Attachment {
        /// Its network.
        network: String,
        /// Its container.
        container_id: String,
        /// Its interface.
        ifname: String,
    },
    /// A container, whichever of its interfaces.
    Container {
        /// The network.
        network: String,
        /// The container.
        container_id: String,
    },
    /// An attachment whose names are too long for a mark: hashes of them.
    Hashed(String),
    /// Nobody: it is what a call that was cut off has left, in the things of a network if that is known.
    Nobody {
        /// The network.
        network: Option<String>,
    },
    /// Somebody, but it cannot be read, for this reason.
    Unknown {
        /// The network, where the place tells it.
        network: Option<String>,
        /// Why.
        why: String,
    },
}

/// A thing that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// What kind of thing it is, such as `link`.
    pub kind: &'static str,
    /// Which one it is.
    pub what: String,
    /// Who holds it.
    pub by: HeldBy,
}

/// Where plugins keep files, as lists configure it; what they use without such a key is looked at in any case.
#[derive(Clone, Debug, Default)]
pub struct DataDirs {
    /// `dataDir` of host-local.
    pub host_local: Vec<PathBuf>,
    /// `dataDir` of tuning.
    pub tuning: Vec<PathBuf>,
    /// `dataDir` of flannel.
    pub flannel: Vec<PathBuf>,
    /// `daemonSocketPath` of dhcp, beside which its leases are.
    pub dhcp_sockets: Vec<PathBuf>,
}

/// What is held on this node.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// What was found.
    pub all: Vec<Holding>,
    /// What could not be looked at, each with the reason.
    pub unseen: Vec<String>,
}

impl HeldBy {
    /// From the mark that links and elements carry.
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

    /// The network, where the mark tells it.
    pub fn network(&self) -> Option<&str> {
        match self {
            Self::Attachment { network, .. } | Self::Container { network, .. } => Some(network),
            Self::Hashed(_) => None,
            Self::Nobody { network } | Self::Unknown { network, .. } => network.as_deref(),
        }
    }

    /// The container, where the mark tells it.
    pub fn container_id(&self) -> Option<&str> {
        match self {
            Self::Attachment { container_id, .. } | Self::Container { container_id, .. } => {
                Some(container_id)
            }
            Self::Hashed(_) | Self::Nobody { .. } | Self::Unknown { .. } => None,
        }
    }

    /// Whether it is of the network, as far as the mark tells.
    pub fn is_of(&self, network: &str) -> bool {
        match self {
            Self::Hashed(tag) => tag.starts_with(&hashed_network(network)),
            other => other.network() == Some(network),
        }
    }

    /// Whether that is the mark of an attachment, or of its container.
    pub fn is(&self, of_network: &str, attachment: &Attachment) -> bool {
        let owner = Owner {
            network: of_network,
            container_id: &attachment.container_id,
            ifname: &attachment.ifname,
        };
        match self {
            Self::Attachment { network, container_id, ifname } => {
                owner == Owner { network, container_id, ifname }
            }
            Self::Container { network, container_id } => {
                (owner.network, owner.container_id) == (network.as_str(), container_id.as_str())
            }
            Self::Hashed(tag) => owner.tag() == *tag,
            Self::Nobody { .. } | Self::Unknown { .. } => false,
        }
    }
}

impl Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attachment { container_id, ifname, .. } => write!(f, "{container_id}/{ifname}"),
            Self::Container { container_id, .. } => f.write_str(container_id),
            Self::Hashed(tag) => write!(f, "an attachment with long names ({tag})"),
            Self::Nobody { .. } => f.write_str("nobody"),
            Self::Unknown { .. } => f.write_str("somebody unknown"),
        }
    }
}

impl Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {}", self.kind, self.what, self.by)
    }
}

impl Holding {
    /// The address that it reserves, if that is what it is.
    pub fn address(&self) -> Option<IpAddr> {
        let file = Path::new(&self.what).file_name().filter(|_| self.kind == "address")?;
        file.to_str()?.parse::<IpAddr>().ok().map(|address| address.to_canonical())
    }
}

impl Holdings {
    /// Looks at the namespace that this is called in, and at files.
    pub fn look(dirs: &DataDirs) -> Self {
        let mut holdings = Self::default();
        holdings.look_at("links", links);
        holdings.look_at("nftables", rules::elements);
        holdings.look_at("iptables", rules::chains);
        files::look(&mut holdings, dirs);
        // Neither the kernel nor a directory has an order.
        holdings
            .all
            .sort_unstable_by(|one, other| (one.kind, &one.what).cmp(&(other.kind, &other.what)));
        holdings
    }

    fn look_at(&mut self, what: &str, look: fn() -> crate::plugin::error::Result<Vec<Holding>>) {
        match look() {
            Ok(found) => self.all.extend(found),
            Err(failure) => self.unseen.push(format!("{what}: {}", failure.0.details())),
        }
    }
}

fn links() -> crate::plugin::error::Result<Vec<Holding>> {
    let held = |link: Link| {
        let by = HeldBy::of_tag(Owner::tag_of_alias(link.alias.as_deref()?)?);
        let kind = link.kind.as_deref().unwrap_or("device");
        Some(Holding { kind: "link", what: format!("{} ({kind})", link.name), by })
    };
    Ok(Netlink::open()?.links()?.into_iter().filter_map(held).collect())
}

/// What interfaces there are in namespaces that can be reached: they have a name, or a process is in them.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// The attachments that have an interface there: a link carries the mark itself, or is the other end of a veth on this
    /// host that does.
    pub marked: Vec<HeldBy>,
    /// The addresses of interfaces without a mark, as the Go plugins make them, with the interfaces' names.
    pub unmarked: HashMap<IpAddr, String>,
    /// The addresses of all interfaces but loopback ones.
    pub addresses: HashSet<IpAddr>,
}

/// Looks into all namespaces but the one that this is called in.
pub fn live() -> Live {
    let mut live = Live::default();
    let Ok(here) = Netlink::open().and_then(|mut host| host.links()) else { return live };
    for netns in namespaces() {
        let Ok(mut netlink) = Netlink::open_in(&netns) else { continue };
        let Ok(links) = netlink.links() else { continue };
        for inner in &links {
            let is_peer = |outer: &&Link| {
                let is_veth =
                    [inner, *outer].iter().all(|link| link.kind.as_deref() == Some("veth"));
                is_veth
                    && inner.peer_index == Some(outer.index)
                    && outer.peer_index == Some(inner.index)
            };
            let outer = here.iter().find(is_peer).and_then(|outer| outer.alias.as_deref());
            let aliases = [inner.alias.as_deref(), outer].into_iter().flatten();
            let owners: Vec<_> =
                aliases.filter_map(Owner::tag_of_alias).map(HeldBy::of_tag).collect();
            if !inner.loopback {
                let addresses = netlink.addresses(inner.index).unwrap_or_default();
                let addresses = addresses.iter().map(|address| address.net.addr());
                if owners.is_empty() {
                    live.unmarked.extend(addresses.clone().map(|it| (it, inner.name.clone())));
                }
                live.addresses.extend(addresses);
            }
            live.marked.extend(owners);
        }
    }
    live
}

/// A socket in the namespace with this cookie, if a process is in it or a name leads to it.
pub(crate) fn namespace_with_cookie(cookie: u64) -> Option<Netlink> {
    sockets().find(|socket| socket.netns_cookie() == Some(cookie))
}

/// A socket in each of the other namespaces.
pub(crate) fn sockets() -> impl Iterator<Item = Netlink> {
    namespaces().into_iter().filter_map(|netns| Netlink::open_in(&netns).ok())
}

/// The places where namespaces have names.
const NAMED: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];

/// Every other namespace that this process may enter, once each.
fn namespaces() -> Vec<Netns> {
    let entries = |dir: &str| {
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    let is_process = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit())
    };
    let of_processes = entries("/proc").filter(is_process).map(|process| process.join("ns/net"));
    let identity =
        |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    let mut seen: HashSet<_> = identity(Path::new("/proc/self/ns/net")).into_iter().collect();
    let all = NAMED.into_iter().flat_map(entries).chain(of_processes);
    all.filter(|path| identity(path).is_some_and(|identity| seen.insert(identity)))
        .filter_map(|path| Netns::open(path).ok())
        .collect()
}
