//! The file in which the flannel daemon writes the lease of this host: lines of the form
//! `KEY=VALUE`.

use std::{fs, io};

use ipnet::IpNet;
use rscni::{Error, address::parse_net};

use crate::plugin::Result;

/// The lease of this host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Subnet {
    /// The networks of all hosts together, each once: IPv4, then IPv6.
    pub(super) networks: Vec<IpNet>,
    /// The subnets of this host, at least one: IPv4, then IPv6.
    pub(super) subnets: Vec<IpNet>,
    pub(super) mtu: u32,
    pub(super) ip_masq: bool,
}

impl Subnet {
    /// Reads the file of the daemon.
    ///
    /// # Errors
    /// [`Error::TryAgainLater`] if it does not exist (yet), [`Error::FailedToDecode`] if something
    /// in it is missing or wrong.
    pub(super) fn read(path: &str) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::TryAgainLater(format!(
                "{path} is not there: the flannel daemon writes it when it has a subnet for this \
                 host; see its log"
            )),
            _ => Error::IOFailure(format!("read {path}, the flannel daemon's file: {error}")),
        })?;
        Self::parse(&text).map_err(|problem| {
            Error::FailedToDecode(format!("{path}: {problem}: see the flannel daemon's log")).into()
        })
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        // The last one counts.
        let value = |key: &str| {
            let mut values =
                text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            values.next_back().map(str::trim)
        };
        let net = |key: &str, text: &str| {
            let net = parse_net(text).map_err(|error| format!("{key}: {text:?} {error}"))?;
            Ok::<_, String>(net.trunc())
        };
        let mut networks = Vec::new();
        for key in ["FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"] {
            for text in value(key).into_iter().flat_map(|texts| texts.split(',')) {
                let network = net(key, text)?;
                if !networks.contains(&network) {
                    networks.push(network);
                }
            }
        }
        let subnets = ["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"];
        let subnets = subnets.iter().filter_map(|key| Some(net(key, value(key)?)));
        let subnets = subnets.collect::<std::result::Result<Vec<_>, _>>()?;
        let (mtu, ip_masq) = (value("FLANNEL_MTU"), value("FLANNEL_IPMASQ"));
        let missing: Vec<&str> = [
            (networks.is_empty(), "FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK"),
            (subnets.is_empty(), "FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET"),
            (mtu.is_none(), "FLANNEL_MTU"),
            (ip_masq.is_none(), "FLANNEL_IPMASQ"),
        ]
        .into_iter()
        .filter_map(|(is_missing, key)| is_missing.then_some(key))
        .collect();
        let (Some(mtu), Some(ip_masq), true) = (mtu, ip_masq, missing.is_empty()) else {
            return Err(format!("the file is missing {}", missing.join(", ")));
        };
        let mtu =
            mtu.parse().map_err(|_| format!("FLANNEL_MTU: {mtu:?} is not a number of bytes"))?;
        Ok(Self { networks, subnets, mtu, ip_masq: ip_masq == "true" })
    }
}

/// See [`fuzzing`](crate::fuzzing::saved).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    use std::fmt::Write;
    let Ok(subnet) = Subnet::parse(&String::from_utf8_lossy(data)) else { return };
    assert!(!subnet.networks.is_empty() && !subnet.subnets.is_empty());
    // The family of a key does not matter, but each has one value.
    let mut text = format!("FLANNEL_MTU={}\nFLANNEL_IPMASQ={}\n", subnet.mtu, subnet.ip_masq);
    let networks: Vec<_> = subnet.networks.iter().map(ToString::to_string).collect();
    let _ = writeln!(text, "FLANNEL_NETWORK={}", networks.join(","));
    for (key, subnet) in ["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"].iter().zip(&subnet.subnets) {
        let _ = writeln!(text, "{key}={subnet}");
    }
    assert_eq!(Subnet::parse(&text), Ok(subnet));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn every_key_is_read_and_others_are_ignored() {
        let text = "# by hand\nFLANNEL_IPV6_SUBNET=fd00:42:0:1::1/64\n\
                    FLANNEL_NETWORK=10.42.0.0/16,10.43.0.0/16,10.42.0.0/16\n\
                    FLANNEL_SUBNET=10.42.1.1/24\r\nFLANNEL_MTU=1500\nFLANNEL_MTU=1450\n\
                    FLANNEL_IPMASQ=true\nFLANNEL_NEW\n\
                    FLANNEL_IPV6_NETWORK=fd00:42::/56\n";
        let expected = Subnet {
            networks: nets(&["10.42.0.0/16", "10.43.0.0/16", "fd00:42::/56"]),
            subnets: nets(&["10.42.1.0/24", "fd00:42:0:1::/64"]),
            mtu: 1450,
            ip_masq: true,
        };
        assert_eq!(Subnet::parse(text), Ok(expected));
    }

    #[test]
    fn one_family_is_enough_and_masquerading_is_true_or_not() {
        for (family, subnet) in [("", "10.42.1.0/24"), ("IPV6_", "fd00:42::/64")] {
            for ip_masq in ["false", "", "yes"] {
                let text = format!(
                    "FLANNEL_{family}NETWORK={subnet}\nFLANNEL_{family}SUBNET={subnet}\n\
                     FLANNEL_MTU=0\nFLANNEL_IPMASQ={ip_masq}\n"
                );
                let nets = nets(&[subnet]);
                let expected =
                    Subnet { networks: nets.clone(), subnets: nets, mtu: 0, ip_masq: false };
                assert_eq!(Subnet::parse(&text), Ok(expected));
            }
        }
    }

    #[test]
    fn a_missing_or_wrong_key_is_named() {
        let good = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\n\
                    FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        for (from, to, words) in [
            ("FLANNEL_MTU", "MTU", "missing FLANNEL_MTU"),
            ("FLANNEL_IPMASQ", "x", "missing FLANNEL_IPMASQ"),
            (
                "FLANNEL_NETWORK=",
                "FLANNEL_NETWORK",
                "missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK",
            ),
            ("SUBNET", "SUB", "missing FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET"),
            ("1450", "many", "FLANNEL_MTU: \"many\""),
            ("10.42.0.0/16", "10.42.0.0", "FLANNEL_NETWORK: \"10.42.0.0\""),
            ("10.42.0.0/16", "", "FLANNEL_NETWORK: \"\""),
            ("10.42.1.1/24", "10.42.1.1/33", "FLANNEL_SUBNET: \"10.42.1.1/33\""),
        ] {
            let problem = Subnet::parse(&good.replace(from, to)).unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
        let problem = Subnet::parse("foo=bar").unwrap_err();
        assert!(
            problem.ends_with("FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ"),
            "{problem}"
        );
    }
}
