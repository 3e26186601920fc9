//! The backend firewalld: a container's addresses become sources of a zone, over D-Bus.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni::Error;

use crate::{
    meta::firewall::dbus::{self, Call, Connection},
    plugin::error::{BestEffort, Result, differs},
};

const NAME: &str = "org.fedoraproject.FirewallD1";

/// What firewalld answers if the source is in no zone, in another one, or the zone is not there.
const NOT_IN_ZONE: [&str; 3] = ["UNKNOWN_SOURCE", "ZONE_CONFLICT", "INVALID_ZONE"];

/// firewalld, on the system's bus.
#[derive(Debug)]
pub(super) struct Firewalld {
    bus: Connection,
}

impl Firewalld {
    /// firewalld, if it is running.
    pub(super) fn if_running() -> Option<Self> {
        let mut bus = Connection::system().ok()?;
        bus.has_owner(NAME).ok()?.then_some(Self { bus })
    }

    /// firewalld, because the configuration asks for it. The bus starts it where it knows how.
    pub(super) fn required() -> Result<Self> {
        let failed = |error| {
            Error::IOFailure(format!(
                "backend firewalld: {error}; start D-Bus and firewalld, or set another backend"
            ))
        };
        Ok(Self { bus: Connection::system().map_err(failed)? })
    }

    /// Whether it is running now.
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
        self.bus.call(&Call {
            destination: NAME,
            path: "/org/fedoraproject/FirewallD1",
            interface: "org.fedoraproject.FirewallD1.zone",
            member,
            arguments: &[zone, &source],
        })
    }

    /// Puts the addresses into the zone. One that is there already is as good.
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

    /// Takes the addresses out of the zone.
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
            let action = format!("look for {address} in zone {zone}");
            match self.call("querySource", zone, *address) {
                Ok(answer) => {
                    if !answer
                        .boolean()
                        .map_err(|error| failed(&action, &dbus::Error::Bus(error)))?
                    {
                        return Err(differs(format!(
                            "{address} is no source of firewalld's zone {zone}"
                        )));
                    }
                }
                Err(error) if says(&error, "INVALID_ZONE") => {
                    return Err(differs(format!(
                        "firewalld has no zone {zone}, of which {address} is to be a source"
                    )));
                }
                Err(error) => return Err(failed(&action, &error)),
            }
        }
        Ok(())
    }
}

/// Whether firewalld's error is this one: it stands at the beginning of the message.
fn says(error: &dbus::Error, word: &str) -> bool {
    matches!(error, dbus::Error::Refused { message, .. } if message.starts_with(word))
}

fn failed(action: &str, error: &dbus::Error) -> crate::plugin::error::Failure {
    let text = format!("firewalld: {action}: {error}");
    if says(error, "INVALID_ZONE") {
        return Error::InvalidNetworkConfig(format!(
            "{text}; firewalldZone has to name one of its zones"
        ))
        .into();
    }
    Error::IOFailure(text).into()
}
