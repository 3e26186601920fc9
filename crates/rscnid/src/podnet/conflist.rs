//! The network list that container runtimes read.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{Both, Bridge, Own};

/// The name of the network, which is part of names of state files, unless another one is adopted.
pub const NETWORK: &str = "rscni";
/// Bytes that VXLAN adds to each packet.
pub(crate) const OVERHEAD: Both<u32> = Both { v4: 50, v6: 70 };

/// Returns the MTU of pods: that of the smallest uplink, less the overhead of the tunnels in use,
/// and at most that of the bridge.
pub fn mtu(own: &Own, tunnels: Both<bool>) -> Option<u32> {
    let of = |family| {
        let uplink = own.uplinks.of(family).as_ref()?;
        own.pod_cidrs.of(family).as_ref()?;
        let overhead = if *tunnels.of(family) { *OVERHEAD.of(family) } else { 0 };
        Some(uplink.mtu.saturating_sub(overhead))
    };
    let bridge = own.bridge.as_ref().map(|bridge| bridge.mtu);
    super::FAMILIES.into_iter().filter_map(of).chain(bridge).min()
}

/// Returns the list, or `None` if the Node has no podCIDRs.
///
/// Masquerading is not in it, because it depends on other nodes: the daemon does it. The daemon
/// also accepts forwarded packets of pods; `firewall` adds the plugin for chains that it cannot
/// change.
pub fn conflist(own: &Own, network: &str, tunnels: Both<bool>, firewall: bool) -> Option<Vec<u8>> {
    let nets: Vec<&IpNet> = own.pod_cidrs.iter().flatten().collect();
    if nets.is_empty() {
        return None;
    }
    let ranges: Vec<Value> = nets.iter().map(|net| json!([{ "subnet": net }])).collect();
    let everything = |net: &&IpNet| if net.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    let routes: Vec<Value> = nets.iter().map(|net| json!({ "dst": everything(net) })).collect();
    let mut interface = match &own.bridge {
        None => json!({ "type": "ptp" }),
        Some(Bridge { name, .. }) => {
            json!({ "type": "bridge", "bridge": name, "isGateway": true, "hairpinMode": true })
        }
    };
    interface["ipam"] = json!({ "type": "host-local", "ranges": ranges, "routes": routes });
    if let Some(mtu) = mtu(own, tunnels) {
        interface["mtu"] = mtu.into();
    }
    let mut plugins = vec![
        interface,
        json!({ "type": "portmap", "capabilities": { "portMappings": true } }),
        json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }),
    ];
    if firewall {
        plugins.push(json!({ "type": "firewall" }));
    }
    let list = json!({
        "cniVersion": "1.1.0",
        "name": network,
        "plugins": plugins,
    });
    let mut text = serde_json::to_vec_pretty(&list).ok()?;
    text.push(b'\n');
    Some(text)
}
