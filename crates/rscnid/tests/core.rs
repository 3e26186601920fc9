//! Decisions about single Nodes, and properties of all sequences of Nodes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rscni_linux::MacAddr;
use rscnid::podnet::{
    Backend, Both, Bridge, Change, Core, Key, NodeInfo, Own, Reason, State, Tunnel, Uplink, Value,
    conflist::{NETWORK, conflist, mtu},
    difference,
};

fn own() -> Own {
    Own {
        name: "own".into(),
        pod_cidrs: Both { v4: Some("10.244.0.0/24".parse().unwrap()), v6: None },
        addresses: Both { v4: Some([192, 168, 0, 10].into()), v6: None },
        macs: Both { v4: MacAddr([2, 0, 0, 0, 0, 1]), v6: MacAddr([2, 0, 0, 0, 0, 2]) },
        uplinks: Both {
            v4: Some(Uplink {
                index: 2,
                address: [192, 168, 0, 10].into(),
                segments: vec!["192.168.0.0/24".parse().unwrap()],
                mtu: 1500,
            }),
            v6: None,
        },
        backend: Backend::Auto,
        ..Own::default()
    }
}

fn node(name: &str, cidr: &str, address: &str) -> NodeInfo {
    NodeInfo::read(name, [cidr], [address], &BTreeMap::new())
}

fn with_tunnel(node: NodeInfo, endpoint: &str, mac: u8) -> NodeInfo {
    let tunnel = Tunnel { endpoint: endpoint.parse().unwrap(), mac: MacAddr([2, 0, 0, 0, 1, mac]) };
    NodeInfo { tunnels: Both { v4: Some(tunnel), v6: None }, ..node }
}

fn route(core: &Core, cidr: &str) -> Option<Value> {
    core.desired().get(&Key::Route(cidr.parse().unwrap())).copied()
}

#[test]
fn node_on_the_segment_gets_a_plain_route() {
    let mut core = Core::new(own());
    let changes = core.set(node("a", "10.244.1.0/24", "192.168.0.11"));
    let gateway = Value::Direct([192, 168, 0, 11].into());
    assert_eq!(route(&core, "10.244.1.0/24"), Some(gateway));
    // The route comes last, so that its packets are not masqueraded.
    assert_eq!(changes.len(), 3);
    assert_eq!(changes[2], Change::Set(Key::Route("10.244.1.0/24".parse().unwrap()), gateway));
    assert!(!core.needs_tunnel(rscni_linux::Family::V4));
}

#[test]
fn node_on_another_segment_needs_a_tunnel() {
    let mut core = Core::new(own());
    let far = node("a", "10.244.1.0/24", "192.168.1.11");
    core.set(far.clone());
    assert_eq!(route(&core, "10.244.1.0/24"), None);
    assert!(core.needs_tunnel(rscni_linux::Family::V4));
    assert!(matches!(core.problems_of("a"), [Reason::NoTunnel(_)]));
    let changes = core.set(with_tunnel(far, "192.168.1.11", 7));
    assert_eq!(changes.len(), 3);
    assert_eq!(route(&core, "10.244.1.0/24"), Some(Value::Tunnel([10, 244, 1, 0].into())));
    assert_eq!(core.problems_of("a"), []);
}

#[test]
fn flannel_on_the_same_segment_is_reached_through_its_tunnel() {
    let mut core = Core::new(own());
    let flannel = with_tunnel(node("a", "10.244.1.0/24", "192.168.0.11"), "192.168.0.11", 7);
    core.set(NodeInfo { tunnel_only: true, ..flannel });
    assert_eq!(route(&core, "10.244.1.0/24"), Some(Value::Tunnel([10, 244, 1, 0].into())));
}

#[test]
fn changed_endpoint_moves_the_forwarding_entry_only() {
    let mut core = Core::new(own());
    let far = node("a", "10.244.1.0/24", "192.168.1.11");
    core.set(with_tunnel(far.clone(), "192.168.1.11", 7));
    let changes = core.set(with_tunnel(far, "192.168.1.99", 7));
    let key = Key::Forwarding { v6: false, mac: MacAddr([2, 0, 0, 0, 1, 7]) };
    assert_eq!(changes, [Change::Set(key, Value::Remote([192, 168, 1, 99].into()))]);
}

