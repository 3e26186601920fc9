//! A container whose attachments share their parameters.

use std::path::PathBuf;

use serde_json::Value;

use super::AttachmentParams;
use crate::{Bandwidth, IpRange, PortMapping, RuntimeConfig, RuntimeDns, object::to_map};

/// A container that is attached to several networks: a pod, a single container or a virtual
/// machine.
///
/// Its options hold for all its networks: `CNI_ARGS` for every plugin, capability arguments for
/// the plugins that declare the capability. A runtime in 30 lines:
///
/// ```
/// use rscni::runtime::{Failures, Networks, Runtime, Sandbox};
/// use rscni::{PortMapping, invoke::Process};
///
/// # /// A node with scripts as plugins.
/// # fn node() -> tempfile::TempDir {
/// #     use std::{fs, os::unix::fs::PermissionsExt};
/// #     let temp = tempfile::tempdir().unwrap();
/// #     let [conf, bin] = ["net.d", "bin"].map(|dir| temp.path().join(dir));
/// #     fs::create_dir_all(&conf).unwrap();
/// #     fs::create_dir_all(&bin).unwrap();
/// #     let list = r##"{ "cniVersion": "1.1.0", "name": "net",
/// #         "plugins": [{ "type": "bridge", "capabilities": { "portMappings": true } }] }"##;
/// #     fs::write(conf.join("10-net.conflist"), list).unwrap();
/// #     let result = r##"{ "cniVersion": "1.0.0", "ips": [{ "address": "10.1.0.2/24" }] }"##;
/// #     for (plugin, config) in [("loopback", "loopback"), ("bridge", "hostPort.:8080")] {
/// #         let script = format!("#!/bin/sh\n\
/// #             case $CNI_COMMAND in ADD) grep -q {config} && echo '{result}';; esac");
/// #         fs::write(bin.join(plugin), script).unwrap();
/// #         fs::set_permissions(bin.join(plugin), fs::Permissions::from_mode(0o755)).unwrap();
/// #     }
/// #     temp
/// # }
/// fn main() -> Result<(), Failures> {
///     let runtime = Runtime::new(Process, ["/opt/cni/bin"]);
///     let networks = Networks::first_in("/etc/cni/net.d").with_loopback();
/// #   let node = node();
/// #   let [conf, bin, cache] = ["net.d", "bin", "cache"].map(|dir| node.path().join(dir));
/// #   let runtime = Runtime::new(Process, [bin]).with_cache(rscni::runtime::Cache::new(cache));
/// #   let networks = Networks::first_in(conf).with_loopback();
///     runtime.status_all(&networks)?;
///
///     // `ip netns add web` has created the namespace.
///     let port =
///         PortMapping { host_port: 8080, container_port: 80, ..PortMapping::default() };
///     let sandbox = Sandbox::new("web", "/run/netns/web")
///         .with_pod("default", "web", "b4e1")
///         .with_port_mappings([port]);
///     let attached = runtime.attach(&networks, &sandbox)?;
///     println!("addresses: {:?}", attached.interfaces["eth0"].ips);
/// #   assert_eq!(attached.interfaces["eth0"].ips[0].address.to_string(), "10.1.0.2/24");
/// #   assert_eq!(runtime.cache().list()?.entries.len(), 2);
///
///     // While the container runs:
///     runtime.check_all(&networks, &sandbox)?;
///
///     // After its end; the second call finds networks whose files have changed or vanished.
///     runtime.detach(&networks, &sandbox)?;
///     runtime.detach_all("web")?;
/// #   assert_eq!(runtime.cache().list()?.entries.len(), 0);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    container_id: String,
    netns: Option<PathBuf>,
    args: Vec<(String, String)>,
    capabilities: RuntimeConfig,
}

impl Sandbox {
    /// A container with its network namespace, without options.
    pub fn new(container_id: impl Into<String>, netns: impl Into<PathBuf>) -> Self {
        Self { netns: Some(netns.into()), ..Self::without_netns(container_id) }
    }

    /// A container whose network namespace no longer exists. It can be detached only.
    pub fn without_netns(container_id: impl Into<String>) -> Self {
        Self {
            container_id: container_id.into(),
            netns: None,
            args: Vec::new(),
            capabilities: RuntimeConfig::default(),
        }
    }

    /// Sets an argument for all plugins (`CNI_ARGS`).
    #[must_use]
    pub fn with_arg(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let key = key.into();
        self.args.retain(|(other, _)| *other != key);
        self.args.push((key, value.into()));
        self
    }

    /// Sets several arguments for all plugins (`CNI_ARGS`).
    #[must_use]
    pub fn with_labels<K: Into<String>, V: Into<String>>(
        self,
        labels: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        labels.into_iter().fold(self, |sandbox, (key, value)| sandbox.with_arg(key, value))
    }

