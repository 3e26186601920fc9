//! Moves a device between the host and a container.

use std::time::{Duration, Instant};

use rscni::Error;
use rscni_linux::{Link, LinkChange, Netlink, Netns, sysctl};

use super::record::Record;
use crate::{
    attach::Sandbox,
    plugin::{BestEffort, Context, Result, unless_exists},
};

/// The time for the kernel to return a device whose namespace was removed.
const FALL_BACK_LIMIT: Duration = Duration::from_secs(3);

/// Moves a device into the container, renames it and brings it up. Its alias keeps the name on the
/// host.
///
/// One message does all of it, so that no program on the host sees the device renamed. If the
/// kernel stops half way, [`locate`] finds the device.
pub(super) fn give(
    host: &mut Netlink,
    device: &Link,
    sandbox: &Sandbox,
    ifname: &str,
) -> Result<()> {
    let change = LinkChange {
        netns: Some(&sandbox.netns),
        name: Some(ifname.to_owned()),
        alias: Some(device.name.clone()),
        up: Some(true),
        ..LinkChange::default()
    };
    host.set_link(device.index, &change).context(format!("give {} to the container", device.name))
}

/// Finds the device in the container after a [`give`] that may have failed: under its name there,
/// or under its name on the host unless that was `taken` before.
pub(super) fn locate(
    container: &mut Netlink,
    ifname: &str,
    device: &Link,
    taken: bool,
) -> Result<Option<Link>> {
    match container.find_link(ifname)? {
        None if !taken => Ok(container.find_link(&device.name)?),
        found => Ok(found),
    }
}

/// Moves a device to the host under its name there, with this alias.
///
/// It is renamed in the container, unless another interface there has the name, because a rename on
/// the host confuses programs that watch for new devices.
///
/// # Errors
/// If the host has an interface of that name by now. The device then stays unchanged.
pub(super) fn take(container: &mut Netlink, link: &Link, name: &str, alias: &str) -> Result<()> {
    let mut host = Netlink::open()?;
    refuse_taken(&mut host, name)?;
    let netns = Netns::current()?;
    let renamed = link.name != name && container.find_link(name)?.is_none();
    let down = LinkChange { up: Some(false), ..LinkChange::default() };
    let rename = |name: &str| LinkChange { name: Some(name.to_owned()), ..LinkChange::default() };
    if renamed {
        container.set_link(link.index, &down)?;
        container.set_link(link.index, &rename(name))?;
    }
    let change = LinkChange { netns: Some(&netns), alias: Some(alias.to_owned()), ..rename(name) };
    let moved = container
        .set_link(link.index, &change)
        .context(format!("take {} back from the container", link.name));
    if moved.is_err() && renamed {
        // The first error is the one to report.
        let _ = container.set_link(link.index, &rename(&link.name));
        let _ = container
            .set_link(link.index, &LinkChange { up: Some(link.up), ..LinkChange::default() });
    }
    moved
}

fn refuse_taken(host: &mut Netlink, name: &str) -> Result<()> {
    match host.find_link(name)? {
        None => Ok(()),
        Some(_) => Err(Error::TryAgainLater(format!(
            "host-device: the host has another interface {name} by now: rename that, then DEL again"
        ))
        .into()),
    }
}

/// Finds a device that the kernel has returned to the host. It has its name from the container, or
/// one such as `dev7`, and its alias unless the container changed it.
///
/// `wait` gives the kernel some time for it.
pub(super) fn fallen_back(host: &mut Netlink, saved: &Record, wait: bool) -> Result<Option<Link>> {
    let deadline = Instant::now() + FALL_BACK_LIMIT;
    loop {
        let links = host.links()?;
        let (mut found, others): (Vec<_>, Vec<_>) =
            links.into_iter().partition(|link| link.alias.as_ref() == Some(&saved.name));
        found.sort_by_key(|link| link.mac.map(|mac| mac.to_string()) != saved.mac);
        let by_alias = found.into_iter().next();
        let identity = saved.identity.as_ref().filter(|_| saved.is_physical);
        let found = by_alias.or_else(|| identity?.pick(others));
        // The kernel destroys virtual devices and takes some time for others.
        if found.is_some() || !saved.is_physical || !wait || Instant::now() > deadline {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the device is on the host under its name: it never left, or another program has returned
/// it.
pub(super) fn is_back(host: &mut Netlink, saved: &Record) -> Result<bool> {
    let link = host.find_link(&saved.name)?;
    Ok(link.is_some_and(|link| {
        link.mac.map(|mac| mac.to_string()) == saved.mac && link.kind.is_none() == saved.is_physical
    }))
}

/// Finds a device that the Go plugin gave to a container whose namespace was removed, by its alias.
pub(super) fn fallen_back_from_go(
    host: &mut Netlink,
    name: &str,
    ifname: &str,
) -> Result<Option<Link>> {
    let is_fallback = |link: &Link| {
        let number = link.name.strip_prefix("dev");
        link.name == ifname
            || number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    Ok(host.links_by_alias(name)?.into_iter().find(|link| link.name != name && is_fallback(link)))
}

/// Renames a device on the host, and sets its alias.
pub(super) fn rename(host: &mut Netlink, link: &Link, name: &str, alias: &str) -> Result<()> {
    if link.name != name {
        refuse_taken(host, name)?;
        host.set_link(link.index, &LinkChange { up: Some(false), ..LinkChange::default() })?;
        host.set_link(
            link.index,
            &LinkChange { name: Some(name.to_owned()), ..LinkChange::default() },
        )?;
    }
    if link.alias.as_deref().unwrap_or_default() == alias {
        return Ok(());
    }
    Ok(host.set_link(
        link.index,
        &LinkChange { alias: Some(alias.to_owned()), ..LinkChange::default() },
    )?)
}

/// Restores the MAC address, MTU, state, addresses and alias of a device on the host. The alias
/// comes last, as a sign that all is done.
pub(super) fn restore(saved: &Record) -> Result<()> {
    let mut host = Netlink::open()?;
    let link = host.link_by_name(&saved.name)?;
    let mut all = BestEffort::default();
    let mac = saved.mac.as_ref().and_then(|mac| mac.parse().ok());
    let unlike = |change: LinkChange<'static>, is_unlike: bool| is_unlike.then_some(change);
    let none = LinkChange::default;
    let alias = saved.alias.clone().unwrap_or_default();
    let changes = [
        unlike(LinkChange { mac, ..none() }, mac.is_some() && mac != link.mac),
        unlike(LinkChange { mtu: Some(saved.mtu), ..none() }, saved.mtu != link.mtu),
        unlike(LinkChange { up: Some(saved.up), ..none() }, saved.up != link.up),
    ];
    for change in changes.into_iter().flatten() {
        all.step(host.set_link(link.index, &change));
    }
    if saved.addresses().any(|address| address.net.addr().is_ipv6()) {
        // It has the defaults of the host again. Without IPv6 in the kernel, adding the address
        // fails with a clear error.
        let _ = sysctl::set(&format!("net/ipv6/conf/{}/disable_ipv6", saved.name), "0");
    }
    for address in saved.addresses() {
        all.step(unless_exists(host.add_new_address(link.index, &address)));
    }
    for request in saved.network.iter().flat_map(|network| network.add_routes(link.index)) {
        all.step(unless_exists(host.run(&request)));
    }
    if alias != link.alias.unwrap_or_default() {
        all.step(host.set_link(link.index, &LinkChange { alias: Some(alias), ..none() }));
    }
    all.finish()
}
