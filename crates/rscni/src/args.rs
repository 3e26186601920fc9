//! A validated call, as a plugin receives it (spec: "Parameters").

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    Error, SpecVersion, any_case,
    conf::NetConf,
    invoke::{AnyExec, Delegate},
};

/// The arguments of a call. They are validated: names follow the rules of the spec, and everything
/// that the command requires is set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Args {
    /// `CNI_CONTAINERID`; empty for GC and STATUS.
    pub container_id: String,
    /// `CNI_NETNS`; `None` for GC and STATUS, and for a DEL whose container is gone or whose path
    /// now leads to the plugin's own namespace.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`; empty for GC and STATUS.
    pub ifname: String,
    /// `CNI_ARGS` unparsed; see [`cni_args`](Args::cni_args).
    pub args: Option<String>,
    /// `CNI_PATH`: the directories with plugins.
    pub path: Vec<PathBuf>,
    /// The configuration from stdin; set for every command.
    pub config: Option<NetConf>,
    /// The bytes of stdin, passed unchanged to a delegated plugin.
    pub stdin: Vec<u8>,
    /// Whether `CNI_NETNS_OVERRIDE` allows the plugin's own network namespace.
    pub netns_override: bool,
    /// Calls other plugins for [`delegate`](Args::delegate), as the caller of this plugin does.
    pub exec: AnyExec,
}

impl Args {
    /// Returns the configuration.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] if there is none; never for a call made through
    /// [`Plugin`](crate::Plugin).
    pub fn conf(&self) -> Result<&NetConf, Error> {
        self.config
            .as_ref()
            .ok_or_else(|| Error::InvalidNetworkConfig("there is no network configuration".into()))
    }

    /// Returns the version of the configuration; 0.1.0 without one.
    pub fn version(&self) -> SpecVersion {
        self.config.as_ref().map_or_else(SpecVersion::default, |conf| conf.cni_version)
    }

    /// Returns `CNI_NETNS`, for commands that need it.
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`] if it is not set.
    pub fn require_netns(&self) -> Result<&std::path::Path, Error> {
        self.netns.as_deref().ok_or_else(|| Error::InvalidEnvValue("CNI_NETNS must be set".into()))
    }

    /// Parses `CNI_ARGS`.
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`] if a pair is not of the form `KEY=VALUE`, or `IgnoreUnknown` is
    /// not a boolean.
    pub fn cni_args(&self) -> Result<CniArgs, Error> {
        self.args.as_deref().map_or_else(|| Ok(CniArgs::default()), CniArgs::parse)
    }

    /// Returns another plugin, to be called with these arguments.
    pub fn delegate<'a>(&'a self, plugin: &'a str) -> Delegate<'a> {
        Delegate::new(&self.exec, self, plugin)
    }

    /// Returns another plugin, to be called with these arguments without blocking.
    #[cfg(feature = "async")]
    pub fn delegate_async<'a>(&'a self, plugin: &'a str) -> crate::invoke::AsyncDelegate<'a> {
        crate::invoke::AsyncDelegate::new(self.exec.clone(), self, plugin)
    }

    /// Returns `args.cni` of the configuration: structured arguments for all plugins.
    pub fn args_cni(&self) -> Option<&Map<String, Value>> {
        self.config.as_ref().and_then(NetConf::args_cni)
    }

    /// Reads `runtimeConfig` into typed capabilities.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] with the path of each key that has a wrong type.
    pub fn runtime_config(&self) -> Result<RuntimeConfig, Error> {
        let Some(conf) = &self.config else { return Ok(RuntimeConfig::default()) };
        // `any_case` does not match other spellings in a struct with a flattened field.
        let mut entries = Vec::new();
        for (key, value) in conf.runtime_config.iter().filter(|(_, value)| !value.is_null()) {
            match CAPABILITIES.iter().find(|known| known.eq_ignore_ascii_case(key)) {
                None => entries.push((key.as_str(), value)),
                Some(known) if known == key || !conf.runtime_config.contains_key(*known) => {
                    entries.retain(|(other, _)| other != known);
                    entries.push((*known, value));
                }
                Some(_) => {}
            }
        }
        any_case::read_entries(&entries, "runtimeConfig").map_err(Error::InvalidNetworkConfig)
    }
}

