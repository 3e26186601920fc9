//! The configuration of the firewall plugin.

use rscni::{CNIResult, Error, NetConf, name::interface_name_problem};
use rscni_linux::Netlink;
use serde::Deserialize;

use crate::{
    failure::{Failure, Result},
    iptables::{self, LONGEST_CHAIN},
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
    "ingressPolicy needs a bridge: put firewall into a list after the plugin `bridge`";

/// Where a policy applies, by the result of the plugins before.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    pub(super) policy: Policy,
    pub(super) bridge: &'a str,
    /// The container's ports on the bridge.
    pub(super) ports: Vec<&'a str>,
}

impl<'a> Place<'a> {
    /// The bridge is the first interface of the result: so the bridge plugin has it, and so the Go plugin takes it.
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
        let bridge = first.name.as_str();
        if let Some(problem) = interface_name_problem(bridge) {
            return Err(invalid(format!(
                "{NO_BRIDGE}; the name {bridge:?} in prevResult {problem}"
            )));
        }
        if !is_plain(bridge) {
            return Err(invalid(format!(
                "the bridge {bridge:?} has a name that no rule can be made for"
            )));
        }
        Ok(Self { policy, bridge, ports: ports(result) })
    }

    /// Refuses an end of a veth pair, as ptp has one at that place: it is one container's, and what is made for a bridge
    /// stays when the container goes.
    pub(super) fn require_bridge(&self) -> Result<()> {
        match Netlink::open()?.find_link(self.bridge)? {
            Some(link) if link.kind.as_deref() == Some("veth") => Err(invalid(format!(
                "{NO_BRIDGE}; the first interface of prevResult, {}, is an end of a veth pair",
                link.name
            ))),
            _ => Ok(()),
        }
    }
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
        assert_eq!((place.bridge, place.ports), ("br0", vec!["veth1"]));
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
