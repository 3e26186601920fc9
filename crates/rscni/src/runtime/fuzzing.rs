//! The runtime's part of [`fuzzing`](crate::fuzzing).

#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

use std::{io, path::PathBuf};

use serde_json::{Map, Value};

use super::{
    AttachmentParams, NetConfList,
    cache::{decode, encode},
    chain::{Add, Chain, Each, Operation},
    version::supported,
};
use crate::{
    CNIResult, SpecVersion,
    fuzzing::{ending, split},
    invoke::{Exit, Invocation, Outcome},
};

/// A network's configuration, as a list and as a single plugin: what a runtime keeps of it is read as the same.
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

/// An entry of libcni's cache, written and read again; and one of a version that kept nothing but the result.
pub fn cache(data: &[u8]) {
    let params = AttachmentParams::new("id", "/run/netns/a", "eth0");
    for of in [None, Some(("net", &params))] {
        let Ok(entry) = decode(data, of) else { continue };
        let written = encode(&entry).expect("an entry is JSON");
        let read = decode(&written, None).expect("what was written is read");
        // An old version's shape may hold less of the result.
        assert_eq!(read.result.to_json(read.version), entry.result.to_json(entry.version));
        assert_eq!(
            (&read.network, &read.config, read.version),
            (&entry.network, &entry.config, entry.version)
        );
        assert_eq!(read.params, entry.params);
    }
}

/// What a plugin answers to VERSION.
pub(crate) fn versions(outcome: Outcome) {
    if let Ok(info) = supported("a", outcome) {
        assert!(info.supported_versions().is_sorted());
    }
}

/// A chain of plugins: a network's list and the outcomes of the calls, divided by lines of `---`.
pub fn chain(data: &[u8]) {
    let (list, mut outcomes) = split(data, b"\n---\n");
    let Ok(list) = NetConfList::from_json(list) else { return };
    let mut outcome = || {
        let (this, rest) = split(outcomes, b"\n---\n");
        outcomes = rest;
        match this {
            b"e" => Err(io::ErrorKind::PermissionDenied.into()),
            this => Ok(ending(this)),
        }
    };
    let mut params = AttachmentParams::new("id", "/run/netns/a", "eth0");
    params.capability_args.clone_from(list.plugins[0].as_map());
    let chain = Chain::new(|name| Ok(PathBuf::from(name)), &[], &list, params);

    let mut add = Add::new(&chain);
    let mut results: Vec<CNIResult> = Vec::new();
    let mut failed = false;
    while let Some(invocation) = add.next() {
        assert!(!failed, "nothing is called after a failure");
        is_derived(&list, results.len(), &invocation, "ADD", results.last());
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
    let every = list.plugins.len();
    let in_order: Vec<_> = (0..every).collect();
    let reversed: Vec<_> = (0..added.called).rev().collect();
    let previous = Some(&result).filter(|_| list.cni_version >= SpecVersion::V0_4_0);
    drive(
        &list,
        Each::del(&chain, added.called, Some(result.clone())),
        "DEL",
        &reversed,
        true,
        previous,
        &mut outcome,
    );
    drive(
        &list,
        Each::check(&chain, result.clone()),
        "CHECK",
        &in_order,
        false,
        Some(&result),
        &mut outcome,
    );
    drive(&list, Each::gc(&chain), "GC", &in_order, true, None, &mut outcome);
    drive(&list, Each::status(&chain), "STATUS", &in_order, false, None, &mut outcome);
}

/// Runs an operation to its end: each plugin is called once, in that order, up to the first failure unless it goes on.
fn drive(
    list: &NetConfList,
    mut each: Each<'_>,
    command: &str,
    order: &[usize],
    goes_on: bool,
    previous: Option<&CNIResult>,
    outcome: &mut dyn FnMut() -> io::Result<Outcome>,
) {
    let (mut called, mut failures) = (0, 0);
    while let Some(invocation) = each.next() {
        is_derived(list, order[called], &invocation, command, previous);
        called += 1;
        let outcome = outcome();
        failures +=
            usize::from(!outcome.as_ref().is_ok_and(|outcome| outcome.exit == Exit::Status(0)));
        each.take(outcome);
    }
    assert_eq!(each.finish().len(), failures);
    assert!(
        called == order.len() || failures == 1 && !goes_on,
        "{command} called {called} of {}",
        order.len()
    );
}

/// Holds what a plugin gets against what the network's list says (spec: "Deriving request configuration from plugin
/// configuration").
fn is_derived(
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
        let is_ours = ["name", "cniversion", "prevresult", "capabilities", "runtimeconfig"];
        !is_ours.contains(&key.as_str()) && !key.starts_with("cni.dev/")
    });
    for (key, value) in own {
        assert_eq!(config.get(key), Some(value), "{key}");
    }
}
