//! The interface of the host to which `ingressPolicy` applies.

use rscni::{CNIResult, name::interface_name_problem};
use rscni_linux::Netlink;

use super::config::{Policy, invalid, is_plain};
use crate::plugin::Result;

const NO_BRIDGE: &str =
    "ingressPolicy needs a bridge: put firewall into a list after the plugin `bridge` or `ptp`";

/// The interface of the host to which a policy applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostInterface<'a> {
    /// A bridge, which attachments share.
    Bridge(&'a str),
    /// The host interface of one container's veth pair, as the plugin ptp creates it.
    Veth(&'a str),
}

impl<'a> HostInterface<'a> {
    pub(super) fn name(self) -> &'a str {
        match self {
            Self::Bridge(name) | Self::Veth(name) => name,
        }
    }
}

/// An ingress policy and the interfaces to which it applies.
#[derive(Clone, Debug)]
pub(super) struct IngressPolicy<'a> {
    pub(super) policy: Policy,
    pub(super) interface: HostInterface<'a>,
    /// The container's ports on the bridge.
    pub(super) ports: Vec<&'a str>,
}

impl<'a> IngressPolicy<'a> {
    /// Finds the interfaces in a result.
    ///
    /// As in the Go plugin, the policy applies to the first interface. That is the bridge after the
    /// plugin bridge, and the host interface of the veth pair after ptp.
    pub(super) fn new(policy: Policy, result: &'a CNIResult) -> Result<Self> {
        let first = result
            .interfaces
            .first()
            .ok_or_else(|| invalid(format!("{NO_BRIDGE}; prevResult has no interface")))?;
        let name = first.name.as_str();
        if first.sandbox.is_some() {
            return Err(invalid(format!(
                "{NO_BRIDGE}; the first interface of prevResult, {name}, is not on the host"
            )));
        }
        if let Some(problem) = interface_name_problem(name) {
            return Err(invalid(format!("{NO_BRIDGE}; the name {name:?} in prevResult {problem}")));
        }
        if !is_plain(name) {
            return Err(invalid(format!("the interface name {name:?} is not allowed in rules")));
        }
        let interface =
            if veth(result).is_some() { HostInterface::Veth } else { HostInterface::Bridge };
        Ok(Self { policy, interface: interface(name), ports: ports(result) })
    }

    /// Finds the interfaces in a result, and the kind of the first one in the kernel.
    pub(super) fn detect(policy: Option<Policy>, result: &'a CNIResult) -> Result<Option<Self>> {
        let Some(policy) = policy else { return Ok(None) };
        let ingress = Self::new(policy, result)?;
        let name = ingress.interface.name();
        let interface = if is_veth(name)? { HostInterface::Veth } else { HostInterface::Bridge };
        Ok(Some(Self { interface: interface(name), ..ingress }))
    }
}

/// Whether the host has one end of a veth pair under this name.
pub(super) fn is_veth(name: &str) -> Result<bool> {
    let link = Netlink::open()?.find_link(name)?;
    Ok(link.is_some_and(|link| link.kind.as_deref() == Some("veth")))
}

/// Returns the first interface of a result if it may be the host interface of the container's veth
/// pair. ptp lists that before the container interface; bridge lists the bridge and its port.
pub(super) fn veth(result: &CNIResult) -> Option<&str> {
    let mut interfaces = result.interfaces.iter();
    let first = interfaces.next().filter(|first| first.sandbox.is_none())?;
    let is_before_container = interfaces.next().is_none_or(|second| second.sandbox.is_some());
    (is_before_container || first.name.starts_with("veth")).then_some(&*first.name)
}

/// Returns the container's ports, which the bridge plugin lists between the bridge and the
/// container interfaces.
pub(super) fn ports(result: &CNIResult) -> Vec<&str> {
    let others =
        result.interfaces.iter().skip(1).take_while(|interface| interface.sandbox.is_none());
    others
        .map(|interface| interface.name.as_str())
        .filter(|name| interface_name_problem(name).is_none())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn policy_applies_to_the_first_interface_of_the_host() {
        let result = |text: Value| serde_json::from_value::<CNIResult>(text).unwrap();
        let good = result(json!({ "interfaces": [
            { "name": "br0" },
            { "name": "veth1" },
            { "name": "eth0", "sandbox": "/run/netns/a" },
            { "name": "br0.7" },
        ] }));
        let ingress = IngressPolicy::new(Policy::SameBridge, &good).unwrap();
        let expected = (HostInterface::Bridge("br0"), vec!["veth1"]);
        assert_eq!((ingress.interface, ingress.ports), expected);
        let ptp = result(json!({ "interfaces": [
            { "name": "host1" }, { "name": "eth0", "sandbox": "/run/netns/a" },
        ] }));
        let ingress = IngressPolicy::new(Policy::SameBridge, &ptp).unwrap();
        assert_eq!((ingress.interface, ingress.ports), (HostInterface::Veth("host1"), vec![]));
        for bad in [
            json!({}),
            json!({ "interfaces": [{ "name": "eth0", "sandbox": "/run/netns/a" }] }),
            json!({ "interfaces": [{ "name": "" }] }),
            json!({ "interfaces": [{ "name": "br+" }] }),
            json!({ "interfaces": [{ "name": "br\"0" }] }),
        ] {
            let failure = IngressPolicy::new(Policy::SameBridge, &result(bad)).unwrap_err();
            assert_eq!(failure.0.code(), 7);
        }
    }
}
