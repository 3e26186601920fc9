//! The list that containers and pods are attached with: bridge, and what nodes chain to it.

use serde_json::{Value, json};

/// A value of a sysctl that no network namespace has by itself.
pub(super) const SOMAXCONN: &str = "777";

/// The list of a network, with the addresses `10.NET.0.0/24` and `fd00:NET::/64` on a bridge of the network's name.
///
/// Version 1.0.0 is the highest that Debian's containerd and Go plugins know.
pub(super) fn list(name: &str, net: u8) -> Value {
    let plugins = json!([
        {
            "type": "bridge",
            "bridge": name,
            "isGateway": true,
            "ipMasq": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": format!("10.{net}.0.0/24")}], [{"subnet": format!("fd00:{net}::/64")}]],
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

/// The bridge's addresses, as host-local gives them to the gateway.
pub(super) fn gateway_v4(net: u8) -> String {
    format!("10.{net}.0.1")
}

pub(super) fn gateway_v6(net: u8) -> String {
    format!("fd00:{net}::1")
}
