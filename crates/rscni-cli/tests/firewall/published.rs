//! Connections to published ports: the host's policies and `ingressPolicy` let them through, and
//! nothing else.

use std::{net::SocketAddr, time::Duration};

use rscni_test::{Lab, Namespace};
use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    lists::{
        ENDS, IPTABLES, List, Member, NFTABLES, assert_does_not_reach, assert_nothing_left,
        assert_reaches, drop_by_default, iptables_rules, run,
    },
    support::{
        self, Attached, Network,
        outside::{HOST, outside},
    },
};

/// Attaches a container with portmap from host port 8080 to its port 80, and with firewall after
/// it.
#[track_caller]
pub(crate) fn publish(lab: &Lab, list: &List, portmap_backend: &str, name: &str) -> Member {
    let link = list.bridge.attach(lab, name);
    let mapping = json!({ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" });
    let keys = json!({
        "name": list.bridge.config["name"],
        "cniVersion": list.bridge.config["cniVersion"],
        "backend": portmap_backend,
        "runtimeConfig": { "portMappings": [mapping] },
    });
    let ports = Network::new(lab, "portmap", &keys).after(&link);
    let firewall = list.firewall.after(&ports);
    Member { bridge: link, firewall }
}

/// Asserts that port 8080 of these addresses leads to the container.
#[track_caller]
pub(crate) fn assert_published(from: &Namespace, addresses: &[&str], to: &Attached) {
    let server = to.serve_tcp(80);
    for address in addresses {
        let target = SocketAddr::new(address.parse().unwrap(), 8080);
        from.tcp(target).assert_by(&server);
    }
}

/// Asserts that port 8080 of these addresses is not answered.
#[track_caller]
fn assert_not_published(from: &Namespace, addresses: &[&str]) {
    for address in addresses {
        let target = SocketAddr::new(address.parse().unwrap(), 8080);
        let answer = from.try_tcp(target, Duration::from_millis(500));
        assert!(answer.is_err(), "{} reached {target}", from.name());
    }
}

/// Asserts that a connection to the container's own address and published port is not answered.
#[track_caller]
fn assert_not_direct(from: &Namespace, to: &Attached) {
    let server = to.serve_tcp(80);
    for address in [to.v4(), to.v6()] {
        let target = SocketAddr::new(address, server.port());
        let answer = from.try_tcp(target, Duration::from_millis(500));
        assert!(answer.is_err(), "{} reached {target}", from.name());
    }
    assert_does_not_reach(from, to);
}

#[rstest]
fn published_ports_are_reachable_where_the_host_drops_forwarded_traffic(
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[values(NFTABLES, IPTABLES)] portmap: &str,
    #[values("open", "same-bridge", "isolated")] policy: &str,
) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        for family in ["ip", "ip6"] {
            let file = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
            std::fs::write(file, "0").unwrap();
        }
        let list = List::new(lab, 1, &json!({ "backend": backend, "ingressPolicy": policy }));
        if backend == IPTABLES {
            drop_by_default(backend);
        }
        let a = publish(lab, &list, portmap, "a");
        let neighbour = list.attach(lab, "neighbour");
        if backend == NFTABLES {
            drop_by_default(backend);
        }
        assert_published(&outside, &HOST, &a);
        assert_published(&neighbour, &HOST, &a);
        assert_not_direct(&outside, &a);
        a.check().success();
        a.del().success();
        assert_not_published(&outside, &HOST);
    });
}

