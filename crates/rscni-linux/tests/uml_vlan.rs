//! What not every kernel can do: bridges that keep VLANs apart, and dummy links.
//!
//! Run in User-Mode Linux, which can: `cargo xtask test --only uml`.

mod support;

use rscni_linux::{Bridge, Netlink, Veth, Vlan, VlanOwner};
use support::{json, private_network};

fn filtering_bridge(nl: &mut Netlink, default_pvid: Option<u16>) -> (u32, u32) {
    let bridge = Bridge { vlan_filtering: Some(true), vlan_default_pvid: default_pvid, ..Bridge::new("cni0") };
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
fn a_bridges_default_vlan_is_given_to_its_ports() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        let (bridge, port) = filtering_bridge(&mut nl, Some(5));
        let info = nl.link_by_index(bridge).unwrap().bridge.unwrap();
        assert_eq!(info.vlan_default_pvid, 5);
        assert_eq!(nl.vlans(port).unwrap(), [Vlan::access(5)]);
    });
}

#[test]
fn a_dummy_is_made_and_deleted() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        let link = nl.add_dummy("dummy0").unwrap();
        assert_eq!(link.kind.as_deref(), Some("dummy"));
        nl.del_link(link.index).unwrap();
        assert_eq!(nl.find_link("dummy0").unwrap(), None);
    });
}
