//! `loopback`: brings up the loopback interface. `CNI_IFNAME` is ignored.

use rscni::{CNIResult, Error, Interface, IpConfig};
use rscni_linux::{Link, LinkChange};

use crate::{
    attach::Sandbox,
    plugin::{Call, Commands, Facts, Plugin, Result, differs},
    state::AttachmentResult,
};

/// It owns nothing and depends on nothing.
pub(crate) const LOOPBACK: Plugin = Plugin {
    name: "loopback",
    about: "brings up the loopback interface",
    commands: Commands { add, del, check, gc: |_| Ok(()), status: |_| Ok(()) },
    facts: Facts::NONE,
};

const LO: &str = "lo";

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let mut sandbox = Sandbox::open(call)?;
    let lo = sandbox.netlink.link_by_name(LO)?;
    let foreign = sandbox
        .netlink
        .addresses(lo.index)?
        .into_iter()
        .find(|address| !address.net.addr().is_loopback());
    if let Some(foreign) = foreign {
        let problem =
            format!("lo of {} has {}, which is not a loopback address", sandbox.path, foreign.net);
        return Err(Error::IOFailure(problem).into());
    }
    set_up(&mut sandbox, true)?;
    let result = result(call, &mut sandbox, &lo);
    if result.is_err() && !lo.up {
        // The reply contains the error that led here.
        let _ = set_up(&mut sandbox, false);
    }
    result
}

fn result(call: &Call<'_>, sandbox: &mut Sandbox, lo: &Link) -> Result<CNIResult> {
    if let Some(previous) = &call.conf.prev_result {
        return Ok(previous.clone());
    }
    // The kernel adds them when the interface comes up.
    let addresses = sandbox.netlink.addresses(lo.index)?;
    let first = |v4: bool| addresses.iter().find(|address| address.net.addr().is_ipv4() == v4);
    Ok(CNIResult {
        interfaces: vec![Interface {
            name: LO.into(),
            mac: lo.mac.map(|mac| mac.to_string()),
            mtu: Some(lo.mtu),
            sandbox: Some(sandbox.path.clone()),
            ..Interface::default()
        }],
        ips: [first(true), first(false)]
            .into_iter()
            .flatten()
            .map(|address| IpConfig { interface: Some(0), ..IpConfig::new(address.net) })
            .collect(),
        ..CNIResult::default()
    })
}

fn del(call: &Call<'_>) -> Result<()> {
    match Sandbox::open_if_there(call)? {
        None => Ok(()),
        Some(mut sandbox) => set_up(&mut sandbox, false),
    }
}

fn check(call: &Call<'_>) -> Result<()> {
    let result = call.checked_result()?;
    let mut sandbox = Sandbox::open(call)?;
    let lo = sandbox.netlink.link_by_name(LO)?;
    if !lo.up {
        return Err(differs(format!("lo of {} is down", sandbox.path)));
    }
    // Addresses without an interface belong to previous plugins, which check them.
    let own = AttachmentResult::new(result, LO, call.args.netns.as_deref());
    sandbox.check_addresses(&lo, own.ips().filter(|ip| ip.interface.is_some()))
}

fn set_up(sandbox: &mut Sandbox, up: bool) -> Result<()> {
    let lo = sandbox.netlink.link_by_name(LO)?.index;
    Ok(sandbox.netlink.set_link(lo, &LinkChange { up: Some(up), ..LinkChange::default() })?)
}
