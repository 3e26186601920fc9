//! An attachment by containerd, seen by our runtime through libcni's cache: listed, checked,
//! detached. Also compares cache entries of ours with containerd's.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xtask::program;

use super::{PluginSet, container::NETWORK};

/// Directory of libcni's cache.
const CACHE: &str = "/var/lib/cni/results";

/// Reads the cache entry of a container.
fn entry(container_id: &str) -> Result<(PathBuf, Value)> {
    let path = Path::new(CACHE).join(format!("{NETWORK}-{container_id}-eth0"));
    let entry = serde_json::from_slice(&fs_err::read(&path)?)
        .with_context(|| format!("read {} as JSON", path.display()))?;
    Ok((path, entry))
}

/// Runs our `rscni` and returns its output.
fn rscni(plugins: &PluginSet, arguments: &[&str]) -> Result<String> {
    program::capture(Command::new(plugins.directory.join("rscni")).args(arguments))
}

/// Lists, checks and detaches an attachment that containerd made.
pub(super) fn take_over(plugins: &PluginSet, container_id: &str) -> Result<()> {
    let (path, theirs) = entry(container_id)?;
    // libcni of this containerd stores the namespace only in the result.
    let interfaces = theirs["result"]["interfaces"].as_array().context("no interfaces")?;
    let netns = interfaces.iter().find_map(|interface| interface["sandbox"].as_str());
    let netns = netns.context("no interface of containerd's entry is in a sandbox")?.to_owned();

    let listed = rscni(plugins, &["ls", "--container", container_id, "-o", "json"])?;
    let listed: Value = serde_json::from_str(&listed)?;
    let attachment = &listed["attachments"][0];
    let is_listed = attachment["network"] == NETWORK
        && attachment["containerID"] == container_id
        && attachment["ifname"] == "eth0"
        && attachment["netnsExists"] == true
        && attachment["addresses"].as_array().is_some_and(|all| !all.is_empty());
    ensure!(is_listed, "rscni ls does not show the running container with its address: {listed}");

    let of_container = ["--container-id", container_id, "--ifname", "eth0"];
    rscni(plugins, &[&["check", NETWORK, &netns], &of_container[..]].concat())?;
    compare_entries(plugins, &theirs)?;
    rscni(plugins, &[&["del", NETWORK, &netns], &of_container[..]].concat())?;
    ensure!(!path.exists(), "{} still exists after DEL", path.display());
    Ok(())
}

/// Checks that an entry of our runtime for the same list has every field of containerd's, with the
/// same type.
fn compare_entries(plugins: &PluginSet, theirs: &Value) -> Result<()> {
    const NAME: &str = "entry-of-ours";
    let add = rscni(plugins, &["add", NETWORK, NAME, "--create-netns", "--container-id", NAME]);
    let compared = add.and_then(|_| entry(NAME)).and_then(|(_, ours)| compare("", theirs, &ours));
    rscni(plugins, &["del", NETWORK, NAME, "--container-id", NAME])?;
    program::output_of(&format!("ip netns delete {NAME}"))?;
    compared
}

/// Checks that each field of `theirs` is in `ours`. Lists are compared by their first entry.
fn compare(path: &str, theirs: &Value, ours: &Value) -> Result<()> {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            for (key, value) in theirs {
                let path = format!("{path}.{key}");
                // Go writes empty objects for missing values.
                let is_empty = value.as_object().is_some_and(serde_json::Map::is_empty);
                match ours.get(key) {
                    Some(other) => compare(&path, value, other)?,
                    None if is_empty || value.is_null() => {}
                    None => {
                        bail!("containerd's entry has {path} = {value}, ours has no such field")
                    }
                }
            }
        }
        (Value::Array(theirs), Value::Array(ours)) => match (theirs.first(), ours.first()) {
            (Some(one), Some(other)) => compare(&format!("{path}[0]"), one, other)?,
            (Some(one), None) => bail!("containerd's entry has {path}[0] = {one}, ours is empty"),
            (None, _) => {}
        },
        (theirs, ours) => ensure!(
            std::mem::discriminant(theirs) == std::mem::discriminant(ours),
            "containerd's entry has {path} = {theirs}, ours {ours}"
        ),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_is_missing_or_of_another_type_is_named() {
        let ips = json!([{ "address": "10.0.0.2/24" }]);
        let theirs = json!({ "kind": "cniCacheV1", "result": { "ips": ips, "dns": {} } });
        assert!(compare("", &theirs, &theirs).is_ok());
        let ips = json!([{ "address": "10.0.0.3/24" }]);
        let ours = json!({ "kind": "cniCacheV1", "result": { "ips": ips }, "more": 1 });
        assert!(compare("", &theirs, &ours).is_ok());
        for (ours, word) in [
            (json!({ "result": { "ips": [{ "address": "x" }] } }), ".kind"),
            (json!({ "kind": "cniCacheV1", "result": { "ips": [{}] } }), ".result.ips[0].address"),
            (json!({ "kind": 1, "result": { "ips": [{ "address": "x" }] } }), ".kind"),
        ] {
            let error = compare("", &theirs, &ours).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
