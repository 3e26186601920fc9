//! A machine outside of the host, for tests of what is translated on the way.

use rscni_linux::{AddressFlags, Netns, Route, Veth};
use rscni_test::{Container, Lab};

use super::up;

/// The host as the outside sees it.
pub(crate) const HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
pub(crate) const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

/// A machine that is reached by way of the host, and knows the way back to containers.
pub(crate) fn outside(lab: &Lab) -> Container {
    let outside = lab.container("outside");
    let netns = Netns::open(outside.path()).unwrap();
    let veth = Veth { up: true, peer_netns: Some(&netns), ..Veth::new("uplink", "eth0") };
    lab.host().netlink().add_veth(&veth).unwrap();
    for (place, name, ips) in [(lab.host(), "uplink", HOST), (&*outside, "eth0", OUTSIDE)] {
        let mut netlink = place.netlink();
        let index = netlink.link_by_name(name).unwrap().index;
        netlink.set_link(index, &up(true)).unwrap();
        for (ip, prefix) in ips.iter().zip([24, 64]) {
            let flags = AddressFlags { nodad: true, ..AddressFlags::default() };
            netlink.add_address(index, format!("{ip}/{prefix}").parse().unwrap(), flags).unwrap();
        }
    }
    for ip in HOST {
        outside.netlink().add_route(&Route::default_via(ip.parse().unwrap())).unwrap();
    }
    outside
}
