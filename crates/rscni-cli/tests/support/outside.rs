//! A machine outside of the host, for tests of address translation.

use rscni_linux::Route;
use rscni_test::{Container, Lab};

use super::{add_address, cable};

/// Addresses of the host's uplink.
pub(crate) const HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// Addresses of the machine.
pub(crate) const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

/// A machine at the host's uplink, which it uses as its router.
pub(crate) fn outside(lab: &Lab) -> Container {
    let outside = lab.container("outside");
    cable(lab, "uplink", &outside, "eth0");
    for (namespace, link, ips) in [(lab.host(), "uplink", HOST), (&*outside, "eth0", OUTSIDE)] {
        for (ip, prefix) in ips.iter().zip([24, 64]) {
            add_address(namespace, link, &format!("{ip}/{prefix}"));
        }
    }
    for ip in HOST {
        outside.netlink().add_route(&Route::default_via(ip.parse().unwrap())).unwrap();
    }
    outside
}
