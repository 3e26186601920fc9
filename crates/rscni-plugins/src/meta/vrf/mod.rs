//! `vrf`: moves the interface of the previous plugins into a VRF of the container. The interface
//! gets a routing table of its own, and may have addresses that another interface has too.

mod membership;

use rscni::{CNIResult, Error, NetConf, SpecVersion, name::interface_name_problem};
use rscni_linux::{Link, LinkChange, Netlink, Netns, Vrf};
use serde::Deserialize;

use self::membership::Belongings;
use crate::{
    attach::{
        Sandbox,
        link::del_links,
        routing_table::{self, MAIN},
    },
    plugin::{BestEffort, Call, Commands, Facts, KernelFeature, Plugin, Result, differs, invalid},
    state::Undo,
};

/// The vrf plugin. The VRF is in the container's namespace, so GC has nothing to remove.
pub(crate) const VRF: Plugin = Plugin {
    name: "vrf",
    about: "puts the container interface into a VRF",
    commands: Commands { add, del, check, gc: |_| Ok(()), status },
    facts: Facts { kernel: |_| vec![KernelFeature::Vrf], ..Facts::NONE },
};

/// The keys of the Go plugin.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Keys {
    vrfname: Option<String>,
    table: Option<u32>,
}

/// A validated configuration.
#[derive(Debug, PartialEq, Eq)]
struct Config {
    name: String,
    /// The table of the VRF. Without one it is that of an existing VRF, or an unused one.
    table: Option<u32>,
}

impl Config {
    fn new(conf: &NetConf) -> Result<Self> {
        let keys: Keys = conf.custom_as()?;
        let name = keys.vrfname.filter(|name| !name.is_empty());
        let name = name
            .ok_or_else(|| invalid("vrf", "vrfname is missing: set it to the name of the VRF"))?;
        if let Some(problem) = interface_name_problem(&name) {
            return Err(invalid("vrf", format!("vrfname: {name:?} {problem}")));
        }
        Ok(Self { name, table: keys.table.filter(|table| *table != 0) })
    }
}

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let conf = call.conf;
    let config = Config::new(conf)?;
    let result = call.chained_result()?;
    let mut sandbox = Sandbox::open(call)?;
    sandbox.lock()?;
    let (netlink, netns) = (&mut sandbox.netlink, &sandbox.netns);
    let link = netlink.link_by_name(&call.args.ifname)?;
    if let Some(master) = link.master {
        let master = netlink
            .link_by_index(master)
            .map_or_else(|_| format!("interface {master}"), |link| link.name);
        return Err(invalid(
            "vrf",
            format!("{} already belongs to {master}: remove it from that first", call.args.ifname),
        ));
    }
    let mut undo = Undo::default();
    let vrf = ensure(netlink, netns, &config, &mut undo)?;
    let table = vrf.vrf_table.unwrap_or_default();
    let belongings = Belongings::of(netlink, &link)?;
    let before = belongings.clone();
    undo.push(move || {
        let mut netlink = Netlink::open_in(netns)?;
        match netlink.link_by_index(link.index)?.master {
            None => Ok(()),
            Some(_) => before.move_to(&mut netlink, link.index, 0, MAIN),
        }
    });
    belongings.move_to(netlink, link.index, vrf.index, table)?;
    undo.commit();
    Ok(result.clone())
}

/// Returns the VRF, which is created if it does not exist.
fn ensure<'a>(
    netlink: &mut Netlink,
    netns: &'a Netns,
    config: &Config,
    undo: &mut Undo<'a>,
) -> Result<Link> {
    let Config { name, table } = config;
    if let Some(vrf) = netlink.find_link(name)? {
        let Some(is) = vrf.vrf_table else {
            return Err(invalid("vrf", format!("interface {name} of the container is not a VRF")));
        };
        if let Some(table) = table.filter(|table| *table != is) {
            return Err(invalid(
                "vrf",
                format!("VRF {name} already exists with table {is}, not {table}"),
            ));
        }
        return Ok(vrf);
    }
    let table = match table {
        Some(table) => *table,
        None => routing_table::free(netlink, 1)?
            .next()
            .ok_or_else(|| Error::TryAgainLater("vrf: no routing table is free".into()))?,
    };
    let name = name.clone();
    let vrf = Vrf { up: true, ..Vrf::new(&name, table) };
    undo.push(move || {
        let mut netlink = Netlink::open_in(netns)?;
        let Some(vrf) = netlink.find_link(&name)? else { return Ok(()) };
        if is_empty(&mut netlink, &vrf)? {
            netlink.del_links(&[vrf.index], None)?;
        }
        Ok(())
    });
    Ok(undo.unless_exists(netlink.add_link(&vrf))?)
}

