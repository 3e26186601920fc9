//! `bandwidth`: limits what a container sends and receives, in bits per second, where another plugin has joined it
//! with the host by a veth pair.
//!
//! What the container receives leaves the host's end of the veth, and waits there. What it sends comes in there, and
//! is led through an ifb, which it leaves in time.

mod config;
mod ifb;
mod shaper;
mod veth;

use rscni::{Args, CNIResult};
use rscni_linux::{Netlink, tc::Handle};

use self::{
    config::{Config, Limit},
    shaper::{Peer, Shaper},
};
use crate::{
    attach::host,
    attach::sandbox::Sandbox,
    plugin::chained,
    plugin::commands::Commands,
    plugin::failure::{AsFarAsPossible, Result, differs},
    state::owner::{Owner, Stale},
    state::undo::Undo,
};

/// The bandwidth plugin.
pub(crate) const BANDWIDTH: Commands = Commands { add, del, check, gc, status };

/// The limit of what the container receives.
fn to_container(config: &Config, limit: Limit) -> Shaper<'_> {
    Shaper { limit, subnets: &config.subnets, peer: Peer::Source }
}

/// The limit of what the container sends.
fn from_container(config: &Config, limit: Limit) -> Shaper<'_> {
    Shaper { limit, subnets: &config.subnets, peer: Peer::Destination }
}

fn add(args: &Args) -> Result<CNIResult> {
    let conf = args.conf()?;
    let config = Config::new(conf)?;
    let mut result = chained::require_prev_result(conf)?.clone();
    if config.is_empty() {
        return Ok(result);
    }
    let owner = Owner::new(&conf.name, args);
    let mut host = Netlink::open()?;
    let veth = veth::require(&mut host, args, &result)?;
    let mut undo = Undo::default();

    if let Some(limit) = config.ingress {
        let (root, rest) = to_container(&config, limit).requests(&veth);
        host.run(&root).map_err(|error| ifb::in_the_way(error, &veth, Handle::ROOT))?;
        let index = veth.index;
        undo.push(move || Ok(Netlink::open()?.del_qdisc(index, Handle::ROOT)?));
        host.run_all(&rest)?;
    }
    if let Some(limit) = config.egress {
        let ifb = ifb::add(&mut host, &veth, owner, &from_container(&config, limit), &mut undo)?;
        result.interfaces.push(host::interface(&ifb));
    }
    undo.commit();
    Ok(result)
}

fn del(args: &Args) -> Result<()> {
    let conf = args.conf()?;
    let owner = Owner::new(&conf.name, args);
    let mut host = Netlink::open()?;
    let ifb = ifb::find(&mut host, owner)?;
    let [ingress, egress] = match Config::new(conf) {
        Ok(config) if !config.is_empty() => [config.ingress.is_some(), config.egress.is_some()],
        Ok(_) if ifb.is_none() => return Ok(()),
        // One that has become invalid, or has lost what the runtime gave, may have asked for anything.
        _ => [true, true],
    };
    let mut all = AsFarAsPossible::default();
    match veth::find(&mut host, args, conf) {
        Ok(Some(veth)) => {
            // Before the ifb goes: packets that are redirected to nothing are lost.
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
        all.step(host::del_link(&mut host, None, &ifb));
    }
    all.finish()
}

/// Puts the limits back. Where only a part of them is left, a half-made path for packets is taken
/// away first.
pub(crate) fn restore(args: &Args) -> Result<()> {
    del(args)?;
    add(args).map(drop)
}

pub(crate) fn check(args: &Args) -> Result<()> {
    let conf = args.conf()?;
    let config = Config::new(conf)?;
    let result = host::require_prev_result(conf)?;
    if config.is_empty() {
        return Ok(());
    }
    let mut sandbox = Sandbox::open(args)?;
    let mut host = Netlink::open()?;
    let inner = sandbox.netlink.find_link(&args.ifname)?;
    let inner = inner.ok_or_else(|| {
        differs(format!("interface {} is missing in {}", args.ifname, sandbox.path))
    })?;
    let veth = host::check_peer(&mut host, &inner, result)?;
    if let Some(limit) = config.ingress {
        to_container(&config, limit).check(&mut host, &veth)?;
    }
    if let Some(limit) = config.egress {
        ifb::check(
            &mut host,
            &veth,
            Owner::new(&conf.name, args),
            &from_container(&config, limit),
        )?;
    }
    Ok(())
}

fn gc(args: &Args) -> Result<()> {
    let conf = args.conf()?;
    ifb::del_stale(&Stale::new(conf, host::valid_attachments(conf)))
}

fn status(args: &Args) -> Result<()> {
    Config::new(args.conf()?).map(drop)
}
