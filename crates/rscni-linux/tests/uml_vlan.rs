//! VLAN filtering and links of kind dummy, ipvlan and vlan, which some kernels lack.
//!
//! Runs in User-Mode Linux: `cargo xtask test --only uml`.

mod support;

use rscni_linux::{Bridge, Ipvlan, IpvlanMode, Netlink, Netns, Veth, Vlan, VlanLink, VlanOwner};
use support::{json, private_network};

fn filtering_bridge(nl: &mut Netlink, default_pvid: Option<u16>) -> (u32, u32) {
    let bridge = Bridge {
        vlan_filtering: Some(true),
        vlan_default_pvid: default_pvid,
        ..Bridge::new("cni0")
    };
    let bridge = nl.add_bridge(&bridge).unwrap();
    assert!(bridge.bridge.unwrap().vlan_filtering);
    let veth = Veth { master: Some(bridge.index), ..Veth::new("port", "peer") };
    (bridge.index, nl.add_veth(&veth).unwrap().index)
}

#[test]
fn vlans_of_a_port_are_added_listed_and_removed() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        let (bridge, port) = filtering_bridge(&mut nl, Some(0));
        assert_eq!(nl.vlans(port).unwrap(), []);
        let vlans = [Vlan::access(100), Vlan::trunk(200..=299)];
        nl.add_vlans(port, &vlans, VlanOwner::Port).unwrap();
        nl.add_vlans(bridge, &[Vlan::tagged(100)], VlanOwner::Bridge).unwrap();
        assert_eq!(nl.vlans(port).unwrap(), vlans);
        assert_eq!(nl.vlans(bridge).unwrap(), [Vlan::tagged(100)]);
        let shown = json("bridge", "-j -compressvlans vlan show dev port");
        let ranges = shown[0]["vlans"].as_array().unwrap();
        assert_eq!(ranges[0]["vlan"], 100);
        assert_eq!(ranges[0]["flags"][0], "PVID");
        assert_eq!((&ranges[1]["vlan"], &ranges[1]["vlanEnd"]), (&200.into(), &299.into()));
        nl.del_vlans(port, &[Vlan::trunk(200..=298)], VlanOwner::Port).unwrap();
        assert_eq!(nl.vlans(port).unwrap(), [Vlan::access(100), Vlan::tagged(299)]);
    });
}

#[test]
fn default_vlan_of_a_bridge_is_assigned_to_its_ports() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        let (bridge, port) = filtering_bridge(&mut nl, Some(5));
        let info = nl.link_by_index(bridge).unwrap().bridge.unwrap();
        assert_eq!(info.vlan_default_pvid, 5);
        assert_eq!(nl.vlans(port).unwrap(), [Vlan::access(5)]);
    });
}

#[test]
fn dummy_is_created_and_deleted() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        let link = nl.add_dummy("dummy0").unwrap();
        assert_eq!(link.kind.as_deref(), Some("dummy"));
        nl.del_link(link.index).unwrap();
        assert_eq!(nl.find_link("dummy0").unwrap(), None);
    });
}

#[test]
fn links_are_created_in_another_namespace_although_the_name_exists_here() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        let netns = Netns::create().unwrap();
        let mut inside = Netlink::open_in(&netns).unwrap();
        let lower = nl.add_veth(&Veth::new("eth0", "peer")).unwrap().index;
        let ipvlan =
            Ipvlan { name: "eth0".to_owned(), lower, mode: IpvlanMode::L3s, mtu: Some(1400) };
        let link = nl.add_link_in(&netns, &mut inside, &ipvlan).unwrap();
        assert_eq!(
            (link.name.as_str(), link.mtu, link.ipvlan_mode),
            ("eth0", 1400, Some(IpvlanMode::L3s))
        );
        assert!(nl.add_link_in(&netns, &mut inside, &ipvlan).unwrap_err().is_exists());
        inside.del_link(link.index).unwrap();

        let vlan = VlanLink { name: "eth0".to_owned(), lower, id: 100, mtu: None };
        let link = nl.add_link_in(&netns, &mut inside, &vlan).unwrap();
        assert_eq!(
            (link.name.as_str(), link.vlan_id, link.peer_index),
            ("eth0", Some(100), Some(lower))
        );
        let other = VlanLink { name: "eth1".to_owned(), ..vlan.clone() };
        assert!(
            nl.add_link_in(&netns, &mut inside, &other).unwrap_err().is_exists(),
            "the VLAN is in use"
        );
        assert_eq!(inside.links().unwrap().len(), 2, "lo and the link");
    });
}
