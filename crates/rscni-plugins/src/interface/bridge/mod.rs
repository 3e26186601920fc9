//! `bridge`: a veth pair whose host side is a port of a bridge.
//!
//! The bridge is created on demand and stays, because it belongs to the network. An attachment owns
//! the veth pair, the frame filter of `macspoofchk`, and the masquerading.

mod config;
mod device;
mod spoof;

use std::time::Duration;

use rscni::{CNIResult, Interface};
use rscni_linux::{Link, LinkChange, Netlink, Nft, Veth};

use self::config::Config;
use crate::{
    attach::{Ipam, Reach, Sandbox, gateway, ipam::override_dns, link, sandbox::check_mac, veth},
    nat::{self, Masquerade},
    plugin::{BestEffort, Call, Commands, Context, Facts, Plugin, Repair, Result, differs},
    state::{AttachmentResult, Undo},
};

pub(crate) const BRIDGE: Plugin = Plugin {
    name: "bridge",
    about: "connects the container to a bridge of the host with a veth pair",
    commands: Commands { add, del, check, gc, status },
    facts: Facts {
        repair: Some(Repair { look: look_strictly, restore }),
        describe_element: |set, key| nat::describe(set, key).or_else(|| spoof::describe(set, key)),
        chains: Some(&nat::CHAINS),
        kernel: config::kernel_features,
        gateway_bridge: config::gateway_bridge,
        routes: |keys| {
            ["isGateway", "isDefaultGateway", "ipMasq"].into_iter().any(|key| keys.is_true(key))
        },
        ..Facts::NONE
    },
};

/// The time for the port to come up, which takes long only on a busy machine.
const PORT_LIMIT: Duration = Duration::from_secs(30);

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let config = Config::new(call)?;
    let (mut sandbox, announcer) = Sandbox::open_to_announce(call)?;
    let owner = call.owner();
    Ipam::require_in_old_versions(call)?;
    let ipam = Ipam::of(call);
    let mut undo = Undo::default();

    let mut host = Netlink::open()?;
    let bridge = device::ensure(&mut host, &config, &mut undo)?;
    let port = veth::add_veth(
        &mut host,
        &Veth {
            alias: Some(owner.alias()),
            mtu: config.mtu,
            mac: Some(owner.mac("veth")),
            master: Some(bridge.index),
            up: true,
            peer_netns: Some(&sandbox.netns),
            peer_mac: config.mac,
            ..Veth::new(owner.veth_name(), &call.args.ifname)
        },
        &mut sandbox.netlink,
        &sandbox.path,
        &mut undo,
    )?;
    set_port(&mut host, &port, &config)?;
    let inner = sandbox.netlink.link_by_name(&call.args.ifname)?;
    if let (true, Some(mac)) = (config.mac_spoof_check, inner.mac) {
        undo.push(move || spoof::remove(&mut Nft::open()?, owner, Some(mac)));
        spoof::add(owner, &port.name, mac)?;
    }

    // The link comes first because a DHCP server is reached through it.
    let mut result = CNIResult::default();
    if let Some(ipam) = &ipam {
        result = ipam.add(&mut undo, CONTAINER)?;
    }
    let gateways = config.gateways(&mut result)?;

    let mut gateway_link = None;
    let mut changed = None;
    if ipam.is_some() {
        sandbox.configure(&inner, &result, Reach::Link, config.dad)?;
        if let Some(backend) = config.masquerade {
            let masquerade = Masquerade::new(owner, backend);
            undo.push(move || masquerade.remove(&mut Nft::open()?, None));
            let addresses = call.own(&result).addresses();
            masquerade.add(&config.masquerade_families.filter(addresses))?;
        }
        if !gateways.is_empty() {
            let gateway = device::gateway(&mut host, &bridge, &config, &port, &mut undo)?;
            gateway::enable_forwarding(&gateways)?;
            gateway_link = Some(gateway);
        }
    } else if !config.disable_container_interface {
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        sandbox.netlink.set_link(inner.index, &up)?;
    }
    if !config.disable_container_interface {
        host.wait_until_up(port.index, PORT_LIMIT).context("wait for the bridge port")?;
        let addresses: Vec<_> = result.ips.iter().map(|ip| ip.address.addr()).collect();
        // A frame may get lost on the way as well.
        if let Err(error) = announcer?.announce(&inner, &addresses) {
            eprintln!("{error}");
        }
    }
    // The last step that can fail, since other containers may use these addresses at once.
    if let Some(gateway) = &gateway_link {
        changed = gateway::ensure_addresses(&mut host, gateway, &gateways, config.force_address)?;
    }

    // A bridge without an explicit MAC address takes that of a port.
    let is_gateway =
        |link: &Option<Link>| link.as_ref().is_some_and(|link| link.index == bridge.index);
    let bridge = match changed.as_ref() {
        Some(gateway) if is_gateway(&changed) => gateway.clone(),
        _ => match host.link_by_index(bridge.index)? {
            // An interrupted ADD may have left the gateway's address.
            now if is_gateway(&gateway_link) && now.mac != bridge.mac => {
                gateway::pin_mac(&mut host, &bridge)?
            }
            now => now,
        },
    };
    let inner = Interface { sandbox: Some(sandbox.path.clone()), ..link::interface(&inner) };
    result.interfaces = vec![link::interface(&bridge), link::interface(&port), inner];
    let vlan_gateway = changed.or(gateway_link).filter(|gateway| gateway.index != bridge.index);
    result.interfaces.extend(vlan_gateway.as_ref().map(link::interface));
    override_dns(&mut result, call.conf);
    undo.commit();
    Ok(result)
}

