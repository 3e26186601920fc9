//! Example configurations of the plugins: one row per plugin, used by all tests and test rigs.
//!
//! A row of `plugins.json` holds the plugins of a network list. The last of them is the plugin of
//! the row, or the one that calls it for addresses. Strings that begin with `$` are placeholders,
//! for which a test gives [`Values`]:
//!
//! | placeholder | stands for |
//! |---|---|
//! | `$INTERFACE` | the plugins of another row without masquerading, for a chained plugin |
//! | `$BRIDGE` | name of the bridge |
//! | `$DEVICE` | name of a host interface, which the test creates |
//! | `$IPAM`, `$IPAM4` | `ipam` of host-local with all subnets, or with the IPv4 subnets only |
//! | `$ADDRESSES`, `$ROUTES` | static addresses of the subnets, and a default route per family |
//! | `$PORT` | number of a host port |
//! | `$PLUGINS` | directory of the plugins (in `setup`) |
//!
//! `linkKind` is a kind of link that the plugin needs and many kernels lack. `setup` are shell
//! commands that prepare the host. `runtimeConfig` is what a runtime inserts for the capabilities.

use std::path::Path;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The example configuration of a plugin.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Row {
    /// Name of the plugin.
    pub plugin: String,
    /// Kind of link that many kernels lack, so that the plugin is tested in User-Mode Linux.
    pub link_kind: Option<String>,
    /// Whether an attachment is one link in the container, with nothing on the host.
    #[serde(default)]
    pub container_link: bool,
    #[serde(default)]
    ifname: Option<String>,
    #[serde(default)]
    setup: Vec<String>,
    plugins: Vec<Value>,
}

/// Values for the placeholders.
#[derive(Clone, Debug)]
pub struct Values {
    /// Plugin of the row that creates the interface for a chained plugin.
    pub interface: &'static str,
    /// Name of the bridge.
    pub bridge: String,
    /// Name of the host interface.
    pub device: String,
    /// Subnets from which addresses are allocated.
    pub subnets: Vec<IpNet>,
    /// Host port that leads to the container.
    pub host_port: u16,
}

impl Default for Values {
    fn default() -> Self {
        Self::with_subnets(&["10.1.0.0/16", "fd01::/64"])
    }
}

impl Values {
    /// Returns the default names, with addresses from these subnets.
    ///
    /// # Panics
    ///
    /// If a subnet is not a CIDR.
    #[track_caller]
    pub fn with_subnets(subnets: &[&str]) -> Self {
        Self {
            interface: "bridge",
            bridge: "br0".to_owned(),
            device: "dev0".to_owned(),
            subnets: subnets.iter().map(|subnet| subnet.parse().expect("a CIDR")).collect(),
            host_port: 8080,
        }
    }

    fn ipam(&self, wanted: fn(&&IpNet) -> bool) -> Value {
        let subnets: Vec<_> = self.subnets.iter().filter(wanted).collect();
        let ranges: Vec<_> = subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
        json!({ "type": "host-local", "ranges": ranges, "routes": default_routes(subnets) })
    }

    /// Static addresses: the second of each subnet, with the first as the gateway.
    fn addresses(&self) -> Value {
        let address = |net: &IpNet| {
            let mut hosts = net.hosts().filter(|ip| *ip != net.network());
            let (gateway, ip) = (hosts.next(), hosts.next().unwrap_or(net.addr()));
            json!({ "address": format!("{ip}/{}", net.prefix_len()), "gateway": gateway })
        };
        self.subnets.iter().map(address).collect()
    }

    fn fill_in_text(&self, text: &str) -> String {
        text.replace("$BRIDGE", &self.bridge).replace("$DEVICE", &self.device)
    }

    /// Replaces the placeholders of a value.
    fn fill_in(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => match text.as_str() {
                "$IPAM" => self.ipam(|_| true),
                "$IPAM4" => self.ipam(|subnet| subnet.addr().is_ipv4()),
                "$ADDRESSES" => self.addresses(),
                "$ROUTES" => default_routes(&self.subnets),
                "$PORT" => self.host_port.into(),
                text => self.fill_in_text(text).into(),
            },
            Value::Array(values) => values.iter().map(|value| self.fill_in(value)).collect(),
            Value::Object(map) => {
                let filled = map.iter().map(|(key, value)| (key.clone(), self.fill_in(value)));
                Value::Object(filled.collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }
}

fn default_routes<'a>(subnets: impl IntoIterator<Item = &'a IpNet>) -> Value {
    let default = |net: &IpNet| if net.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    subnets.into_iter().map(|net| json!({ "dst": default(net) })).collect()
}

impl Row {
    /// Whether the plugin is tested in User-Mode Linux.
    pub fn needs_uml(&self) -> bool {
        self.link_kind.is_some()
    }