#[rstest]
fn a_published_port_is_reachable_from_an_isolated_bridge(
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[values("same-bridge", "isolated")] policy: &str,
    #[values("0", "1")] bridge_nf_call: &str,
) {
    rscni_test::run(|lab| {
        for family in ["ip", "ip6"] {
            let file = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
            std::fs::write(file, bridge_nf_call).unwrap();
        }
        let keys = json!({ "backend": backend, "ingressPolicy": policy });
        let [one, two] = [1, 2].map(|number| List::new(lab, number, &keys));
        let a = publish(lab, &one, NFTABLES, "a");
        let (neighbour, c) = (one.attach(lab, "neighbour"), two.attach(lab, "c"));
        assert_published(&c, &["10.2.0.1", "fd02::1"], &a);
        assert_not_direct(&c, &a);
        assert_not_direct(&a, &c);
        // A container of the same bridge, through the host. With the sysctl set, the kernel bridges
        // the translated packet, and the rule for ports cannot distinguish it from a direct one.
        if policy == "isolated" && bridge_nf_call == "1" {
            assert_not_published(&neighbour, &["10.1.0.1", "fd01::1"]);
        } else {
            assert_published(&neighbour, &["10.1.0.1", "fd01::1"], &a);
        }
        if policy == "isolated" {
            assert_not_direct(&neighbour, &a);
        }
        for attached in [&a, &neighbour, &c] {
            attached.check().success();
        }
    });
}

/// Rules of earlier releases.
const EARLIER_RULES: &str = "
flush chain inet rscni forward
flush chain inet rscni firewall-policy
delete chain inet rscni firewall-policy
delete chain inet rscni firewall-rules-2
table inet rscni {
    chain forward {
        jump firewall-admin
        iifname . oifname @firewall-isolated drop
        iifname @firewall-bridges oifname @firewall-bridges iifname . oifname != @firewall-same-bridge drop
        ip daddr @firewall4 ct state established,related accept
        ip saddr @firewall4 accept
        ip6 daddr @firewall6 ct state established,related accept
        ip6 saddr @firewall6 accept
        iifname \"br3\" oifname \"br2\" accept
    }
}
";

fn nft_script(lab: &Lab, text: &str) {
    let file = lab.dir().join("script.nft");
    std::fs::write(&file, text).unwrap();
    run("nft", &format!("-f {}", file.display()));
}

#[test]
fn add_replaces_the_rules_of_an_earlier_release() {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let keys = json!({ "backend": NFTABLES, "ingressPolicy": "same-bridge" });
        let [one, two] = [1, 2].map(|number| List::new(lab, number, &keys));
        let (a, c) = (publish(lab, &one, NFTABLES, "a"), two.attach(lab, "c"));
        let free = List::new(lab, 3, &json!({})).bridge.attach(lab, "free");
        nft_script(lab, EARLIER_RULES);
        drop_by_default(NFTABLES);
        assert_not_published(&outside, &HOST);
        assert_not_published(&c, &HOST);
        // Attachments of that release are unchanged, and DEL removes them.
        for attached in [&a, &c] {
            attached.check().success();
        }
        let b = one.attach(lab, "b");
        assert_published(&outside, &HOST, &a);
        assert_published(&c, &HOST, &a);
        assert_not_direct(&outside, &a);
        assert_not_direct(&c, &a);
        assert_reaches(lab, &b, &a);
        // The operator's rule and policy are still there.
        lab.tcp(&free, &c, c.v4(), 8080);
        assert_does_not_reach(&free, &a);
        for attached in [&a, &b, &c] {
            attached.check().success();
            attached.del().success();
        }
        for attached in [&b, &c] {
            assert_nothing_left(lab, attached);
        }
        let rules = run("nft", "list chain inet rscni forward");
        assert_eq!(rules.matches("jump").count(), 2, "{rules}");
        assert_eq!(rules.matches("@firewall4").count(), 3, "{rules}");
    });
}