/// The index of the container interface in the result's interfaces, as in that of the Go plugin.
const CONTAINER: u32 = 2;

/// Changes the settings of the port that differ from the kernel's defaults.
///
/// Router advertisements need no setting: the bridge receives what comes in on a port.
fn set_port(host: &mut Netlink, port: &Link, config: &Config) -> Result<()> {
    if port.bridge_port.unwrap_or_default().difference(&config.port).is_some() {
        host.set_bridge_port(port.index, &config.port)?;
    }
    device::set_vlans(host, port.index, &config.port_vlans(), config.preserve_default_vlan)
}

fn del(call: &Call<'_>) -> Result<()> {
    // DEL also works with an invalid configuration, and then removes everything that any
    // configuration creates.
    let has_filter = Config::new(call).map_or(true, |config| config.mac_spoof_check);
    let mac = call.prev_result().and_then(inner_mac);
    veth::del(call, has_filter, |nft| spoof::remove(nft, call.owner(), mac))
}

fn inner_mac(own: AttachmentResult<'_>) -> Option<rscni_linux::MacAddr> {
    own.interface()?.mac.as_ref()?.parse().ok()
}

/// Restores the frame filter, masquerading, the gateway's addresses, forwarding and the container's
/// routes.
pub(crate) fn restore(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let config = Config::new(call)?;
    let owner = call.owner();
    let result = call.checked_result()?;
    let own = call.own(result);
    let mut sandbox = Sandbox::open(call)?;
    let mut host = Netlink::open()?;
    let bridge = device::check(&mut host, &config)?;
    let inner = sandbox.netlink.link_by_name(&call.args.ifname)?;
    let port = veth::check_peer(&mut host, &inner, result)?;
    let mut all = BestEffort::default();
    if let (true, Some(mac)) = (config.mac_spoof_check, inner.mac) {
        let look = || spoof::check(owner, &port.name, Some(mac));
        all.restore_if_missing(look, || spoof::restore(owner, &port.name, mac));
    }
    if conf.ipam_type().is_some() {
        if config.gateway {
            let wanted = device::gateways(own);
            let found = device::find_gateway(&mut host, &bridge, &config);
            let add = |link| gateway::ensure_addresses(&mut host, &link, &wanted, false);
            all.step(found.and_then(add).map(drop));
        }
        all.step(sandbox.restore_routes(&inner, result, conf.cni_version, Reach::Link));
        if let Some(backend) = config.masquerade {
            let addresses = config.masquerade_families.filter(own.addresses());
            all.step(Masquerade::new(owner, backend).restore(&addresses));
        }
        if config.gateway {
            all.step(gateway::enable_forwarding(&device::gateways(own)));
        }
    }
    all.finish()
}

/// Fails if something is missing that a repair restores.
pub(crate) fn look_strictly(call: &Call<'_>) -> Result<()> {
    check(call)?;
    let conf = call.conf;
    if conf.ipam_type().is_none() || !Config::new(call)?.gateway {
        return Ok(());
    }
    let own = call.own(call.checked_result()?);
    gateway::check_forwarding(&device::gateways(own))
}

fn check(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let config = Config::new(call)?;
    let owner = call.owner();
    let result = call.checked_result()?;
    let own = call.own(result);
    if let Some(ipam) = Ipam::of(call) {
        ipam.check()?;
    }
    let mut sandbox = Sandbox::open(call)?;
    let mut host = Netlink::open()?;

    let bridge = device::check(&mut host, &config)?;
    let inner = if config.disable_container_interface {
        sandbox.netlink.link_by_name(&call.args.ifname)?
    } else {
        sandbox.check_link(&call.args.ifname, "veth", result)?
    };
    let port = veth::check_peer(&mut host, &inner, result)?;
    check_port(&mut host, &port, &bridge, &config)?;
    check_mac(
        &port,
        result.interfaces.iter().find(|i| i.name == port.name).and_then(|i| i.mac.as_deref()),
    )?;
    if config.mac_spoof_check {
        spoof::check(owner, &port.name, inner.mac)?;
    }
    if conf.ipam_type().is_some() {
        sandbox.check_addresses_and_routes(&inner, result, conf.cni_version)?;
        if config.gateway {
            let gateway = device::find_gateway(&mut host, &bridge, &config)?;
            device::check_gateways(&mut host, &gateway, device::gateways(own))?;
        }
        if let Some(backend) = config.masquerade {
            Masquerade::new(owner, backend)
                .check(&config.masquerade_families.filter(own.addresses()))?;
        }
    }
    Ok(())
}

fn check_port(host: &mut Netlink, port: &Link, bridge: &Link, config: &Config) -> Result<()> {
    if port.master != Some(bridge.index) {
        return Err(differs(format!("{} is not a port of bridge {}", port.name, bridge.name)));
    }
    if let Some((name, is)) = port.bridge_port.unwrap_or_default().difference(&config.port) {
        return Err(differs(format!("port {} has {name} {is}, ADD left {}", port.name, !is)));
    }
    device::check_vlans(host, port, &config.port_vlans())
}

fn gc(call: &Call<'_>) -> Result<()> {
    veth::gc(call, spoof::remove_stale)
}

fn status(call: &Call<'_>) -> Result<()> {
    Config::new(call)?;
    Ipam::of(call).map_or(Ok(()), |ipam| ipam.status())
}
