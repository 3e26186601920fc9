//! The part of a Node that matters to other nodes: name, podCIDRs, addresses, and flannel's
//! annotations.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use rscni_linux::{Family, MacAddr};
use serde::{Deserialize, Serialize};

use super::Both;

/// The prefix of flannel's annotations.
pub const PREFIX: &str = "flannel.alpha.coreos.com/";
const PUBLIC_IP: Both<&str> = Both { v4: "public-ip", v6: "public-ipv6" };
const BACKEND_DATA: Both<&str> = Both { v4: "backend-data", v6: "backend-v6-data" };
const BACKEND_TYPE: &str = "backend-type";
const SUBNET_MANAGER: &str = "kube-subnet-manager";
/// The VXLAN network identifier.
pub const VNI: u32 = 1;

/// A remote end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// Address that encapsulated packets are sent to.
    pub endpoint: IpAddr,
    /// Hardware address of the VXLAN device.
    pub mac: MacAddr,
}

/// The part of a Node that the watch keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeInfo {
    /// Name.
    pub name: String,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Both<Option<IpNet>>,
    /// The first `InternalIP` of each family in `status.addresses`.
    pub addresses: Both<Option<IpAddr>>,
    /// The tunnels in the annotations.
    pub tunnels: Both<Option<Tunnel>>,
    /// Whether it sends all its traffic through the tunnel, as flanneld does.
    pub tunnel_only: bool,
    /// Values that could not be read, as messages.
    pub faults: Vec<String>,
}

/// The value of flannel's annotation `backend-data`. flannel ignores keys that it does not know.
#[derive(Serialize, Deserialize)]
struct BackendData {
    #[serde(rename = "VNI")]
    vni: u32,
    /// Set by rscnid, which sends traffic on the same segment without the tunnel.
    #[serde(rename = "DirectRouting", default, skip_serializing_if = "std::ops::Not::not")]
    direct: bool,
    /// The last key: flanneld takes the end of its own Node's text for the address.
    #[serde(rename = "VtepMAC")]
    mac: String,
}

impl NodeInfo {
    /// Reads the fields of a Node. Annotations without flannel's prefix are skipped.
    pub fn read<'a>(
        name: &str,
        pod_cidrs: impl IntoIterator<Item = &'a str>,
        addresses: impl IntoIterator<Item = &'a str>,
        annotations: &BTreeMap<String, String>,
    ) -> Self {
        let mut node = Self { name: name.to_owned(), ..Self::default() };
        for text in pod_cidrs {
            node.read_pod_cidr(text);
        }
        for text in addresses {
            match text.parse::<IpAddr>() {
                Ok(address) => {
                    node.addresses.of_mut(Family::of(&address)).get_or_insert(address);
                }
                Err(_) => node.faults.push(format!("status.addresses: {text:?} is no address")),
            }
        }
        node.read_annotations(annotations);
        node
    }

    fn read_pod_cidr(&mut self, text: &str) {
        match text.parse::<IpNet>() {
            Ok(net) if net.trunc() != net => {
                self.faults.push(format!("spec.podCIDRs: {text:?} has host bits set"));
            }
            Ok(net) => match self.pod_cidrs.of_mut(Family::of(&net.addr())) {
                Some(first) => {
                    let fault = format!("spec.podCIDRs: {net} is ignored, {first} comes first");
                    self.faults.push(fault);
                }
                none => *none = Some(net),
            },
            Err(_) => self.faults.push(format!("spec.podCIDRs: {text:?} is no CIDR")),
        }
    }

    fn read_annotations(&mut self, annotations: &BTreeMap<String, String>) {
        let get = |key: &str| annotations.get(&format!("{PREFIX}{key}")).map(String::as_str);
        match get(BACKEND_TYPE) {
            None => return,
            Some("vxlan") => {}
            Some(other) => {
                let fault =
                    format!("{PREFIX}{BACKEND_TYPE}: {other:?} is not supported, only vxlan");
                return self.faults.push(fault);
            }
        }
        for family in super::FAMILIES {
            let (ip, data) = (*PUBLIC_IP.of(family), *BACKEND_DATA.of(family));
            // flannel writes "null" for a family that it does not use.
            let Some(text) = get(data).filter(|text| *text != "null") else { continue };
            match tunnel(family, get(ip).unwrap_or_default(), text) {
                Ok((tunnel, direct)) => {
                    *self.tunnels.of_mut(family) = Some(tunnel);
                    self.tunnel_only |= !direct;
                }
                Err((key, why)) => self.faults.push(format!("{PREFIX}{key}: {why}")),
            }
        }
    }
}

