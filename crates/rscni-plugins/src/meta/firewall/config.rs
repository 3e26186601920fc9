//! The configuration of the firewall plugin.

use rscni::{Error, NetConf};
use serde::Deserialize;

use super::backend::Backend;
use crate::{
    netfilter::iptables::{self, LONGEST_CHAIN},
    plugin::{Failure, Result},
};

/// `ingressPolicy`, unless it is `open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// Drops packets from other bridges.
    SameBridge,
    /// Drops packets from other bridges, and from other ports of the same bridge.
    Isolated,
}

/// The keys of the firewall plugin, as in the Go plugin. An empty string means the default.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    backend: String,
    iptables_admin_chain_name: String,
    firewalld_zone: String,
    ingress_policy: String,
}

/// The keys that removal needs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Zone {
    firewalld_zone: String,
}

/// A validated configuration.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) backend: Option<Backend>,
    /// The operator's chain of iptables, if configured. Only the backend iptables supports it.
    pub(super) admin_chain: Option<String>,
    pub(super) zone: String,
    /// `None` means `open`.
    pub(super) policy: Option<Policy>,
}

/// The zone of firewalld that accepts all packets.
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
                // The Go plugin silently ignores it.
                eprintln!("backend {other:?} is not nftables, iptables or firewalld: ignored");
                None
            }
        };
        let policy = match keys.ingress_policy.as_str() {
            "" | "open" => None,
            "same-bridge" => Some(Policy::SameBridge),
            "isolated" => Some(Policy::Isolated),
            other => {
                return Err(invalid(format!(
                    "ingressPolicy: {other:?} must be open, same-bridge or isolated"
                )));
            }
        };
        let admin_chain = keys.iptables_admin_chain_name;
        if !admin_chain.is_empty() && !is_chain_name(&admin_chain) {
            return Err(invalid(format!(
                "iptablesAdminChainName: {admin_chain:?} is not a valid chain name: \
                 use up to {LONGEST_CHAIN} letters, digits, `-`, `_` and `.`"
            )));
        }
        let zone = keys.firewalld_zone;
        if !is_zone_name(&zone) {
            return Err(invalid(format!(
                "firewalldZone: {zone:?} is not a valid zone name: leave control characters out"
            )));
        }
        Ok(Self {
            backend,
            admin_chain: Some(admin_chain).filter(|name| !name.is_empty()),
            zone: if zone.is_empty() { TRUSTED.into() } else { zone },
            policy,
        })
    }

    /// Reads the valid keys, for calls that remove: they do not fail because of an invalid key.
    pub(super) fn for_removal(conf: &NetConf) -> Self {
        Self::new(conf).unwrap_or_else(|_| {
            let zone = conf.custom_as::<Zone>().unwrap_or_default().firewalld_zone;
            let zone = if zone.is_empty() || !is_zone_name(&zone) { TRUSTED.into() } else { zone };
            Self { backend: None, admin_chain: None, zone, policy: None }
        })
    }
}

/// Whether a name can be part of a line for iptables: without options, quotes and wildcards.
pub(super) fn is_plain(name: &str) -> bool {
    !name.starts_with(['-', '.'])
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

/// Whether a D-Bus message can carry the name. firewalld checks that the zone exists.
fn is_zone_name(name: &str) -> bool {
    name.len() <= 255 && !name.contains(char::is_control)
}

fn is_chain_name(name: &str) -> bool {
    iptables::is_chain_name(name) && is_plain(name)
}

pub(super) fn invalid(what: impl Into<String>) -> Failure {
    Error::InvalidNetworkConfig(what.into()).into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(keys: &Value) -> Result<Config> {
        Config::new(&serde_json::from_value(keys.clone()).unwrap())
    }

    #[test]
    fn empty_string_is_the_default() {
        for keys in [
            json!({}),
            json!({ "backend": "", "iptablesAdminChainName": "" }),
            json!({ "firewalldZone": "", "ingressPolicy": "" }),
            json!({ "backend": null, "ingressPolicy": "open" }),
        ] {
            let config = config(&keys).unwrap();
            assert_eq!((config.backend, config.policy, config.admin_chain), (None, None, None));
            assert_eq!(config.zone, "trusted");
        }
    }

    #[test]
    fn admin_chain_has_the_configured_name() {
        let config = config(&json!({ "iptablesAdminChainName": "CNI-foobar" })).unwrap();
        assert_eq!(config.admin_chain.as_deref(), Some("CNI-foobar"));
    }
}
