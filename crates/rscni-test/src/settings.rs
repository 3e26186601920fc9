//! Settings of a private network, the same on every machine.
//!
//! A new network namespace does not start from the kernel's defaults: it copies `net.ipv4.conf`
//! from the machine's own network, and `net.ipv6.conf` too if `net.core.devconf_inherit_init_net`
//! says so. A machine that runs containers has forwarding on, and most distributions change
//! `rp_filter`. Here these settings get the values that the kernel is built with.

use std::{
    io::{self, ErrorKind},
    path::Path,
};

use rustix::fs::Mode;

/// Variables that a test does not inherit, because they configure CNI tools.
pub(crate) const REMOVED_VARIABLES: [&str; 6] =
    ["CAP_ARGS", "CNI_ARGS", "CNI_IFNAME", "CNI_PATH", "NETCONFPATH", "LANGUAGE"];
/// The variable that decides the language of messages, and its value.
pub(crate) const LOCALE: (&str, &str) = ("LC_ALL", "C");

/// Directories of interface settings, below `/proc/sys`.
const IPV4: &str = "net/ipv4/conf";
const IPV6: &str = "net/ipv6/conf";

/// Switching forwarding changes settings of all interfaces, so it comes first.
const FORWARDING: [(&str, &str); 2] =
    [("net/ipv4/ip_forward", "0"), ("net/ipv6/conf/all/forwarding", "0")];

/// IPv4 settings that are not 0 by default. `accept_source_route` is 0 for `all`.
const IPV4_DEFAULTS: [(&str, &str); 8] = [
    ("accept_redirects", "1"),
    ("accept_source_route", "1"),
    ("arp_evict_nocarrier", "1"),
    ("igmpv2_unsolicited_report_interval", "10000"),
    ("igmpv3_unsolicited_report_interval", "1000"),
    ("secure_redirects", "1"),
    ("send_redirects", "1"),
    ("shared_media", "1"),
];

/// The kernel itself sets these for `lo`.
const IPV4_OF_LOOPBACK: [&str; 2] = ["disable_policy", "disable_xfrm"];
const IPV6_OF_LOOPBACK: [&str; 2] = ["accept_dad", "use_tempaddr"];

/// IPv6 settings that change what a test sees. The others differ between kernels.
const IPV6_DEFAULTS: [(&str, &str); 18] = [
    ("disable_ipv6", "0"),
    ("accept_dad", "1"),
    ("accept_ra", "1"),
    ("accept_ra_defrtr", "1"),
    ("accept_ra_pinfo", "1"),
    ("accept_redirects", "1"),
    ("accept_source_route", "0"),
    ("addr_gen_mode", "0"),
    ("autoconf", "1"),
    ("dad_transmits", "1"),
    ("hop_limit", "64"),
    ("keep_addr_on_down", "0"),
    ("ndisc_notify", "0"),
    ("optimistic_dad", "0"),
    ("proxy_ndp", "0"),
    ("router_solicitations", "-1"),
    ("use_optimistic", "0"),
    ("use_tempaddr", "0"),
];

/// Sets the umask, whatever the caller's is.
pub(crate) fn reset_umask() {
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
}

/// Sets the kernel's defaults in the calling thread's network namespace, which is new.
///
/// # Errors
///
/// If a setting that differs cannot be written. Settings that this kernel lacks are skipped.
pub(crate) fn reset_sysctls() -> io::Result<()> {
    for (name, value) in FORWARDING {
        set(name, value)?;
    }
    for interface in ["all", "default", "lo"] {
        let directory = format!("{IPV4}/{interface}");
        for name in names(&directory)? {
            if let Some(value) = ipv4_default(interface, &name) {
                set(&format!("{directory}/{name}"), value)?;
            }
        }
        for (name, value) in IPV6_DEFAULTS {
            if let Some(value) = ipv6_default(interface, name, value) {
                set(&format!("{IPV6}/{interface}/{name}"), value)?;
            }
        }
    }
    Ok(())
}

fn ipv4_default(interface: &str, name: &str) -> Option<&'static str> {
    match interface {
        // Read-only: the number of multicast routers.
        _ if name == "mc_forwarding" => None,
        "lo" if IPV4_OF_LOOPBACK.contains(&name) => None,
        "all" if name == "accept_source_route" => Some("0"),
        _ => Some(IPV4_DEFAULTS.iter().find(|(key, _)| *key == name).map_or("0", |entry| entry.1)),
    }
}

fn ipv6_default(interface: &str, name: &str, value: &'static str) -> Option<&'static str> {
    match interface {
        "lo" if IPV6_OF_LOOPBACK.contains(&name) => None,
        "all" if name == "accept_dad" => Some("0"),
        _ => Some(value),
    }
}

fn names(directory: &str) -> io::Result<Vec<String>> {
    std::fs::read_dir(Path::new("/proc/sys").join(directory))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Writes a setting only if it differs: a write to `default` counts as a decision for interfaces to
/// come.
fn set(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(name);
    let what =
        |error: io::Error| io::Error::new(error.kind(), format!("{name} = {value}: {error}"));
    match std::fs::read_to_string(&path) {
        Ok(current) if current.trim() == value => Ok(()),
        Ok(_) => std::fs::write(&path, value).map_err(what),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(what(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_restores_the_kernels_defaults() {
        crate::run(|lab| {
            let before = lab.snapshot();
            for (name, value) in [
                ("net/ipv4/ip_forward", "1"),
                ("net/ipv4/conf/all/rp_filter", "2"),
                ("net/ipv4/conf/default/rp_filter", "2"),
                ("net/ipv4/conf/default/accept_source_route", "0"),
                ("net/ipv4/conf/default/promote_secondaries", "1"),
                ("net/ipv4/conf/all/arp_ignore", "1"),
                ("net/ipv4/conf/all/accept_redirects", "0"),
                ("net/ipv4/conf/all/route_localnet", "1"),
                ("net/ipv6/conf/all/forwarding", "1"),
                ("net/ipv6/conf/default/accept_ra", "2"),
                ("net/ipv6/conf/default/use_tempaddr", "2"),
                ("net/ipv6/conf/default/disable_ipv6", "1"),
            ] {
                std::fs::write(Path::new("/proc/sys").join(name), value).unwrap();
            }
            assert!(!before.changes_to(&lab.snapshot()).is_empty());
            reset_sysctls().unwrap();
            lab.assert_unchanged_since(&before);
        });
    }
}
