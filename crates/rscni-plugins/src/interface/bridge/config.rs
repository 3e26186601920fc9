//! The configuration of the bridge plugin.

use std::{fmt::Display, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;
use rscni::{CNIResult, Route, name::interface_name_problem};
use rscni_linux::{BridgePort, MacAddr, Vlan};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    attach::mac::requested_mac,
    nat::{Backend, Families},
    plugin::{Call, Failure, GatewayBridge, KernelFeature, Result, error, facts},
};

const DEFAULT_BRIDGE: &str = "cni0";

/// The keys of the Go plugin.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "these are the keys of the configuration")]
struct Keys {
    #[serde(default = "default_bridge")]
    bridge: String,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq_backend: Option<Backend>,
    ip_masq_families: Option<Families>,
    mtu: u32,
    hairpin_mode: bool,
    promisc_mode: bool,
    vlan: u16,
    vlan_trunk: Option<Vec<Trunk>>,
    preserve_default_vlan: bool,
    macspoofchk: bool,
    enabledad: bool,
    disable_container_interface: bool,
    port_isolation: bool,
}

fn default_bridge() -> String {
    DEFAULT_BRIDGE.into()
}

/// An entry of `vlanTrunk`: one VLAN, a range of them, or both.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trunk {
    #[serde(rename = "minID")]
    min_id: Option<u16>,
    #[serde(rename = "maxID")]
    max_id: Option<u16>,
    id: Option<u16>,
}

/// A validated configuration.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "these are the keys of the configuration")]
pub(super) struct Config {
    pub(super) bridge: String,
    /// Whether the bridge gets the addresses of the gateways.
    pub(super) gateway: bool,
    /// Whether the container gets a default route through the bridge.
    pub(super) default_gateway: bool,
    /// Whether a conflicting address of the bridge is replaced.
    pub(super) force_address: bool,
    /// The backend that masquerades what leaves the network.
    pub(super) masquerade: Option<Backend>,
    pub(super) masquerade_families: Families,
    /// The MTU of the bridge and of both ends of the veth pair.
    pub(super) mtu: Option<u32>,
    pub(super) port: BridgePort,
    pub(super) promisc: bool,
    /// The VLAN of the port. Without one the port is untagged.
    pub(super) vlan: Option<u16>,
    pub(super) vlan_filtering: bool,
    trunk: Vec<RangeInclusive<u16>>,
    /// Whether the port stays in the default VLAN of the bridge.
    pub(super) preserve_default_vlan: bool,
    /// Whether to drop frames with another source than the container's MAC address.
    pub(super) mac_spoof_check: bool,
    /// Whether to wait for duplicate address detection.
    pub(super) dad: bool,
    /// Whether to leave the container interface down and without addresses.
    pub(super) disable_container_interface: bool,
    /// The MAC address of the container interface.
    pub(super) mac: Option<MacAddr>,
}

impl Config {
    /// Reads and validates the configuration of a call.
    pub(super) fn new(call: &Call<'_>) -> Result<Self> {
        let keys: Keys = call.conf.custom_as()?;
        if let Some(problem) = interface_name_problem(&keys.bridge) {
            return Err(invalid(format!("bridge: {:?} {problem}", keys.bridge)));
        }
        if keys.vlan > MAX_VLAN {
            return Err(invalid(format!("vlan: {} must be between 0 and {MAX_VLAN}", keys.vlan)));
        }
        let gateway = keys.is_gateway || keys.is_default_gateway;
        if gateway && keys.vlan > 0 {
            let name = vlan_interface(&keys.bridge, keys.vlan);
            if let Some(problem) = interface_name_problem(&name) {
                return Err(invalid(format!(
                    "interface {name:?} for the gateway of VLAN {} {problem}",
                    keys.vlan
                )));
            }
        }
        if keys.hairpin_mode && keys.promisc_mode {
            return Err(invalid("hairpinMode and promiscMode exclude each other: set one of them"));
        }
        if keys.disable_container_interface && call.conf.ipam_type().is_some() {
            return Err(invalid(
                "disableContainerInterface leaves no interface for addresses: remove ipam",
            ));
        }
        let backend = keys.ip_masq_backend.unwrap_or_default();
        Ok(Self {
            gateway,
            default_gateway: keys.is_default_gateway,
            force_address: keys.force_address,
            masquerade: call.conf.ip_masq.unwrap_or_default().then_some(backend),
            masquerade_families: keys.ip_masq_families.unwrap_or_default(),
            mtu: Some(keys.mtu).filter(|mtu| *mtu > 0),
            port: BridgePort {
                hairpin: Some(keys.hairpin_mode),
                isolated: Some(keys.port_isolation),
                ..BridgePort::default()
            },
            promisc: keys.promisc_mode,
            vlan: Some(keys.vlan).filter(|vlan| *vlan > 0),
            vlan_filtering: keys.vlan > 0 || keys.vlan_trunk.is_some(),
            trunk: trunk(&keys.vlan_trunk.unwrap_or_default())?,
            preserve_default_vlan: keys.preserve_default_vlan,
            mac_spoof_check: keys.macspoofchk,
            dad: keys.enabledad,
            disable_container_interface: keys.disable_container_interface,
            mac: requested_mac(call, None)?,
            bridge: keys.bridge,
        })
    }

