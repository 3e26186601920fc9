//! Fuzz targets of the runtime side; see [`fuzzing`](crate::fuzzing).

#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

use std::{io, path::PathBuf};

use serde_json::{Map, Value};

use super::{
    AttachmentParams, NetConfList,
    cache_entry::{decode, encode},
    chain::{Add, Chain, Each, Operation},
    version::supported,
};
use crate::{
    CNIResult, SpecVersion,
    fuzzing::{parse_outcome, split},
    invoke::{Exit, Invocation, Outcome},
};

/// A network's configuration, as a list and as a single plugin: unchanged when read from its
/// source.
pub fn network(data: &[u8]) {
    for read in [NetConfList::from_json, NetConfList::from_plugin_json] {
        match read(data) {
            Ok(list) => {
                assert_eq!(NetConfList::from_json(list.source()), Ok(list.clone()));
                assert!(!list.plugins.is_empty());
                assert!(list.plugins.iter().all(|plugin| !plugin.plugin_type().is_empty()));
            }
            Err(error) => assert!(matches!(error.code(), 1 | 6 | 7), "{error}"),
        }
    }
}

/// An entry of libcni's cache, and one of an old version with only the result: unchanged after
/// writing and reading it.
pub fn cache(data: &[u8]) {
    let params = AttachmentParams::new("id", "/run/netns/a", "eth0");
    for of in [None, Some(("net", &params))] {
        let Ok(entry) = decode(data, of) else { continue };
        let written = encode(&entry).expect("an entry is JSON");
        let read = decode(&written, None).expect("what was written is read");
        // The shape of an old version may not hold all of the result.
        assert_eq!(read.result.to_json(read.version), entry.result.to_json(entry.version));
        assert_eq!(
            (&read.network, &read.config, read.version),
            (&entry.network, &entry.config, entry.version)
        );
        assert_eq!(read.params, entry.params);
    }
}

/// The reply of a plugin to VERSION.
pub(crate) fn versions(outcome: Outcome) {
    if let Ok(info) = supported("a", outcome) {
        assert!(info.supported_versions().is_sorted());
    }
}

/// A chain of plugins: a network's list and the outcomes of the calls, separated by lines of `---`.
pub fn chain(data: &[u8]) {
    let (list, mut outcomes) = split(data, b"\n---\n");
    let Ok(list) = NetConfList::from_json(list) else { return };
    let mut outcome = || {
        let (this, rest) = split(outcomes, b"\n---\n");
        outcomes = rest;
        match this {
            b"e" => Err(io::ErrorKind::PermissionDenied.into()),
            this => Ok(parse_outcome(this)),
        }
    };
    let mut params = AttachmentParams::new("id", "/run/netns/a", "eth0");
    params.capability_args.clone_from(list.plugins[0].as_map());
    let chain = Chain::new(|name| Ok(PathBuf::from(name)), &[], &list, params);

    let mut add = Add::new(&chain);
    let mut results: Vec<CNIResult> = Vec::new();
    let mut failed = false;
    while let Some(invocation) = add.next() {
        assert!(!failed, "no plugin is called after a failure");
        check_invocation(&list, results.len(), &invocation, "ADD", results.last());
        let outcome = outcome();
        match outcome.as_ref().ok().cloned().map(|outcome| outcome.into_result("a")) {
            Some(Ok(result)) => results.push(result),
            _ => failed = true,
        }
        add.take(outcome);
    }
    let added = add.finish();
    assert_eq!(
        (added.called, added.error.is_some()),
        (results.len() + usize::from(failed), failed)
    );
    assert_eq!(added.result.as_ref(), results.last());

    let result = added.result.clone().unwrap_or_default();
    let in_order: Vec<_> = (0..list.plugins.len()).collect();
    let reversed: Vec<_> = (0..added.called).rev().collect();
    let del = Each::del(&chain, added.called, Some(result.clone()));
    let check = Each::check(&chain, result.clone());
    let previous = Some(&result).filter(|_| list.cni_version >= SpecVersion::V0_4_0);
    // Runs an operation: it calls each plugin once, in order, and stops at a failure unless it is
    // best effort.
    let mut drive =
        |mut each: Each<'_>, command, order: &[usize], is_best_effort: bool, previous| {
            let (mut called, mut failures) = (0, 0);
            while let Some(invocation) = each.next() {
                check_invocation(&list, order[called], &invocation, command, previous);
                called += 1;
                let outcome = outcome();
                failures += usize::from(!outcome.as_ref().is_ok_and(|o| o.exit == Exit::Status(0)));
                each.take(outcome);
            }
            assert_eq!(each.finish().len(), failures);
            let is_complete = called == order.len() || failures == 1 && !is_best_effort;
            assert!(is_complete, "{command} called {called} of {}", order.len());
        };
    drive(del, "DEL", &reversed, true, previous);
    drive(check, "CHECK", &in_order, false, Some(&result));
    drive(Each::gc(&chain), "GC", &in_order, true, None);
    drive(Each::status(&chain), "STATUS", &in_order, false, None);
}

/// Checks an invocation against the list (spec: "Deriving request configuration from plugin
/// configuration").
fn check_invocation(
    list: &NetConfList,
    index: usize,
    invocation: &Invocation,
    command: &str,
    previous: Option<&CNIResult>,
) {
    let plugin = &list.plugins[index];
    assert_eq!(invocation.plugin, plugin.plugin_type());
    assert_eq!(invocation.vars["CNI_COMMAND"], command);
    let config: Map<String, Value> =
        serde_json::from_slice(&invocation.stdin).expect("a JSON object");
    assert_eq!(
        (&config["name"], &config["cniVersion"]),
        (&list.name.as_str().into(), &list.cni_version.as_str().into())
    );
    assert_eq!(
        config.get("prevResult"),
        previous.map(|result| result.to_json(list.cni_version)).as_ref()
    );
    assert!(!config.contains_key("capabilities"));
    let own = plugin.as_map().iter().filter(|(key, _)| {
        let key = key.to_ascii_lowercase();
        let runtimes = ["name", "cniversion", "prevresult", "capabilities", "runtimeconfig"];
        !runtimes.contains(&key.as_str()) && !key.starts_with("cni.dev/")
    });
    for (key, value) in own {
        assert_eq!(config.get(key), Some(value), "{key}");
    }
}
