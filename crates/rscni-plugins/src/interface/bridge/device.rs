//! The bridge, its VLANs, and the interface with the gateway's addresses.

use ipnet::IpNet;
use rscni::Error;
use rscni_linux::{Bridge, Link, LinkChange, Netlink, Veth, Vlan, VlanOwner};

use super::config::{Config, vlan_interface};
use crate::{
    attach::{gateway, mac::host_wide_mac},
    plugin::{Result, differs},
    state::{AttachmentResult, Undo, derived_mac, derived_name},
};

/// Finds the bridge, or creates it.
pub(super) fn ensure(host: &mut Netlink, config: &Config, undo: &mut Undo<'_>) -> Result<Link> {
    let bridge = match host.find_link(&config.bridge)? {
        Some(link) => link,
        None => make(host, config, undo)?,
    };
    if bridge.kind.as_deref() != Some("bridge") {
        return Err(unusable(&bridge.name, "exists but is not a bridge: choose another name"));
    }
    if config.vlan_filtering && !bridge.bridge.is_some_and(|info| info.vlan_filtering) {
        let remedy = format!(
            "does not filter VLANs, which vlan and vlanTrunk need: ip link set {} type bridge \
             vlan_filtering 1",
            bridge.name
        );
        return Err(unusable(&bridge.name, &remedy));
    }
    let change = LinkChange {
        up: (!bridge.up).then_some(true),
        promisc: (config.promisc && !bridge.promisc).then_some(true),
        ..LinkChange::default()
    };
    if change.up.is_some() || change.promisc.is_some() {
        let (index, up, promisc) =
            (bridge.index, change.up.map(|_| false), change.promisc.map(|_| false));
        undo.push(move || {
            let mut host = Netlink::open()?;
            if is_used(&mut host, index)? {
                return Ok(());
            }
            Ok(host.set_link(index, &LinkChange { up, promisc, ..LinkChange::default() })?)
        });
        host.set_link(bridge.index, &change)?;
    }
    Ok(bridge)
}

fn unusable(bridge: &str, problem: &str) -> crate::plugin::Failure {
    Error::InvalidNetworkConfig(format!("bridge {bridge} {problem}")).into()
}

/// Creates the bridge. If another call creates it at the same time, that one is used.
fn make(host: &mut Netlink, config: &Config, undo: &mut Undo<'_>) -> Result<Link> {
    let spec = Bridge {
        mtu: config.mtu,
        // Without an address of its own it has that of a port, which changes with the ports.
        mac: Some(host_wide_mac(&[&config.bridge])),
        up: true,
        vlan_filtering: config.vlan_filtering.then_some(true),
        ..Bridge::new(&config.bridge)
    };
    let name = config.bridge.clone();
    undo.push(move || remove_unused(&name));
    match undo.unless_exists(host.add_bridge(&spec)) {
        Ok(bridge) => {
            gateway::refuse_router_advertisements(&bridge.name);
            Ok(bridge)
        }
        Err(error) if error.is_exists() => Ok(host.link_by_name(&config.bridge)?),
        Err(error) => Err(error.into()),
    }
}

/// Removes the bridge that this call created, unless another call uses it.
fn remove_unused(name: &str) -> Result<()> {
    let mut host = Netlink::open()?;
    let Some(bridge) = host.find_link(name)? else { return Ok(()) };
    if is_used(&mut host, bridge.index)? {
        return Ok(());
    }
    Ok(host.del_link(bridge.index)?)
}

/// Whether a bridge has ports. The port of the failed ADD has been removed before.
fn is_used(host: &mut Netlink, index: u32) -> Result<bool> {
    Ok(host.links()?.iter().any(|link| link.master == Some(index)))
}

/// Adds a port to its VLANs, and removes it from the default VLAN of the bridge.
pub(super) fn set_vlans(
    host: &mut Netlink,
    port: u32,
    vlans: &[Vlan],
    preserve_default: bool,
) -> Result<()> {
    if vlans.is_empty() {
        return Ok(());
    }
    let default = if preserve_default { Vec::new() } else { host.vlans(port)? };
    let mut batch = host.batch();
    if !default.is_empty() {
        batch.del_vlans(port, &default, VlanOwner::Port);
    }
    batch.add_vlans(port, vlans, VlanOwner::Port);
    Ok(batch.commit()?)
}

