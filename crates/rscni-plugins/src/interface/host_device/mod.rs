//! `host-device`: gives the container an interface that the host has, and the host that interface back.
//!
//! The device comes back with its name, its addresses, and as it was otherwise: see [`saved`].

mod config;
mod identity;
mod network;
pub(crate) mod saved;
mod sysfs;
mod transfer;

use crate::{
    attach::ipam::override_dns,
    plugin::{Call, facts::StateFiles},
};
use std::time::Duration;

use rscni::{CNIResult, Error, Interface, NetConf};
use rscni_linux::{Link, Netlink, Netns};

use self::{
    config::{Config, Found, invalid},
    identity::Identity,
    network::Network,
    saved::{Saved, Store},
    sysfs::Sysfs,
};
use crate::{
    attach::{
        ipam::Ipam,
        link,
        sandbox::{Reach, Sandbox, check_mac},
    },
    plugin::{
        Commands, Plugin,
        error::{BestEffort, Result, differs},
        facts::Facts,
    },
    state::{owner::is_of_container, undo::Undo},
};

pub(crate) use self::saved::DIRECTORY;

/// The host-device plugin.
pub(crate) const HOST_DEVICE: Plugin = Plugin {
    name: "host-device",
    about: "moves a host device into the container",
    commands: Commands { add, del, check, gc, status },
    facts: Facts {
        owns_on_host: true,
        files: Some(StateFiles { key: None, default: DIRECTORY, list: saved::inventory }),
        ..Facts::NONE
    },
};

/// How long a device may take to have a carrier, which duplicate address detection waits for.
const CARRIER_LIMIT: Duration = Duration::from_secs(10);

/// The place of the device in the result: it is the only one.
const CONTAINER: u32 = 0;

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let config = Config::new(call)?;
    let mut sandbox = Sandbox::open(call)?;
    let mut undo = Undo::default();
    let Taken { inner, pci_id, network } = take_in(&config, *call, &mut sandbox, &mut undo)?;
    if let (Some(inner), Some(network)) = (&inner, &network) {
        let (path, rules) = (sandbox.path.clone(), network.clone());
        undo.push(move || rules.remove_rules(&mut Netlink::open_in(&Netns::open(path)?)?));
        network.apply(&mut sandbox, inner)?;
    }

    let mut result = CNIResult::default();
    if let Some(ipam) = Ipam::of(call) {
        result = if network.is_some() { ipam.add_any(&mut undo)? } else { ipam.add(&mut undo)? };
        for ip in &mut result.ips {
            ip.interface = Some(CONTAINER);
        }
        if let Some(inner) = &inner {
            configure(&mut sandbox, inner, &result)?;
        }
    }
    if let Some(network) = &network {
        network.show(&mut result, CONTAINER);
    }
    let interface = inner.as_ref().map_or_else(
        || Interface { name: call.args.ifname.clone(), ..Interface::default() },
        link::interface,
    );
    result.interfaces =
        vec![Interface { sandbox: Some(sandbox.path.clone()), pci_id, ..interface }];
    override_dns(&mut result, call.conf);
    undo.commit();
    Ok(result)
}

/// What the container has got.
struct Taken {
    /// The device in the container. None if it is left to a program.
    inner: Option<Link>,
    /// Its PCI address if it was found by that.
    pci_id: Option<String>,
    /// What the device had on the host, if the container is to have it.
    network: Option<Network>,
}

/// Moves the device into the container, unless it is left to a program.
fn take_in<'a>(
    config: &Config,
    call: Call<'a>,
    sandbox: &mut Sandbox,
    undo: &mut Undo<'a>,
) -> Result<Taken> {
    let mut host = Netlink::open()?;
    let store = Store::open()?;
    let (device, pci_id) = match config.find(&mut host, &Sysfs::default())? {
        Found::Dpdk(_) if config.use_interface_network => {
            let problem = "useInterfaceNetwork: the device is left to a program (DPDK) and has no \
                           interface: remove the key";
            return Err(invalid(problem).into());
        }
        Found::Dpdk(pci_id) => return Ok(Taken { inner: None, pci_id, network: None }),
        Found::Link(device, pci_id) => (device, pci_id),
    };
    if device.loopback {
        return Err(Error::IOFailure(format!(
            "host-device: {} is the loopback, which stays",
            device.name
        ))
        .into());
    }
    sandbox.refuse_taken(&call.args.ifname)?;
    let taken = sandbox.netlink.find_link(&device.name)?.is_some();
    let mut saved = Saved::new(&call, &device, &host.addresses(device.index)?)?;
    let mut identity = Identity::new(&mut sandbox.netlink, &device)?;
    saved.identity = Some(identity.clone());
    if config.use_interface_network {
        saved.network = Some(Network::of(&mut host, &device, &mut sandbox.netlink)?);
    }
    let network = saved.network.clone();
    store.write(&saved)?;
    let path = sandbox.path.clone();
    let (to_move, to_undo) = (device.clone(), saved.clone());
    undo.push(move || {
        let store = Store::open()?;
        let mut container = Netlink::open_in(&Netns::open(path)?)?;
        if let Some(link) = transfer::locate(&mut container, &call.args.ifname, &to_move, taken)? {
            transfer::take(&mut container, &link, &to_undo.name, &to_undo.name)?;
        }
        give_back_state(&store, &to_undo)
    });
    transfer::give(&mut host, &device, sandbox, &call.args.ifname)?;
    let inner = sandbox.netlink.link_by_name(&call.args.ifname)?;
    if identity.set_index(&inner) {
        saved.identity = Some(identity);
        store.write(&saved)?;
    }
    Ok(Taken { inner: Some(inner), pci_id, network })
}