    /// Sets the arguments that Kubernetes runtimes pass for a pod: `K8S_POD_NAMESPACE`,
    /// `K8S_POD_NAME`, `K8S_POD_INFRA_CONTAINER_ID` and `K8S_POD_UID`, which plugins that do not
    /// know them ignore.
    #[must_use]
    pub fn with_pod(self, namespace: &str, name: &str, uid: &str) -> Self {
        let id = self.container_id.clone();
        self.with_labels([
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", namespace),
            ("K8S_POD_NAME", name),
            ("K8S_POD_INFRA_CONTAINER_ID", &id),
            ("K8S_POD_UID", uid),
        ])
    }

    /// Sets the host ports to forward (`portMappings`).
    #[must_use]
    pub fn with_port_mappings(mut self, ports: impl IntoIterator<Item = PortMapping>) -> Self {
        self.capabilities.port_mappings = ports.into_iter().collect();
        self
    }

    /// Sets the traffic limits (`bandwidth`).
    #[must_use]
    pub fn with_bandwidth(mut self, bandwidth: Bandwidth) -> Self {
        self.capabilities.bandwidth = Some(bandwidth);
        self
    }

    /// Sets the DNS settings (`dns`).
    #[must_use]
    pub fn with_dns(mut self, dns: RuntimeDns) -> Self {
        self.capabilities.dns = Some(dns);
        self
    }

    /// Sets the ranges to allocate addresses from (`ipRanges`): one set of ranges per address.
    #[must_use]
    pub fn with_ip_ranges(mut self, sets: impl IntoIterator<Item = Vec<IpRange>>) -> Self {
        self.capabilities.ip_ranges = sets.into_iter().collect();
        self
    }

    /// Sets the cgroup (`cgroupPath`).
    #[must_use]
    pub fn with_cgroup_path(mut self, path: impl Into<String>) -> Self {
        self.capabilities.cgroup_path = Some(path.into());
        self
    }

    /// Sets a capability that has no method of its own, such as `mac`, as plugins read it.
    #[must_use]
    pub fn with_capability(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.capabilities.custom.insert(name.into(), value.into());
        self
    }

    /// Returns the parameters of the attachment with this interface, for
    /// [`Runtime::add`](super::Runtime::add) and the other operations on one network.
    pub fn params(&self, ifname: impl Into<String>) -> AttachmentParams {
        AttachmentParams {
            container_id: self.container_id.clone(),
            netns: self.netns.clone(),
            ifname: ifname.into(),
            args: self.args.clone(),
            capability_args: to_map(&self.capabilities),
            ..AttachmentParams::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_become_arguments_and_capabilities() {
        let sandbox = Sandbox::new("box", "/run/netns/box")
            .with_labels([("A", "1"), ("B", "2")])
            .with_arg("A", "3")
            .with_port_mappings([PortMapping { host_port: 80, ..PortMapping::default() }])
            .with_bandwidth(Bandwidth { ingress_rate: 1000, ..Bandwidth::default() })
            .with_dns(RuntimeDns { servers: vec!["10.0.0.1".into()], ..RuntimeDns::default() })
            .with_ip_ranges([vec![IpRange { subnet: "10.0.0.0/24".into(), ..IpRange::default() }]])
            .with_cgroup_path("/pod")
            .with_capability("mac", "02:00:00:00:00:01");
        let params = sandbox.params("eth1");
        assert_eq!(
            (params.container_id.as_str(), params.netns.as_deref(), params.ifname.as_str()),
            ("box", Some("/run/netns/box".as_ref()), "eth1")
        );
        assert_eq!(params.args, [("B".into(), "2".into()), ("A".into(), "3".into())]);
        assert_eq!(
            Value::from(params.capability_args),
            json!({
                "portMappings": [{ "hostPort": 80, "containerPort": 0, "protocol": "tcp" }],
                "ipRanges": [[{ "subnet": "10.0.0.0/24" }]],
                "bandwidth": { "ingressRate": 1000 },
                "dns": { "servers": ["10.0.0.1"] },
                "cgroupPath": "/pod",
                "mac": "02:00:00:00:00:01",
            })
        );
        assert!(Sandbox::without_netns("box").params("eth0").capability_args.is_empty());
    }

    #[test]
    fn the_arguments_of_a_pod_name_its_sandbox() {
        let args = Sandbox::new("box", "/x").with_pod("default", "web", "b4e1").params("a").args;
        let text: Vec<_> = args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            text.join(";"),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;\
             K8S_POD_INFRA_CONTAINER_ID=box;K8S_POD_UID=b4e1"
        );
    }
}