fn is_empty(netlink: &mut Netlink, vrf: &Link) -> Result<bool> {
    Ok(!netlink.links()?.iter().any(|link| link.master == Some(vrf.index)))
}

/// Takes the interface out of the VRF, and removes the VRF with its last interface, whichever
/// program created it. The interface is about to be removed, so its routes are not restored.
fn del(call: &Call<'_>) -> Result<()> {
    let config = Config::new(call.conf);
    let Some(mut sandbox) = Sandbox::open_if_there(call)? else { return Ok(()) };
    sandbox.lock()?;
    let netlink = &mut sandbox.netlink;
    let link = netlink.find_link(&call.args.ifname)?;
    let vrf = match (&config, link.as_ref().and_then(|link| link.master)) {
        (Ok(config), _) => netlink.find_link(&config.name)?,
        // DEL also works with an invalid configuration.
        (Err(_), Some(master)) => Some(netlink.link_by_index(master)?),
        (Err(_), None) => None,
    };
    let Some(vrf) = vrf.filter(|vrf| vrf.vrf_table.is_some()) else { return Ok(()) };
    let mut all = BestEffort::default();
    if let Some(link) = link.filter(|link| link.master == Some(vrf.index)) {
        all.step(
            netlink.set_link(link.index, &LinkChange { master: Some(0), ..LinkChange::default() }),
        );
    }
    match is_empty(netlink, &vrf) {
        Ok(true) => all.step(del_links(call, sandbox.netlink, [&vrf])),
        outcome => all.step(outcome.map(drop)),
    }
    all.finish()
}

fn check(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let config = Config::new(conf)?;
    let mut result = call.checked_result()?.clone();
    let mut sandbox = Sandbox::open(call)?;
    let Config { name, table } = &config;
    let path = sandbox.path.clone();
    let vrf = sandbox
        .netlink
        .find_link(name)?
        .ok_or_else(|| differs(format!("VRF {name} is missing in {path}")))?;
    let is = vrf.vrf_table.ok_or_else(|| differs(format!("{name} in {path} is not a VRF")))?;
    if let Some(table) = table.filter(|table| *table != is) {
        return Err(differs(format!("VRF {name} in {path} has table {is}, ADD left {table}")));
    }
    if !vrf.up {
        return Err(differs(format!("VRF {name} in {path} is down")));
    }
    let link = sandbox.require_link(&call.args.ifname)?;
    if link.master != Some(vrf.index) {
        return Err(differs(format!(
            "interface {} in {path} does not belong to VRF {name}",
            call.args.ifname
        )));
    }
    // Up to 1.0.0 results do not show the table of a route.
    if conf.cni_version >= SpecVersion::V1_1_0 {
        for route in &mut result.routes {
            route.table = route.table.filter(|table| *table != MAIN).or(Some(is));
        }
    }
    sandbox.check_addresses_and_routes(&link, &result, conf.cni_version)
}

fn status(call: &Call<'_>) -> Result<()> {
    Config::new(call.conf).map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(keys: Value) -> Result<Config> {
        Config::new(&serde_json::from_value(keys).unwrap())
    }

    #[test]
    fn the_table_is_optional() {
        let blue = |table| Config { name: "blue".into(), table };
        assert_eq!(config(json!({ "vrfname": "blue" })).unwrap(), blue(None));
        assert_eq!(config(json!({ "vrfname": "blue", "table": 0 })).unwrap(), blue(None));
        assert_eq!(
            config(json!({ "vrfname": "blue", "table": 4_294_967_295_u32 })).unwrap(),
            blue(Some(u32::MAX))
        );
    }
}
