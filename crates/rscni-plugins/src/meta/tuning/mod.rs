//! `tuning`: sets sysctls of the container and attributes of its interface.
//!
//! A file keeps the original attributes, which DEL restores, because the interface may return to
//! the host. Sysctls are removed with the namespace.

mod advertised;
pub(crate) mod allow_list;
mod attributes;
pub(crate) mod backup;
mod config;
mod peer;

use rscni::CNIResult;
use rscni_linux::{Link, Netlink, Netns, announce, sysctl};

use self::{
    attributes::Attributes,
    backup::{Backup, Backups, State},
    config::{Config, Sysctl},
    peer::Peer,
};
use crate::{
    attach::Sandbox,
    plugin::{Call, Commands, Facts, Plugin, Result, StateFiles, best_effort, differs},
    state::{Resources, Undo},
};

pub(crate) const TUNING: Plugin = Plugin {
    name: "tuning",
    about: "sets sysctls and attributes of the container interface",
    commands: Commands { add, del, check, gc, status },
    facts: Facts {
        owns_on_host: true,
        files: Some(StateFiles {
            key: Some("dataDir"),
            default: config::DATA_DIR,
            list: backup::inventory,
        }),
        ..Facts::NONE
    },
};

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let config = Config::new(call)?;
    allow_list::check(&config.sysctls)?;
    let mut result = call.chained_result()?.clone();
    if config.is_empty() {
        return Ok(result);
    }
    let Sandbox { netns, mut netlink, .. } = Sandbox::open(call)?;
    let mut undo = Undo::default();

    if !config.sysctls.is_empty() {
        let before = read(&netns, &config.sysctls)?;
        let netns = &netns;
        let settings = &config.sysctls;
        undo.push(move || write_back(netns, settings, before));
        write(netns, settings)?;
        advertised::forget(netns, &mut netlink, &call.args.ifname, settings)?;
    }
    if !config.attributes.is_empty() {
        let link = netlink.link_by_name(&call.args.ifname)?;
        let saved = Backup::new(&config.data_dir, call);
        let before = Attributes::of(&link).only(&config.attributes);
        let netns = &netns;
        let mut peer = match config.attributes.mtu {
            Some(mtu) => Peer::find_to_change(netns, &link, mtu)?,
            None => None,
        };
        let state = State::new(before.clone(), call.owner(), &link)
            .with_peer_mtu(peer.as_ref().map(|peer| peer.link.mtu));
        let previous = saved.content()?;
        let (to_restore, earlier) = (saved.clone(), previous.clone());
        undo.push(move || to_restore.put_back(earlier));
        saved.write(&state, previous.as_deref())?;
        let index = link.index;
        undo.push(move || restore(&mut Netlink::open_in(netns)?, index, &before));
        netlink.set_link(index, &config.attributes.change())?;
        if let (Some(peer), Some(mtu)) = (&mut peer, config.attributes.mtu) {
            let (link, before) = (link.clone(), peer.link.mtu);
            undo.push(move || restore_peer(netns, &link, before));
            peer.set_mtu(mtu)?;
            peer.show(&mut result, &call.args.ifname, mtu)?;
        }
        if let (Some(mac), true) = (config.attributes.mac, link.up) {
            let addresses: Vec<_> = call.own(&result).ips().map(|ip| ip.address.addr()).collect();
            let mut link = link;
            link.mac = Some(mac);
            // Neighbours also learn it without the announcement, only later.
            let _ = announce(netns, &link, &addresses);
        }
        show(&mut result, &call.args.ifname, &config.attributes);
    }
    undo.commit();
    Ok(result)
}

fn show(result: &mut CNIResult, ifname: &str, attributes: &Attributes) {
    for interface in
        result.interfaces.iter_mut().filter(|i| i.name == ifname && i.sandbox.is_some())
    {
        if let Some(mac) = attributes.mac {
            interface.mac = Some(mac.to_string());
        }
        if let (Some(mtu), Some(shown)) = (attributes.mtu, &mut interface.mtu) {
            *shown = mtu;
        }
    }
}

fn read(netns: &Netns, settings: &[Sysctl]) -> Result<Vec<rscni_linux::Result<String>>> {
    Ok(netns.enter(|| settings.iter().map(|setting| sysctl::get(&setting.path)).collect())?)
}

fn write(netns: &Netns, settings: &[Sysctl]) -> Result<()> {
    Ok(netns.enter(|| {
        settings.iter().try_for_each(|setting| sysctl::write(&setting.path, &setting.value))
    })??)
}

