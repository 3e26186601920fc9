//! Draws a network: bridges, their ports, and the interfaces, addresses and routes of the
//! containers.
//!
//! It asks the kernel and not the plugins, so a mistake of a plugin shows in the drawing.

use std::{fmt::Write, net::IpAddr};

use anyhow::Result;
use rscni_linux::{
    Link, Netlink, RouteFilter,
    nft::{Family, Nft, Table},
};
use rscni_test::{Container, Namespace};

/// The container interface of a veth pair.
struct ContainerInterface {
    container: String,
    link: Link,
    facts: Vec<String>,
}

/// Draws the host with its bridges, and the containers behind their ports.
pub(crate) fn draw(host: &Namespace, containers: &[Container]) -> Result<String> {
    let mut interfaces = Vec::new();
    for container in containers {
        interfaces.extend(interfaces_of(container)?);
    }
    let mut netlink = host.netlink();
    let links = netlink.links()?;
    let mut text = String::from("host\n");
    for link in links.iter().filter(|link| link.master.is_none() && !link.loopback && link.up) {
        let ports: Vec<&Link> =
            links.iter().filter(|port| port.master == Some(link.index)).collect();
        writeln!(text, "│\n├─ {}", describe(link))?;
        for fact in facts(&mut netlink, link)? {
            writeln!(text, "│  {}{fact}", if ports.is_empty() { "   " } else { "│  " })?;
        }
        for (number, port) in ports.iter().enumerate() {
            let (branch, indent) =
                if number + 1 == ports.len() { ("└─", "   ") } else { ("├─", "│  ") };
            writeln!(text, "│  │\n│  {branch} {}", describe(port))?;
            draw_peer(&mut text, &format!("│  {indent}"), port, &interfaces)?;
        }
        draw_peer(&mut text, "│  ", link, &interfaces)?;
    }
    let mut addresses = masqueraded()?;
    addresses.sort_unstable();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    writeln!(text, "│\n└─ nftables, table inet rscni: masquerades {}", addresses.join(", "))?;
    Ok(text)
}

/// Draws the container at the other end of a veth pair, if there is one.
fn draw_peer(
    text: &mut String,
    indent: &str,
    port: &Link,
    interfaces: &[ContainerInterface],
) -> Result<()> {
    let Some(peer) = interfaces.iter().find(|peer| peer.link.peer_index == Some(port.index)) else {
        return Ok(());
    };
    let rule = "═".repeat(40 - peer.container.len().min(30));
    writeln!(text, "{indent}  ║\n{indent}╔═╩═ container {} {rule}", peer.container)?;
    writeln!(text, "{indent}║  {}", describe(&peer.link))?;
    for fact in &peer.facts {
        writeln!(text, "{indent}║     {fact}")?;
    }
    Ok(writeln!(text, "{indent}╚{}", "═".repeat(55))?)
}

fn interfaces_of(container: &Container) -> Result<Vec<ContainerInterface>> {
    let mut netlink = container.netlink();
    let mut links = netlink.links()?;
    links.retain(|link| link.kind.as_deref() == Some("veth"));
    let interface = |link: Link| {
        let facts = facts(&mut netlink, &link)?;
        Ok(ContainerInterface { container: container.name().to_owned(), link, facts })
    };
    links.into_iter().map(interface).collect()
}

fn describe(link: &Link) -> String {
    let kind = link.kind.as_deref().unwrap_or("device");
    let state = if link.up { "up" } else { "down" };
    let mac = link.mac.map(|mac| format!(", {mac}")).unwrap_or_default();
    format!("{} ({kind}, {state}, mtu {}{mac})", link.name, link.mtu)
}

/// Addresses and routes of an interface, without the link-local ones that the kernel adds.
fn facts(netlink: &mut Netlink, link: &Link) -> Result<Vec<String>> {
    fn is_local(net: &ipnet::IpNet) -> bool {
        matches!(net.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_multicast())
    }
    const MAIN: u32 = 254;
    let mut facts = Vec::new();
    for address in netlink.addresses(link.index)?.iter().filter(|it| !is_local(&it.net)) {
        facts.push(format!("address  {}", address.net));
    }
    let filter = RouteFilter { table: Some(MAIN), oif: Some(link.index), ..RouteFilter::default() };
    for route in netlink.routes(filter)?.iter().filter(|route| !is_local(&route.dst)) {
        let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        facts.push(format!("route    {}{via}", route.dst));
    }
    Ok(facts)
}

fn masqueraded() -> Result<Vec<IpAddr>> {
    let mut nft = Nft::open()?;
    let table = Table::new(Family::Inet, "rscni");
    let mut addresses = Vec::new();
    for map in ["masquerade4", "masquerade6"] {
        for element in nft.elements(&table, map)? {
            addresses.push(match *element.key.as_slice() {
                [a, b, c, d] => IpAddr::from([a, b, c, d]),
                ref key => IpAddr::from(<[u8; 16]>::try_from(key)?),
            });
        }
    }
    Ok(addresses)
}
