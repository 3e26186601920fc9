//! Connection tracking in a private network.

mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use rscni_linux::{Conntrack, Family, Netns, Nft, nft};
use support::private_network;

const UDP: u8 = 17;

/// Translates port 7 of 127.0.0.0/8 to port 8, and tracks connections of both families.
fn translate() {
    let table = nft::Table::new(nft::Family::Inet, "nat");
    let rule = nft::Rule::new()
        .family_of(Ipv4Addr::LOCALHOST.into())
        .eq(nft::Field::L4proto, nft::Value::byte(UDP));
    let rule = rule.eq(nft::Field::Dport, nft::Value::port(7));
    let mut socket = Nft::open().unwrap();
    let mut tx = socket.transaction();
    tx.add_table(&table);
    tx.add_chain(&table, "out", Some(&nft::BaseChain::new("nat", nft::Hook::Output, -100)));
    tx.add_rule(&table, "out", &nft::Rule::new().ct_state(nft::CtState::NEW).counter());
    tx.add_rule(
        &table,
        "out",
        &rule.dnat(Ipv4Addr::LOCALHOST.into(), Some(8), nft::NatFlags::default()),
    );
    tx.commit().unwrap();
}

fn send(to: &str) -> SocketAddr {
    let to: SocketAddr = to.parse().unwrap();
    let socket = UdpSocket::bind(if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
    socket.send_to(b"x", to).unwrap();
    socket.local_addr().unwrap()
}

#[test]
fn only_flows_to_the_port_are_found_and_deleted() {
    private_network(|| {
        translate();
        let mut conntrack = Conntrack::open().unwrap();
        assert_eq!(conntrack.flows_to(Family::V4, UDP, 7).unwrap(), []);
        let sender = send("127.0.0.1:7");
        send("127.0.0.1:9");
        send("[::1]:7");
        let flows = conntrack.flows_to(Family::V4, UDP, 7).unwrap();
        let [flow] = &flows[..] else { panic!("{flows:?}") };
        assert_eq!((flow.original.src, flow.original.sport), (sender.ip(), sender.port()));
        assert_eq!(
            (flow.original.dst, flow.original.dport, flow.original.protocol),
            (sender.ip(), 7, UDP)
        );
        assert_eq!(
            (flow.reply.src, flow.reply.sport, flow.dnat, flow.snat),
            (sender.ip(), 8, true, false)
        );
        assert_eq!(conntrack.flows_to(Family::V6, UDP, 7).unwrap().len(), 1);
        assert_eq!(conntrack.flows_to(Family::V4, 6, 7).unwrap(), []);
        conntrack.delete(flow).unwrap();
        // Deleting a missing connection succeeds.
        conntrack.delete(flow).unwrap();
        assert_eq!(conntrack.flows_to(Family::V4, UDP, 7).unwrap(), []);
        let other = conntrack.flows_to(Family::V4, UDP, 9).unwrap();
        assert_eq!((other.len(), other[0].dnat), (1, false));
        let six = conntrack.flows_to(Family::V6, UDP, 7).unwrap();
        conntrack.delete(&six[0]).unwrap();
        assert_eq!(conntrack.flows_to(Family::V6, UDP, 7).unwrap(), []);
    });
}

#[test]
fn socket_belongs_to_its_namespace() {
    private_network(|| {
        translate();
        send("127.0.0.1:7");
        let other = Netns::create().unwrap();
        assert_eq!(Conntrack::open_in(&other).unwrap().flows_to(Family::V4, UDP, 7).unwrap(), []);
        assert_eq!(Conntrack::open().unwrap().flows_to(Family::V4, UDP, 7).unwrap().len(), 1);
    });
}
