//! Checks network configurations: invalid, duplicate, outdated and ignored files.

use std::path::{Path, PathBuf};

use rscni::{
    any_case,
    runtime::{CacheEntry, NetConfList},
};
use serde_json::{Map, Value, json};

use super::{Context, Report, quoted};
use crate::{container::is_of_runtime, node::may_exist};

/// The suffix of a disabled file.
const DISABLED: &str = "disabled";

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    let dir = context.networks;
    for (file, error) in &dir.broken {
        let why = "runtimes ignore it, or fail to load any network because of it";
        let (what, mend) = misnamed(file).unwrap_or((error.details().to_owned(), None));
        report.error("list-unreadable", what, why, Some(mend.unwrap_or_else(|| disable(file))));
    }
    if context.conf_dir.is_dir() && dir.networks.is_empty() {
        let what = format!("{} has no network configuration", context.conf_dir.display());
        let why = "no container gets a network; this command creates one with a bridge, and \
                   docs/plugins describes the other plugins";
        // Attached containers show that a file existed, which should be restored.
        let is_attached = |entry: &CacheEntry| may_exist(entry) && !is_of_runtime(entry);
        let had_one = context.node.listing.entries.iter().any(is_attached);
        let mend = (!had_one).then(|| first_network(context.conf_dir));
        report.error("no-network", what, why, mend);
    }
    for (file, list) in &dir.networks {
        let used = dir.find(&list.name).is_ok_and(|used| std::ptr::eq(used, list));
        if !used {
            let what =
                format!("{}: another file also defines network {}", file.display(), list.name);
            let why = "runtimes that select a network by name use the other file; others may use this \
                       one";
            report.warning("list-duplicate", what, why, context.disabling(list));
        }
        if !list.cni_version.has_check() {
            let what = format!(
                "{}: network {} has cniVersion {}",
                file.display(),
                list.name,
                list.cni_version
            );
            let why = "it has no CHECK, GC and STATUS; old runtimes may not support 1.1.0";
            // A runtime without support for the new version could not detach attached containers.
            let mend = (!context.is_in_use(&list.name)).then(|| renew(file));
            report.warning("list-old", what, why, mend);
        }
    }
    if let Some((file, list)) = dir.networks.first() {
        let what = format!(
            "containerd and CRI-O use the first file: {} (network {})",
            file.display(),
            list.name
        );
        report.ok("list-first", what);
    }
    for file in others(context.conf_dir) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let extension = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let backups = [DISABLED, "bak", "orig", "old", "save"];
        let of_packages = ["rpmsave", "rpmnew", "dpkg-dist", "dpkg-old"];
        if extension == "md"
            || backups.contains(&&*extension)
            || of_packages.contains(&&*extension)
            || name.starts_with("README")
            || name.starts_with('.')
        {
            continue;
        }
        let what = format!(
            "{} is ignored by runtimes: it is not named *.conflist, *.conf or *.json",
            file.display()
        );
        let why = "it looks like a network configuration; rename it if it is one";
        report.warning("list-ignored", what, why, Some(disable(&file)));
    }
}

/// Returns the problem and the fix of a file with the wrong extension.
///
/// Lists are named *.conflist, the configurations of single plugins *.conf or *.json.
fn misnamed(file: &Path) -> Option<(String, Option<String>)> {
    let bytes = std::fs::read(file).ok()?;
    let keys: Map<String, Value> = serde_json::from_slice(&bytes).ok()?;
    let is_named_list = file.extension().is_some_and(|extension| extension == "conflist");
    let has = |key: &str| any_case::get(&keys, key).is_some();
    let (kind, extension, read) = if !is_named_list && has("plugins") {
        ("a list of plugins", "conflist", NetConfList::from_json(&bytes))
    } else if is_named_list && has("type") && !has("plugins") {
        ("the configuration of one plugin", "conf", NetConfList::from_plugin_json(&bytes))
    } else {
        return None;
    };
    let shown = file.display();
    let renamed = file.with_extension(extension);
    Some(match read {
        Err(error) => (format!("{shown} is {kind} and invalid: {}", error.details()), None),
        Ok(_) if renamed.exists() => {
            let other = renamed.display();
            (format!("{shown} is {kind} and must be named *.{extension}, but {other} exists"), None)
        }
        Ok(_) => (
            format!("{shown} is {kind} and must be named *.{extension}"),
            Some(format!("mv {} {}", quoted(file), quoted(renamed))),
        ),
    })
}

/// Returns the command that disables a file.
pub(super) fn disable(file: &Path) -> String {
    format!("mv {0} {1}", quoted(file), quoted(with_suffix(file)))
}

/// Returns the command that creates a network suitable for most nodes.
fn first_network(dir: &Path) -> String {
    let ipam = json!({
        "type": "host-local", "ranges": [[{ "subnet": "10.88.0.0/16" }]],
        "routes": [{ "dst": "0.0.0.0/0" }],
    });
    let bridge = json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipam": ipam,
    });
    let ports = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    let list = json!({ "cniVersion": "1.1.0", "name": "bridge", "plugins": [bridge, ports] });
    format!("echo {} > {}", quoted(list.to_string()), quoted(dir.join("10-bridge.conflist")))
}

/// Returns the command that sets the newest version; a file without a version has the oldest.
fn renew(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let script = if text.contains("\"cniVersion\"") {
        r#"s/("cniVersion"[[:space:]]*:[[:space:]]*)"[^"]*"/\1"1.1.0"/"#
    } else {
        r#"0,/\{/s//{ "cniVersion": "1.1.0",/"#
    };
    format!("sed -i -E {} {}", quoted(script), quoted(file))
}

fn with_suffix(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(DISABLED);
    name.into()
}

/// Returns the files of the directory whose names are not those of configurations.
fn others(dir: &Path) -> Vec<PathBuf> {
    let is_list = |path: &Path| {
        path.extension().is_some_and(|e| e == "conflist" || e == "conf" || e == "json")
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(|path| path.is_file() && !is_list(path)).collect();
    files.sort();
    files
}
