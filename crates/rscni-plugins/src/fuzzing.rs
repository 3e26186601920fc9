//! Functions for the fuzzers. Each takes any bytes, and panics if an invariant is violated.
//!
//! They are compiled for fuzzers and tests only. `fuzz/` contains the programs around them and the
//! seeds, which the tests replay.

#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

pub(crate) mod scratch;

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use rscni::{Request, SpecVersion, invoke::Outcome};
use serde::Deserialize;
use serde_json::Value;

use self::scratch::ScratchDirectory;
pub use crate::{
    ipam::{dhcp::fuzzing::dhcp, host_local::fuzzing::host_local},
    meta::firewall::dbus::fuzzing::dbus,
};

/// Parses the texts of files, comments and names, and checks that they are written and read as the
/// same. Also parses the allow list of tuning.
pub fn saved(data: &[u8]) {
    crate::meta::tuning::backup::fuzz(data);
    crate::interface::host_device::record::fuzz(data);
    crate::meta::flannel::subnet::fuzz(data);
    crate::netfilter::container_chains::fuzz(data);
    crate::netfilter::iptables_save::fuzz(data);
    crate::ipam::host_local::resolv_conf::fuzz(data);
    crate::meta::portmap::names::fuzz(data);
    crate::state::owner::fuzz(data);
    crate::meta::tuning::allow_list::fuzz(data);
}

/// Calls the plugin in the configuration: lines of variables, an empty line, stdin. The container's
/// namespace does not exist, so only what comes before it runs.
///
/// # Panics
/// If this is the network of the host. `cargo xtask fuzz` provides another one, and empty
/// directories for default paths.
pub fn plugins(data: &[u8]) {
    assert!(
        !is_in_network_of_host(),
        "run it in a network namespace of its own, as `cargo xtask fuzz` does"
    );
    let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let end = data.windows(2).position(|two| two == b"\n\n");
    let (head, stdin) = end.map_or((&[][..], data), |end| (&data[..end], &data[end + 2..]));
    let Ok(mut config) = serde_json::from_slice::<Value>(stdin) else { return };
    let scratch = ScratchDirectory::new();
    scratch.redirect_paths(&mut config);
    if config["type"] == "flannel" {
        std::fs::write(scratch.0.join("subnetFile"), SUBNET_ENV)
            .expect("write what flannel's daemon writes");
    }
    let Some(entry) = config["type"].as_str().and_then(crate::find) else { return };
    let mut request = Request::default();
    request.stdin = config.to_string().into_bytes();
    for line in head.split(|byte| *byte == b'\n') {
        if let Some(at) = line.iter().position(|byte| *byte == b'=') {
            request
                .vars
                .insert(String::from_utf8_lossy(&line[..at]).into_owned(), text(&line[at + 1..]));
        }
    }
    for (name, value) in [("CNI_NETNS", "/nonexistent"), ("CNI_PATH", "/nonexistent")] {
        request.vars.insert(name.into(), value.into());
    }
    let reply = entry.reply(&request);
    let command = request.vars.get("CNI_COMMAND").cloned().unwrap_or_default();
    match (&reply.error, Outcome::from(reply.clone()).into_success(entry.name)) {
        (None, Ok(())) if command == "ADD" => {
            let result =
                Outcome::from(reply.clone()).into_result(entry.name).expect("ADD has a result");
            let json: Value = serde_json::from_slice(&reply.stdout).expect("a result is JSON");
            let version = SpecVersion::deserialize(&json["cniVersion"]).expect("it has a version");
            assert_eq!(result.to_json(version), json);
        }
        (None, Ok(())) => assert!(command == "VERSION" || reply.stdout.is_empty()),
        (Some(error), Err(told)) => {
            assert_eq!(
                (told.code(), told.msg(), told.details()),
                (error.code(), error.msg(), error.details())
            );
            assert_ne!(error.code(), 999, "{error}");
        }
        (error, told) => panic!("{error:?} was told as {told:?}"),
    }
}

/// Without the file flannel fails early.
const SUBNET_ENV: &str = "FLANNEL_NETWORK=10.0.0.0/8\nFLANNEL_SUBNET=10.1.0.1/16\n\
    FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00::1/64\nFLANNEL_MTU=1400\n\
    FLANNEL_IPMASQ=true\n";

/// Whether this is the network of the host. An ordinary user can neither see nor change that.
fn is_in_network_of_host() -> bool {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    namespace("1").is_some_and(|host| Some(host) == namespace("self"))
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fuzzing_began_with_holds() {
        replay::replay("host_local", host_local);
        replay::replay("dhcp", dhcp);
        replay::replay("dbus", dbus);
        replay::replay("saved", saved);
    }

    #[test]
    fn what_fuzzing_of_whole_plugins_began_with_holds() {
        rscni_test::run(|_| replay::replay("plugins", plugins));
    }
}
