//! The capabilities of each plugin are those that SECURITY.md lists. Plugins whose links many
//! kernels lack are tested in `uml_security`.

use std::fs;

use serde_json::json;

use crate::{
    capabilities::{assert_documented, documented, with},
    support::{Network, dhcp},
};

/// `dhcp` needs a daemon and is tested below.
#[test]
fn plugins_need_the_documented_capabilities_and_no_others() {
    assert_documented(|row| !row.needs_uml() && !["dhcp", "tap"].contains(&row.plugin.as_str()));
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

/// The daemon reads packets of untrusted machines.
#[test]
fn the_dhcp_daemon_drops_all_undocumented_capabilities() {
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
        // The plugin needs no capability, and both still work.
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
