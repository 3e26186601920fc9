//! dhcp: has a daemon get addresses from a DHCP server, by way of the container's own interface, and keep them.
//!
//! The plugin itself only asks the daemon, which renews leases as long as their containers live. The interface has to
//! be there when ADD asks for its address, and still be there when DEL gives it back.
//!
//! | module | has |
//! |---|---|
//! | `options` | which options a configuration sends and asks for |
//! | `call` | what plugin and daemon say to each other |
//! | `message` | how DHCP messages are written |
//! | `lease` | what a server's answer gives |
//! | `client` | the protocol, without sockets and clocks |
//! | `place` | the interface of a container, and the ways onto the wire |
//! | `store` | leases on disk, for the next daemon |
//! | `listener` | the daemon's socket, and how systemd hands one over |
//! | `daemon` | the loop that waits for calls, messages and times |

mod call;
mod client;
mod daemon;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod lease;
mod listener;
mod message;
mod options;
mod place;
mod store;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use rscni::{Args, CNIResult, Error, NetConf, any_case};
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::Value;

use self::{
    call::{Answer, Call, Key, Outcome},
    client::Time,
    lease::Lease,
    options::{Provide, Request, Wishes},
    store::Store,
};
use crate::{
    attach::host::{require_prev_result, valid_attachments},
    attach::sandbox::Sandbox,
    plugin::commands::IpamCommands,
    plugin::failure::differs,
};

pub use self::daemon::Daemon;

pub(crate) use self::{call::SOCKET, store::directory as leases};

