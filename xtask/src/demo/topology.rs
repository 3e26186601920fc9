//! Draws what there is in a network: bridges, what hangs on them, and what the containers have.
//!
//! It asks the kernel, not the plugins: a drawing that is wrong shows that something is.

use std::{fmt::Write, net::IpAddr};

use anyhow::Result;
use rscni_linux::{
    Link, Netlink, RouteFilter,
    nft::{Family, Nft, Table},
};
use rscni_test::{Container, Namespace};

/// The end of a veth that is in a container.
struct Inner {
    container: String,
    link: Link,
    facts: Vec<String>,
}

/// Draws the host with its bridges, and the containers behind their ports.
pub(crate) fn draw(host: &Namespace, containers: &[Container]) -> Result<String> {
    let inner = containers.iter().map(look_inside).collect::<Result<Vec<_>>>()?;
    let inner: Vec<Inner> = inner.into_iter().flatten().collect();
    let mut netlink = host.netlink();
    let links = netlink.links()?;
    let mut text = String::from("host\n");
    let top: Vec<&Link> = links
        .iter()
        .filter(|link| {
            link.master.is_none() && !link.loopback && (link.up || link.master.is_some())
        })
        .collect();
    for link in top {
        let ports: Vec<&Link> =
            links.iter().filter(|port| port.master == Some(link.index)).collect();
        let _ = writeln!(text, "│\n├─ {}", describe(link));
        for fact in facts(&mut netlink, link)? {
            let _ = writeln!(text, "│  {}{fact}", if ports.is_empty() { "   " } else { "│  " });
        }
        for (number, port) in ports.iter().enumerate() {
            let is_last = number + 1 == ports.len();
            let _ =
                writeln!(text, "│  │\n│  {} {}", if is_last { "└─" } else { "├─" }, describe(port));
            draw_inner(
                &mut text,
                &format!("│  {}", if is_last { "   " } else { "│  " }),
                port,
                &inner,
            );
        }
        draw_inner(&mut text, "│  ", link, &inner);
    }
    let mut masqueraded = masqueraded()?;
    masqueraded.sort_unstable();
    let masqueraded: Vec<String> = masqueraded.iter().map(ToString::to_string).collect();
    let _ =
        writeln!(text, "│\n└─ nftables, table inet rscni: masquerades {}", masqueraded.join(", "));
    Ok(text)
}

fn draw_inner(text: &mut String, indent: &str, port: &Link, inner: &[Inner]) {
    let Some(inner) = inner.iter().find(|inner| inner.link.peer_index == Some(port.index)) else {
        return;
    };
    let _ = writeln!(text, "{indent}  ║");
    let _ = writeln!(
        text,
        "{indent}╔═╩═ container {} {}",
        inner.container,
        "═".repeat(40 - inner.container.len().min(30))
    );
    let _ = writeln!(text, "{indent}║  {}", describe(&inner.link));
    for fact in &inner.facts {
        let _ = writeln!(text, "{indent}║     {fact}");
    }
    let _ = writeln!(text, "{indent}╚{}", "═".repeat(55));
}

fn look_inside(container: &Container) -> Result<Vec<Inner>> {
    let mut netlink = container.netlink();
    let links = netlink.links()?;
    let mut found = Vec::new();
    for link in links.into_iter().filter(|link| link.kind.as_deref() == Some("veth")) {
        let facts = facts(&mut netlink, &link)?;
        found.push(Inner { container: container.name().to_owned(), link, facts });
    }
    Ok(found)
}

fn describe(link: &Link) -> String {
    let kind = link.kind.as_deref().unwrap_or("device");
    let state = if link.up { "up" } else { "down" };
    let mac = link.mac.map(|mac| format!(", {mac}")).unwrap_or_default();
    format!("{} ({kind}, {state}, mtu {}{mac})", link.name, link.mtu)
}

/// Addresses and routes of an interface, without what the kernel adds by itself for link-local use.
fn facts(netlink: &mut Netlink, link: &Link) -> Result<Vec<String>> {
    /// `fe80::/10` and `ff00::/8` are on every interface.
    fn is_local(net: &ipnet::IpNet) -> bool {
        matches!(net.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_multicast())
    }
    const MAIN: u32 = 254;
    let mut facts: Vec<String> = netlink
        .addresses(link.index)?
        .iter()
        .filter(|address| !is_local(&address.net))
        .map(|address| format!("address  {}", address.net))
        .collect();
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
            let address = match *element.key.as_slice() {
                [a, b, c, d] => IpAddr::from([a, b, c, d]),
                ref key => IpAddr::from(<[u8; 16]>::try_from(key)?),
            };
            addresses.push(address);
        }
    }
    Ok(addresses)
}
