//! Settings in this and another namespace.

mod support;

use rscni_linux::{Error, sysctl};
use support::{ip, namespace, private_network};

#[test]
fn setting_belongs_to_its_namespace() {
    private_network(|| {
        let netns = namespace();
        assert!(sysctl::set_in(&netns, "net.ipv4.ip_forward", "1").unwrap());
        assert_eq!(sysctl::get_in(&netns, "net.ipv4.ip_forward").unwrap(), "1");
        assert_eq!(sysctl::get("net/ipv4/ip_forward").unwrap(), "0");
    });
}

#[test]
fn setting_with_the_right_value_is_not_written() {
    private_network(|| {
        assert!(sysctl::set("net/ipv4/ip_forward", "1").unwrap());
        assert!(!sysctl::set("net/ipv4/ip_forward", "1").unwrap());
        assert!(sysctl::set("net/ipv4/ip_local_port_range", "2000 3000").unwrap());
        assert!(!sysctl::set("net/ipv4/ip_local_port_range", "2000 3000").unwrap());
    });
}

#[test]
fn interface_name_may_contain_a_dot() {
    private_network(|| {
        ip("link add eth0.10 type bridge");
        for key in ["net/ipv4/conf/eth0.10/forwarding", "net.ipv4.conf.eth0/10.forwarding"] {
            assert_eq!(sysctl::get(key).unwrap(), "0", "{key}");
        }
        sysctl::set("net/ipv6/conf/eth0.10/disable_ipv6", "1").unwrap();
        let text = std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0.10/disable_ipv6");
        assert_eq!(text.unwrap(), "1\n");
    });
}

#[test]
fn several_settings_stop_at_the_first_failure() {
    private_network(|| {
        let netns = namespace();
        let settings = [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/none", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ];
        let error = sysctl::set_all_in(&netns, &settings).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
        assert_eq!(error.to_string(), "sysctl net/ipv4/none does not exist");
        assert_eq!(sysctl::get_in(&netns, "net/ipv4/ip_forward").unwrap(), "1");
        let last = sysctl::get_in(&netns, "net/ipv6/conf/all/forwarding");
        assert_eq!(last.unwrap(), "0");
    });
}

#[test]
fn value_refused_by_the_kernel_is_an_error() {
    private_network(|| {
        let error = sysctl::set("net/ipv4/ip_forward", "maybe").unwrap_err();
        assert_eq!(error.to_string(), "set sysctl net/ipv4/ip_forward: Invalid argument (EINVAL)");
    });
}
