//! `ptp`: a veth pair between the host and the container, with a route to the container on the
//! host.
//!
//! The container reaches everything through the host, including its own subnet. Without an IPAM
//! plugin only the pair is created.

use ipnet::IpNet;
use rscni::{CNIResult, Error, Interface, IpConfig};
use rscni_linux::{AddressFlags, Link, Netlink, Nft, Route, RouteFilter, Veth};
use serde::Deserialize;

use crate::{
    attach::{Ipam, Reach, Sandbox, gateway, ipam::override_dns, link, veth},
    nat::{self, Backend, Families, Masquerade},
    plugin::{
        BestEffort, Call, Commands, Facts, KernelFeature, Plugin, Repair, Result, differs,
        unless_exists,
    },
    state::Undo,
};

pub(crate) const PTP: Plugin = Plugin {
    name: "ptp",
    about: "connects the container to the host with a veth pair and a route",
    commands: Commands { add, del, check, gc, status },
    facts: Facts {
        repair: Some(Repair { look: look_strictly, restore }),
        describe_element: nat::describe,
        chains: Some(&nat::CHAINS),
        kernel: |keys| {
            let nft = keys.masquerades_with_nftables().then_some(KernelFeature::NfTables);
            [KernelFeature::Veth].into_iter().chain(nft).collect()
        },
        routes: |_| true,
        ..Facts::NONE
    },
};

/// The keys of the Go plugin.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    ip_masq_backend: Option<Backend>,
    ip_masq_families: Option<Families>,
    mtu: u32,
}

/// The index of the container interface in the result's interfaces, as in that of the Go plugin.
const CONTAINER: u32 = 1;

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let conf = call.conf;
    let keys: Keys = conf.custom_as()?;
    let ipam = Ipam::required_unless_empty(call)?;
    let mut sandbox = Sandbox::open(call)?;
    let owner = call.owner();
    let mut undo = Undo::default();

    let mut result = CNIResult::default();
    if let Some(ipam) = &ipam {
        result = ipam.add(&mut undo, CONTAINER)?;
    }
    let links = host_links(result.ips.iter())?;

    let mut host = Netlink::open()?;
    let outer = veth::add_veth(
        &mut host,
        &Veth {
            alias: Some(owner.alias()),
            mtu: Some(keys.mtu).filter(|mtu| *mtu > 0),
            mac: Some(owner.mac("veth")),
            up: true,
            peer_netns: Some(&sandbox.netns),
            ..Veth::new(owner.veth_name(), &call.args.ifname)
        },
        &mut sandbox.netlink,
        &sandbox.path,
        &mut undo,
    )?;
    gateway::refuse_router_advertisements(&outer.name);
    let inner = sandbox.netlink.link_by_name(&call.args.ifname)?;
    sandbox.configure(&inner, &result, Reach::Gateway, false)?;
    let mut batch = host.batch();
    for (i, link) in links.iter().enumerate() {
        // Several addresses may have the same gateway.
        if !links[..i].iter().any(|earlier| earlier.gateway == link.gateway) {
            batch.push(link.add_gateway(outer.index));
        }
    }
    for link in &links {
        batch.add_route(&link.route(outer.index));
    }
    batch.commit()?;
    if ipam.is_some() && conf.ip_masq.unwrap_or_default() {
        let masquerade = Masquerade::new(owner, keys.ip_masq_backend.unwrap_or_default());
        undo.push(move || masquerade.remove(&mut Nft::open()?, None));
        let addresses = call.own(&result).addresses();
        masquerade.add(&keys.ip_masq_families.unwrap_or_default().filter(addresses))?;
    }
    gateway::enable_forwarding(&result.ips.iter().map(|ip| ip.address).collect::<Vec<_>>())?;

    let inner = Interface { sandbox: Some(sandbox.path.clone()), ..link::interface(&inner) };
    result.interfaces = vec![link::interface(&outer), inner];
    override_dns(&mut result, call.conf);
    undo.commit();
    Ok(result)
}

/// The host side of one address: the gateway's address on the link, and a route to the container.
struct HostLink {
    gateway: IpNet,
    container: IpNet,
}

impl HostLink {
    fn add_gateway(&self, index: u32) -> rscni_linux::Request {
        let flags = AddressFlags { nodad: true, ..AddressFlags::default() };
        rscni_linux::Request::add_address(index, self.gateway, flags)
    }