/// Reads the annotations of one family, or returns the key and what is wrong with it.
fn tunnel(family: Family, ip: &str, data: &str) -> Result<(Tunnel, bool), (String, String)> {
    let wrong_ip = |why: &str| (PUBLIC_IP.of(family).to_string(), format!("{ip:?} {why}"));
    let wrong_data = |why: String| (BACKEND_DATA.of(family).to_string(), why);
    let endpoint: IpAddr = ip.parse().map_err(|_| wrong_ip("is no address"))?;
    if Family::of(&endpoint) != family {
        return Err(wrong_ip("belongs to the other address family"));
    }
    if endpoint.is_unspecified() || endpoint.is_multicast() || endpoint.is_loopback() {
        return Err(wrong_ip("cannot be the address of a node"));
    }
    let data: BackendData =
        serde_json::from_str(data).map_err(|error| wrong_data(error.to_string()))?;
    if data.vni != VNI {
        return Err(wrong_data(format!("VNI {} is not supported, only {VNI}", data.vni)));
    }
    let mac: MacAddr = data.mac.parse().map_err(|_| wrong_data("VtepMAC is invalid".into()))?;
    if mac.is_multicast() || mac == MacAddr([0; 6]) {
        return Err(wrong_data(format!("VtepMAC {mac} is no address of an interface")));
    }
    Ok((Tunnel { endpoint, mac }, data.direct))
}

/// Returns the annotations that publish this node's tunnels.
pub fn annotations(tunnels: &Both<Option<Tunnel>>) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::new();
    let mut set = |key: &str, value: String| annotations.insert(format!("{PREFIX}{key}"), value);
    for family in super::FAMILIES {
        let Some(Tunnel { endpoint, mac }) = tunnels.of(family) else { continue };
        let data = BackendData { vni: VNI, mac: mac.to_string(), direct: true };
        set(PUBLIC_IP.of(family), endpoint.to_string());
        // A struct with text keys can always be written.
        set(BACKEND_DATA.of(family), serde_json::to_string(&data).unwrap_or_default());
        set(BACKEND_TYPE, "vxlan".to_owned());
        set(SUBNET_MANAGER, "true".to_owned());
    }
    annotations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotations: &[(&str, &str)]) -> NodeInfo {
        let annotations =
            annotations.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned()));
        NodeInfo::read("n", [], [], &annotations.collect())
    }

    #[test]
    fn annotations_of_flannel_are_read() {
        let node = read(&[
            ("backend-type", "vxlan"),
            ("public-ip", "192.0.2.7"),
            ("backend-data", r#"{"VNI":1,"VtepMAC":"7e:5c:aa:04:11:02"}"#),
            ("backend-v6-data", "null"),
            ("kube-subnet-manager", "true"),
        ]);
        let mac = "7e:5c:aa:04:11:02".parse().unwrap();
        assert_eq!(node.tunnels.v4, Some(Tunnel { endpoint: [192, 0, 2, 7].into(), mac }));
        assert_eq!((node.tunnels.v6, node.tunnel_only), (None, true));
        assert_eq!(node.faults, [""; 0]);
    }

    #[test]
    fn own_annotations_are_read_back() {
        let tunnels = Both {
            v4: Some(Tunnel { endpoint: [192, 0, 2, 7].into(), mac: MacAddr([2, 0, 0, 0, 0, 1]) }),
            v6: Some(Tunnel {
                endpoint: "2001:db8::7".parse().unwrap(),
                mac: MacAddr([2, 0, 0, 0, 0, 2]),
            }),
        };
        let annotations = annotations(&tunnels);
        let data = &annotations["flannel.alpha.coreos.com/backend-data"];
        assert!(data.ends_with(r#""VtepMAC":"02:00:00:00:00:01"}"#), "{data}");
        let node = NodeInfo::read("n", [], [], &annotations);
        assert_eq!((node.tunnels, node.tunnel_only), (tunnels, false));
        assert_eq!(node.faults, [""; 0]);
    }

    #[test]
    fn invalid_annotation_is_named() {
        for (key, value, named) in [
            ("backend-type", "host-gw", "backend-type: \"host-gw\""),
            ("public-ip", "fd00::1", "public-ip: \"fd00::1\""),
            ("public-ip", "224.0.0.1", "public-ip: \"224.0.0.1\""),
            ("public-ip", "", "public-ip: \"\" is no address"),
            ("backend-data", "{}", "backend-data: missing field"),
            ("backend-data", r#"{"VNI":2,"VtepMAC":"02:00:00:00:00:01"}"#, "VNI 2"),
            ("backend-data", r#"{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}"#, "VtepMAC ff:ff"),
            ("backend-data", r#"{"VNI":1,"VtepMAC":"x"}"#, "VtepMAC is invalid"),
        ] {
            let mut all = vec![
                ("backend-type", "vxlan"),
                ("public-ip", "192.0.2.7"),
                ("backend-data", r#"{"VNI":1,"VtepMAC":"7e:5c:aa:04:11:02"}"#),
            ];
            all.push((key, value));
            let node = read(&all);
            assert_eq!(node.tunnels, Both::default(), "{key}={value}");
            assert!(node.faults[0].contains(named), "{:?}", node.faults);
        }
    }

    #[test]
    fn second_pod_cidr_of_a_family_is_a_fault() {
        let cidrs = ["10.1.0.0/24", "fd00:1::/64", "10.2.0.0/24", "10.3.0.1/24", "x"];
        let node = NodeInfo::read("n", cidrs, ["192.0.2.1", "192.0.2.2"], &BTreeMap::new());
        assert_eq!(node.pod_cidrs.v4, Some("10.1.0.0/24".parse().unwrap()));
        assert_eq!(node.pod_cidrs.v6, Some("fd00:1::/64".parse().unwrap()));
        assert_eq!(node.addresses.v4, Some([192, 0, 2, 1].into()));
        assert_eq!(node.faults.len(), 3, "{:?}", node.faults);
    }
}
