//! Capability arguments: `runtimeConfig` of a configuration (CNI conventions).
//!
//! The types are read with keys in any case and written in the spelling of the conventions. Empty
//! values are omitted, so that plugins treat them as not set.

use serde_json::{Map, Value};

use crate::{
    Error,
    json::{Json, Problems},
    object::{object, to_map},
};

/// `runtimeConfig`, with the capabilities of the CNI conventions typed and all others in `custom`.
///
/// Keys are read in any case: containerd writes `HostPort`, `IngressRate`, `Subnet` and `Servers`.
#[derive(Clone, Debug, Default, PartialEq)]
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
    pub infiniband_guid: Option<String>,
    /// The device to attach, such as a PCI address.
    pub device_id: Option<String>,
    /// DNS names of the container in this network.
    pub aliases: Vec<String>,
    /// The container's cgroup.
    pub cgroup_path: Option<String>,
    /// Every other capability.
    pub custom: Map<String, Value>,
}

impl RuntimeConfig {
    /// Reads `runtimeConfig` of a configuration.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] with the path of each key that has a wrong type.
    pub fn from_json(map: &Map<String, Value>) -> Result<Self, Error> {
        let mut problems = Problems::at_path("runtimeConfig");
        let config = Json::read(&Value::Object(map.clone()), &mut problems);
        problems.finish(config).map_err(Error::InvalidNetworkConfig)
    }

    /// Returns the capabilities that are set, as the keys of `runtimeConfig`.
    ///
    /// ```
    /// use rscni::{PortMapping, RuntimeConfig};
    ///
    /// let web = PortMapping { host_port: 8080, container_port: 80, ..PortMapping::default() };
    /// let config = RuntimeConfig { port_mappings: vec![web], ..RuntimeConfig::default() };
    /// let mappings = config.to_json()["portMappings"].to_string();
    /// assert_eq!(mappings, r#"[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]"#);
    /// ```
    pub fn to_json(&self) -> Map<String, Value> {
        to_map(self)
    }
}

/// A host port that is forwarded to the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortMapping {
    /// Port on the host.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`, in any case; empty means tcp. Written in lower case and never empty,
    /// since the Go plugins require that.
    pub protocol: String,
    /// The host address to forward from; empty means all.
    pub host_ip: String,
}

/// A range of addresses: a subnet or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeDns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

object! {
    RuntimeConfig: "an object",
    keys: {
        "portMappings": port_mappings, "ipRanges": ip_ranges, "bandwidth": bandwidth, "dns": dns,
        "ips": ips, "mac": mac, "infinibandGUID": infiniband_guid, "deviceID": device_id,
        "aliases": aliases, "cgroupPath": cgroup_path
    },
    rest: custom
}

object! {
    PortMapping: "an object",
    keys: {
        "hostPort": host_port, "containerPort": container_port, "protocol": protocol,
        "hostIP": host_ip
    },
    omitted_if_empty: ["hostIP"],
    adjust: write_protocol
}

object! {
    IpRange: "an object",
    keys: {
        "subnet": subnet, "rangeStart": range_start, "rangeEnd": range_end, "gateway": gateway
    },
    omitted_if_empty: ["subnet"]
}

object! {
    Bandwidth: "an object",
    keys: {
        "ingressRate": ingress_rate, "ingressBurst": ingress_burst, "egressRate": egress_rate,
        "egressBurst": egress_burst
    }
}

object! {
    RuntimeDns: "an object",
    keys: { "servers": servers, "searches": searches, "options": options }
}

/// Writes the protocol of a mapping as the Go plugins require it.
fn write_protocol(mapping: &mut Map<String, Value>) {
    if let Some(Value::String(protocol)) = mapping.get_mut("protocol") {
        match protocol.as_str() {
            "" => "tcp".clone_into(protocol),
            _ => protocol.make_ascii_lowercase(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Args, NetConf};
    use serde_json::json;

    fn runtime_config(json: &Value) -> Result<RuntimeConfig, Error> {
        let runtime_config = json.as_object().cloned().unwrap();
        let config = Some(NetConf { runtime_config, ..NetConf::default() });
        Args { config, ..Args::default() }.runtime_config()
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
    fn capabilities_are_written_in_the_spelling_of_the_conventions() {
        let json = json!({
            "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "udp",
                               "hostIP": "127.0.0.1" }],
            "ipRanges": [[{ "subnet": "10.1.0.0/16", "rangeStart": "10.1.0.9",
                            "rangeEnd": "10.1.0.99", "gateway": "10.1.0.254" }]],
            "bandwidth": { "ingressRate": 2048, "ingressBurst": 1600,
                           "egressRate": 4096, "egressBurst": 1601 },
            "dns": { "servers": ["8.8.8.8"], "searches": ["a"], "options": ["ndots:5"] },
            "ips": ["10.0.0.2/24"], "mac": "c2:11:22:33:44:55",
            "infinibandGUID": "c2:11:22:33:44:55:66:77", "deviceID": "0000:04:00.5",
            "aliases": ["db"], "cgroupPath": "/k", "sample": { "x": 1 }
        });
        let read = runtime_config(&json).unwrap();
        assert_eq!(Value::Object(read.to_json()), json);
        assert_eq!(serde_json::from_value::<RuntimeConfig>(json).unwrap(), read);
    }

    #[test]
    fn empty_values_are_omitted() {
        assert!(RuntimeConfig::default().to_json().is_empty());
        let runtime = RuntimeConfig {
            port_mappings: vec![
                PortMapping { host_port: 80, container_port: 8080, ..PortMapping::default() },
                PortMapping { protocol: "SCTP".into(), ..PortMapping::default() },
            ],
            ip_ranges: vec![vec![IpRange {
                subnet: "10.1.0.0/16".into(),
                gateway: Some(String::new()),
                ..IpRange::default()
            }]],
            bandwidth: Some(Bandwidth { ingress_rate: 5, ..Bandwidth::default() }),
            dns: Some(RuntimeDns::default()),
            mac: Some(String::new()),
            ..RuntimeConfig::default()
        };
        let json = json!({
            "portMappings": [{ "hostPort": 80, "containerPort": 8080, "protocol": "tcp" },
                             { "hostPort": 0, "containerPort": 0, "protocol": "sctp" }],
            "ipRanges": [[{ "subnet": "10.1.0.0/16" }]],
            "bandwidth": { "ingressRate": 5 },
            "dns": {}
        });
        assert_eq!(Value::Object(runtime.to_json()), json);
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
