//! The configuration of the firewall plugin.

use rscni::{CNIResult, Error, NetConf, name::interface_name_problem};
use rscni_linux::Netlink;
use serde::Deserialize;

use crate::{
    netfilter::iptables::{self, LONGEST_CHAIN},
    plugin::error::{Failure, Result},
};

/// `backend`: who lets packets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    /// nftables, over netlink.
    Nftables,
    /// iptables, as the Go plugin uses it.
    Iptables,
    /// firewalld, over D-Bus.
    Firewalld,
}

impl Backend {
    pub(super) const ALL: [Self; 3] = [Self::Nftables, Self::Iptables, Self::Firewalld];
}

/// `ingressPolicy`, where it is not `open`: from where nothing comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// From other bridges.
    SameBridge,
    /// From other bridges, and from others on the same.
    Isolated,
}

/// The keys of the firewall plugin, as the Go plugin has them. An empty text counts as none.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    backend: String,
    iptables_admin_chain_name: String,
    firewalld_zone: String,
    ingress_policy: String,
}

/// What removal needs of them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Zone {
    firewalld_zone: String,
}

/// A validated configuration.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// The backend, if the configuration says which.
    pub(super) backend: Option<Backend>,
    /// The operator's chain of iptables, if the configuration names one. Only iptables understands it.
    pub(super) admin_chain: Option<String>,
    pub(super) zone: String,
    /// None is `open`.
    pub(super) policy: Option<Policy>,
}

/// The zone of firewalld that takes everything.
const TRUSTED: &str = "trusted";

impl Config {
    /// Reads and validates the configuration of a call.
    pub(super) fn new(conf: &NetConf) -> Result<Self> {
        let keys: Keys = conf.custom_as()?;
        let backend = match keys.backend.as_str() {
            "nftables" => Some(Backend::Nftables),
            "iptables" => Some(Backend::Iptables),
            "firewalld" => Some(Backend::Firewalld),
            "" => None,
            other => {
                // The Go plugin says nothing at all.
                eprintln!(
                    "backend {other:?} is none of nftables, iptables and firewalld: it counts as not given"
                );
                None
            }
        };
        let policy = match keys.ingress_policy.as_str() {
            "" | "open" => None,
            "same-bridge" => Some(Policy::SameBridge),
            "isolated" => Some(Policy::Isolated),
            other => {
                return Err(invalid(format!(
                    "ingressPolicy: {other:?} is unknown: it is open, same-bridge or isolated"
                )));
            }
        };
        let admin_chain = keys.iptables_admin_chain_name;
        if !admin_chain.is_empty() && !is_chain_name(&admin_chain) {
            return Err(invalid(format!(
                "iptablesAdminChainName: {admin_chain:?} is no name for a chain: \
                 up to {LONGEST_CHAIN} letters, digits, `-`, `_` and `.`"
            )));
        }
        let zone = keys.firewalld_zone;
        if !is_zone_name(&zone) {
            return Err(invalid(format!(
                "firewalldZone: {zone:?} is no name of a zone: leave control characters out"
            )));
        }
        Ok(Self {
            backend,
            admin_chain: Some(admin_chain).filter(|name| !name.is_empty()),
            zone: if zone.is_empty() { TRUSTED.into() } else { zone },
            policy,
        })
    }

    /// As much as can be read, for calls that remove: they do not fail because a key has become invalid.
    pub(super) fn for_removal(conf: &NetConf) -> Self {
        Self::new(conf).unwrap_or_else(|_| {
            let zone = conf.custom_as::<Zone>().unwrap_or_default().firewalld_zone;
            let zone = if zone.is_empty() || !is_zone_name(&zone) { TRUSTED.into() } else { zone };
            Self { backend: None, admin_chain: None, zone, policy: None }
        })
    }
}

/// What goes into a line for iptables: neither options nor quotes nor wildcards.
fn is_plain(name: &str) -> bool {
    !name.starts_with(['-', '.'])
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

/// Whether a message can carry it. Which zones there are firewalld knows.
fn is_zone_name(name: &str) -> bool {
    name.len() <= 255 && !name.contains(char::is_control)
}

fn is_chain_name(name: &str) -> bool {
    iptables::is_chain_name(name) && is_plain(name)
}

const NO_BRIDGE: &str =
    "ingressPolicy needs a bridge: put firewall into a list after the plugin `bridge` or `ptp`";

/// The interface of the host that a policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On<'a> {
    /// A bridge, which attachments share.
    Bridge(&'a str),
    /// The host's end of one container's veth pair, as the plugin ptp makes it.
    Link(&'a str),
}

impl<'a> On<'a> {
    pub(super) fn name(self) -> &'a str {
        match self {
            Self::Bridge(name) | Self::Link(name) => name,
        }
    }
}

/// Where a policy applies, by the result of the plugins before.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    pub(super) policy: Policy,
    pub(super) on: On<'a>,
    /// The container's ports on the bridge.
    pub(super) ports: Vec<&'a str>,
}