/// Has a device that is on the host again be as it was, and forgets it.
fn give_back_state(store: &Store, saved: &Saved) -> Result<()> {
    let mut all = BestEffort::default();
    // Once more if something was in the way for a moment; what stays so must not keep the attachment for ever.
    all.step(transfer::restore(saved).or_else(|_| transfer::restore(saved)));
    all.step(store.remove(&saved.name));
    all.finish()
}

/// Gives the device what IPAM says. IPv6 addresses are looked for on the network first, if that is there.
fn configure(sandbox: &mut Sandbox, inner: &Link, result: &CNIResult) -> Result<()> {
    let has_v6 = result.ips.iter().any(|ip| ip.address.addr().is_ipv6());
    let dad = has_v6 && sandbox.netlink.wait_until_up(inner.index, CARRIER_LIMIT).is_ok();
    sandbox.configure(inner, result, Reach::Link, dad)
}

fn del(call: &Call<'_>) -> Result<()> {
    let mut all = BestEffort::default();
    // First, since the IPAM plugin may have to talk through the device, as dhcp does.
    if let Some(ipam) = Ipam::of(call) {
        all.step(ipam.del());
    }
    all.step(give_back(call));
    all.finish()
}

/// Gives the host the device of an attachment back, wherever it is now.
fn give_back(call: &Call<'_>) -> Result<()> {
    let store = Store::open()?;
    let tag = call.owner().tag();
    let mut sandbox = Sandbox::open_if_there(call)?;
    let inner = match &mut sandbox {
        Some(sandbox) => sandbox.netlink.find_link(&call.args.ifname)?,
        None => None,
    };
    // The quick way: the alias of the interface leads to the file.
    let by_alias = inner.as_ref().and_then(|link| store.by_name(link.alias.as_ref()?));
    let here = by_alias.filter(|saved| {
        saved.ifname == call.args.ifname && Some(&saved.netns) == call.args.netns.as_ref()
    });
    // An interface of a container belongs to one attachment, so only the network can have got
    // another name.
    let is_of_this = |saved: &Saved| {
        saved.owner == tag
            || is_of_container(&saved.owner, &call.args.container_id, || {
                vec![call.args.ifname.clone()]
            })
    };
    let (of_this, of_another) = match here {
        Some(saved) if is_of_this(&saved) => (Some(saved), false),
        another => (store.by_owner(&tag)?, another.is_some()),
    };
    match of_this {
        Some(saved) => give_back_saved(&store, &saved, sandbox.map(|sandbox| sandbox.netlink)),
        // The container at this path is another one by now.
        None if of_another => Ok(()),
        None => give_back_of_go(call.conf, call, sandbox.zip(inner)),
    }
}

/// Gives a device back that is in the container, or fell back to the host, or is gone.
///
/// # Errors
/// If it is neither in the container, which is there, nor on the host. Then the file stays: nothing else tells of it.
fn give_back_saved(store: &Store, saved: &Saved, container: Option<Netlink>) -> Result<()> {
    let identity = saved.identity.clone().unwrap_or_default();
    let is_it = |container: &Netlink| identity.is_in(container);
    let of_add = match &container {
        Some(container) if is_it(container) == Some(true) => None,
        _ => Netns::open(&saved.netns).and_then(|netns| Netlink::open_in(&netns)).ok(),
    };
    let mut containers: Vec<_> =
        container.into_iter().chain(of_add).filter(|it| is_it(it) != Some(false)).collect();
    if containers.is_empty() && saved.is_physical {
        // A process can keep a namespace whose name is gone.
        containers
            .extend(identity.netns().and_then(crate::state::namespaces::namespace_with_cookie));
    }
    let is_there = !containers.is_empty();
    for mut container in containers {
        if let Some(link) = find_in(&mut container, saved, &identity)? {
            transfer::take(&mut container, &link, &saved.name, &saved.name)?;
            let mut all = BestEffort::default();
            all.step(saved.network.as_ref().map_or(Ok(()), |it| it.remove_rules(&mut container)));
            all.step(give_back_state(store, saved));
            return all.finish();
        }
    }
    let mut host = Netlink::open()?;
    if let Some(link) = transfer::fallen_back(&mut host, saved, !is_there)? {
        transfer::rename(&mut host, &link, &saved.name, &saved.name)?;
        return give_back_state(store, saved);
    }
    if is_there
        && !transfer::is_back(&mut host, saved)?
        && !identity.is_destroyed(&mut host, &saved.name, saved.mac.as_deref())
    {
        let name = &saved.name;
        return Err(Error::TryAgainLater(format!(
            "host-device: {name} is neither in {} nor on the host: move it back to one of them, or \
             remove {DIRECTORY}/{name} if the device no longer exists, then DEL again",
            saved.netns.display()
        ))
        .into());
    }
    // It was virtual and went with the namespace, or is on the host already.
    store.remove(&saved.name)
}

