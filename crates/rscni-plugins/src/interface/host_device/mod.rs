//! `host-device`: moves a host device into the container, and back to the host with its name,
//! addresses and other settings ([`record`]).

mod config;
mod identity;
mod network;
pub(crate) mod record;
mod sysfs;
mod transfer;

use std::time::Duration;

use rscni::{CNIResult, Error, Interface};
use rscni_linux::{Link, Netlink, Netns};

pub(crate) use self::record::DIRECTORY;
use self::{
    config::{Config, Found},
    identity::Identity,
    network::Network,
    record::{Record, Store},
    sysfs::Sysfs,
};
use crate::{
    attach::{Ipam, Reach, Sandbox, ipam::override_dns, link, sandbox::check_mac},
    plugin::{Call, Commands, Facts, Plugin, Result, StateFiles, best_effort, differs, invalid},
    state::{OwnedBy, Resources, Undo, is_of_container},
};

pub(crate) const HOST_DEVICE: Plugin = Plugin {
    name: "host-device",
    about: "moves a host device into the container",
    commands: Commands { add, del, check, gc, status },
    facts: Facts {
        owns_on_host: true,
        files: Some(StateFiles { key: None, default: DIRECTORY, list: record::inventory }),
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
    let Moved { inner, pci_id, network } = move_in(&config, *call, &mut sandbox, &mut undo)?;
    if let (Some(inner), Some(network)) = (&inner, &network) {
        let (path, rules) = (sandbox.path.clone(), network.clone());
        undo.push(move || rules.remove_rules(&mut Netlink::open_in(&Netns::open(path)?)?));
        network.apply(&mut sandbox, inner)?;
    }

    let mut result = CNIResult::default();
    if let Some(ipam) = Ipam::of(call) {
        let add = if network.is_some() { Ipam::add_any } else { Ipam::add };
        result = add(&ipam, &mut undo, CONTAINER)?;
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

struct Moved {
    /// The device in the container. None if it is left to a program.
    inner: Option<Link>,
    /// The PCI address, if the device was found by it.
    pci_id: Option<String>,
    /// The network settings on the host, if the container gets them.
    network: Option<Network>,
}

/// Moves the device into the container, unless it has a driver for user space.
fn move_in<'a>(
    config: &Config,
    call: Call<'a>,
    sandbox: &mut Sandbox,
    undo: &mut Undo<'a>,
) -> Result<Moved> {
    let mut host = Netlink::open()?;
    let store = Store::open()?;
    let (device, pci_id) = match config.find(&mut host, &Sysfs::default())? {
        Found::Dpdk(_) if config.use_interface_network => {
            let problem = "useInterfaceNetwork: the device is left to a program (DPDK) and has no \
                           interface: remove the key";
            return Err(invalid("host-device", problem));
        }
        Found::Dpdk(pci_id) => return Ok(Moved { inner: None, pci_id, network: None }),
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
    let mut saved = Record::new(&call, &device, &host.addresses(device.index)?)?;
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
        restore_state(&store, &to_undo)
    });
    transfer::give(&mut host, &device, sandbox, &call.args.ifname)?;
    let inner = sandbox.netlink.link_by_name(&call.args.ifname)?;
    if identity.set_index(&inner) {
        saved.identity = Some(identity);
        store.write(&saved)?;
    }
    Ok(Moved { inner: Some(inner), pci_id, network })
}

/// Restores the settings of a device on the host, and removes its file.
fn restore_state(store: &Store, saved: &Record) -> Result<()> {
    // A temporary conflict is retried once. A permanent one must not keep the attachment for ever.
    let restored = transfer::restore(saved).or_else(|_| transfer::restore(saved));
    best_effort([restored, store.remove_file(&saved.name)])
}

/// Adds the addresses and routes of IPAM. Duplicate address detection runs for IPv6 if there is a
/// carrier.
fn configure(sandbox: &mut Sandbox, inner: &Link, result: &CNIResult) -> Result<()> {
    let has_v6 = result.ips.iter().any(|ip| ip.address.addr().is_ipv6());
    let dad = has_v6 && sandbox.netlink.wait_until_up(inner.index, CARRIER_LIMIT).is_ok();
    sandbox.configure(inner, result, Reach::Link, dad)
}

fn del(call: &Call<'_>) -> Result<()> {
    // IPAM first, because a DHCP server is reached through the device.
    best_effort([Ipam::of(call).map_or(Ok(()), |ipam| ipam.del()), return_device(call)])
}

/// Returns the device of an attachment to the host, wherever it is.
fn return_device(call: &Call<'_>) -> Result<()> {
    let mut store = Store::open()?;
    let tag = call.owner().tag();
    let mut sandbox = Sandbox::open_if_there(call)?;
    let inner = match &mut sandbox {
        Some(sandbox) => sandbox.netlink.find_link(&call.args.ifname)?,
        None => None,
    };
    // The alias of the interface usually names the file.
    let by_alias = inner.as_ref().and_then(|link| store.by_name(link.alias.as_ref()?));
    let here = by_alias.filter(|saved| {
        saved.ifname == call.args.ifname && Some(&saved.netns) == call.args.netns.as_ref()
    });
    // A container interface belongs to one attachment, so only the network can have been renamed.
    let is_of_this = |saved: &Record| {
        saved.owner == tag
            || is_of_container(&saved.owner, &call.args.container_id, || {
                vec![call.args.ifname.clone()]
            })
    };
    let (of_this, of_another) = match here {
        Some(saved) if is_of_this(&saved) => (Some(saved), false),
        another => (of_call(&mut store, call)?, another.is_some()),
    };
    match of_this {
        Some(saved) => return_saved_device(&store, &saved, sandbox.map(|sandbox| sandbox.netlink)),
        // Another container uses this path now.
        None if of_another => Ok(()),
        None => return_device_of_go(call, sandbox.zip(inner)),
    }
}

/// Finds the file of an attachment by reading all files.
fn of_call(store: &mut Store, call: &Call<'_>) -> Result<Option<Record>> {
    Ok(store.find(&|by| by.is_owner(call.owner()))?.into_iter().next())
}

impl Resources for Store {
    type Resource = Record;

    fn list(&mut self) -> Result<Vec<(OwnedBy, Record)>> {
        Ok(self.all()?.into_iter().map(|saved| (OwnedBy::of_tag(&saved.owner), saved)).collect())
    }

    /// Returns the devices to the host.
    fn remove(self, devices: Vec<Record>) -> Result<()> {
        best_effort(devices.iter().map(|saved| return_saved_device(&self, saved, None)))
    }
}

/// Returns a device that is in the container, was returned by the kernel, or no longer exists.
///
/// # Errors
/// If it is neither in the container, which exists, nor on the host. The file stays then, as
/// nothing else describes the device.
fn return_saved_device(store: &Store, saved: &Record, container: Option<Netlink>) -> Result<()> {
    let identity = saved.identity.clone().unwrap_or_default();
    let of_add = match &container {
        Some(container) if identity.is_in(container)? == Some(true) => None,
        _ => Netns::open(&saved.netns).and_then(|netns| Netlink::open_in(&netns)).ok(),
    };
    let mut containers = Vec::new();
    for container in container.into_iter().chain(of_add) {
        if identity.is_in(&container)? != Some(false) {
            containers.push(container);
        }
    }
    if containers.is_empty() && saved.is_physical {
        // A process can keep a namespace without a name.
        containers
            .extend(identity.netns().and_then(crate::state::namespaces::namespace_with_cookie));
    }
    let is_there = !containers.is_empty();
    for mut container in containers {
        if let Some(link) = find_in(&mut container, saved, &identity)? {
            transfer::take(&mut container, &link, &saved.name, &saved.name)?;
            let network = saved.network.as_ref();
            let removed = network.map_or(Ok(()), |network| network.remove_rules(&mut container));
            return best_effort([removed, restore_state(store, saved)]);
        }
    }
    let mut host = Netlink::open()?;
    if let Some(link) = transfer::fallen_back(&mut host, saved, !is_there)? {
        transfer::rename(&mut host, &link, &saved.name, &saved.name)?;
        return restore_state(store, saved);
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
    // It was virtual and was destroyed with the namespace, or it is on the host already.
    store.remove_file(&saved.name)
}

/// Finds the device in its container, where it may have been renamed or got another alias.
fn find_in(container: &mut Netlink, saved: &Record, identity: &Identity) -> Result<Option<Link>> {
    if let Some(link) = identity.find_in(container)? {
        return Ok(Some(link));
    }
    // The container controls names, aliases and addresses, so they count only without an index.
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

/// Returns a device that the Go plugin moved, which is known only by its alias. It stays down,
/// because its earlier state is unknown.
fn return_device_of_go(call: &Call<'_>, inside: Option<(Sandbox, Link)>) -> Result<()> {
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
    let expected = sandbox.interface_in(result, &call.args.ifname)?;
    if config.is_dpdk(&Sysfs::default())? {
        return Ok(());
    }
    let place = format!("interface {} in {}", call.args.ifname, sandbox.path);
    let link = sandbox.require_link(&call.args.ifname)?;
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
        && let Some(network) = of_call(&mut Store::open()?, call)?.and_then(|saved| saved.network)
    {
        network.check(&mut sandbox)?;
    }
    sandbox.check_addresses_and_routes(&link, result, conf.cni_version)
}

/// Returns the devices of attachments that are no longer valid. Those that the Go plugin moved are
/// not known.
fn gc(call: &Call<'_>) -> Result<()> {
    let stale = call.stale();
    best_effort([
        Ipam::of(call).map_or(Ok(()), |ipam| ipam.gc()),
        Store::open().and_then(|store| store.remove_of(&|by| stale.has(by))),
    ])
}

/// A device in a container does not make the network unavailable, so STATUS does not look for it.
fn status(call: &Call<'_>) -> Result<()> {
    Config::new(call)?;
    Ipam::of(call).map_or(Ok(()), |ipam| ipam.status())
}