    /// Whether the configuration names a host interface, which the test creates.
    pub fn needs_device(&self) -> bool {
        self.plugins.iter().any(|plugin| plugin.to_string().contains("\"$DEVICE\""))
    }

    /// `CNI_IFNAME` of the attachment.
    pub fn ifname(&self) -> &str {
        self.ifname.as_deref().unwrap_or("eth0")
    }

    /// Returns the plugins of the list. The last one is what this row is about.
    ///
    /// # Panics
    ///
    /// If `values.interface` has no row.
    pub fn plugins(&self, values: &Values) -> Vec<Value> {
        let plugins = self.plugins.iter().flat_map(|plugin| match plugin.as_str() {
            Some("$INTERFACE") => {
                let mut plugins = row(values.interface).plugins(values);
                for plugin in plugins.iter_mut().filter_map(Value::as_object_mut) {
                    // User-Mode Linux cannot masquerade.
                    plugin.remove("ipMasq");
                }
                plugins
            }
            _ => vec![values.fill_in(plugin)],
        });
        plugins.collect()
    }

    /// Returns the network list of the plugins.
    pub fn list(&self, version: &str, network: &str, values: &Values) -> Value {
        json!({ "cniVersion": version, "name": network, "plugins": self.plugins(values) })
    }

    /// Returns shell commands that prepare the host, with the plugins in this directory. What they
    /// start stays in the background.
    pub fn setup(&self, values: &Values, plugins: &Path) -> Vec<String> {
        let plugins = plugins.display().to_string();
        let commands = self.setup.iter();
        commands.map(|it| values.fill_in_text(it).replace("$PLUGINS", &plugins)).collect()
    }

    /// Returns the options of `rscni conformance` for this row, without those of the files.
    pub fn conformance_options(&self, values: &Values, plugins: &Path) -> Vec<String> {
        let mut options = vec!["--ifname".to_owned(), self.ifname().to_owned()];
        if self.needs_device() {
            options.extend(["--host-interface".to_owned(), values.device.clone()]);
        }
        for command in self.setup(values, plugins) {
            options.extend(["--setup".to_owned(), command]);
        }
        options
    }
}

/// Returns all rows, sorted by plugin.
///
/// # Panics
///
/// If `plugins.json` is not a list of rows.
pub fn rows() -> Vec<Row> {
    serde_json::from_str(include_str!("../plugins.json")).expect("read plugins.json")
}

/// Returns the row of a plugin.
///
/// # Panics
///
/// If the plugin has no row.
#[track_caller]
pub fn row(plugin: &str) -> Row {
    let row = rows().into_iter().find(|row| row.plugin == plugin);
    row.unwrap_or_else(|| {
        panic!("{plugin} has no row: add one to crates/rscni-catalogue/plugins.json")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_replaced() {
        for row in rows() {
            let list = row.list("1.1.0", "net", &Values::default()).to_string();
            assert!(!list.contains('$'), "{list}");
            let setup = row.setup(&Values::default(), Path::new("/opt/cni/bin")).concat();
            assert!(!setup.contains("$B") && !setup.contains("$P"), "{setup}");
        }
    }

    #[test]
    fn the_last_plugin_is_that_of_the_row_or_calls_it_for_addresses() {
        for row in rows() {
            let last = row.plugins(&Values::default()).pop().unwrap();
            assert!(last["type"] == row.plugin || last["ipam"]["type"] == row.plugin, "{last}");
        }
    }

    #[test]
    fn rows_are_sorted_and_plugins_have_one() {
        assert!(rows().windows(2).all(|pair| pair[0].plugin < pair[1].plugin));
    }

    #[test]
    fn values_choose_names_and_addresses() {
        let values =
            Values { interface: "ptp", host_port: 9000, ..Values::with_subnets(&["10.7.0.0/28"]) };
        let plugins = row("portmap").plugins(&values);
        assert_eq!(plugins[0]["type"], "ptp");
        let ipam = json!({
            "type": "host-local", "ranges": [[{ "subnet": "10.7.0.0/28" }]],
            "routes": [{ "dst": "0.0.0.0/0" }],
        });
        assert_eq!(plugins[0]["ipam"], ipam);
        assert_eq!(plugins[1]["runtimeConfig"]["portMappings"][0]["hostPort"], 9000);
        let fixed = row("static").plugins(&Values::default());
        let expected = json!([
            { "address": "10.1.0.2/16", "gateway": "10.1.0.1" },
            { "address": "fd01::2/64", "gateway": "fd01::1" },
        ]);
        assert_eq!(fixed[0]["ipam"]["addresses"], expected);
    }

    #[test]
    fn options_of_conformance_name_the_interface_and_the_device() {
        let options = |plugin| row(plugin).conformance_options(&Values::default(), Path::new("/"));
        assert_eq!(options("macvlan"), ["--ifname", "eth0", "--host-interface", "dev0"]);
        assert_eq!(options("loopback"), ["--ifname", "lo"]);
    }
}
