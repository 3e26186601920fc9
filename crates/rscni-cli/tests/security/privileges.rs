//! What each plugin may do: with the capabilities that SECURITY.md lists it works, and without one of them it fails, says
//! what it lacks, and leaves nothing. Those whose links many kernels lack are in `uml_security`.

use std::fs;

use rstest::rstest;
use serde_json::json;

use crate::{
    capabilities::{documented, needs_what_is_documented_and_no_more, with},
    support::{Network, dhcp},
};

#[rstest]
fn a_plugin_needs_the_capabilities_that_are_documented_and_no_others(
    #[values(
        "bandwidth",
        "bridge",
        "firewall",
        "flannel",
        "host-device",
        "host-local",
        "loopback",
        "macvlan",
        "portmap",
        "ptp",
        "sbr",
        "static",
        "tuning"
    )]
    plugin: &str,
) {
    needs_what_is_documented_and_no_more(plugin);
}

/// The names of capabilities by their number in `/proc/PID/status` (`capabilities(7)`).
const NUMBERS: [(&str, u32); 6] = [
    ("DAC_OVERRIDE", 1),
    ("NET_BIND_SERVICE", 10),
    ("NET_ADMIN", 12),
    ("NET_RAW", 13),
    ("SYS_PTRACE", 19),
    ("SYS_ADMIN", 21),
];

/// What anybody on a container's network may send is read by a process that could do little with it.
#[test]
fn the_daemon_of_dhcp_gives_up_all_but_what_is_documented() {
    rscni_test::run(|lab| {
        let (_server, daemon) = dhcp::set_up(lab, &[]);
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
        };
        let bit =
            |name: &String| 1_u64 << NUMBERS.iter().find(|(other, _)| other == name).unwrap().1;
        let kept: u64 = documented("dhcp daemon").iter().map(bit).sum();
        assert_eq!((field("CapEff"), field("CapPrm"), field("CapInh")), (kept, kept, 0));
        assert_eq!(field("NoNewPrivs"), 1);
        // The plugin that asks it needs nothing, and both still do their work.
        let network = dhcp::network(lab, &json!({}));
        let a = network.attach(lab, "a");
        a.ping(dhcp::SERVER);
        let plugin =
            Network { config: network.config.clone(), ..Network::new(lab, "dhcp", &json!({})) };
        let plugin = plugin.with(&json!({ "type": "dhcp" }));
        assert_eq!(documented("dhcp"), [""; 0]);
        with(lab, &plugin, &[]).plugin.status(&plugin.config).success();
        a.del().success();
    });
}
