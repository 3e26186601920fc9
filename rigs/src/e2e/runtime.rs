//! Containers that containerd attached, seen through libcni's cache by our runtime: listed, checked, detached; and an
//! entry that our runtime wrote, held against one that containerd wrote.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{PluginSet, container::NETWORK};
use xtask::program;

/// Where libcni keeps what runtimes must remember.
const CACHE: &str = "/var/lib/cni/results";

/// What every runtime remembers of the attachment of `container_id`.
fn entry(container_id: &str) -> Result<(PathBuf, Value)> {
    let path = Path::new(CACHE).join(format!("{NETWORK}-{container_id}-eth0"));
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let entry =
        serde_json::from_str(&text).with_context(|| format!("read {} as JSON", path.display()))?;
    Ok((path, entry))
}

/// A command of our `rscni`, with what it has to say.
fn rscni(plugins: &PluginSet, arguments: &[&str]) -> Result<String> {
    program::capture(Command::new(plugins.directory.join("rscni")).args(arguments))
}

/// The attachment that containerd made is listed, checked and detached.
pub(super) fn take_over(plugins: &PluginSet, container_id: &str) -> Result<()> {
    let (path, theirs) = entry(container_id)?;
    // libcni of this containerd keeps no namespace beside the result.
    let interfaces = theirs["result"]["interfaces"]
        .as_array()
        .context("containerd's entry has no interfaces")?;
    let netns = interfaces.iter().find_map(|interface| interface["sandbox"].as_str());
    let netns = netns.context("no interface of containerd's entry is in a sandbox")?.to_owned();

    let listed: Value =
        serde_json::from_str(&rscni(plugins, &["ls", "--container", container_id, "-o", "json"])?)?;
    let attachment = &listed["attachments"][0];
    ensure!(
        attachment["network"] == NETWORK
            && attachment["containerID"] == container_id
            && attachment["ifname"] == "eth0",
        "not listed as what it is: {listed}"
    );
    ensure!(
        attachment["netnsExists"] == true,
        "the container runs, but is listed as gone: {listed}"
    );
    ensure!(
        attachment["addresses"].as_array().is_some_and(|all| !all.is_empty()),
        "listed without address: {listed}"
    );

    let of_container = ["--container-id", container_id, "--ifname", "eth0"];
    rscni(plugins, &[&["check", NETWORK, &netns], &of_container[..]].concat())?;
    same_fields(plugins, &theirs)?;
    rscni(plugins, &[&["del", NETWORK, &netns], &of_container[..]].concat())?;
    ensure!(!path.exists(), "{} is still there after DEL", path.display());
    Ok(())
}

/// An entry that our runtime writes for the same list has every field that containerd's has, of the same type.
fn same_fields(plugins: &PluginSet, theirs: &Value) -> Result<()> {
    const NAME: &str = "entry-of-ours";
    let add = rscni(plugins, &["add", NETWORK, NAME, "--create-netns", "--container-id", NAME]);
    let compared = add.and_then(|_| entry(NAME)).and_then(|(_, ours)| compare("", theirs, &ours));
    rscni(plugins, &["del", NETWORK, NAME, "--container-id", NAME])?;
    program::capture(Command::new("ip").args(["netns", "delete", NAME]))?;
    compared
}

/// Every field of `theirs` is in `ours`. Lists are compared by their first entry, which speaks for the others.
fn compare(place: &str, theirs: &Value, ours: &Value) -> Result<()> {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            theirs.iter().try_for_each(|(key, value)| {
                let place = format!("{place}.{key}");
                // Go writes empty objects where there is nothing to say.
                let is_empty =
                    value.as_object().is_some_and(serde_json::Map::is_empty) || value.is_null();
                match ours.get(key) {
                    Some(other) => compare(&place, value, other),
                    None if is_empty => Ok(()),
                    None => Err(anyhow::anyhow!(
                        "containerd's entry has {place} = {value}, ours has no such field"
                    )),
                }
            })
        }
        (Value::Array(theirs), Value::Array(ours)) => match (theirs.first(), ours.first()) {
            (Some(one), Some(other)) => compare(&format!("{place}[0]"), one, other),
            (Some(one), None) => {
                Err(anyhow::anyhow!("containerd's entry has {place}[0] = {one}, ours is empty"))
            }
            (None, _) => Ok(()),
        },
        (theirs, ours) => {
            ensure!(
                std::mem::discriminant(theirs) == std::mem::discriminant(ours),
                "containerd's entry has {place} = {theirs}, ours {ours}"
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_that_is_missing_or_of_another_type_is_named() {
        let theirs = json!({ "kind": "cniCacheV1", "result": { "ips": [{ "address": "10.0.0.2/24" }], "dns": {} } });
        assert!(compare("", &theirs, &theirs).is_ok());
        let ours = json!({ "kind": "cniCacheV1", "result": { "ips": [{ "address": "10.0.0.3/24" }] }, "more": 1 });
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