/// Returns the interface with the gateway's addresses: the bridge, or for a VLAN a veth pair whose
/// other end is a port in that VLAN.
///
/// `attached` is the container's port.
pub(super) fn gateway(
    host: &mut Netlink,
    bridge: &Link,
    config: &Config,
    attached: &Link,
    undo: &mut Undo<'_>,
) -> Result<Link> {
    let Some(vlan) = config.vlan else { return Ok(bridge.clone()) };
    let name = vlan_interface(&bridge.name, vlan);
    if let Some(link) = host.find_link(&name)? {
        return Ok(link);
    }
    // It belongs to the network, like the bridge: all containers of the VLAN use the same one.
    let id = vlan.to_string();
    let port_name = derived_name("vlan", &[&bridge.name, &id]);
    let spec = Veth {
        mtu: config.mtu,
        mac: Some(derived_mac(&["vlan", &bridge.name, &id])),
        peer_mac: Some(host_wide_mac(&[&bridge.name, &id])),
        master: Some(bridge.index),
        up: true,
        ..Veth::new(&port_name, &name)
    };
    let (bridge, attached) = (bridge.index, attached.index);
    let port = port_name.clone();
    undo.push(move || remove_unused_gateway(&port, vlan, bridge, attached));
    match undo.unless_exists(host.add_veth(&spec)) {
        Ok(port) => {
            set_vlans(host, port.index, &[Vlan::access(vlan)], config.preserve_default_vlan)?;
        }
        Err(error) if error.is_exists() => {}
        Err(error) => return Err(error.into()),
    }
    let link = host.link_by_name(&name)?;
    // Before it comes up, since another port of the VLAN can be a router.
    gateway::refuse_router_advertisements(&name);
    host.set_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    Ok(link)
}

/// Removes the gateway interface of a VLAN that this call created, unless another port has joined
/// the VLAN. The container's own port is removed later.
fn remove_unused_gateway(port: &str, vlan: u16, bridge: u32, attached: u32) -> Result<()> {
    let mut host = Netlink::open()?;
    let Some(port) = host.find_link(port)?.map(|port| port.index) else { return Ok(()) };
    for link in host.links()? {
        let is_other = link.master == Some(bridge) && ![port, attached].contains(&link.index);
        if is_other && host.vlans(link.index)?.iter().any(|present| present.ids.contains(&vlan)) {
            return Ok(());
        }
    }
    Ok(host.del_link(port)?)
}

/// Returns the bridge for CHECK: it exists, is up, and has the configured settings.
pub(super) fn check(host: &mut Netlink, config: &Config) -> Result<Link> {
    let name = &config.bridge;
    let bridge =
        host.find_link(name)?.ok_or_else(|| differs(format!("bridge {name} is missing")))?;
    if bridge.kind.as_deref() != Some("bridge") {
        return Err(differs(format!("{name} is not a bridge")));
    }
    if !bridge.up {
        return Err(differs(format!("bridge {name} is down")));
    }
    if config.vlan_filtering && !bridge.bridge.is_some_and(|info| info.vlan_filtering) {
        return Err(differs(format!(
            "bridge {name} no longer filters VLANs: containers reach each other across them"
        )));
    }
    // Another network on the same bridge may need promiscuous mode, so only its absence is an
    // error.
    if config.promisc && !bridge.promisc {
        return Err(differs(format!("bridge {name} is not in promiscuous mode")));
    }
    Ok(bridge)
}

/// Fails CHECK if the port is not in its VLANs.
pub(super) fn check_vlans(host: &mut Netlink, port: &Link, wanted: &[Vlan]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let present = host.vlans(port.index)?;
    for vlan in wanted {
        let is_there = |id: u16| {
            present
                .iter()
                .any(|p| p.ids.contains(&id) && (p.pvid, p.untagged) == (vlan.pvid, vlan.untagged))
        };
        if let Some(missing) = vlan.ids.clone().find(|id| !is_there(*id)) {
            return Err(differs(format!(
                "port {} is not in VLAN {missing} as ADD left it",
                port.name
            )));
        }
    }
    Ok(())
}

/// Fails CHECK if an address of a gateway is missing on its interface.
pub(super) fn check_gateways(
    host: &mut Netlink,
    gateway: &Link,
    wanted: impl IntoIterator<Item = IpNet>,
) -> Result<()> {
    let present = host.addresses(gateway.index)?;
    for wanted in wanted {
        if !present.iter().any(|address| address.net == wanted) {
            return Err(differs(format!("address {wanted} is missing on {}", gateway.name)));
        }
    }
    Ok(())
}

/// Finds the interface with the gateway's addresses.
pub(super) fn find_gateway(host: &mut Netlink, bridge: &Link, config: &Config) -> Result<Link> {
    let Some(vlan) = config.vlan else { return Ok(bridge.clone()) };
    let name = vlan_interface(&bridge.name, vlan);
    host.find_link(&name)?.ok_or_else(|| differs(format!("interface {name} is missing")))
}

pub(super) fn gateways(own: AttachmentResult<'_>) -> Vec<IpNet> {
    own.ips().filter_map(|ip| IpNet::new(ip.gateway?, ip.address.prefix_len()).ok()).collect()
}
