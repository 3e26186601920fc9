//! dhcp: leases addresses from a DHCP server through its daemon.
//!
//! The daemon sends and receives on the interface of the container, and renews leases while their
//! containers exist. So the interface must exist before ADD and until the end of DEL.
//!
//! | module | content |
//! |---|---|
//! | `options` | options that the configuration sends and requests |
//! | `request` | messages between plugin and daemon |
//! | `message` | encoding of DHCP messages |
//! | `lease` | content of a server's answer |
//! | `client` | the protocol, without sockets and clocks |
//! | `interface` | interface of a container, and sockets on it |
//! | `store` | leases on disk, for the next daemon |
//! | `listener` | the daemon's socket, also from systemd |
//! | `daemon` | event loop for plugins, servers and timers |
//! | `system` | clock, random numbers, log |

mod client;
mod daemon;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod interface;
mod lease;
mod listener;
mod message;
mod options;
mod request;
mod store;
mod system;

use std::path::{Path, PathBuf};

use rscni::{CNIResult, Error, NetConf, any_case};
use serde::Deserialize;
use serde_json::Value;

pub use self::daemon::Daemon;
use self::{
    lease::Lease,
    options::{ClientOptions, Provide, Request},
    request::{Answer, DaemonRequest, Key, Outcome, SOCKET},
    store::{SavedLease, Store},
    system::log,
};
use super::ipam_keys;
use crate::{
    attach::Sandbox,
    plugin::{Call, Commands, Facts, IpamOrder, Plugin, Result, StateFiles, differs},
    state::{OwnedBy, Resources},
};

pub(crate) const DHCP: Plugin = Plugin {
    name: "dhcp",
    about: "leases addresses from a DHCP server through its daemon",
    commands: Commands { add, del, check, gc, status },
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
    fn read(conf: &NetConf) -> Result<Self> {
        Ok(any_case::section(ipam_keys(conf)?, "ipam")?)
    }

    fn client_options(&self, call: &Call<'_>) -> Result<ClientOptions> {
        let provide = self.provide.as_deref().unwrap_or_default();
        let request = self.request.as_deref().unwrap_or_default();
        Ok(ClientOptions::new(provide, request, &call.args.cni_args()?)?)
    }
}

/// Length of the longest path of a socket, in bytes.
const LONGEST_SOCKET: usize = 107;

/// Reads `daemonSocketPath`. DEL reads no other key, so that other invalid keys do not prevent it.
fn socket(conf: &NetConf) -> Result<PathBuf> {
    let invalid =
        |problem| Error::InvalidNetworkConfig(format!("ipam.daemonSocketPath: {problem}"));
    match conf.ipam.as_ref().and_then(|ipam| any_case::get(&ipam.custom, "daemonSocketPath")) {
        None | Some(Value::Null) => Ok(SOCKET.into()),
        Some(Value::String(path)) if path.is_empty() => Ok(SOCKET.into()),
        Some(Value::String(path)) if path.contains('\0') || path.len() > LONGEST_SOCKET => {
            Err(invalid(format!(
                "{path:?} is not the path of a socket: at most {LONGEST_SOCKET} bytes, no NUL"
            ))
            .into())
        }
        Some(Value::String(path)) => Ok(path.into()),
        Some(other) => Err(invalid(format!("{other} is not a string")).into()),
    }
}

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let keys = Keys::read(call.conf)?;
    let client_options = keys.client_options(call)?;
    // The daemon has another working directory.
    let netns = std::path::absolute(call.args.require_netns()?).map_err(Error::from)?;
    let request = DaemonRequest::Acquire { key: Key::new(call), netns, client_options };
    match request::send(&socket(call.conf)?, &request)? {
        Outcome::Answered(Answer::Lease(lease)) => {
            Ok(lease.result(keys.priority.filter(|priority| *priority != 0)))
        }
        Outcome::Answered(_) => Err(Error::Internal("the daemon gave no lease".into()).into()),
        Outcome::NoDaemon(why) => Err(Error::TryAgainLater(why).into()),
    }
}

/// Checks that the daemon keeps a lease, that ADD returned it, and that its address is on the
/// interface.
fn check(call: &Call<'_>) -> Result<()> {
    Keys::read(call.conf)?.client_options(call)?;
    let result = call.checked_result()?;
    let key = Key::new(call);
    let request = DaemonRequest::Look { key: key.clone() };
    let lease = match request::send(&socket(call.conf)?, &request)? {
        Outcome::Answered(Answer::Lease(lease)) => lease,
        Outcome::Answered(_) => {
            let what = format!("there is no DHCP lease for {key}: DEL it and add it again");
            return Err(differs(what));
        }
        Outcome::NoDaemon(why) => {
            return Err(differs(format!("the DHCP lease is not kept: {why}")));
        }
    };
    if !result.ips.iter().any(|ip| ip.address == lease.address.into()) {
        return Err(differs(format!("{} is leased, and not in prevResult", lease.address)));
    }
    check_address(call, &lease)
}

fn check_address(call: &Call<'_>, lease: &Lease) -> Result<()> {
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

fn del(call: &Call<'_>) -> Result<()> {
    // No ADD has used an invalid path.
    let socket = socket(call.conf).unwrap_or_else(|_| SOCKET.into());
    let request = DaemonRequest::Release { key: Key::new(call) };
    release(&socket, &request, &|by| by.is_owner(call.owner()))
}

fn gc(call: &Call<'_>) -> Result<()> {
    let socket = socket(call.conf)?;
    let stale = call.stale();
    let valid = stale.valid.iter();
    let valid = valid.map(|a| Key::of(stale.network, &a.container_id, &a.ifname)).collect();
    let request = DaemonRequest::ReleaseOthers { network: stale.network.into(), valid };
    release(&socket, &request, &|by| stale.has(by))
}

/// Has the daemon release leases. Without a running daemon, releases those of wanted owners that an
/// earlier one has left on disk.
fn release(
    socket: &Path,
    request: &DaemonRequest,
    is_wanted: &dyn Fn(&OwnedBy) -> bool,
) -> Result<()> {
    if let Outcome::Answered(_) = request::send(socket, request)? {
        return Ok(());
    }
    Store::open(socket)?.map_or(Ok(()), |store| store.remove_of(is_wanted))
}

/// The leases that an earlier daemon has left.
impl Resources for Store {
    type Resource = SavedLease;

    fn list(&mut self) -> Result<Vec<(OwnedBy, SavedLease)>> {
        Ok(self.all()?.into_iter().map(|saved| (saved.key.clone().into(), saved)).collect())
    }

    fn remove(self, leases: Vec<SavedLease>) -> Result<()> {
        for saved in leases {
            let client = saved.resume(Daemon::default().timeouts(), false);
            let release = client.release();
            if let Some(Err(error)) = release.map(|release| saved.interface.release(&release)) {
                // The lease expires at the server.
                log(format_args!("release {}: {error}", saved.key));
            }
            self.remove_file(&saved.key)?;
        }
        Ok(())
    }
}

fn status(call: &Call<'_>) -> Result<()> {
    Keys::read(call.conf)?.client_options(call)?;
    // Without a daemon the leases of running containers are not renewed either.
    let why = match request::send(&socket(call.conf)?, &DaemonRequest::Ping) {
        Ok(Outcome::Answered(_)) => return Ok(()),
        Ok(Outcome::NoDaemon(why)) => why,
        Err(error) => error.details().into(),
    };
    Err(Error::PluginNotAvailableLimitedConnectivity(why).into())
}
