//! Packets between containers.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use ipnet::IpNet;
use rscni_linux::{AddressFlags, LinkChange, Veth};
use rscni_test::{Container, Lab, Namespace};

const SHORT: Duration = Duration::from_millis(300);

fn up(namespace: &Namespace, name: &str, addresses: &[&str]) {
    let mut netlink = namespace.netlink();
    let index = netlink.link_by_name(name).unwrap().index;
    netlink.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
    for address in addresses {
        let address: IpNet = address.parse().unwrap();
        let nodad = AddressFlags { nodad: true, ..AddressFlags::default() };
        netlink.add_address(index, address, nodad).unwrap();
    }
}

/// Creates two containers, `a` and `b`, with a veth between them.
fn pair(lab: &Lab) -> (Container, Container) {
    let (a, b) = (lab.container("a"), lab.container("b"));
    let peer = rscni_linux::Netns::open(b.path()).unwrap();
    let veth = Veth { peer_netns: Some(&peer), ..Veth::new("eth0", "eth0") };
    a.netlink().add_veth(&veth).unwrap();
    up(&a, "eth0", &["10.1.0.1/24", "fd00::1/64"]);
    up(&b, "eth0", &["10.1.0.2/24", "fd00::2/64"]);
    // The kernel sends the ICMP error about an unreachable neighbour over `lo`.
    up(&a, "lo", &[]);
    up(&b, "lo", &[]);
    (a, b)
}

fn message(panics: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(panics)).expect_err("no assertion failed");
    panic.downcast_ref::<String>().expect("a message").clone()
}

#[test]
fn containers_on_one_cable_reach_each_other() {
    rscni_test::run(|lab| {
        let (a, b) = pair(lab);
        for address in ["10.1.0.2", "fd00::2"] {
            a.ping(address);
            lab.tcp(&a, &b, address, 8080);
            lab.udp(&a, &b, address, 8080);
        }
        b.ping("10.1.0.1");
        lab.ping(&b, "10.1.0.2");
    });
}

#[test]
fn the_host_reaches_itself() {
    rscni_test::run(|lab| {
        lab.host().ping("127.0.0.1");
        lab.host().ping("::1");
        lab.tcp(lab.host(), lab.host(), "127.0.0.1", 0);
    });
}

#[test]
fn an_answer_names_the_server_and_the_source() {
    rscni_test::run(|lab| {
        let (a, b) = pair(lab);
        let (tcp, udp) = (b.serve_tcp(80), b.serve_udp(80));
        assert_eq!((tcp.port(), udp.port()), (80, 80));
        for answer in [a.tcp("10.1.0.2:80"), a.udp("10.1.0.2:80")] {
            assert_eq!(
                (answer.server.as_str(), answer.seen_as.to_string().as_str()),
                ("b", "10.1.0.1")
            );
        }
        assert_eq!(a.tcp("[fd00::2]:80").seen_as.to_string(), "fd00::1");
    });
}

#[test]
fn an_answer_from_the_wrong_place_fails() {
    rscni_test::run(|lab| {
        let (a, b) = pair(lab);
        let (ours, other) = (a.serve_tcp(80), b.serve_tcp(80));
        let answer = a.tcp("10.1.0.2:80");
        answer.assert_by(&other);
        let message = message(|| answer.assert_by(&ours));
        assert!(message.contains("a server in the wrong place answered"), "{message}");
    });
}

#[test]
fn a_dropped_server_releases_its_port() {
    rscni_test::run(|lab| {
        let (a, b) = pair(lab);
        drop(b.serve_tcp(80));
        rscni_test::eventually("the kernel refuses", || {
            let error = a.try_tcp("10.1.0.2:80", SHORT).unwrap_err().to_string();
            error
                .starts_with("TCP from a to 10.1.0.2:80: connect: Connection refused")
                .then_some(())
        });
        drop(b.serve_udp(80));
        a.try_udp("10.1.0.2:80", SHORT).unwrap_err();
    });
}

#[test]
fn an_unused_address_does_not_answer() {
    rscni_test::run(|lab| {
        let (a, b) = pair(lab);
        a.cannot_ping("10.1.0.9");
        a.cannot_ping("fd00::9");
        // The kernel asks for the neighbour three times, once a second.
        a.run(|| std::fs::write("/proc/sys/net/ipv4/neigh/eth0/retrans_time_ms", "10")).unwrap();
        rscni_test::eventually("the kernel gives up", || {
            let error = a.try_ping("10.1.0.9", SHORT).unwrap_err().to_string();
            error.contains("10.1.0.1 says: host unreachable").then_some(())
        });
        let message = message(|| b.cannot_ping("10.1.0.1"));
        assert!(message.contains("ping from b to 10.1.0.1: an answer came"), "{message}");
    });
}

#[test]
fn a_network_without_a_route_says_so() {
    rscni_test::run(|lab| {
        let (a, _b) = pair(lab);
        for address in ["192.0.2.1", "2001:db8::1"] {
            let error = a.try_ping(address, SHORT).unwrap_err().to_string();
            assert!(error.contains("Network is unreachable"), "{error}");
        }
    });
}

#[test]
fn a_link_that_is_down_carries_nothing() {
    rscni_test::run(|lab| {
        let (a, b) = pair(lab);
        a.ping("10.1.0.2");
        let mut netlink = b.netlink();
        let index = netlink.link_by_name("eth0").unwrap().index;
        netlink.set_link(index, &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
        a.cannot_ping("10.1.0.2");
        a.try_tcp("10.1.0.2:80", SHORT).unwrap_err();
    });
}

#[test]
fn a_closure_runs_in_the_container_and_the_caller_does_not() {
    rscni_test::run(|lab| {
        let (a, _b) = pair(lab);
        let own = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        assert_ne!(a.run(own), own());
        let interfaces =
            a.run(|| std::process::Command::new("cat").arg("/proc/net/dev").output()).unwrap();
        assert!(String::from_utf8_lossy(&interfaces.stdout).contains("eth0"));
        assert_eq!(a.sysctl("net/ipv4/conf/eth0/forwarding"), "0");
    });
}

#[test]
fn a_container_that_is_gone_is_named() {
    rscni_test::run(|lab| {
        let (a, b) = pair(lab);
        assert!(b.exists());
        lab.remove_namespace(&b);
        assert!(!b.exists());
        let message = message(|| b.ping("10.1.0.1"));
        assert!(message.starts_with("run something in b:"), "{message}");
        // The kernel removes the other end of a veth in the background.
        rscni_test::eventually("the end of the cable", || {
            a.netlink().find_link("eth0").unwrap().is_none().then_some(())
        });
        a.cannot_ping("10.1.0.2");
    });
}

#[test]
fn an_invalid_address_is_named() {
    rscni_test::run(|lab| {
        let message = message(|| lab.host().ping("10.1.0.300"));
        assert_eq!(message, "`10.1.0.300` is not an IP address");
    });
}