/// Restores sysctls, the last one first. Those that could not be read stay.
fn write_back(
    netns: &Netns,
    settings: &[Sysctl],
    before: Vec<rscni_linux::Result<String>>,
) -> Result<()> {
    let outcomes: Vec<_> = netns.enter(|| {
        let known = settings
            .iter()
            .zip(before)
            .rev()
            .filter_map(|(setting, value)| Some((setting, value.ok()?)));
        known.map(|(setting, value)| sysctl::set(&setting.path, &value).map(drop)).collect()
    })?;
    best_effort(outcomes)
}

/// Restores the attributes of a link, each even if the kernel rejects another.
fn restore(netlink: &mut Netlink, index: u32, before: &Attributes) -> Result<()> {
    let mut batch = netlink.batch();
    for change in before.changes() {
        batch.set_link(index, &change);
    }
    Ok(batch.commit()?)
}

/// Restores the MTU of the other end of a veth pair, if it exists.
fn restore_peer(netns: &Netns, link: &Link, mtu: u32) -> Result<()> {
    Peer::find(netns, link)?.map_or(Ok(()), |mut peer| peer.set_mtu(mtu))
}

fn del(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let saved = Backup::new(&config::data_dir_of_del(conf), call);
    let owner = call.owner();
    let Some(state) = saved.read()?.filter(|state| !state.is_of_another(owner)) else {
        return Ok(());
    };
    // The file is always removed, so that a second DEL succeeds.
    best_effort([restore_from(call, &state), saved.remove()])
}

/// Restores the interface, if it exists and is the one that was changed.
fn restore_from(call: &Call<'_>, state: &State) -> Result<()> {
    let Some(mut sandbox) = Sandbox::open_if_there(call)? else { return Ok(()) };
    match sandbox.netlink.find_link(&call.args.ifname)? {
        Some(link) if state.is_about(&link) => {
            let restored = restore(&mut sandbox.netlink, link.index, &state.attributes());
            let peer = state.peer_mtu().map(|mtu| restore_peer(&sandbox.netns, &link, mtu));
            best_effort([restored, peer.unwrap_or(Ok(()))])
        }
        _ => Ok(()),
    }
}

fn check(call: &Call<'_>) -> Result<()> {
    let config = Config::new(call)?;
    call.checked_result()?;
    if config.is_empty() {
        return Ok(());
    }
    let mut sandbox = Sandbox::open(call)?;
    let link = sandbox.require_link(&call.args.ifname)?;
    for (setting, value) in config.sysctls.iter().zip(read(&sandbox.netns, &config.sysctls)?) {
        check_sysctl(setting, value, &sandbox.path)?;
    }
    check_attributes(&link, &config.attributes, &sandbox.path)?;
    if config.attributes.is_empty() {
        return Ok(());
    }
    let saved = Backup::new(&config.data_dir, call);
    let state = saved.read()?.ok_or_else(|| {
        differs(format!(
            "{} is missing, from which DEL restores {}",
            saved.path(),
            call.args.ifname
        ))
    })?;
    match config.attributes.mtu.filter(|_| state.peer_mtu().is_some()) {
        Some(mtu) => Peer::find(&sandbox.netns, &link)?.map_or(Ok(()), |peer| peer.check(mtu)),
        None => Ok(()),
    }
}

fn check_sysctl(setting: &Sysctl, value: rscni_linux::Result<String>, sandbox: &str) -> Result<()> {
    let Sysctl { key, value: wanted, .. } = setting;
    match value {
        Ok(value) if sysctl::same(&value, wanted) => Ok(()),
        Ok(value) => {
            Err(differs(format!("sysctl {key} is {value:?} in {sandbox}, ADD left {wanted:?}")))
        }
        // A write-only sysctl, such as net.ipv4.route.flush.
        Err(error) if error.is_permission() => Ok(()),
        Err(error) if error.is_not_found() => {
            Err(differs(format!("sysctl {key} is missing in {sandbox}")))
        }
        Err(error) => Err(error.into()),
    }
}

fn check_attributes(link: &Link, wanted: &Attributes, sandbox: &str) -> Result<()> {
    let (is, wanted) = (Attributes::of(link).only(wanted).in_words(), wanted.in_words());
    let Some((is, wanted)) = is.iter().zip(&wanted).find(|(is, wanted)| is != wanted) else {
        return Ok(());
    };
    let value = |words: &Option<String>| words.as_deref().unwrap_or("nothing").to_owned();
    Err(differs(format!(
        "{} in {sandbox} has {}, ADD left {}",
        link.name,
        value(is),
        value(wanted)
    )))
}

fn gc(call: &Call<'_>) -> Result<()> {
    let stale = call.stale();
    Backups(&config::data_dir(call.conf)?).remove_of(&|by| stale.has(by))
}

fn status(call: &Call<'_>) -> Result<()> {
    let config = Config::new(call)?;
    allow_list::check(&config.sysctls)
}
