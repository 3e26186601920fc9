//! Calls a list of plugins as a runtime does, without our own runtime code, so that a fault there
//! cannot hide one in the plugins.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use rscni_test::{Container, Plugin};
use serde_json::Value;

use super::PluginSet;

/// A container in a network.
pub(super) struct Attachment<'a> {
    pub(super) list: &'a Value,
    pub(super) container: &'a Container,
    pub(super) ifname: &'a str,
}

impl Attachment<'_> {
    /// ADD of each plugin; returns the last result.
    pub(super) fn add(&self, set: &PluginSet) -> Result<Value> {
        let mut result = None;
        for plugin in self.plugins() {
            let stdout = self.call(set, "ADD", plugin, result.as_ref())?;
            let answer = serde_json::from_str(&stdout)
                .with_context(|| format!("ADD by {}: read the result {stdout:?}", set.name))?;
            result = Some(answer);
        }
        result.context("the list has no plugin")
    }

    /// CHECK of each plugin.
    pub(super) fn check(&self, set: &PluginSet, result: &Value) -> Result<()> {
        self.plugins().iter().try_for_each(|p| self.call(set, "CHECK", p, Some(result)).map(drop))
    }

    /// DEL of each plugin in reverse order.
    pub(super) fn del(&self, set: &PluginSet, result: &Value) -> Result<()> {
        let mut plugins = self.plugins().iter().rev();
        plugins.try_for_each(|plugin| self.call(set, "DEL", plugin, Some(result)).map(drop))
    }

    fn plugins(&self) -> &[Value] {
        self.list["plugins"].as_array().map_or(&[], Vec::as_slice)
    }

    fn call(
        &self,
        set: &PluginSet,
        command: &str,
        plugin: &Value,
        previous: Option<&Value>,
    ) -> Result<String> {
        let kind = plugin["type"].as_str().context("a plugin in the list has no type")?;
        let mut config = plugin.clone();
        for key in ["cniVersion", "name"] {
            config[key] = self.list[key].clone();
        }
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        let plugin = Plugin::at(set.directory.join(kind)).cni_path([&set.directory]);
        let call = plugin.call(command).attachment(self.container, self.ifname).config(&config);
        let outcome = call.try_run().with_context(|| format!("{command} by {}", set.name))?;
        ensure!(outcome.exit_code() == Some(0), "{command} by {} failed:\n{outcome}", set.name);
        Ok(outcome.stdout())
    }
}

/// The container's addresses in a result.
pub(super) fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_of_a_result_come_without_prefix_length() {
        let result = json!({"ips": [{"address": "10.0.0.2/24"}, {"address": "fd00::2/64"}]});
        let expected: [IpAddr; 2] = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(addresses(&result), expected);
    }
}