#[test]
fn attachments_of_an_earlier_release_are_checked_and_removed_with_iptables() {
    rscni_test::run(|lab| {
        let list = List::new(lab, 1, &json!({ "backend": IPTABLES, "ingressPolicy": "isolated" }));
        let a = list.attach(lab, "a");
        for program in ["iptables", "ip6tables"] {
            for chain in ["CNI-FORWARD", "CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2"] {
                let rules = run(program, &format!("-S {chain}"));
                let mut rules = rules.lines().skip(1);
                let number = rules.position(|rule| rule.contains("DNAT")).unwrap() + 1;
                run(program, &format!("-D {chain} {number}"));
            }
        }
        assert!(!iptables_rules().iter().any(|rule| rule.contains("DNAT")));
        a.check().success();
        // The next ADD adds them before the rules of the policies.
        let b = list.attach(lab, "b");
        let rules = run("iptables", "-S CNI-ISOLATION-STAGE-1");
        assert!(rules.lines().nth(1).unwrap().contains("--ctstate DNAT"), "{rules}");
        a.check().success();
        for attached in [&a, &b] {
            attached.del().success();
            assert_nothing_left(lab, attached);
        }
    });
}

/// Returns a list of ptp and firewall.
fn ptp(lab: &Lab, number: u8, firewall: &Value) -> List {
    let list = List::new(lab, number, firewall);
    let mut ipam =
        support::host_local(&[&format!("10.{number}.0.0/24"), &format!("fd0{number}::/64")]);
    ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    let name = list.bridge.config["name"].clone();
    let keys = json!({ "ipam": ipam, "name": name });
    List { bridge: Network::ptp(lab, &[], &keys), ..list }
}

#[rstest]
fn a_policy_behind_ptp_isolates_the_container(
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[values("same-bridge", "isolated")] policy: &str,
) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let keys = json!({ "backend": backend, "ingressPolicy": policy });
        let (one, two) = (ptp(lab, 1, &keys), List::new(lab, 2, &keys));
        let a = publish(lab, &one, NFTABLES, "a");
        let (neighbour, c) = (one.attach(lab, "neighbour"), two.attach(lab, "c"));
        for other in [&*neighbour, &*c] {
            assert_not_direct(other, &a);
            assert_not_direct(&a, other);
            // A published port is reachable.
            assert_published(other, &HOST, &a);
        }
        // The host, the LAN and networks without a policy are not affected.
        let free = List::new(lab, 3, &json!({})).bridge.attach(lab, "free");
        assert_reaches(lab, lab.host(), &a);
        assert_reaches(lab, &free, &a);
        assert_reaches(lab, &a, &free);
        assert_published(&outside, &HOST, &a);
        for attached in [&a, &neighbour, &c] {
            attached.check().success();
        }
    });
}

#[rstest]
fn del_removes_a_policy_behind_ptp(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let list = ptp(lab, 1, &json!({ "backend": backend, "ingressPolicy": "same-bridge" }));
        // The rules of the host stay.
        list.attach(lab, "first").firewall.del().success();
        let rules = iptables_rules();
        for how in ENDS {
            let a = list.attach(lab, how);
            let link = a.bridge.port_name();
            let found = match backend {
                NFTABLES => run("nft", "list set inet rscni firewall-bridges"),
                _ => iptables_rules().concat(),
            };
            assert!(found.contains(&link), "{found}");
            a.check().success();
            a.end(lab, how).success();
            assert_nothing_left(lab, &a);
            a.bridge.del().success();
            assert_eq!(iptables_rules(), rules, "{how}");
        }
    });
}

#[test]
fn check_misses_the_policy_of_a_link() {
    rscni_test::run(|lab| {
        let a = ptp(lab, 1, &json!({ "ingressPolicy": "isolated" })).attach(lab, "a");
        a.check().success();
        run("nft", "flush set inet rscni firewall-bridges");
        a.check_misses("firewall-bridges");
    });
}

#[test]
fn an_add_that_fails_leaves_no_policy_of_a_link() {
    rscni_test::run(|lab| {
        let list = ptp(lab, 1, &json!({ "backend": IPTABLES, "ingressPolicy": "isolated" }));
        list.attach(lab, "first").del().success();
        let broken = support::without_ip6tables(lab, &list.firewall);
        let link = list.bridge.attach(lab, "a");
        let before = support::snapshot(lab);
        broken.call_after(&link).error(5).mentions("ip6tables-restore");
        lab.assert_unchanged_since(&before);
    });
}