/// Time since the machine was booted, that of sleep included.
fn now() -> Time {
    let time = clock_gettime(ClockId::Boottime);
    Time::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// A number that nobody can foresee.
fn random() -> u32 {
    let mut bytes = [0; 4];
    // It cannot fail for so few bytes once the machine is up.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u32::from_ne_bytes(bytes)
}

/// Says what happens. That nobody reads it must not end the daemon.
fn log(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// The plugin.
pub(crate) const DHCP: IpamCommands = IpamCommands { name: "dhcp", add, del, check, gc, status };

/// The keys of `ipam`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Keys {
    provide: Option<Vec<Provide>>,
    request: Option<Vec<Request>>,
    priority: Option<u32>,
}

impl Keys {
    fn read(conf: &NetConf) -> Result<Self, Error> {
        let ipam = conf
            .ipam
            .as_ref()
            .ok_or_else(|| Error::InvalidNetworkConfig("set \"ipam\": it is missing".into()))?;
        any_case::section(&ipam.custom, "ipam")
    }

    fn wishes(&self, args: &Args) -> Result<Wishes, Error> {
        let (provide, request) = (self.provide.as_deref(), self.request.as_deref());
        Wishes::new(provide.unwrap_or_default(), request.unwrap_or_default(), &args.cni_args()?)
    }
}

/// The longest path of a socket, in bytes.
const LONGEST_SOCKET: usize = 107;

/// Where the daemon listens: `daemonSocketPath`. DEL needs no other key, so that it is not stopped by those.
fn socket(conf: &NetConf) -> Result<PathBuf, Error> {
    match conf.ipam.as_ref().and_then(|ipam| any_case::get(&ipam.custom, "daemonSocketPath")) {
        None | Some(Value::Null) => Ok(SOCKET.into()),
        Some(Value::String(path)) if path.is_empty() => Ok(SOCKET.into()),
        Some(Value::String(path)) if path.contains('\0') || path.len() > LONGEST_SOCKET => {
            let problem = format!(
                "ipam.daemonSocketPath: {path:?} is no path of a socket: up to {LONGEST_SOCKET} bytes, no NUL"
            );
            Err(Error::InvalidNetworkConfig(problem))
        }
        Some(Value::String(path)) => Ok(path.into()),
        Some(other) => Err(Error::InvalidNetworkConfig(format!(
            "ipam.daemonSocketPath: {other} is not a string"
        ))),
    }
}

fn add(args: &Args) -> Result<CNIResult, Error> {
    let conf = args.conf()?;
    let keys = Keys::read(conf)?;
    let wishes = keys.wishes(args)?;
    // The daemon has another working directory.
    let netns = std::path::absolute(args.require_netns()?)?;
    match call::ask(
        &socket(conf)?,
        &Call::Acquire { key: Key::new(&conf.name, args), netns, wishes },
    )? {
        Outcome::Answered(Answer::Lease(lease)) => {
            Ok(lease.result(keys.priority.filter(|priority| *priority != 0)))
        }
        Outcome::Answered(_) => Err(Error::Internal("the daemon gave no lease".into())),
        Outcome::NoDaemon(why) => Err(Error::TryAgainLater(why)),
    }
}

/// Finds that the daemon keeps a lease, that it is the one that ADD gave, and that its address is on the interface.
fn check(args: &Args) -> Result<(), Error> {
    let conf = args.conf()?;
    Keys::read(conf)?.wishes(args)?;
    let result = require_prev_result(conf)?;
    let key = Key::new(&conf.name, args);
    let lease = match call::ask(&socket(conf)?, &Call::Look { key: key.clone() })? {
        Outcome::Answered(Answer::Lease(lease)) => lease,
        Outcome::Answered(_) => {
            return Err(differs(format!(
                "there is no DHCP lease for {key}: DEL it and add it again"
            ))
            .into());
        }
        Outcome::NoDaemon(why) => {
            return Err(differs(format!("the DHCP lease is not kept: {why}")).into());
        }
    };
    if !result.ips.iter().any(|ip| ip.address == lease.address.into()) {
        return Err(differs(format!("{} is leased, and not in prevResult", lease.address)).into());
    }
    Ok(check_address(args, &lease)?)
}

fn check_address(args: &Args, lease: &Lease) -> crate::plugin::failure::Result<()> {
    let mut sandbox = Sandbox::open(args)?;
    let present = match sandbox.netlink.find_link(&args.ifname)? {
        Some(link) => sandbox.netlink.addresses(link.index)?,
        None => Vec::new(),
    };
    if present.iter().any(|address| address.net == lease.address.into()) {
        return Ok(());
    }
    Err(differs(format!(
        "{} is leased, and not on {} in {}",
        lease.address, args.ifname, sandbox.path
    )))
}

fn del(args: &Args) -> Result<(), Error> {
    let conf = args.conf()?;
    // No ADD has used a path that is wrong.
    let socket = socket(conf).unwrap_or_else(|_| SOCKET.into());
    let key = Key::new(&conf.name, args);
    match call::ask(&socket, &Call::Release { key: key.clone() })? {
        Outcome::Answered(_) => Ok(()),
        Outcome::NoDaemon(_) => release_without_daemon(&socket, |kept| *kept == key),
    }
}

fn gc(args: &Args) -> Result<(), Error> {
    let conf = args.conf()?;
    let socket = socket(conf)?;
    let valid = valid_attachments(conf);
    let valid: Vec<_> =
        valid.iter().map(|a| Key::of(&conf.name, &a.container_id, &a.ifname)).collect();
    match call::ask(
        &socket,
        &Call::ReleaseOthers { network: conf.name.clone(), valid: valid.clone() },
    )? {
        Outcome::Answered(_) => Ok(()),
        Outcome::NoDaemon(_) => release_without_daemon(&socket, |kept| {
            kept.network == conf.name && !valid.contains(kept)
        }),
    }
}

/// Gives leases back that a daemon has left on disk. While none is there, nobody else does it.
fn release_without_daemon(socket: &Path, is_over: impl Fn(&Key) -> bool) -> Result<(), Error> {
    let Some(store) = Store::open_if_there(socket)? else { return Ok(()) };
    for kept in store.all()?.into_iter().filter(|kept| is_over(&kept.key)) {
        let client = kept.resume(Daemon::default().patience(), false);
        if let Some(Err(error)) = client.release().map(|release| kept.place.release(&release)) {
            // The server has it back when its time is over.
            log(format_args!("release {}: {error}", kept.key));
        }
        store.remove(&kept.key)?;
    }
    Ok(())
}

fn status(args: &Args) -> Result<(), Error> {
    let conf = args.conf()?;
    Keys::read(conf)?.wishes(args)?;
    match call::ask(&socket(conf)?, &Call::Ping) {
        Ok(Outcome::Answered(_)) => Ok(()),
        // Nor are the leases of containers that run renewed.
        Ok(Outcome::NoDaemon(why)) => Err(Error::PluginNotAvailableLimitedConnectivity(why)),
        Err(error) => Err(Error::PluginNotAvailableLimitedConnectivity(error.details().into())),
    }
}
