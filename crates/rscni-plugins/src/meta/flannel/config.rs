//! The keys of flannel, and the configuration of the delegate: the keys in `delegate`, and those
//! that flannel sets.

use rscni::{Error, NetConf, Route, any_case, name::check_path};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::subnet::Subnet;
use crate::plugin::{Call, Result, facts};

/// The name of this plugin. It does not delegate to itself, since both calls would use the same
/// file.
pub(super) const FLANNEL: &str = "flannel";

/// The file with the lease of the daemon.
const SUBNET_FILE: &str = "/run/flannel/subnet.env";

/// The default directory of saved configurations.
pub(crate) const DATA_DIR: &str = "/var/lib/cni/flannel";

/// The keys of the Go plugin.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    subnet_file: String,
    data_dir: String,
    delegate: Map<String, Value>,
}

/// The configuration, without the subnet.
pub(super) struct Config {
    pub(super) subnet_file: String,
    pub(super) data_dir: String,
    delegate: Map<String, Value>,
}

impl Config {
    /// Reads the keys.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] if one has the wrong type, or is not a path.
    pub(super) fn new(conf: &NetConf) -> Result<Self> {
        let keys: Keys = conf.custom_as()?;
        check_path("subnetFile", &keys.subnet_file)?;
        check_path("dataDir", &keys.data_dir)?;
        let or =
            |path: String, default: &str| if path.is_empty() { default.to_owned() } else { path };
        Ok(Self {
            subnet_file: or(keys.subnet_file, SUBNET_FILE),
            data_dir: or(keys.data_dir, DATA_DIR),
            delegate: keys.delegate.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        })
    }

    /// Reads the keys for DEL. Invalid ones count as missing, since no ADD has used them.
    pub(super) fn for_removal(conf: &NetConf) -> Self {
        let text = |key: &str, default: &str| {
            let value = conf.custom.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
            let path = value.and_then(|(_, value)| value.as_str()).unwrap_or_default();
            let usable = !path.is_empty() && check_path(key, path).is_ok();
            if usable { path.to_owned() } else { default.to_owned() }
        };
        Self::new(conf).unwrap_or_else(|_| Self {
            subnet_file: text("subnetFile", SUBNET_FILE),
            data_dir: text("dataDir", DATA_DIR),
            delegate: Map::new(),
        })
    }

    /// Rejects invalid keys in `delegate`. DEL and GC skip this, so that they leave nothing behind.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`].
    pub(super) fn validate(&self, call: &Call<'_>) -> Result<()> {
        let refuse = |problem: &str| {
            Err(Error::InvalidNetworkConfig(format!("flannel: delegate {problem}")).into())
        };
        if self.delegate.contains_key("name") || self.delegate.contains_key("ipam") {
            return refuse(
                "must not have \"name\" or \"ipam\": flannel sets them; \"ipam\" can stand beside \
                 \"delegate\"",
            );
        }
        match self.delegate.get("type") {
            Some(Value::String(name)) if call.kind(name) == FLANNEL => {
                refuse("must have another plugin than flannel as \"type\"")
            }
            None | Some(Value::String(_)) => Ok(()),
            Some(other) => Err(Error::InvalidNetworkConfig(format!(
                "flannel: delegate.type: {other} is not a string: set the name of a plugin"
            ))
            .into()),
        }
    }

    /// Returns the configuration of the delegate. Without a subnet it serves DEL and GC only.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] if `ipam.routes` is not a list of routes,
    /// [`Error::FailedToDecode`] if a key of `delegate` that every plugin has is of the wrong type.
    pub(super) fn delegated(&self, call: &Call<'_>, subnet: Option<&Subnet>) -> Result<NetConf> {
        let conf = call.conf;
        let mut map = self.delegate.clone();
        map.insert("name".into(), conf.name.as_str().into());
        if !map.get("type").is_some_and(Value::is_string) {
            map.insert("type".into(), "bridge".into());
        }
        if let Some(subnet) = subnet {
            default(&mut map, "ipMasq", !subnet.ip_masq);
            default(&mut map, "mtu", subnet.mtu);
        }
        if map["type"].as_str().is_some_and(|name| call.kind(name) == "bridge") {
            default(&mut map, "isGateway", true);
        }
        // Keys beside `delegate` belong to the network, and therefore to the result.
        if let Some(dns) = &conf.dns {
            default(&mut map, "dns", serde_json::to_value(dns).map_err(Error::from)?);
        }
        if !conf.runtime_config.is_empty() {
            map.insert("runtimeConfig".into(), conf.runtime_config.clone().into());
        }
        map.insert("cniVersion".into(), conf.cni_version.as_str().into());
        map.insert("ipam".into(), ipam(conf, subnet)?.into());
        Ok(NetConf::try_from(map).map_err(|error| error.context("flannel: delegate"))?)
    }
}

fn default(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if !map.contains_key(key) {
        map.insert(key.into(), value.into());
    }
}

/// Returns the configured `ipam` with the host's subnets as ranges, and routes to the networks of
/// all hosts.
fn ipam(conf: &NetConf, subnet: Option<&Subnet>) -> Result<Map<String, Value>> {
    let mut map = conf.ipam.as_ref().map(|ipam| ipam.custom.clone()).unwrap_or_default();
    map.insert("type".into(), conf.ipam_type().unwrap_or("host-local").into());
    let Some(subnet) = subnet else { return Ok(map) };
    let ranges = subnet.subnets.iter().map(|subnet| json!([{ "subnet": subnet }]));
    map.insert("ranges".into(), ranges.collect());
    let routes =
        map.remove("routes").filter(|routes| !routes.is_null()).unwrap_or_else(|| json!([]));
    any_case::value_at::<Vec<Route>>(&routes, "ipam.routes")
        .map_err(|error| error.context("flannel"))?;
    let networks = subnet.networks.iter().map(|network| json!({ "dst": network }));
    map.insert(
        "routes".into(),
        routes.as_array().into_iter().flatten().cloned().chain(networks).collect(),
    );
    Ok(map)
}

/// The plugin that an entry of a list delegates to, and the IPAM plugin of that one.
pub(super) fn delegates(keys: facts::Keys<'_>) -> [&str; 2] {
    let kind = |key| keys.object(key).map(|keys| keys.text("type")).filter(|it| !it.is_empty());
    [kind("delegate").unwrap_or("bridge"), kind("ipam").unwrap_or("host-local")]
}
