//! `bandwidth`: limits the traffic of a container that has a veth pair, in bits per second.
//!
//! Traffic to the container is queued where it leaves the host side of the veth pair. Traffic from
//! it arrives there, and is redirected to an ifb, which shapes it.

mod config;
mod host_veth;
mod ifb;
mod shaper;

use rscni::CNIResult;
use rscni_linux::{Netlink, tc::Handle};

use self::{
    config::{Config, Limit},
    shaper::{Peer, Shaper},
};
use crate::{
    attach::{HostLinks, Sandbox, link, veth::check_peer},
    plugin::{BestEffort, Call, Commands, Facts, KernelFeature, Plugin, Repair, Result},
    state::Undo,
};

pub(crate) const BANDWIDTH: Plugin = Plugin {
    name: "bandwidth",
    about: "limits the traffic of the container in both directions",
    commands: Commands { add, del, check, gc, status },
    facts: Facts {
        repair: Some(Repair { look: check, restore }),
        owns_on_host: true,
        kernel: |_| vec![KernelFeature::Ifb, KernelFeature::Htb, KernelFeature::SchIngress],
        ..Facts::NONE
    },
};

fn to_container(config: &Config, limit: Limit) -> Shaper<'_> {
    Shaper { limit, subnets: &config.subnets, peer: Peer::Source }
}

fn from_container(config: &Config, limit: Limit) -> Shaper<'_> {
    Shaper { limit, subnets: &config.subnets, peer: Peer::Destination }
}

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let conf = call.conf;
    let config = Config::new(conf)?;
    let mut result = call.chained_result()?.clone();
    if config.is_empty() {
        return Ok(result);
    }
    let owner = call.owner();
    let mut host = Netlink::open()?;
    let veth = host_veth::require(&mut host, call, &result)?;
    let mut undo = Undo::default();

    if let Some(limit) = config.ingress {
        let (root, rest) = to_container(&config, limit).requests(&veth);
        let index = veth.index;
        undo.push_removal(move || Netlink::open()?.del_qdisc(index, Handle::ROOT));
        undo.unless_exists(host.run(&root))
            .map_err(|error| ifb::in_the_way(error, &veth, Handle::ROOT))?;
        host.run_all(&rest)?;
    }
    if let Some(limit) = config.egress {
        let ifb = ifb::add(&mut host, &veth, owner, &from_container(&config, limit), &mut undo)?;
        result.interfaces.push(link::interface(&ifb));
    }
    undo.commit();
    Ok(result)
}

fn del(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let owner = call.owner();
    let mut host = Netlink::open()?;
    let ifb = ifb::find(&mut host, owner)?;
    let [ingress, egress] = match Config::new(conf) {
        Ok(config) if !config.is_empty() => [config.ingress.is_some(), config.egress.is_some()],
        Ok(_) if ifb.is_none() => return Ok(()),
        // With an invalid configuration, or without the runtime's keys, both directions may be
        // limited.
        _ => [true, true],
    };
    let mut all = BestEffort::default();
    match host_veth::find(&mut host, call, conf) {
        Ok(Some(veth)) => {
            // Before the ifb is removed: packets that are redirected to nothing are lost.
            if egress {
                all.step(ifb::detach(&mut host, &veth, ifb.as_ref()));
            }
            if ingress {
                all.step(shaper::remove(&mut host, &veth));
            }
        }
        found => all.step(found.map(drop)),
    }
    if let Some(ifb) = ifb {
        all.step(link::del_links(call, host, [&ifb]));
    }
    all.finish()
}

/// Restores the limits, after removing an incomplete redirection.
pub(crate) fn restore(call: &Call<'_>) -> Result<()> {
    del(call)?;
    add(call).map(drop)
}

pub(crate) fn check(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let config = Config::new(conf)?;
    let result = call.checked_result()?;
    if config.is_empty() {
        return Ok(());
    }
    let mut sandbox = Sandbox::open(call)?;
    let mut host = Netlink::open()?;
    let inner = sandbox.require_link(&call.args.ifname)?;
    let veth = check_peer(&mut host, &inner, result)?;
    if let Some(limit) = config.ingress {
        to_container(&config, limit).check(&mut host, &veth)?;
    }
    if let Some(limit) = config.egress {
        ifb::check(&mut host, &veth, call.owner(), &from_container(&config, limit))?;
    }
    Ok(())
}

fn gc(call: &Call<'_>) -> Result<()> {
    HostLinks::remove_stale(call, Some("ifb"))
}

fn status(call: &Call<'_>) -> Result<()> {
    Config::new(call.conf).map(drop)
}
