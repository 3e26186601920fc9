//! The backend firewalld: adds a container's addresses to the sources of a zone, over D-Bus.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni::Error;

use crate::{
    meta::firewall::dbus::{self, Connection, MethodCall},
    plugin::{BestEffort, Failure, Result, differs},
};

const NAME: &str = "org.fedoraproject.FirewallD1";

/// The errors for a source in no zone, a source in another zone, and an unknown zone.
const NOT_IN_ZONE: [&str; 3] = ["UNKNOWN_SOURCE", "ZONE_CONFLICT", "INVALID_ZONE"];

/// A connection to firewalld on the system bus.
#[derive(Debug)]
pub(super) struct Firewalld {
    bus: Connection,
}

impl Firewalld {
    /// Connects to firewalld, if it is running.
    pub(super) fn if_running() -> Option<Self> {
        let mut bus = Connection::system().ok()?;
        bus.has_owner(NAME).ok()?.then_some(Self { bus })
    }

    /// Connects to firewalld. The bus starts it if it is activatable.
    pub(super) fn required() -> Result<Self> {
        let hint = "start D-Bus and firewalld, or set another backend";
        let failed = |error| Error::IOFailure(format!("backend firewalld: {error}; {hint}"));
        Ok(Self { bus: Connection::system().map_err(failed)? })
    }

    /// Whether firewalld is running now.
    pub(super) fn is_running(&mut self) -> bool {
        self.bus.has_owner(NAME).unwrap_or(false)
    }

    /// Calls a method for the address as a source of the zone.
    fn call(
        &mut self,
        member: &str,
        zone: &str,
        address: IpAddr,
    ) -> std::result::Result<dbus::Message, dbus::Error> {
        let source = IpNet::from(address).to_string();
        self.bus.call(&MethodCall {
            destination: NAME,
            path: "/org/fedoraproject/FirewallD1",
            interface: "org.fedoraproject.FirewallD1.zone",
            member,
            arguments: &[zone, &source],
        })
    }

    /// Adds the addresses to the zone, unless they are already in it.
    pub(super) fn add(&mut self, zone: &str, addresses: &[IpAddr]) -> Result<()> {
        for address in addresses {
            match self.call("addSource", zone, *address) {
                Ok(_) => {}
                Err(error) if says(&error, "ZONE_ALREADY_SET") => {}
                Err(error) => return Err(failed(&format!("add {address} to zone {zone}"), &error)),
            }
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, zone: &str, addresses: &[IpAddr]) -> Result<()> {
        let mut all = BestEffort::default();
        for address in addresses {
            match self.call("removeSource", zone, *address) {
                Ok(_) => {}
                Err(error) if NOT_IN_ZONE.iter().any(|word| says(&error, word)) => {}
                Err(error) => {
                    all.step(Err(failed(&format!("remove {address} from zone {zone}"), &error)));
                }
            }
        }
        all.finish()
    }

    /// CHECK: the addresses are in the zone.
    pub(super) fn check(&mut self, zone: &str, addresses: &[IpAddr]) -> Result<()> {
        for address in addresses {
            let answer = self.call("querySource", zone, *address);
            match answer.and_then(|answer| answer.boolean().map_err(dbus::Error::Bus)) {
                Ok(true) => {}
                Ok(false) => {
                    return Err(differs(format!(
                        "{address} is not a source of firewalld's zone {zone}"
                    )));
                }
                Err(error) if says(&error, "INVALID_ZONE") => {
                    return Err(differs(format!(
                        "firewalld has no zone {zone}, which needs the source {address}"
                    )));
                }
                Err(error) => {
                    return Err(failed(&format!("look up {address} in zone {zone}"), &error));
                }
            }
        }
        Ok(())
    }
}

/// Whether the error of firewalld has this name, with which its message begins.
fn says(error: &dbus::Error, word: &str) -> bool {
    matches!(error, dbus::Error::Refused { message, .. } if message.starts_with(word))
}

fn failed(action: &str, error: &dbus::Error) -> Failure {
    let text = format!("firewalld: {action}: {error}");
    if says(error, "INVALID_ZONE") {
        let text = format!("{text}; firewalldZone must name one of its zones");
        return Error::InvalidNetworkConfig(text).into();
    }
    Error::IOFailure(text).into()
}