/// The `KEY=VALUE` pairs of `CNI_ARGS`, separated by `;`.
///
/// By convention a plugin rejects unknown keys, unless the caller sets `IgnoreUnknown=1`:
///
/// ```
/// use rscni::CniArgs;
///
/// let args = CniArgs::parse("IP=10.0.0.5;K8S_POD_NAME=web;IgnoreUnknown=1")?;
/// args.refuse_unknown(&["IP"])?;
/// assert_eq!(args.get("IP"), Some("10.0.0.5"));
/// # Ok::<(), rscni::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniArgs {
    pairs: Vec<(String, String)>,
    ignore_unknown: bool,
}

impl CniArgs {
    /// Parses the text of `CNI_ARGS`.
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`] if a pair is not of the form `KEY=VALUE`, or `IgnoreUnknown` is
    /// not a boolean.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut args = Self::default();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
                    Error::InvalidEnvValue(format!(
                        "CNI_ARGS: {pair:?} is not a pair of the form KEY=VALUE"
                    ))
                })?;
            if key == "IgnoreUnknown" {
                args.ignore_unknown = parse_bool(value).ok_or_else(|| {
                    Error::InvalidEnvValue(format!(
                        "CNI_ARGS: IgnoreUnknown={value} must be 0, 1, true or false"
                    ))
                })?;
            } else {
                args.pairs.push((key.into(), value.into()));
            }
        }
        Ok(args)
    }

    /// Returns the value of a key; the last one if it is repeated.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Returns all pairs in order, without `IgnoreUnknown`.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether the caller set `IgnoreUnknown`.
    pub fn ignores_unknown(&self) -> bool {
        self.ignore_unknown
    }

    /// Rejects keys other than `known`, unless the caller set `IgnoreUnknown`.
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`], naming the unknown keys.
    pub fn refuse_unknown(&self, known: &[&str]) -> Result<(), Error> {
        let unknown: Vec<_> =
            self.pairs().map(|(key, _)| key).filter(|key| !known.contains(key)).collect();
        if unknown.is_empty() || self.ignore_unknown {
            return Ok(());
        }
        Err(Error::InvalidEnvValue(format!(
            "CNI_ARGS: unknown {}; known are {}; set IgnoreUnknown=1 to ignore others",
            unknown.join(", "),
            known.join(", ")
        )))
    }
}

/// The typed keys of [`RuntimeConfig`].
const CAPABILITIES: [&str; 10] = [
    "portMappings",
    "ipRanges",
    "bandwidth",
    "dns",
    "ips",
    "mac",
    "infinibandGUID",
    "deviceID",
    "aliases",
    "cgroupPath",
];

/// Parses a boolean as Go's tools write it in variables.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// `runtimeConfig`, with the capabilities of the CNI conventions typed and all others in `custom`.
///
/// Keys are read in any case: containerd writes `HostPort`, `IngressRate`, `Subnet` and `Servers`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    /// Host ports to forward to the container.
    pub port_mappings: Vec<PortMapping>,
    /// Address ranges to allocate from: one set of ranges per address.
    pub ip_ranges: Vec<Vec<IpRange>>,
    /// Traffic limits of the container.
    pub bandwidth: Option<Bandwidth>,
    /// DNS settings.
    pub dns: Option<RuntimeDns>,
    /// Addresses requested for the container, with or without prefix length.
    pub ips: Vec<String>,
    /// MAC address requested for the container interface.
    pub mac: Option<String>,
    /// GUID requested for an InfiniBand interface.
    #[serde(rename = "infinibandGUID")]
    pub infiniband_guid: Option<String>,
    /// The device to attach, such as a PCI address.
    #[serde(rename = "deviceID")]
    pub device_id: Option<String>,
    /// DNS names of the container in this network.
    pub aliases: Vec<String>,
    /// The container's cgroup.
    pub cgroup_path: Option<String>,
    /// Every other capability.
    #[serde(flatten)]
    pub custom: Map<String, Value>,
}