#[test]
fn invalid_nodes_get_no_route_and_change_none() {
    let far = |cidr: &str| node("bad", cidr, "192.168.1.66");
    let honest = with_tunnel(node("a", "10.244.1.0/24", "192.168.1.11"), "192.168.1.11", 7);
    for (bad, named) in [
        (far("10.244.1.0/24"), "podCIDR 10.244.1.0/24 belongs to Node a"),
        (far("10.244.1.64/26"), "podCIDR 10.244.1.0/24 belongs to Node a"),
        (far("10.244.0.0/16"), "podCIDR 10.244.0.0/24 belongs to Node own"),
        (far("10.244.0.128/25"), "podCIDR 10.244.0.0/24 belongs to Node own"),
        (far("192.168.0.10/32"), "overlaps 192.168.0.0/24, which this node is connected to"),
        (far("192.0.0.0/8"), "overlaps 192.168.0.0/24"),
        (far("0.0.0.0/0"), "podCIDR 0.0.0.0/0 is too large or not unicast"),
        (far("127.1.0.0/16"), "podCIDR 127.1.0.0/16 is too large or not unicast"),
        (far("239.1.0.0/16"), "podCIDR 239.1.0.0/16 is too large or not unicast"),
        (
            with_tunnel(far("10.244.9.0/24"), "192.168.1.66", 7),
            "hardware address 02:00:00:00:01:07 belongs to Node a",
        ),
        (
            with_tunnel(far("10.244.9.0/24"), "192.168.0.10", 9),
            "address 192.168.0.10 belongs to this node or to pods",
        ),
        (
            with_tunnel(far("10.244.9.0/24"), "10.244.1.5", 9),
            "address 10.244.1.5 belongs to this node or to pods",
        ),
        (
            with_tunnel(far("10.244.9.0/24"), "10.244.9.5", 9),
            "address 10.244.9.5 belongs to this node or to pods",
        ),
        (
            node("bad", "10.244.9.0/24", "192.168.0.10"),
            "address 192.168.0.10 belongs to this node or to pods",
        ),
    ] {
        let mut core = Core::new(own());
        core.set(honest.clone());
        let is_route = |key: &Key| matches!(key, Key::Route(_) | Key::Forwarding { .. });
        let routes = |core: &Core| {
            let all = core.desired().iter().filter(|(key, _)| is_route(key));
            all.map(|(key, value)| (*key, *value)).collect::<State>()
        };
        let before = routes(&core);
        core.set(bad.clone());
        assert_eq!(routes(&core), before, "{bad:?}");
        let problems: Vec<String> = core.problems().map(|it| it.to_string()).collect();
        assert!(
            problems.iter().any(|it| it.starts_with("Node bad: ") && it.contains(named)),
            "{problems:?}"
        );
        core.remove("bad");
        assert_eq!(core.problems().count(), 0);
    }
}

#[test]
fn own_hardware_address_cannot_be_claimed() {
    let mut core = Core::new(own());
    let bad = node("bad", "10.244.9.0/24", "192.168.1.66");
    let tunnel = Tunnel { endpoint: [192, 168, 1, 66].into(), mac: own().macs.v4 };
    core.set(NodeInfo { tunnels: Both { v4: Some(tunnel), v6: None }, ..bad });
    assert!(matches!(core.problems_of("bad"), [Reason::Conflict(..)]));
    assert_eq!(route(&core, "10.244.9.0/24"), None);
}

#[test]
fn waiting_node_gets_the_pod_cidr_when_it_is_released() {
    let mut core = Core::new(own());
    core.set(node("a", "10.244.1.0/24", "192.168.0.11"));
    core.set(node("b", "10.244.1.0/24", "192.168.0.12"));
    assert_eq!(core.problems_of("b").len(), 1);
    core.remove("a");
    let gateway = Value::Direct([192, 168, 0, 12].into());
    assert_eq!(route(&core, "10.244.1.0/24"), Some(gateway));
    assert_eq!(core.problems_of("b"), []);
}

#[test]
fn after_a_restart_the_node_in_the_kernel_keeps_its_pod_cidr() {
    let (a, b) =
        (node("a", "10.244.1.0/24", "192.168.0.11"), node("b", "10.244.1.0/24", "192.168.0.12"));
    let mut core = Core::new(own());
    core.set(b.clone());
    core.set(a.clone());
    let kernel = core.desired().clone();
    let mut restarted = Core::new(own());
    restarted.replace(vec![a, b], &kernel);
    assert_eq!(
        restarted.desired().get(&Key::Route("10.244.1.0/24".parse().unwrap())),
        Some(&Value::Direct([192, 168, 0, 12].into()))
    );
}

#[test]
fn mtu_follows_uplink_and_tunnels() {
    let both = |v4| Both { v4, v6: false };
    assert_eq!(mtu(&own(), both(false)), Some(1500));
    assert_eq!(mtu(&own(), both(true)), Some(1450));
    let list = conflist(&own(), NETWORK, both(true), false).unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list["plugins"][0]["mtu"], 1450);
    assert_eq!(list["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.244.0.0/24");
    assert_eq!(conflist(&Own::default(), NETWORK, both(false), false), None);
}

