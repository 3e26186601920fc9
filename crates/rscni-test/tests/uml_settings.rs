//! Settings of a lab on a machine whose settings differ from the kernel's defaults. It runs in
//! User-Mode Linux, because it changes settings of the whole machine.

use std::path::Path;

/// Settings of the machine that new network namespaces copy.
const OF_THE_MACHINE: [(&str, &str); 8] = [
    ("net/core/devconf_inherit_init_net", "1"),
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "2"),
    ("net/ipv4/conf/default/rp_filter", "2"),
    ("net/ipv4/conf/default/promote_secondaries", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/use_tempaddr", "2"),
];

#[test]
fn a_lab_has_the_kernels_defaults_on_any_machine() {
    // This code runs in the second process too, which cannot change the machine's settings.
    if std::env::var_os("RSCNI_TEST_VERDICT_FILE").is_none() {
        for (name, value) in OF_THE_MACHINE {
            std::fs::write(Path::new("/proc/sys").join(name), value).unwrap();
        }
        let output = std::process::Command::new("unshare")
            .args(["--net", "cat", "/proc/sys/net/ipv4/ip_forward"])
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"1\n", "a new namespace copies the machine's setting");
    }
    rscni_test::run(|lab| {
        let container = lab.container("a");
        for namespace in [lab.host(), &*container] {
            for (name, value) in [
                ("net/ipv4/ip_forward", "0"),
                ("net/ipv4/conf/all/rp_filter", "0"),
                ("net/ipv4/conf/default/rp_filter", "0"),
                ("net/ipv4/conf/lo/rp_filter", "0"),
                ("net/ipv4/conf/default/promote_secondaries", "0"),
                ("net/ipv4/conf/default/accept_redirects", "1"),
                ("net/ipv6/conf/all/forwarding", "0"),
                ("net/ipv6/conf/default/accept_ra", "1"),
                ("net/ipv6/conf/default/use_tempaddr", "0"),
            ] {
                assert_eq!(namespace.sysctl(name), value, "{name} in {}", namespace.name());
            }
        }
    });
}
