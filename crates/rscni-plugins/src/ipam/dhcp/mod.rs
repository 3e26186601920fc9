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

mod client;
mod daemon;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod lease;
mod listener;
mod message;
mod options;
mod place;
mod request;
mod store;

use crate::plugin::{Call, facts::StateFiles};
use std::{
    io::Write,
    path::{Path, PathBuf},
};

use rscni::{CNIResult, Error, NetConf, any_case};
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::Value;

use self::{
    client::Time,
    lease::Lease,
    options::{Provide, Request, Wishes},
    request::{Answer, DaemonRequest, Key, Outcome},
    store::Store,
};
use crate::{
    attach::sandbox::Sandbox,
    plugin::{Commands, Plugin, call::IpamOrder, error::differs, facts::Facts},
};

pub use self::daemon::Daemon;

use self::request::SOCKET;

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
pub(crate) const DHCP: Plugin = Plugin {
    name: "dhcp",
    about: "leases addresses from a DHCP server through its daemon",
    commands: Commands {
        add: |call| Ok(add(call)?),
        del: |call| Ok(del(call)?),
        check: |call| Ok(check(call)?),
        gc: |call| Ok(gc(call)?),
        status: |call| Ok(status(call)?),
    },
    facts: Facts {
        ipam: Some(IpamOrder::BeforeLink),
        owns_on_host: true,
        files: Some(StateFiles {
            key: Some("daemonSocketPath"),
            default: SOCKET,
            list: store::inventory,
        }),
        ..Facts::NONE
    },
};

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

    fn wishes(&self, call: &Call<'_>) -> Result<Wishes, Error> {
        let (provide, request) = (self.provide.as_deref(), self.request.as_deref());
        Wishes::new(
            provide.unwrap_or_default(),
            request.unwrap_or_default(),
            &call.args.cni_args()?,
        )
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

fn add(call: &Call<'_>) -> Result<CNIResult, Error> {
    let conf = call.conf;
    let keys = Keys::read(conf)?;
    let wishes = keys.wishes(call)?;
    // The daemon has another working directory.
    let netns = std::path::absolute(call.args.require_netns()?)?;
    match request::ask(
        &socket(conf)?,
        &DaemonRequest::Acquire { key: Key::new(&conf.name, call), netns, wishes },
    )? {
        Outcome::Answered(Answer::Lease(lease)) => {
            Ok(lease.result(keys.priority.filter(|priority| *priority != 0)))
        }
        Outcome::Answered(_) => Err(Error::Internal("the daemon gave no lease".into())),
        Outcome::NoDaemon(why) => Err(Error::TryAgainLater(why)),
    }
}

/// Finds that the daemon keeps a lease, that it is the one that ADD gave, and that its address is on the interface.
fn check(call: &Call<'_>) -> Result<(), Error> {
    let conf = call.conf;
    Keys::read(conf)?.wishes(call)?;
    let result = call.checked_result()?;
    let key = Key::new(&conf.name, call);
    let lease = match request::ask(&socket(conf)?, &DaemonRequest::Look { key: key.clone() })? {
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
    Ok(check_address(call, &lease)?)
}

fn check_address(call: &Call<'_>, lease: &Lease) -> crate::plugin::error::Result<()> {
    let mut sandbox = Sandbox::open(call)?;
    let present = match sandbox.netlink.find_link(&call.args.ifname)? {
        Some(link) => sandbox.netlink.addresses(link.index)?,
        None => Vec::new(),
    };
    if present.iter().any(|address| address.net == lease.address.into()) {
        return Ok(());
    }
    Err(differs(format!(
        "{} is leased, and not on {} in {}",
        lease.address, call.args.ifname, sandbox.path
    )))
}

fn del(call: &Call<'_>) -> Result<(), Error> {
    let conf = call.conf;
    // No ADD has used a path that is wrong.
    let socket = socket(conf).unwrap_or_else(|_| SOCKET.into());
    let key = Key::new(&conf.name, call);
    match request::ask(&socket, &DaemonRequest::Release { key: key.clone() })? {
        Outcome::Answered(_) => Ok(()),
        Outcome::NoDaemon(_) => release_without_daemon(&socket, |kept| *kept == key),
    }
}

fn gc(call: &Call<'_>) -> Result<(), Error> {
    let conf = call.conf;
    let socket = socket(conf)?;
    let valid = call.valid_attachments();
    let valid: Vec<_> =
        valid.iter().map(|a| Key::of(&conf.name, &a.container_id, &a.ifname)).collect();
    match request::ask(
        &socket,
        &DaemonRequest::ReleaseOthers { network: conf.name.clone(), valid: valid.clone() },
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

fn status(call: &Call<'_>) -> Result<(), Error> {
    let conf = call.conf;
    Keys::read(conf)?.wishes(call)?;
    match request::ask(&socket(conf)?, &DaemonRequest::Ping) {
        Ok(Outcome::Answered(_)) => Ok(()),
        // Nor are the leases of containers that run renewed.
        Ok(Outcome::NoDaemon(why)) => Err(Error::PluginNotAvailableLimitedConnectivity(why)),
        Err(error) => Err(Error::PluginNotAvailableLimitedConnectivity(error.details().into())),
    }
}
