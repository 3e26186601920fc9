//! The tuning plugin keeps what the container learned from router advertisements.

mod support;

use std::net::{Ipv6Addr, SocketAddrV6};

use rscni_linux::{Address, Family, Route, RouteFilter};
use rscni_test::Lab;
use rstest::rstest;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};
use serde_json::{Value, json};

use support::{Attached, Network, V4, V6, host_link};

const RTPROT_RA: u8 = 9;
const ADVERTISED: &str = "2001:db8:a::";
/// Parameters in an advertisement: hop limit, reachable time, retransmission time, MTU.
const PARAMETERS: [(&str, &str); 4] = [
    ("conf/eth0/hop_limit", "33"),
    ("neigh/eth0/base_reachable_time_ms", "12000"),
    ("neigh/eth0/retrans_time_ms", "4000"),
    ("conf/eth0/mtu", "1340"),
];

/// A router advertisement (RFC 4861, section 4.2) with a default route, an MTU, the container's
/// prefix and another one.
fn advertisement() -> Vec<u8> {
    let mut packet = vec![134, 0, 0, 0, 33, 0];
    packet.extend(1800_u16.to_be_bytes());
    packet.extend(12000_u32.to_be_bytes());
    packet.extend(4000_u32.to_be_bytes());
    packet.extend([5, 1, 0, 0]);
    packet.extend(1340_u32.to_be_bytes());
    for prefix in [ADVERTISED, "fd01::"] {
        // On-link, autonomous, valid for a day.
        packet.extend([3, 4, 64, 0xc0]);
        for lifetime in [86400_u32, 14400, 0] {
            packet.extend(lifetime.to_be_bytes());
        }
        packet.extend(prefix.parse::<Ipv6Addr>().unwrap().octets());
    }
    packet
}

/// Sends an advertisement from the host's interface to the container.
fn advertise(lab: &Lab, interface: &str) -> rustix::io::Result<()> {
    let index = host_link(lab, interface).index;
    let socket = socket_with(
        AddressFamily::INET6,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(ipproto::ICMPV6),
    )?;
    // The kernel ignores advertisements with another hop limit.
    rustix::net::sockopt::set_ipv6_multicast_hops(&socket, 255)?;
    let all_nodes = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
    sendto(&socket, &advertisement(), SendFlags::empty(), &all_nodes).map(drop)
}

/// State that the container learned from advertisements.
struct Learned {
    addresses: Vec<Address>,
    routes: Vec<Route>,
}

fn learned(a: &Attached) -> Learned {
    let mut netlink = a.netlink();
    let index = a.link().index;
    let mut addresses = netlink.addresses(index).unwrap();
    addresses.retain(Address::is_advertised);
    let filter =
        RouteFilter { family: Some(Family::V6), oif: Some(index), ..RouteFilter::default() };
    let mut routes = netlink.routes(filter).unwrap();
    routes.retain(|route| {
        route.protocol == Some(RTPROT_RA) || route.dst.to_string() == format!("{ADVERTISED}/64")
    });
    Learned { addresses, routes }
}

impl Learned {
    fn default_routes(&self) -> usize {
        self.routes.iter().filter(|route| route.dst.prefix_len() == 0).count()
    }

    fn prefixes(&self) -> usize {
        self.routes.iter().filter(|route| route.dst.prefix_len() == 64).count()
    }

    fn numbers(&self) -> [usize; 3] {
        [self.addresses.len(), self.default_routes(), self.prefixes()]
    }
}

/// Returns a container that received an advertisement, and the host interface that sent it.
fn taught(lab: &Lab, plugin: &str) -> (Attached, String) {
    let network = if plugin == "bridge" {
        Network::bridge(lab, &[V4, V6], &json!({}))
    } else {
        Network::ptp(lab, &[V4, V6], &json!({}))
    };
    let a = network.attach(lab, "a");
    let interface = if plugin == "bridge" { "br0".to_owned() } else { a.port_name() };
    teach(lab, &a, &interface);
    (a, interface)
}

fn teach(lab: &Lab, a: &Attached, interface: &str) {
    rscni_test::eventually("an advertisement that is accepted", || {
        // The host's address may still be tentative.
        advertise(lab, interface).ok()?;
        (learned(a).numbers() == [2, 1, 1]).then_some(())
    });
}

fn tuned(lab: &Lab, a: &Attached, sysctl: &Value) -> Attached {
    Network::new(lab, "tuning", &json!({ "sysctl": sysctl })).after(a)
}

/// Number of advertisements that the container has received.
fn received(a: &Attached) -> u64 {
    let text = a.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap());
    let line = text.lines().find(|line| line.starts_with("Icmp6InRouterAdvertisements"));
    line.unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[rstest]
