//! The bridge and the addresses of pods that another pod network has attached on this node.
//!
//! Its pods keep running. New pods are ports of the same bridge, because the old ones expect all
//! addresses of the podCIDR there. The name of the network stays too, because host-local reserves
//! addresses under it: no address is given twice, and DEL of an old pod removes everything.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use rscni_linux::{Address, Link};

use super::{Both, conflist::NETWORK};

/// The bridge that connects the pods of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Name.
    pub name: String,
    /// MTU, which pods must not exceed.
    pub mtu: u32,
    /// Whether packets between its ports skip netfilter (`bridge-nf-call-iptables`, and
    /// `-ip6tables`).
    pub unfiltered: Both<bool>,
}

impl Bridge {
    /// Finds the bridge that is the gateway of a podCIDR.
    pub fn find(
        pod_cidrs: &Both<Option<IpNet>>,
        links: &[Link],
        addresses: &[Address],
    ) -> Option<Self> {
        let is_bridge = |link: &&Link| link.kind.as_deref() == Some("bridge");
        let gateways = addresses.iter().filter(|address| is_gateway(pod_cidrs, &address.net));
        let mut links = gateways.filter_map(|it| links.iter().find(|link| link.index == it.index));
        let link = links.find(is_bridge)?;
        Some(Self { name: link.name.clone(), mtu: link.mtu, unfiltered: Both::default() })
    }
}

/// Whether bridged packets skip netfilter in the namespace of the calling thread. The settings are
/// missing if the module `br_netfilter` is not loaded.
pub(super) fn unfiltered() -> Both<bool> {
    let setting = Both { v4: "bridge-nf-call-iptables", v6: "bridge-nf-call-ip6tables" };
    Both::each(|family| {
        let value = fs::read_to_string(format!("/proc/sys/net/bridge/{}", setting.of(family)));
        value.map_or(true, |value| value.trim() == "0")
    })
}

/// Whether an interface with this address is the gateway of all pods of a podCIDR.
pub(super) fn is_gateway(pod_cidrs: &Both<Option<IpNet>>, address: &IpNet) -> bool {
    pod_cidrs.iter().flatten().any(|net| *net == address.trunc() && first(*net) == address.addr())
}

/// Returns the address that flannel and host-local give to the gateway.
fn first(net: IpNet) -> IpAddr {
    match net.network() {
        IpAddr::V4(network) => Ipv4Addr::from(u32::from(network).saturating_add(1)).into(),
        IpAddr::V6(network) => Ipv6Addr::from(u128::from(network).saturating_add(1)).into(),
    }
}

/// Returns the name of the network, under which the addresses of this node's pods are reserved in
/// `directory`. `previous` is the name in the list that was written before.
///
/// # Errors
///
/// If addresses are reserved under several names: a network does not see those of another.
pub(super) fn network(
    directory: &Path,
    pod_cidrs: &Both<Option<IpNet>>,
    previous: Option<String>,
) -> io::Result<String> {
    let is_of_pods = |address: IpAddr| pod_cidrs.iter().flatten().any(|net| net.contains(&address));
    let mut active: BTreeSet<String> = previous.into_iter().collect();
    // Networks whose pods are gone. A call of theirs may be in progress.
    let mut idle = BTreeSet::new();
    for network in entries(directory)? {
        let name = network.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for file in entries(&network)? {
            let file_name = file.file_name().unwrap_or_default().to_string_lossy();
            if file_name.parse().is_ok_and(is_of_pods) {
                active.insert(name.clone());
            } else if file_name.starts_with("last_reserved_ip.") {
                let last = fs::read_to_string(&file).unwrap_or_default();
                if last.trim().parse().is_ok_and(is_of_pods) {
                    idle.insert(name.clone());
                }
            }
        }
    }
    let names: Vec<String> = active.into_iter().collect();
    match names.as_slice() {
        [] => Ok(idle.pop_first().unwrap_or_else(|| NETWORK.to_owned())),
        [name] => Ok(name.clone()),
        several => Err(io::Error::other(format!(
            "the networks {} reserve addresses of the podCIDR in {}, and could give an address \
             twice; drain the node, and remove the directories of all but one",
            several.join(" and "),
            directory.display()
        ))),
    }
}

/// Lists a directory. There is nothing in one that does not exist, and in a file.
fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let failed = |error: io::Error| {
        io::Error::new(error.kind(), format!("read {}: {error}", directory.display()))
    };
    match fs::read_dir(directory) {
        Ok(entries) => {
            entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>().map_err(failed)
        }
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod_cidrs() -> Both<Option<IpNet>> {
        Both { v4: "10.1.0.0/24".parse().ok(), v6: "fd00:1::/64".parse().ok() }
    }

    #[test]
    fn only_the_first_address_of_a_pod_cidr_is_its_gateway() {
        for (address, expected) in [
            ("10.1.0.1/24", true),
            ("fd00:1::1/64", true),
            // The host interface of a pod, flannel.1, and other networks.
            ("10.1.0.1/32", false),
            ("10.1.0.0/24", false),
            ("10.1.0.2/24", false),
            ("10.2.0.1/24", false),
        ] {
            assert_eq!(is_gateway(&pod_cidrs(), &address.parse().unwrap()), expected, "{address}");
        }
    }

    /// Creates reservations, which are given as `NETWORK/FILE`, or `NETWORK/FILE=CONTENT`.
    fn named(files: &[&str], previous: Option<&str>) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let (path, content) = file.split_once('=').unwrap_or((file, "id\r\neth0"));
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        network(dir.path(), &pod_cidrs(), previous.map(str::to_owned))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn network_with_reserved_addresses_keeps_its_name() {
        for (files, previous, expected) in [
            (&[][..], None, NETWORK),
            (&[], Some("cbr0"), "cbr0"),
            (&["cbr0/10.1.0.7", "cbr0/lock"], None, "cbr0"),
            (&["cbr0/fd00:1::7", "other/10.9.0.7"], None, "cbr0"),
            (&["cbr0/10.1.0.7"], Some("cbr0"), "cbr0"),
            (&["cbr0/last_reserved_ip.0=10.1.0.7"], None, "cbr0"),
            (&["cbr0/last_reserved_ip.0=10.1.0.7", "rscni/10.1.0.2"], None, NETWORK),
            (&["cbr0/last_reserved_ip.0=10.1.0.7"], Some(NETWORK), NETWORK),
            (&["cbr0/last_reserved_ip.0=10.9.0.7", "file="], None, NETWORK),
        ] {
            assert_eq!(named(files, previous).as_deref(), Ok(expected), "{files:?}");
        }
    }

    #[test]
    fn two_networks_with_reserved_addresses_are_an_error() {
        for (files, previous) in
            [(&["cbr0/10.1.0.7", "rscni/10.1.0.2"][..], None), (&["cbr0/10.1.0.7"], Some(NETWORK))]
        {
            let error = named(files, previous).unwrap_err();
            assert!(error.contains("networks cbr0 and rscni"), "{error}");
        }
    }
}