#[test]
fn new_pods_are_ports_of_the_bridge_of_another_network() {
    let bridge = |mtu| Bridge { name: "cni0".into(), mtu, unfiltered: Both::default() };
    let with_bridge = |mtu| Own { bridge: Some(bridge(mtu)), ..own() };
    for (mtu, expected) in [(1400, 1400), (9000, 1500)] {
        let list = conflist(&with_bridge(mtu), "cbr0", Both::default(), false).unwrap();
        let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
        assert_eq!(list["name"], "cbr0");
        let plugin = &list["plugins"][0];
        assert_eq!((&plugin["type"], &plugin["bridge"]), (&"bridge".into(), &"cni0".into()));
        assert_eq!(plugin["mtu"], expected);
        assert_eq!(plugin["ipam"]["ranges"][0][0]["subnet"], "10.244.0.0/24");
    }
}

#[test]
fn firewall_is_in_the_list_only_if_the_daemon_cannot_accept_packets() {
    let types = |firewall| {
        let list = conflist(&own(), NETWORK, Both::default(), firewall).unwrap();
        let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
        let plugins = list["plugins"].as_array().unwrap().iter();
        plugins.map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(types(false), ["ptp", "portmap", "bandwidth"]);
    assert_eq!(types(true), ["ptp", "portmap", "bandwidth", "firewall"]);
}

/// Nodes of which some conflict.
fn any_node() -> impl Strategy<Value = NodeInfo> {
    let cidr = prop_oneof![
        (1..6_u8).prop_map(|n| format!("10.244.{n}.0/24")),
        (0..6_u8).prop_map(|n| format!("10.244.{n}.128/25")),
        Just("10.244.0.0/22".to_owned()),
        Just("192.168.0.0/16".to_owned()),
    ];
    let parts = (0..6_u8, cidr, 0..2_u8, 9..14_u8, proptest::option::of(1..4_u8), any::<bool>());
    parts.prop_map(|(name, cidr, segment, host, mac, tunnel_only)| {
        let address = format!("192.168.{segment}.{host}");
        let node = node(&format!("n{name}"), &cidr, &address);
        let node = match mac {
            Some(mac) => with_tunnel(node, &address, mac),
            None => node,
        };
        NodeInfo { tunnel_only, ..node }
    })
}

fn apply(state: &mut State, changes: &[Change]) {
    for change in changes {
        match *change {
            Change::Set(key, value) => drop(state.insert(key, value)),
            Change::Remove(key, _) => drop(state.remove(&key)),
        }
    }
}

proptest! {
    #[test]
    fn changes_lead_to_the_desired_state(
        steps in proptest::collection::vec((any_node(), any::<bool>()), 0..40)
    ) {
        let mut core = Core::new(own());
        let mut kernel = core.desired().clone();
        for (node, remove) in steps {
            let changes = if remove { core.remove(&node.name) } else { core.set(node.clone()) };
            apply(&mut kernel, &changes);
            prop_assert_eq!(&kernel, core.desired());
            // The same event again changes nothing.
            prop_assert_eq!(if remove { core.remove(&node.name) } else { core.set(node) }, vec![]);
        }
        for name in 0..6 {
            apply(&mut kernel, &core.remove(&format!("n{name}")));
        }
        let empty = Core::new(own());
        prop_assert_eq!(&kernel, empty.desired());
    }

    #[test]
    fn list_and_single_events_agree_without_conflicts(
        order in Just((1..6_u8).collect::<Vec<_>>()).prop_shuffle(),
        segments in proptest::collection::vec(0..2_u8, 6)
    ) {
        let nodes: Vec<NodeInfo> = order.iter().map(|n| {
            let address = format!("192.168.{}.{}", segments[usize::from(*n)], 20 + n);
            with_tunnel(node(&format!("n{n}"), &format!("10.244.{n}.0/24"), &address), &address, *n)
        }).collect();
        let mut single = Core::new(own());
        for node in nodes.clone() {
            single.set(node);
        }
        let mut listed = Core::new(own());
        listed.replace(nodes, &State::new());
        prop_assert_eq!(single.desired(), listed.desired());
        prop_assert_eq!(single.problems().count(), 0);
    }

    #[test]
    fn difference_leads_from_one_state_to_the_other(
        a in proptest::collection::vec(any_node(), 0..8),
        b in proptest::collection::vec(any_node(), 0..8)
    ) {
        let state = |nodes: Vec<NodeInfo>| {
            let mut core = Core::new(own());
            for node in nodes {
                core.set(node);
            }
            core.desired().clone()
        };
        let (mut from, to) = (state(a), state(b));
        let changes = difference(&from, &to);
        apply(&mut from, &changes);
        prop_assert_eq!(from, to);
    }
}