/// The device in its container, where somebody may have renamed it, or changed its alias.
fn find_in(container: &mut Netlink, saved: &Saved, identity: &Identity) -> Result<Option<Link>> {
    if let Some(link) = identity.find_in(container)? {
        return Ok(Some(link));
    }
    // Names, aliases and addresses are what the container says: nothing to go by where there is better.
    if identity.has_index() {
        return Ok(None);
    }
    let has_alias = |link: &Link| link.alias.as_ref() == Some(&saved.name);
    let has_mac =
        |link: &Link| link.mac.is_some() && link.mac.map(|mac| mac.to_string()) == saved.mac;
    let named = container.find_link(&saved.ifname)?;
    if let Some(link) = named.filter(|link| has_alias(link) || has_mac(link)) {
        return Ok(Some(link));
    }
    Ok(container.links()?.into_iter().find(has_alias))
}

/// Gives a device back that the Go plugin moved: nothing but its alias tells of it. It stays off, as nobody knows
/// whether it was on.
fn give_back_of_go(
    _conf: &NetConf,
    call: &Call<'_>,
    inside: Option<(Sandbox, Link)>,
) -> Result<()> {
    let config = Config::new(call);
    if let Some((mut sandbox, link)) = inside {
        let is_name = |alias: &String| rscni::name::interface_name_problem(alias).is_none();
        let Some(name) = link.alias.clone().filter(is_name) else { return Ok(()) };
        let is_dpdk =
            config.is_ok_and(|config| config.is_dpdk(&Sysfs::default()).unwrap_or_default());
        return if is_dpdk {
            Ok(())
        } else {
            transfer::take(&mut sandbox.netlink, &link, &name, "")
        };
    }
    let Some(name) = config.ok().and_then(|config| config.device_name().map(ToOwned::to_owned))
    else {
        return Ok(());
    };
    let mut host = Netlink::open()?;
    match transfer::fallen_back_from_go(&mut host, &name, &call.args.ifname)? {
        Some(link) => transfer::rename(&mut host, &link, &name, ""),
        None => Ok(()),
    }
}

fn check(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let config = Config::new(call)?;
    let result = call.checked_result()?;
    if let Some(ipam) = Ipam::of(call) {
        ipam.check()?;
    }
    let mut sandbox = Sandbox::open(call)?;
    let expected = result.interfaces.iter().find(|interface| {
        interface.name == call.args.ifname
            && interface.sandbox.as_deref() == Some(sandbox.path.as_str())
    });
    let expected = expected.ok_or_else(|| {
        differs(format!("prevResult has no interface {} in {}", call.args.ifname, sandbox.path))
    })?;
    if config.is_dpdk(&Sysfs::default())? {
        return Ok(());
    }
    let place = format!("interface {} in {}", call.args.ifname, sandbox.path);
    let link = sandbox
        .netlink
        .find_link(&call.args.ifname)?
        .ok_or_else(|| differs(format!("{place} is missing")))?;
    if !link.up {
        return Err(differs(format!("{place} is down")));
    }
    check_mac(&link, expected.mac.as_deref())?;
    match link.alias.as_deref().unwrap_or_default() {
        "" => {
            return Err(differs(format!(
                "{place} has lost its alias, the name that it had on the host"
            )));
        }
        alias => {
            if let Some(name) = config.device_name().filter(|name| *name != alias) {
                return Err(differs(format!("{place} has the alias {alias}, ADD left {name}")));
            }
        }
    }
    if config.use_interface_network
        && let Some(network) =
            Store::open()?.by_owner(&call.owner().tag())?.and_then(|saved| saved.network)
    {
        network.check(&mut sandbox)?;
    }
    sandbox.check_addresses_and_routes(&link, result, conf.cni_version)
}

/// Gives devices back whose attachments are no longer valid. One that the Go plugin moved is not known here.
fn gc(call: &Call<'_>) -> Result<()> {
    let stale = call.stale();
    let mut all = BestEffort::default();
    if let Some(ipam) = Ipam::of(call) {
        all.step(ipam.gc());
    }
    let store = Store::open()?;
    for saved in store.all()?.into_iter().filter(|saved| stale.has_tag(&saved.owner)) {
        all.step(give_back_saved(&store, &saved, None));
    }
    all.finish()
}

/// A device that is in a container now says nothing about the network, so it is not looked for.
fn status(call: &Call<'_>) -> Result<()> {
    Config::new(call)?;
    Ipam::of(call).map_or(Ok(()), |ipam| ipam.status())
}
