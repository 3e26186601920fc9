//! MAC addresses: the requested one of the container, and derived ones of networks.

use std::os::unix::fs::MetadataExt;

use rscni::{Error, any_case};
use rscni_linux::MacAddr;

use crate::{
    plugin::{Call, Result},
    state::derived_mac,
};

/// The place of an address in the environment.
pub(crate) const BY_VARIABLE: &str = "CNI_ARGS: MAC";

/// Returns the requested MAC address of the container interface: `runtimeConfig`, then `args.cni`,
/// then `CNI_ARGS`, then the plugin's own key.
pub(crate) fn requested_mac(call: &Call<'_>, key: Option<String>) -> Result<Option<MacAddr>> {
    let conf = call.conf;
    let cni_args = call.args.cni_args()?;
    cni_args.refuse_unknown(&["MAC"])?;
    let by_convention: Option<String> = match conf.args_cni() {
        Some(cni) => any_case::get(cni, "mac")
            .map_or(Ok(None), |mac| any_case::value_at(mac, "args.cni.mac"))
            .map_err(|error| error.context(&conf.r#type))?,
        None => None,
    };
    let by_variable = cni_args.get("MAC").map(ToOwned::to_owned);
    let all = [
        ("runtimeConfig.mac", call.args.runtime_config()?.mac),
        ("args.cni.mac", by_convention),
        (BY_VARIABLE, by_variable),
        ("mac", key),
    ];
    let given = all.into_iter().filter_map(|(path, mac)| Some((path, mac?)));
    let Some((path, text)) = given.into_iter().find(|(_, mac)| !mac.is_empty()) else {
        return Ok(None);
    };
    parse_mac(&conf.r#type, path, &text).map(Some)
}

/// Parses an address that an interface can have. `path` is the key that sets it.
pub(crate) fn parse_mac(plugin: &str, path: &str, text: &str) -> Result<MacAddr> {
    let invalid = |problem: &dyn std::fmt::Display| {
        let problem = format!("{plugin}: {path}: {text:?}: {problem}");
        if path == BY_VARIABLE {
            Error::InvalidEnvValue(problem)
        } else {
            Error::InvalidNetworkConfig(problem)
        }
    };
    let mac: MacAddr = text.parse().map_err(|error| invalid(&error))?;
    if mac.is_multicast() {
        return Err(invalid(&"a group address, no interface can have it").into());
    }
    if mac == MacAddr::default() {
        return Err(invalid(&"no station's address, no interface can have it").into());
    }
    Ok(mac)
}

/// Returns the MAC address of an interface that belongs to a network on this host, such as a
/// bridge.
///
/// It stays the same when the interface is created again. Another host on the segment derives
/// another one: the hosts differ in their machine id, or, if one was cloned from the other, in
/// their name.
pub(crate) fn host_wide_mac(names: &[&str]) -> MacAddr {
    let read = |path: &str| {
        std::fs::read_to_string(path).ok().filter(|content| !content.trim().is_empty())
    };
    let machine = read("/etc/machine-id").or_else(|| read("/proc/sys/kernel/random/boot_id"));
    let node = rustix::system::uname();
    // Network namespaces of one machine may be on one segment, as with rootless containers.
    let netns = std::fs::metadata("/proc/thread-self/ns/net").map(|file| file.ino());
    let (machine, netns) = (machine.unwrap_or_default(), netns.unwrap_or_default().to_string());
    let node = node.nodename().to_string_lossy();
    let mut parts = vec![machine.trim(), &node, &netns];
    parts.extend(names);
    derived_mac(&parts)
}

#[cfg(test)]
mod tests {
    use rscni::Args;
    use serde_json::json;

    use super::*;
    use crate::plugin::call::testing::with_call;

    #[test]
    fn the_mac_comes_from_the_runtime_before_args_before_cni_args_before_the_key() {
        let mut keys = json!({
            "runtimeConfig": { "mac": "02:00:00:00:00:04" },
            "args": { "cni": { "mac": "02:00:00:00:00:03" } }
        });
        let mut args = Args::default();
        args.args = Some("IgnoreUnknown=1;MAC=02:00:00:00:00:02;X=y".into());
        let mac = |keys: &serde_json::Value, args: &Args| {
            let conf = serde_json::from_value(keys.clone()).unwrap();
            with_call(args.clone(), conf, |call| {
                let mac = requested_mac(call, Some("02:00:00:00:00:01".into()));
                mac.unwrap().unwrap().to_string()
            })
        };
        assert_eq!(mac(&keys, &args), "02:00:00:00:00:04");
        keys["runtimeConfig"] = json!({ "mac": "" });
        assert_eq!(mac(&keys, &args), "02:00:00:00:00:03");
        keys["args"] = json!({});
        assert_eq!(mac(&keys, &args), "02:00:00:00:00:02");
        args.args = None;
        assert_eq!(mac(&keys, &args), "02:00:00:00:00:01");
    }
}
