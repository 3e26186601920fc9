//! The facts of a plugin, for the rest of the program. Each plugin tells them itself.

use std::path::{Path, PathBuf};

use rscni::any_case;
use serde_json::{Map, Value};

use super::{
    call::{Command, IpamOrder},
    error::Result,
};
use crate::{
    netfilter::container_chains::ContainerChains,
    state::inventory::{Owned, Purpose},
};

pub(crate) struct Facts {
    /// The part in the call of another plugin, for plugins that allocate addresses.
    pub(crate) ipam: Option<IpamOrder>,
    /// How lost state is restored, for plugins that can.
    pub(crate) repair: Option<Repair>,
    /// Whether an attachment owns something on the host, marked with its owner, that GC removes.
    pub(crate) owns_on_host: bool,
    /// The files that it keeps for attachments.
    pub(crate) files: Option<StateFiles>,
    /// Returns the key of an element in one of its sets as text, and the purpose of the set.
    /// Returns `None` for sets of other plugins.
    pub(crate) describe_element: fn(set: &str, key: &[u8]) -> Option<Description>,
    /// The chains of iptables that it creates per container.
    pub(crate) chains: Option<&'static ContainerChains>,
    /// The kernel features that an entry of a list needs.
    pub(crate) kernel: fn(Keys<'_>) -> Vec<KernelFeature>,
    /// Whether an entry of a list makes the host a router for its containers.
    pub(crate) routes: fn(Keys<'_>) -> bool,
    /// The bridge that an entry of a list gives the addresses of gateways.
    pub(crate) gateway_bridge: fn(Keys<'_>) -> Option<GatewayBridge<'_>>,
    /// The plugin that an entry of a list delegates to, and the IPAM plugin of that one.
    pub(crate) delegates: fn(Keys<'_>) -> Option<[&str; 2]>,
}

impl Facts {
    /// The facts of a plugin that has nothing to tell.
    pub(crate) const NONE: Self = Self {
        ipam: None,
        repair: None,
        owns_on_host: false,
        files: None,
        describe_element: |_, _| None,
        chains: None,
        kernel: |_| Vec::new(),
        routes: |_| false,
        gateway_bridge: |_| None,
        delegates: |_| None,
    };
}

/// The key of an element as text, and the purpose of its set.
pub(crate) type Description = (String, Purpose);

/// Restores what a running attachment has lost, such as rules after `nft flush ruleset`, without
/// touching its interface.
pub(crate) struct Repair {
    /// Fails if something is missing. CHECK, or stricter.
    pub(crate) look: Command,
    /// Restores what is missing with the steps of ADD, and leaves alone what is there.
    pub(crate) restore: Command,
}

pub(crate) struct StateFiles {
    /// The key for their location, which is in `ipam` for IPAM plugins.
    pub(crate) key: Option<&'static str>,
    /// Their location without the key.
    pub(crate) default: &'static str,
    /// Lists them, given the location.
    pub(crate) list: fn(&Path) -> Result<Vec<Owned>>,
}

impl StateFiles {
    /// The location that an entry of a list, or its `ipam`, sets.
    pub(crate) fn location(&self, keys: Keys<'_>) -> Option<PathBuf> {
        Some(keys.text(self.key?)).filter(|path| !path.is_empty()).map(PathBuf::from)
    }
}

/// A bridge with the addresses of gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayBridge<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether the gateways replace other addresses.
    pub replaces: bool,
}

/// A feature of the kernel that not every build has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub enum KernelFeature {
    Veth,
    Bridge,
    /// `CONFIG_BRIDGE_VLAN_FILTERING`
    VlanFiltering,
    NfTables,
    Macvlan,
    Ipvlan,
    Vlan,
    Vrf,
    Dummy,
    Ifb,
    Htb,
    SchIngress,
    Tun,
}

impl KernelFeature {
    /// The name, which is that of the module in most cases.
    pub fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Bridge => "bridge",
            Self::VlanFiltering => "vlan_filtering",
            Self::NfTables => "nf_tables",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Vlan => "vlan",
            Self::Vrf => "vrf",
            Self::Dummy => "dummy",
            Self::Ifb => "ifb",
            Self::Htb => "htb",
            Self::SchIngress => "sch_ingress",
            Self::Tun => "tun",
        }
    }
}

/// The keys of an entry of a list, in any case.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Keys<'a> {
    pub(crate) fn get(self, key: &str) -> Option<&'a Value> {
        any_case::get(self.0, key)
    }

    /// The text of a key, or an empty one.
    pub(crate) fn text(self, key: &str) -> &'a str {
        self.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn is_true(self, key: &str) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or_default()
    }

    pub(crate) fn object(self, key: &str) -> Option<Self> {
        self.get(key).and_then(Value::as_object).map(Keys)
    }

    /// The features of a plugin that uses nftables unless `backend` says otherwise.
    pub(crate) fn nftables_backend(self) -> Vec<KernelFeature> {
        if self.text("backend") == "iptables" { vec![] } else { vec![KernelFeature::NfTables] }
    }

    /// Whether `ipMasq` uses nftables.
    pub(crate) fn masquerades_with_nftables(self) -> bool {
        self.is_true("ipMasq") && self.text("ipMasqBackend") != "iptables"
    }
}