    fn route(&self, index: u32) -> Route {
        Route { oif: Some(index), ..Route::new(self.container) }
    }
}

fn host_links<'r>(ips: impl Iterator<Item = &'r IpConfig>) -> Result<Vec<HostLink>> {
    let mut links: Vec<HostLink> = Vec::new();
    for ip in ips {
        let gateway = ip.gateway.ok_or_else(|| {
            Error::InvalidNetworkConfig(format!(
                "ptp: {} has no gateway: the IPAM plugin must give one",
                ip.address
            ))
        })?;
        links.push(HostLink { gateway: gateway.into(), container: ip.address.addr().into() });
    }
    Ok(links)
}

fn del(call: &Call<'_>) -> Result<()> {
    veth::del(call, false, |_| Ok(()))
}

/// Restores the addresses and routes of the host, the routes of the container, masquerading and
/// forwarding.
pub(crate) fn restore(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let keys: Keys = conf.custom_as()?;
    let result = call.checked_result()?;
    let own = call.own(result);
    let mut sandbox = Sandbox::open(call)?;
    let mut host = Netlink::open()?;
    let inner = sandbox.check_link(&call.args.ifname, "veth", result)?;
    let outer = veth::check_peer(&mut host, &inner, result)?;
    let mut all = BestEffort::default();
    for link in host_links(own.ips())? {
        if check_host(&mut host, &outer, std::slice::from_ref(&link)).is_ok() {
            continue;
        }
        let flags = AddressFlags { nodad: true, ..AddressFlags::default() };
        all.step(unless_exists(host.add_address(outer.index, link.gateway, flags)));
        all.step(unless_exists(host.add_route(&link.route(outer.index))));
    }
    all.step(sandbox.restore_routes(&inner, result, conf.cni_version, Reach::Gateway));
    if conf.ip_masq.unwrap_or_default() {
        let owner = call.owner();
        let backend = keys.ip_masq_backend.unwrap_or_default();
        let addresses = keys.ip_masq_families.unwrap_or_default().filter(own.addresses());
        all.step(Masquerade::new(owner, backend).restore(&addresses));
    }
    all.step(gateway::enable_forwarding(&own.addresses()));
    all.finish()
}

/// Fails if something is missing that a repair restores.
pub(crate) fn look_strictly(call: &Call<'_>) -> Result<()> {
    check(call)?;
    let own = call.own(call.checked_result()?);
    gateway::check_forwarding(&own.addresses())
}

fn check(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let keys: Keys = conf.custom_as()?;
    let result = call.checked_result()?;
    let own = call.own(result);
    let ipam = Ipam::required_unless_empty(call)?;
    if let Some(ipam) = &ipam {
        ipam.check()?;
    }
    let mut sandbox = Sandbox::open(call)?;
    let mut host = Netlink::open()?;
    let inner = sandbox.check_link(&call.args.ifname, "veth", result)?;
    let outer = veth::check_peer(&mut host, &inner, result)?;
    if ipam.is_none() {
        return Ok(());
    }
    sandbox.check_addresses_and_routes(&inner, result, conf.cni_version)?;
    check_host(&mut host, &outer, &host_links(own.ips())?)?;
    if conf.ip_masq.unwrap_or_default() {
        let backend = keys.ip_masq_backend.unwrap_or_default();
        let addresses = keys.ip_masq_families.unwrap_or_default().filter(own.addresses());
        Masquerade::new(call.owner(), backend).check(&addresses)?;
    }
    Ok(())
}

fn check_host(host: &mut Netlink, outer: &Link, links: &[HostLink]) -> Result<()> {
    let addresses = host.addresses(outer.index)?;
    for link in links {
        if !addresses.iter().any(|address| address.net == link.gateway) {
            return Err(differs(format!("address {} is missing on {}", link.gateway, outer.name)));
        }
        let filter = RouteFilter {
            dst: Some(link.container),
            oif: Some(outer.index),
            ..RouteFilter::default()
        };
        if host.routes(filter)?.is_empty() {
            return Err(differs(format!(
                "route to {} by {} is missing on the host",
                link.container, outer.name
            )));
        }
    }
    Ok(())
}

fn gc(call: &Call<'_>) -> Result<()> {
    veth::gc(call, |_| Ok(()))
}

fn status(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    conf.custom_as::<Keys>()?;
    Ipam::required_unless_empty(call)?.map_or(Ok(()), |ipam| ipam.status())
}
