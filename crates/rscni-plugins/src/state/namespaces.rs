//! The other network namespaces of the node, and the interfaces in them.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rscni_linux::{Link, Netlink, Netns};

use super::{inventory::OwnedBy, owner::Owner, presence::is_of_process};

/// The interfaces in the namespaces that can be reached, by a name or by a process in them.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// The attachments with an interface there. The owner tag is on the link itself, or on the
    /// other end of a veth pair on this host.
    pub tagged: Vec<OwnedBy>,
    /// The addresses of interfaces without an owner tag, as the Go plugins create them, with the
    /// names of the interfaces.
    pub untagged: HashMap<IpAddr, String>,
    /// The addresses of all interfaces except loopback.
    pub addresses: HashSet<IpAddr>,
    /// The namespaces with a name that could not be inspected, each with the reason.
    pub failures: Vec<String>,
}

/// Lists the interfaces in all namespaces except the current one.
pub fn live() -> Live {
    let mut live = Live::default();
    let here = Netlink::open().and_then(|mut host| host.links());
    let here = here.unwrap_or_else(|error| {
        live.failures.push(format!("interfaces of the host: {error}"));
        Vec::new()
    });
    let mut failures = Vec::new();
    for netns in namespaces(&mut failures) {
        let listed = Netlink::open_in(&netns).and_then(|mut netlink| {
            let links = netlink.links()?;
            Ok((netlink, links))
        });
        let (mut netlink, links) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                if !is_of_process(&netns.path()) {
                    failures.push(error.to_string());
                }
                continue;
            }
        };
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
                aliases.filter_map(Owner::tag_of_alias).map(OwnedBy::of_tag).collect();
            if !inner.loopback {
                let addresses = netlink.addresses(inner.index).unwrap_or_default();
                let addresses = addresses.iter().map(|address| address.net.addr());
                if owners.is_empty() {
                    live.untagged.extend(addresses.clone().map(|it| (it, inner.name.clone())));
                }
                live.addresses.extend(addresses);
            }
            live.tagged.extend(owners);
        }
    }
    live.failures.extend(failures);
    live
}

/// Opens a socket in the namespace with this cookie, if a name or a process leads to it.
pub(crate) fn namespace_with_cookie(cookie: u64) -> Option<Netlink> {
    sockets().find(|socket| matches!(socket.netns_cookie(), Ok(Some(own)) if own == cookie))
}

/// Opens a socket in each of the other namespaces.
pub(crate) fn sockets() -> impl Iterator<Item = Netlink> {
    namespaces(&mut Vec::new()).into_iter().filter_map(|netns| Netlink::open_in(&netns).ok())
}

/// Directories of named namespaces.
const NAMED: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];

/// Opens every other namespace that this process may enter, once each. Adds one text for each with
/// a name that it may not open.
fn namespaces(failures: &mut Vec<String>) -> Vec<Netns> {
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
        .filter_map(|path| match Netns::open(&path) {
            Ok(netns) => Some(netns),
            Err(error) if error.is_permission() && !is_of_process(&path) => {
                failures.push(error.to_string());
                None
            }
            // A file that no namespace is mounted on, or a process that has ended.
            Err(_) => None,
        })
        .collect()
}
