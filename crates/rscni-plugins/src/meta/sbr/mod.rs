//! `sbr`: source-based routing. Each address of the interface gets a routing table of its own, so
//! that replies leave by the interface on which the request arrived, whatever the main table
//! contains.

mod check;
mod config;
mod tables;

use ipnet::IpNet;
use rscni::{CNIResult, Error, IpConfig};
use rscni_linux::{Link, Netlink, Netns, Route};

use self::{
    check::check,
    config::{Config, Tables},
};
use crate::{
    attach::{Sandbox, routing_table},
    plugin::{BestEffort, Call, Commands, Facts, Plugin, Result, unless_absent},
    state::Undo,
};

/// The sbr plugin. Its rules and tables are in the container's namespace, so GC has nothing to
/// remove.
pub(crate) const SBR: Plugin = Plugin {
    name: "sbr",
    about: "routes by source, so that replies leave by the interface of the request",
    commands: Commands { add, del, check, gc: |_| Ok(()), status },
    facts: Facts::NONE,
};

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let conf = call.conf;
    let config = Config::new(conf)?;
    let result = call.chained_result()?;
    if result.ips.is_empty() {
        let problem = format!(
            "sbr: prevResult has no addresses for {}: list it after a plugin with IPAM",
            call.args.ifname
        );
        return Err(Error::InvalidNetworkConfig(problem).into());
    }
    let ips: Vec<&IpConfig> = call.own(result).ips().collect();
    let mut sandbox = Sandbox::open(call)?;
    sandbox.lock()?;
    let link = sandbox.netlink.link_by_name(&call.args.ifname)?;
    let mut undo = Undo::default();
    match config {
        Config::Table(table) => {
            for ip in &ips {
                add_rule(&mut sandbox.netlink, &sandbox.netns, ip, table, &mut undo)?;
            }
        }
        Config::Tables(tables) => {
            refuse_vrf(&mut sandbox.netlink, &link)?;
            add_tables(&mut sandbox.netlink, &sandbox.netns, &ips, &tables, link.index, &mut undo)?;
        }
    }
    undo.commit();
    Ok(result.clone())
}

/// Rejects an interface of a VRF, whose routes can only be in the table of that VRF.
fn refuse_vrf(netlink: &mut Netlink, link: &Link) -> Result<()> {
    let Some(master) = link.master else { return Ok(()) };
    let master = netlink.link_by_index(master)?;
    let Some(table) = master.vrf_table else { return Ok(()) };
    let (vrf, ifname) = (master.name, &link.name);
    let problem = format!(
        "sbr: {ifname} belongs to the VRF {vrf}, which has its routes: set \"table\" to {table}, \
         its own"
    );
    Err(Error::InvalidNetworkConfig(problem).into())
}

fn add_rule<'a>(
    netlink: &mut Netlink,
    netns: &'a Netns,
    ip: &IpConfig,
    table: u32,
    undo: &mut Undo<'a>,
) -> Result<()> {
    let rule = tables::rule(ip, table);
    let added = rule.clone();
    undo.push_removal(move || Netlink::open_in(netns)?.del_rule(&added));
    Ok(undo.unless_exists(netlink.add_rule(&rule))?)
}

/// Adds a table and a rule for each address, and removes the routes in them from the main table.
fn add_tables<'a>(
    netlink: &mut Netlink,
    netns: &'a Netns,
    ips: &[&IpConfig],
    tables: &Tables,
    index: u32,
    undo: &mut Undo<'a>,
) -> Result<()> {
    let present = tables::routes(netlink, routing_table::MAIN, index)?;
    let free = routing_table::free(netlink, config::FIRST)?;
    for (ip, table) in ips.iter().zip(free) {
        let mut batch = netlink.batch();
        for route in tables::wanted(ip, ips, tables, &present, index) {
            batch.append_route(&Route { table: Some(table), ..route });
        }
        undo.push(move || tables::clear(&mut Netlink::open_in(netns)?, table, index));
        batch.commit()?;
        add_rule(netlink, netns, ip, table, undo)?;
    }
    let before = present.clone();
    undo.push(move || tables::restore(&mut Netlink::open_in(netns)?, &before, index));
    if tables.source_hints {
        for hint in ips.iter().filter_map(|ip| tables::source_hint(ip)) {
            netlink.replace_route(&Route { oif: Some(index), ..hint })?;
        }
    }
    for route in tables::surplus(&present, tables) {
        tables::remove(netlink, route)?;
    }
    Ok(())
}

fn del(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    // Rules and tables are removed with the namespace.
    let Some(mut sandbox) = Sandbox::open_if_there(call)? else { return Ok(()) };
    sandbox.lock()?;
    // DEL also works with an invalid configuration.
    let config = Config::new(conf);
    let may_use = |table| {
        config.as_ref().map_or_else(|_| config::is_ours(table), |config| config.may_use(table))
    };
    let link = sandbox.netlink.find_link(&call.args.ifname)?;
    let mut sources: Vec<IpNet> = match &link {
        Some(link) => sandbox
            .netlink
            .addresses(link.index)?
            .iter()
            .map(|address| address.net.addr().into())
            .collect(),
        None => Vec::new(),
    };
    // The addresses that the interface has lost.
    let previous = conf.prev_result.iter().flat_map(|result| call.own(result).ips());
    sources.extend(previous.map(|ip| IpNet::from(ip.address.addr())));
    let rules = sandbox.netlink.rules()?;
    if link.is_none() && sources.is_empty() {
        // An earlier DEL failed here, and the interface was removed since.
        for rule in &rules {
            if tables::leads_nowhere(&mut sandbox.netlink, rule)? {
                sources.push(rule.src);
            }
        }
    }

    let mut all = BestEffort::default();
    for rule in rules {
        if rule.has_more || !sources.contains(&rule.src) || !may_use(rule.table) {
            continue;
        }
        all.step(unless_absent(sandbox.netlink.del_rule(&rule)));
        if let (Some(link), Ok(Config::Tables(_))) = (&link, &config) {
            all.step(tables::clear(&mut sandbox.netlink, rule.table, link.index));
        }
    }
    all.finish()
}

fn status(call: &Call<'_>) -> Result<()> {
    Config::new(call.conf).map(drop)
}