#[case::accept_ra(json!({ "net.ipv6.conf.IFNAME.accept_ra": "0" }), [0, 0, 0])]
#[case::router(json!({ "net.ipv6.conf.IFNAME.forwarding": "1" }), [0, 0, 0])]
#[case::router_everywhere(json!({ "net/ipv6/conf/all/forwarding": "1" }), [0, 0, 0])]
#[case::autoconf(json!({ "net.ipv6.conf.IFNAME.autoconf": "0" }), [0, 1, 1])]
#[case::prefixes(json!({ "net.ipv6.conf.IFNAME.accept_ra_pinfo": "0" }), [0, 1, 0])]
#[case::default_router(json!({ "net.ipv6.conf.IFNAME.accept_ra_defrtr": "0" }), [2, 0, 1])]
#[case::all_of_them(
    json!({ "net.ipv6.conf.IFNAME.accept_ra": "0", "net.ipv6.conf.IFNAME.autoconf": "0",
            "net.ipv6.conf.IFNAME.disable_ipv6": "0" }),
    [0, 0, 0]
)]
#[case::router_that_accepts(
    json!({ "net.ipv6.conf.IFNAME.accept_ra": "2", "net.ipv6.conf.IFNAME.forwarding": "1" }),
    [2, 1, 1]
)]
#[case::something_else(json!({ "net.ipv6.conf.IFNAME.accept_redirects": "0" }), [2, 1, 1])]
fn learned_state_is_dropped_when_sysctls_forbid_it(
    #[values("bridge", "ptp")] plugin: &str,
    #[case] sysctl: Value,
    #[case] left: [usize; 3],
) {
    rscni_test::run(|lab| {
        let (first, interface) = taught(lab, plugin);
        let others = |a: &Attached| {
            let index = a.link().index;
            let mut addresses = a.netlink().addresses(index).unwrap();
            addresses.retain(|address| !address.is_advertised());
            addresses.into_iter().map(|address| address.net).collect::<Vec<_>>()
        };
        let before = others(&first);
        let a = tuned(lab, &first, &sysctl);
        if left == [2, 1, 1] {
            // The kernel removes learned routes when forwarding is set. The next advertisement adds
            // them.
            teach(lab, &a, &interface);
        }
        assert_eq!(learned(&a).numbers(), left);
        // The addresses of IPAM are present and work.
        assert_eq!(others(&a), before);
        a.check().success();
        first.check().success();
        for gateway in first.reply.gateways() {
            a.ping(gateway);
        }
        // The learned state does not come back.
        let count = received(&a);
        advertise(lab, &interface).unwrap();
        rscni_test::eventually("the next advertisement", || (received(&a) > count).then_some(()));
        assert_eq!(learned(&a).numbers(), left);
    });
}

#[test]
fn parameters_of_an_advertisement_are_forgotten_unless_tuning_sets_them() {
    rscni_test::run(|lab| {
        let (first, _) = taught(lab, "bridge");
        let of_lo = |key: &str| first.sysctl(&format!("net/ipv6/{}", key.replace("eth0", "lo")));
        for (key, value) in PARAMETERS {
            assert_eq!(first.sysctl(&format!("net/ipv6/{key}")), value, "{key}");
        }
        let sysctl =
            json!({ "net.ipv6.conf.IFNAME.accept_ra": "0", "net.ipv6.conf.IFNAME.hop_limit": "7" });
        let a = tuned(lab, &first, &sysctl);
        assert_eq!(a.sysctl("net/ipv6/conf/eth0/hop_limit"), "7");
        assert_eq!(a.sysctl("net/ipv6/conf/eth0/mtu"), "1500");
        for (key, _) in &PARAMETERS[1..3] {
            assert_eq!(a.sysctl(&format!("net/ipv6/{key}")), of_lo(key), "{key}");
        }
    });
}

#[test]
fn an_interface_without_ipv6_has_learned_nothing() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({}));
        let a = network.attach(lab, "a");
        // The host gets a link-local address on the bridge as soon as that is up.
        rscni_test::eventually("an advertisement that is accepted", || {
            advertise(lab, "br0").ok()?;
            (learned(&a).default_routes() == 1).then_some(())
        });
        tuned(lab, &a, &json!({ "net.ipv6.conf.IFNAME.disable_ipv6": "1" })).check().success();
        let index = a.link().index;
        let filter =
            RouteFilter { family: Some(Family::V6), oif: Some(index), ..RouteFilter::default() };
        assert_eq!(a.netlink().routes(filter).unwrap(), []);
        assert!(a.netlink().addresses(index).unwrap().iter().all(|it| it.net.addr().is_ipv4()));
        a.ping("10.1.0.1");
    });
}

#[test]
fn temporary_addresses_go_with_use_tempaddr() {
    rscni_test::run(|lab| {
        let a = Network::bridge(lab, &[V4, V6], &json!({})).attach(lab, "a");
        a.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/use_tempaddr", "2").unwrap());
        let temporary =
            |a: &Attached| learned(a).addresses.iter().filter(|it| it.temporary).count();
        rscni_test::eventually("temporary addresses", || {
            advertise(lab, "br0").ok()?;
            (temporary(&a) == 2).then_some(())
        });
        tuned(lab, &a, &json!({ "net.ipv6.conf.IFNAME.use_tempaddr": "0" }));
        assert_eq!((temporary(&a), learned(&a).numbers()), (0, [2, 1, 1]));
    });
}