/// A host port that is forwarded to the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortMapping {
    /// Port on the host.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`, in any case; empty means tcp.
    pub protocol: String,
    /// The host address to forward from; empty means all.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
}

/// A range of addresses: a subnet or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpRange {
    /// The subnet.
    pub subnet: String,
    /// First address of the range.
    pub range_start: Option<String>,
    /// Last address of the range.
    pub range_end: Option<String>,
    /// The gateway.
    pub gateway: Option<String>,
}

/// Traffic limits of a container: rates in bits per second, bursts in bits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// Rate into the container.
    pub ingress_rate: u64,
    /// Burst into the container.
    pub ingress_burst: u64,
    /// Rate out of the container.
    pub egress_rate: u64,
    /// Burst out of the container.
    pub egress_burst: u64,
}

/// DNS settings of the `dns` capability.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RuntimeDns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn runtime_config(json: &Value) -> Result<RuntimeConfig, Error> {
        let runtime_config = json.as_object().cloned().unwrap();
        let config = Some(NetConf { runtime_config, ..NetConf::default() });
        Args { config, ..Args::default() }.runtime_config()
    }

    #[test]
    fn pairs_of_cni_args_are_found_by_key() {
        let args = CniArgs::parse("FOO=BAR;ABC=123;FOO=last;E=;Q=a=b;").unwrap();
        assert_eq!(args.get("FOO"), Some("last"));
        assert_eq!((args.get("E"), args.get("Q"), args.get("foo")), (Some(""), Some("a=b"), None));
        assert_eq!(args.pairs().count(), 5);
        assert!(CniArgs::parse("").unwrap().pairs().next().is_none());
    }

    #[test]
    fn unknown_keys_are_rejected_unless_ignore_unknown_is_set() {
        let error = CniArgs::parse("IP=1;K8S_POD=x").unwrap().refuse_unknown(&["IP"]).unwrap_err();
        assert!(error.code() == 4 && error.details().contains("K8S_POD"), "{error}");
        for yes in ["1", "true", "True"] {
            let args = CniArgs::parse(&format!("IgnoreUnknown={yes};K8S_POD=x")).unwrap();
            assert!(args.ignores_unknown());
            args.refuse_unknown(&[]).unwrap();
        }
        assert!(CniArgs::parse("IgnoreUnknown=0;X=1").unwrap().refuse_unknown(&[]).is_err());
    }

    #[test]
    fn malformed_cni_args_are_code_4() {
        for bad in ["x", "=1", "IgnoreUnknown=maybe", "A=1;;b"] {
            assert_eq!(CniArgs::parse(bad).unwrap_err().code(), 4, "{bad}");
        }
    }

    #[test]
    fn well_known_capabilities_are_typed() {
        let runtime = runtime_config(&json!({
            "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp",
                               "hostIP": "127.0.0.1" }],
            "ipRanges": [[{ "subnet": "10.1.0.0/16", "rangeStart": "10.1.0.9",
                            "gateway": "10.1.0.254" }]],
            "bandwidth": { "ingressRate": 2048, "ingressBurst": 1600,
                           "egressRate": 4096, "egressBurst": 1600 },
            "dns": { "searches": ["a"], "servers": ["8.8.8.8"] }, "ips": ["10.0.0.2/24"],
            "mac": "c2:11:22:33:44:55", "infinibandGUID": "c2:11:22:33:44:55:66:77",
            "deviceID": "0000:04:00.5", "aliases": ["db"], "cgroupPath": "/k", "sample": { "x": 1 }
        }))
        .unwrap();
        assert_eq!(
            (runtime.port_mappings[0].host_port, runtime.port_mappings[0].container_port),
            (8080, 80)
        );
        assert_eq!(runtime.port_mappings[0].host_ip, "127.0.0.1");
        assert_eq!(runtime.ip_ranges[0][0].range_start.as_deref(), Some("10.1.0.9"));
        assert_eq!(runtime.bandwidth.unwrap().egress_rate, 4096);
        assert_eq!(runtime.dns.unwrap().servers, ["8.8.8.8"]);
        assert_eq!(runtime.ips, ["10.0.0.2/24"]);
        assert_eq!(runtime.mac.as_deref(), Some("c2:11:22:33:44:55"));
        assert_eq!(runtime.infiniband_guid.as_deref(), Some("c2:11:22:33:44:55:66:77"));
        assert_eq!(runtime.device_id.as_deref(), Some("0000:04:00.5"));
        assert_eq!(runtime.aliases, ["db"]);
        assert_eq!(runtime.cgroup_path.as_deref(), Some("/k"));
        assert_eq!(runtime.custom.keys().collect::<Vec<_>>(), ["sample"]);
    }

    #[test]
    fn capabilities_are_read_as_containerd_writes_them() {
        let runtime = runtime_config(&json!({
            "portMappings": [{ "HostPort": 8080, "ContainerPort": 80, "Protocol": "udp",
                               "HostIP": "127.0.0.1" }],
            "ipRanges": [[{ "Subnet": "10.1.0.0/16", "RangeStart": "10.1.0.9", "RangeEnd": "",
                            "Gateway": "" }]],
            "bandwidth": { "IngressRate": 1, "IngressBurst": 2, "EgressRate": 3, "EgressBurst": 4 },
            "dns": { "Servers": ["8.8.8.8"], "Searches": ["a"], "Options": ["ndots:5"] },
        }))
        .unwrap();
        let mapping = PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: "udp".into(),
            host_ip: "127.0.0.1".into(),
        };
        assert_eq!(runtime.port_mappings, [mapping]);
        let range = &runtime.ip_ranges[0][0];
        assert_eq!(
            (&*range.subnet, range.range_start.as_deref()),
            ("10.1.0.0/16", Some("10.1.0.9"))
        );
        let bandwidth =
            Bandwidth { ingress_rate: 1, ingress_burst: 2, egress_rate: 3, egress_burst: 4 };
        assert_eq!(runtime.bandwidth, Some(bandwidth));
        let dns = runtime.dns.unwrap();
        assert_eq!(
            (&*dns.servers[0], &*dns.searches[0], &*dns.options[0]),
            ("8.8.8.8", "a", "ndots:5")
        );
    }

    #[test]
    fn a_capability_of_the_wrong_type_is_code_7() {
        let error =
            runtime_config(&json!({ "portMappings": [{ "hostPort": 70000 }] })).unwrap_err();
        assert_eq!(error.code(), 7);
        assert_eq!(
            error.details(),
            "runtimeConfig.portMappings[0].hostPort: 70000 is not a whole number from 0 to 65535"
        );
    }

    #[test]
    fn capabilities_are_read_in_any_case_and_notation() {
        let runtime = runtime_config(&json!({
            "PortMappings": [{ "hostPort": 8080.0, "containerPort": 8e1, "hostIP": null }],
            "BANDWIDTH": { "ingressRate": 1e6 }, "Mac": "x", "mac": "y", "ips": null, "Other": 1
        }))
        .unwrap();
        let mapping = &runtime.port_mappings[0];
        assert_eq!((mapping.host_port, mapping.container_port, &*mapping.host_ip), (8080, 80, ""));
        assert_eq!(runtime.bandwidth.unwrap().ingress_rate, 1_000_000);
        assert_eq!(runtime.mac.as_deref(), Some("y"));
        assert_eq!(runtime.custom.keys().collect::<Vec<_>>(), ["Other"]);
    }
}