impl<'a> Place<'a> {
    /// The policy applies to the first interface of the result, as with the Go plugin. It is the
    /// bridge behind the plugin bridge, and the host's end of the veth pair behind ptp.
    pub(super) fn new(policy: Policy, result: &'a CNIResult) -> Result<Self> {
        let first = result
            .interfaces
            .first()
            .ok_or_else(|| invalid(format!("{NO_BRIDGE}; prevResult has no interface")))?;
        if first.sandbox.is_some() {
            return Err(invalid(format!(
                "{NO_BRIDGE}; the first interface of prevResult, {}, is no host's",
                first.name
            )));
        }
        let name = first.name.as_str();
        if let Some(problem) = interface_name_problem(name) {
            return Err(invalid(format!("{NO_BRIDGE}; the name {name:?} in prevResult {problem}")));
        }
        if !is_plain(name) {
            return Err(invalid(format!(
                "the interface {name:?} has a name that no rule can be made for"
            )));
        }
        let on = if link(result).is_some() { On::Link(name) } else { On::Bridge(name) };
        Ok(Self { policy, on, ports: ports(result) })
    }

    /// The same with a look at what kind of interface it is.
    pub(super) fn seen(self) -> Result<Self> {
        let name = self.on.name();
        let is_veth = is_veth(name)?;
        Ok(Self { on: if is_veth { On::Link(name) } else { On::Bridge(name) }, ..self })
    }
}

/// Whether the host has an end of a veth pair of this name.
pub(super) fn is_veth(name: &str) -> Result<bool> {
    let link = Netlink::open()?.find_link(name)?;
    Ok(link.is_some_and(|link| link.kind.as_deref() == Some("veth")))
}

/// The first interface of a result if it may be the host's end of the container's veth pair. ptp
/// lists that before the container's interface; bridge lists the bridge and its port.
pub(super) fn link(result: &CNIResult) -> Option<&str> {
    let mut interfaces = result.interfaces.iter();
    let first = interfaces.next().filter(|first| first.sandbox.is_none())?;
    let is_before_container = interfaces.next().is_none_or(|second| second.sandbox.is_some());
    (is_before_container || first.name.starts_with("veth")).then_some(&*first.name)
}

/// The container's ports: so the bridge plugin lists them, after the bridge and before what is in the container.
pub(super) fn ports(result: &CNIResult) -> Vec<&str> {
    let others =
        result.interfaces.iter().skip(1).take_while(|interface| interface.sandbox.is_none());
    others
        .map(|interface| interface.name.as_str())
        .filter(|name| interface_name_problem(name).is_none())
        .collect()
}

fn invalid(what: impl Into<String>) -> Failure {
    Error::InvalidNetworkConfig(what.into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config(keys: &Value) -> Result<Config> {
        let mut conf = json!({ "cniVersion": "1.1.0", "name": "net", "type": "firewall" });
        conf.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        Config::new(&NetConf::from_json(conf.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn an_empty_text_is_the_default() {
        for keys in [
            json!({}),
            json!({ "backend": "", "iptablesAdminChainName": "", "firewalldZone": "", "ingressPolicy": "" }),
            json!({ "backend": null, "ingressPolicy": "open" }),
        ] {
            let config = config(&keys).unwrap();
            assert_eq!((config.backend, config.policy, config.admin_chain), (None, None, None));
            assert_eq!(config.zone, "trusted");
        }
    }

    #[test]
    fn a_chain_needs_a_name_that_is_no_option_and_no_line_of_its_own() {
        for name in ["-j", "a b", "a\n-F", "a\"", "chains-have-names-of-28-bytes", "!x"] {
            let error = config(&json!({ "iptablesAdminChainName": name })).unwrap_err().0;
            assert_eq!(
                (error.code(), error.to_string().contains("iptablesAdminChainName")),
                (7, true),
                "{name}"
            );
        }
        let good = config(&json!({ "iptablesAdminChainName": "CNI-foobar" })).unwrap();
        assert_eq!(good.admin_chain.as_deref(), Some("CNI-foobar"));
    }

    #[test]
    fn a_policy_is_known_or_refused() {
        let error = config(&json!({ "ingressPolicy": "closed" })).unwrap_err().0;
        assert_eq!((error.code(), error.to_string().contains("\"closed\"")), (7, true));
    }

    #[test]
    fn a_policy_is_for_the_first_interface_which_is_the_hosts() {
        let result = |text: Value| serde_json::from_value::<CNIResult>(text).unwrap();
        let good = result(json!({ "interfaces": [
            { "name": "br0" }, { "name": "veth1" }, { "name": "eth0", "sandbox": "/run/netns/a" }, { "name": "br0.7" },
        ] }));
        let place = Place::new(Policy::SameBridge, &good).unwrap();
        assert_eq!((place.on, place.ports), (On::Bridge("br0"), vec!["veth1"]));
        let ptp = result(json!({ "interfaces": [
            { "name": "host1" }, { "name": "eth0", "sandbox": "/run/netns/a" },
        ] }));
        let place = Place::new(Policy::SameBridge, &ptp).unwrap();
        assert_eq!((place.on, place.ports), (On::Link("host1"), vec![]));
        for bad in [
            json!({}),
            json!({ "interfaces": [{ "name": "eth0", "sandbox": "/run/netns/a" }] }),
            json!({ "interfaces": [{ "name": "" }] }),
            json!({ "interfaces": [{ "name": "br+" }] }),
            json!({ "interfaces": [{ "name": "br\"0" }] }),
        ] {
            assert_eq!(Place::new(Policy::SameBridge, &result(bad)).unwrap_err().0.code(), 7);
        }
    }
}