    /// Returns the VLANs of the container's port, besides the default one.
    pub(super) fn port_vlans(&self) -> Vec<Vlan> {
        // A trunk without `vlan` has VLAN 1 as its native VLAN.
        let native = self.vlan.or((!self.trunk.is_empty()).then_some(1));
        // The native VLAN is untagged, even if it is in the trunk.
        let trunk = self.trunk.iter().flat_map(|ids| without(ids, native));
        trunk.map(Vlan::trunk).chain(native.map(Vlan::access)).collect()
    }

    /// Adds what follows from being a gateway, and returns the addresses for the bridge.
    pub(super) fn gateways(&self, result: &mut CNIResult) -> Result<Vec<IpNet>> {
        let mut gateways = Vec::new();
        for ip in &mut result.ips {
            let subnet = ip.address;
            if self.gateway && ip.gateway.is_none() {
                ip.gateway = Some(first_host(&subnet)?);
            }
            let default = default_route(subnet.addr().is_ipv4());
            if self.default_gateway && !result.routes.iter().any(|route| route.dst == default) {
                result.routes.push(Route::new(default, ip.gateway));
            }
            if let (true, Some(gateway)) = (self.gateway, ip.gateway) {
                let address = IpNet::new(gateway, subnet.prefix_len()).ok();
                let address = address.filter(|_| gateway.is_ipv4() == subnet.addr().is_ipv4());
                gateways.push(address.ok_or_else(|| {
                    invalid(format!("gateway {gateway} is not of the family of {subnet}"))
                })?);
            }
        }
        gateways.dedup();
        Ok(gateways)
    }
}

const MAX_VLAN: u16 = 4094;

/// Returns the name of the interface with the gateway's addresses in a VLAN, as the Go plugin names
/// it.
pub(super) fn vlan_interface(bridge: &str, vlan: u16) -> String {
    format!("{bridge}.{vlan}")
}

fn default_route(v4: bool) -> IpNet {
    if v4 { ipnet::Ipv4Net::default().into() } else { ipnet::Ipv6Net::default().into() }
}

/// Returns the first address after that of the network, which is the default gateway.
fn first_host(subnet: &IpNet) -> Result<IpAddr> {
    let next = match subnet.network() {
        IpAddr::V4(network) => network.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(network) => network.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    };
    next.filter(|address| subnet.contains(address)).ok_or_else(|| {
        invalid(format!("{subnet} has no room for a gateway: give ipam a \"gateway\""))
    })
}

/// Returns the VLANs of `vlanTrunk` as ascending ranges.
fn trunk(entries: &[Trunk]) -> Result<Vec<RangeInclusive<u16>>> {
    let mut ids = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let check_id = |key: &str, id: u16| {
            let is_one = (1..=MAX_VLAN).contains(&id);
            is_one.then_some(id).ok_or_else(|| {
                invalid(format!("vlanTrunk[{i}].{key}: {id} must be between 1 and {MAX_VLAN}"))
            })
        };
        match (entry.min_id, entry.max_id) {
            (None, None) => {}
            (Some(min), Some(max)) if check_id("minID", min)? <= check_id("maxID", max)? => {
                ids.extend(min..=max);
            }
            (Some(min), Some(max)) => {
                return Err(invalid(format!(
                    "vlanTrunk[{i}].minID: {min} is greater than maxID {max}"
                )));
            }
            (Some(id), None) => {
                return Err(invalid(format!(
                    "vlanTrunk[{i}].maxID: missing; it goes together with minID {id}"
                )));
            }
            (None, Some(id)) => {
                return Err(invalid(format!(
                    "vlanTrunk[{i}].minID: missing; it goes together with maxID {id}"
                )));
            }
        }
        if let Some(id) = entry.id {
            ids.push(check_id("id", id)?);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids.chunk_by(|a, b| a + 1 == *b).map(|run| run[0]..=run[run.len() - 1]).collect())
}

