//! Calls plugins as a runtime does: by the variables and streams of the CNI specification, and by nothing of ours,
//! so that a fault in our own runtime side cannot hide one in the plugins.

use std::{
    io::Write,
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::PluginSet;

/// A container's place in a network.
pub(super) struct Attachment<'a> {
    pub(super) list: &'a Value,
    pub(super) container_id: &'a str,
    pub(super) netns: &'a Path,
    pub(super) ifname: &'a str,
}

impl Attachment<'_> {
    /// ADD through the list; gives the last plugin's result.
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

    /// CHECK through the list.
    pub(super) fn check(&self, set: &PluginSet, result: &Value) -> Result<()> {
        for plugin in self.plugins() {
            self.call(set, "CHECK", plugin, Some(result))?;
        }
        Ok(())
    }

    /// DEL through the list, backwards.
    pub(super) fn del(&self, set: &PluginSet, result: &Value) -> Result<()> {
        for plugin in self.plugins().iter().rev() {
            self.call(set, "DEL", plugin, Some(result))?;
        }
        Ok(())
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
        let doing = || format!("{command} by {} ({kind})", set.name);
        let mut config = plugin.clone();
        for key in ["cniVersion", "name"] {
            config[key] = self.list[key].clone();
        }
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        let mut child = Command::new(set.directory.join(kind))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", self.container_id)
            .env("CNI_NETNS", self.netns)
            .env("CNI_IFNAME", self.ifname)
            .env("CNI_PATH", &set.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(doing)?;
        // A plugin that ends without reading breaks the pipe; its reply says why.
        let mut stdin = child.stdin.take().expect("stdin was piped");
        let _ = stdin.write_all(config.to_string().as_bytes());
        drop(stdin);
        let output = child.wait_with_output().with_context(doing)?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{} failed: {} {}", doing(), error_reply(&stdout), stderr.trim());
        }
        Ok(stdout)
    }
}

/// The addresses that a result gives the container.
pub(super) fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    ips.iter().filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
}

fn error_reply(stdout: &str) -> String {
    let reply: Value = serde_json::from_str(stdout).unwrap_or(json!({}));
    match (&reply["code"], &reply["msg"]) {
        (Value::Number(code), Value::String(message)) => {
            let details = reply["details"].as_str().unwrap_or_default();
            format!("code {code}: {message} {details}").trim_end().to_owned()
        }
        _ => format!("no error reply on stdout but {stdout:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reply_is_shown_by_code_message_and_details() {
        let reply = r#"{"code": 7, "msg": "bad", "details": "no subnet"}"#;
        assert_eq!(error_reply(reply), "code 7: bad no subnet");
        assert_eq!(error_reply("oops"), r#"no error reply on stdout but "oops""#);
    }

    #[test]
    fn the_addresses_of_a_result_come_without_their_prefix() {
        let result = json!({"ips": [{"address": "10.0.0.2/24"}, {"address": "fd00::2/64"}]});
        let expected: [IpAddr; 2] = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(addresses(&result), expected);
    }
}
