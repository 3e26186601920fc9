//! The network list of containers and pods: bridge, and the plugins that nodes chain to it.

use serde_json::{Value, json};

/// A value of a sysctl that differs from its default.
pub(super) const SOMAXCONN: &str = "777";

/// The list of a network with the addresses `10.NET.0.0/24` and `fd00:NET::/64`, on a bridge of the
/// network's name.
///
/// Version 1.0.0 is the highest that Debian's containerd and Go plugins support.
pub(super) fn list(name: &str, net: u8) -> Value {
    let subnets = [format!("10.{net}.0.0/24"), format!("fd00:{net}::/64")];
    let plugins = json!([
        {
            "type": "bridge",
            "bridge": name,
            "isGateway": true,
            "ipMasq": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": subnets.map(|subnet| json!([{"subnet": subnet}])),
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": SOMAXCONN}},
        {"type": "firewall"},
        {"type": "sbr"},
    ]);
    json!({"cniVersion": "1.0.0", "name": name, "plugins": plugins})
}

/// The gateways that host-local derives from the subnets.
pub(super) fn gateways(net: u8) -> [String; 2] {
    [format!("10.{net}.0.1"), format!("fd00:{net}::1")]
}