/// Returns a range without one of its numbers.
fn without(ids: &RangeInclusive<u16>, id: Option<u16>) -> Vec<RangeInclusive<u16>> {
    let parts = match id.filter(|id| ids.contains(id)) {
        Some(id) => vec![*ids.start()..=id - 1, id + 1..=*ids.end()],
        None => vec![ids.clone()],
    };
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

/// The bridge that an entry of a list gives the addresses of gateways.
pub(super) fn gateway_bridge(keys: facts::Keys<'_>) -> Option<GatewayBridge<'_>> {
    let is_gateway = keys.is_true("isGateway") || keys.is_true("isDefaultGateway");
    let name = Some(keys.text("bridge")).filter(|name| !name.is_empty()).unwrap_or(DEFAULT_BRIDGE);
    is_gateway.then(|| GatewayBridge { name, replaces: keys.is_true("forceAddress") })
}

/// The kernel features that an entry of a list needs.
pub(super) fn kernel_features(keys: facts::Keys<'_>) -> Vec<KernelFeature> {
    let is_set = |value: &Value| value.as_f64().is_some_and(|number| number != 0.0);
    let trunk = keys.get("vlanTrunk").and_then(Value::as_array);
    let has_vlans = keys.get("vlan").is_some_and(is_set) || trunk.is_some_and(|it| !it.is_empty());
    let has_nft = keys.masquerades_with_nftables() || keys.is_true("macspoofchk");
    let mut features = vec![KernelFeature::Veth, KernelFeature::Bridge];
    features.extend(has_vlans.then_some(KernelFeature::VlanFiltering));
    features.extend(has_nft.then_some(KernelFeature::NfTables));
    features
}

fn invalid(problem: impl Display) -> Failure {
    error::invalid("bridge", problem)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::plugin::call::testing::with_keys;

    #[test]
    fn defaults_are_those_of_the_go_plugin() {
        let config = with_keys(json!({}), Config::new).unwrap();
        assert_eq!((config.bridge.as_str(), config.mtu, config.vlan), ("cni0", None, None));
        assert!(
            !config.gateway && !config.vlan_filtering && config.masquerade.is_none() && !config.dad
        );
        assert!(config.port_vlans().is_empty());
    }

    #[test]
    fn a_trunk_is_sorted_and_joined_and_has_a_native_vlan() {
        let trunk = json!([{ "id": 9 }, { "minID": 3, "maxID": 5 }, { "id": 6 }, { "id": 4 }]);
        let vlans = with_keys(json!({ "vlanTrunk": trunk }), Config::new).unwrap().port_vlans();
        assert_eq!(vlans, [Vlan::trunk(3..=6), Vlan::trunk(9..=9), Vlan::access(1)]);
        let vlans = with_keys(json!({ "vlan": 7, "vlanTrunk": [{ "id": 9 }] }), Config::new)
            .unwrap()
            .port_vlans();
        assert_eq!(vlans, [Vlan::trunk(9..=9), Vlan::access(7)]);
    }

    #[rstest]
    #[case(json!({ "vlan": 7, "vlanTrunk": [{ "minID": 5, "maxID": 9 }] }), vec![5..=6, 8..=9], 7)]
    #[case(json!({ "vlanTrunk": [{ "minID": 1, "maxID": 4094 }] }), vec![2..=4094], 1)]
    #[case(json!({ "vlan": 4094, "vlanTrunk": [{ "id": 4094 }] }), vec![], 4094)]
    fn the_native_vlan_is_untagged_even_in_the_trunk(
        #[case] keys: Value,
        #[case] tagged: Vec<RangeInclusive<u16>>,
        #[case] native: u16,
    ) {
        let expected: Vec<_> =
            tagged.into_iter().map(Vlan::trunk).chain([Vlan::access(native)]).collect();
        assert_eq!(with_keys(keys, Config::new).unwrap().port_vlans(), expected);
    }

    #[test]
    fn the_gateway_is_the_first_address_unless_ipam_sets_one() {
        let config = with_keys(json!({ "isDefaultGateway": true }), Config::new).unwrap();
        let mut result: CNIResult = serde_json::from_value(json!({ "ips": [
            { "address": "10.1.0.5/16" }, { "address": "fd00::5/64", "gateway": "fd00::fe" }
        ] }))
        .unwrap();
        let gateways = config.gateways(&mut result).unwrap();
        assert_eq!(
            gateways.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.1.0.1/16", "fd00::fe/64"]
        );
        let routes: Vec<_> =
            result.routes.iter().map(|r| (r.dst.to_string(), r.gw.unwrap().to_string())).collect();
        assert_eq!(
            routes,
            [("0.0.0.0/0".into(), "10.1.0.1".into()), ("::/0".into(), "fd00::fe".into())]
        );
    }

    #[test]
    fn a_default_route_of_ipam_is_not_added_twice() {
        let config = with_keys(json!({ "isDefaultGateway": true }), Config::new).unwrap();
        let mut result: CNIResult = serde_json::from_value(json!({
            "ips": [{ "address": "10.1.0.5/16" }],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.1.0.9" }]
        }))
        .unwrap();
        config.gateways(&mut result).unwrap();
        assert_eq!(result.routes.len(), 1);
    }
}
