//! The configuration of portmap.

use std::{collections::BTreeMap, fmt::Display, net::IpAddr};

use ipnet::IpNet;
use rscni::{
    CNIResult, PortMapping,
    address::{has_leading_zero, parse_address},
};
use serde::Deserialize;

use crate::{
    netfilter::iptables,
    plugin::{Call, Failure, Result, error},
};

/// The keys of the portmap plugin, as the Go plugin has them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    backend: Option<String>,
    snat: Option<bool>,
    masq_all: bool,
    mark_masq_bit: Option<i64>,
    external_set_mark_chain: Option<String>,
    #[serde(rename = "conditionsV4")]
    conditions_v4: Vec<String>,
    #[serde(rename = "conditionsV6")]
    conditions_v6: Vec<String>,
}

/// The mark bit of packets to masquerade. Kubernetes uses 14 and 15, Calico 20 to 31.
const DEFAULT_MARK_BIT: i64 = 13;

/// `backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    /// nftables, over netlink. The default.
    Nftables,
    /// iptables, if a key needs it.
    Iptables,
}

/// A validated configuration.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) backend: Backend,
    /// Whether to masquerade packets whose answers would not return through the host.
    pub(super) snat: bool,
    pub(super) masq_all: bool,
    pub(super) mark_bit: u8,
    /// The chain of another program that marks packets to masquerade.
    pub(super) set_mark_chain: Option<String>,
    conditions_v4: Vec<String>,
    conditions_v6: Vec<String>,
    pub(super) mappings: Vec<Mapping>,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Sctp,
    Tcp,
    Udp,
}

impl Protocol {
    pub(super) const ALL: [Self; 3] = [Self::Sctp, Self::Tcp, Self::Udp];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sctp => "sctp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// Returns the protocol number in the IP header.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Sctp => 132,
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// A port of the host that leads into the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) protocol: Protocol,
    /// `hostIP`; an unspecified address means all of its family.
    host_ip: Option<IpAddr>,
    pub(super) host_port: u16,
    pub(super) container_port: u16,
}

impl Mapping {
    /// Reads the entry of `portMappings` with this index.
    fn new(index: usize, given: &PortMapping) -> Result<Self> {
        let invalid = |problem: std::fmt::Arguments<'_>| {
            invalid(format!("runtimeConfig.portMappings[{index}].{problem}"))
        };
        let (host_port, container_port) = (given.host_port, given.container_port);
        for (what, port) in [("container", container_port), ("host", host_port)] {
            if port == 0 {
                return Err(invalid(format_args!("{what}Port: invalid {what} port number 0")));
            }
        }
        let name = if given.protocol.is_empty() { "tcp" } else { &given.protocol };
        let protocol = Protocol::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(name));
        let protocol = protocol.ok_or_else(|| {
            invalid(format_args!(
                "protocol: {name:?} of host port {host_port} must be tcp, udp or sctp"
            ))
        })?;
        let host_ip = match given.host_ip.as_str() {
            "" => None,
            text => Some(parse_address(text).map_err(|error| {
                invalid(format_args!("hostIP: {text:?} of host port {host_port} {error}"))
            })?),
        };
        let host_ip = host_ip.map(|ip| ip.to_canonical());
        Ok(Self { protocol, host_ip, host_port, container_port })
    }

    /// Whether the mapping is for packets of IPv4, or of IPv6.
    pub(super) fn is_for(&self, v4: bool) -> bool {
        self.host_ip.is_none_or(|ip| ip.is_ipv4() == v4)
    }

    /// Returns the host address of the mapping, or `None` if it is for all addresses.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    /// Whether `127.0.0.1` or `::1` leads into the container.
    pub(super) fn is_for_localhost(&self, v4: bool) -> bool {
        self.is_for(v4) && self.address().is_none_or(|ip| ip.is_loopback())
    }
}

impl std::fmt::Display for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "host port {}/{}", self.host_port, self.protocol.name())?;
        self.address().map_or(Ok(()), |ip| write!(f, " of {ip}"))
    }
}

impl Config {
    pub(super) fn new(call: &Call<'_>) -> Result<Self> {
        let keys: Keys = call.conf.custom_as()?;
        let set_mark_chain = keys.external_set_mark_chain.filter(|chain| !chain.is_empty());
        if keys.mark_masq_bit.is_some() && set_mark_chain.is_some() {
            return Err(invalid(
                "externalSetMarkChain and markMasqBit exclude each other: give one of them",
            ));
        }
        let bit = keys.mark_masq_bit.unwrap_or(DEFAULT_MARK_BIT);
        let mark_bit = u8::try_from(bit).ok().filter(|bit| *bit < 32);
        let mark_bit =
            mark_bit.ok_or_else(|| invalid(format!("markMasqBit: {bit} must be from 0 to 31")))?;
        if let Some(chain) = set_mark_chain.as_ref().filter(|name| !iptables::is_chain_name(name)) {
            return Err(invalid(format!(
                "externalSetMarkChain: {chain:?} is not a valid chain name"
            )));
        }
        let demands = [
            ("externalSetMarkChain", set_mark_chain.as_ref().map(|_| Backend::Iptables)),
            ("conditionsV4", backend_of(&keys.conditions_v4)),
            ("conditionsV6", backend_of(&keys.conditions_v6)),
        ];
        let backend = choose(keys.backend.as_deref(), demands)?;
        check_words("conditionsV4", &keys.conditions_v4, backend)?;
        check_words("conditionsV6", &keys.conditions_v6, backend)?;
        let mappings = call.args.runtime_config()?.port_mappings;
        let mappings = mappings.iter().enumerate().map(|(i, given)| Mapping::new(i, given));
        let config = Self {
            backend,
            snat: keys.snat.unwrap_or(true),
            masq_all: keys.masq_all,
            mark_bit,
            set_mark_chain,
            conditions_v4: keys.conditions_v4,
            conditions_v6: keys.conditions_v6,
            mappings: mappings.collect::<Result<_>>()?,
        };
        config.reject_contradictions()?;
        Ok(config)
    }

    /// Fails if a host port leads to two ports of the container. Repeated mappings are harmless.
    fn reject_contradictions(&self) -> Result<()> {
        let mut seen = BTreeMap::new();
        for mapping in &self.mappings {
            for v4 in [true, false].into_iter().filter(|v4| mapping.is_for(*v4)) {
                let key = (v4, mapping.protocol, mapping.address(), mapping.host_port);
                let first = *seen.entry(key).or_insert(mapping.container_port);
                if first != mapping.container_port {
                    let second = mapping.container_port;
                    return Err(invalid(format!(
                        "{mapping} is to lead to port {first} and to port {second}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Returns the conditions for packets of a family, in the language of the backend.
    pub(super) fn conditions(&self, v4: bool) -> &[String] {
        if v4 { &self.conditions_v4 } else { &self.conditions_v6 }
    }

    /// Whether a mapping leads from `127.0.0.1` or `::1` into the container. With conditions, those
    /// of nftables for IPv6 exclude `::1`, because its rules do not evaluate them.
    pub(super) fn is_for_localhost(&self, mapping: &Mapping, v4: bool) -> bool {
        let has_conditions = self.backend == Backend::Nftables && !self.conditions(v4).is_empty();
        self.snat && (v4 || !has_conditions) && mapping.is_for_localhost(v4)
    }

    /// Returns the mark of packets to masquerade.
    pub(super) fn mark(&self) -> u32 {
        1 << self.mark_bit
    }
}

/// Returns the configured backend, or else the one that other keys need.
fn choose(asked: Option<&str>, demands: [(&str, Option<Backend>); 3]) -> Result<Backend> {
    let [for_nftables, for_iptables] = [Backend::Nftables, Backend::Iptables].map(|backend| {
        let demands = demands.iter().filter(|(_, needed)| *needed == Some(backend));
        demands.map(|(key, _)| *key).collect::<Vec<_>>()
    });
    let backend = match asked {
        Some("iptables") => Backend::Iptables,
        Some("nftables") => Backend::Nftables,
        Some(other) => {
            return Err(invalid(format!(
                "backend: unrecognized backend {other:?}: it must be nftables or iptables"
            )));
        }
        None if for_iptables.is_empty() => Backend::Nftables,
        None => Backend::Iptables,
    };
    let (name, other, wrong) = match backend {
        Backend::Nftables => ("nftables", "iptables", for_iptables),
        Backend::Iptables => ("iptables", "nftables", for_nftables),
    };
    if wrong.is_empty() {
        return Ok(backend);
    }
    let keys = wrong.join(", ");
    Err(invalid(format!("the backend is {name}, but {keys} can only be done by {other}")))
}

/// Returns the backend in whose language the conditions are: those of iptables begin with an option
/// or `!`.
fn backend_of(conditions: &[String]) -> Option<Backend> {
    let first = conditions.first().filter(|word| !word.is_empty())?;
    Some(if first.starts_with(['-', '!']) { Backend::Iptables } else { Backend::Nftables })
}

/// Fails if a word of a condition would end its line, start a comment, or is ambiguous.
fn check_words(key: &str, words: &[String], backend: Backend) -> Result<()> {
    // In lines for iptables, words are quoted.
    let ends = |c: char| c.is_control() || c == ';' || c == '#' && backend == Backend::Nftables;
    if let Some((i, word)) = words.iter().enumerate().find(|(_, word)| word.contains(ends)) {
        return Err(invalid(format!(
            "{key}[{i}]: {word:?} cannot be part of a rule: leave control characters, ; and # out"
        )));
    }
    // Programs disagree whether such a number is octal.
    let is_ambiguous =
        |word: &String| word.split(['!', '{', '}', ',', '-', ' ']).any(has_leading_zero);
    if let Some((i, word)) = words.iter().enumerate().find(|(_, word)| is_ambiguous(word)) {
        return Err(invalid(format!("{key}[{i}]: {word:?}: remove the leading zeros")));
    }
    Ok(())
}

/// Returns the container's first address of each family, with its prefix length.
pub(super) fn container_nets(result: &CNIResult, call: &Call<'_>) -> Vec<IpNet> {
    let of = |v4: bool| {
        call.own(result).ips().map(|ip| ip.address).find(|net| net.addr().is_ipv4() == v4)
    };
    [of(true), of(false)].into_iter().flatten().collect()
}

fn invalid(problem: impl Display) -> Failure {
    error::invalid("portmap", problem)
}

#[cfg(test)]
pub(super) mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::plugin::call::testing::with_keys;

    pub(in super::super) fn read(keys: &Value) -> Result<Config> {
        with_keys(keys.clone(), Config::new)
    }

    #[test]
    fn defaults_equal_those_of_the_go_plugin_except_the_backend() {
        let config = read(&json!({})).unwrap();
        assert_eq!(config.backend, Backend::Nftables);
        assert!(config.snat && !config.masq_all);
        assert_eq!((config.mark_bit, config.mark(), config.mappings.len()), (13, 0x2000, 0));
    }

    #[rstest]
    #[case(json!({ "backend": "iptables" }))]
    #[case(json!({ "externalSetMarkChain": "KUBE-MARK-MASQ" }))]
    #[case(json!({ "conditionsV4": ["!", "-d", "192.0.2.0/24"] }))]
    #[case(json!({ "conditionsV6": ["-s", "2001:db8::/32"] }))]
    fn iptables_is_used_if_a_key_needs_it(#[case] keys: Value) {
        assert_eq!(read(&keys).unwrap().backend, Backend::Iptables);
    }

    #[rstest]
    #[case(json!({ "conditionsV4": ["ip", "saddr", "!=", "192.0.2.1"] }))]
    #[case(json!({ "conditionsV4": [""], "conditionsV6": null, "externalSetMarkChain": "" }))]
    fn nftables_is_used_otherwise(#[case] keys: Value) {
        assert_eq!(read(&keys).unwrap().backend, Backend::Nftables);
    }

    fn mappings(list: &Value) -> Result<Vec<Mapping>> {
        read(&json!({ "runtimeConfig": { "portMappings": list } })).map(|config| config.mappings)
    }

    #[test]
    fn unspecified_host_ip_restricts_only_the_family() {
        let given = |host_ip: &str| {
            let one = json!({
                "hostPort": 1, "containerPort": 2, "protocol": "UDP", "hostIP": host_ip,
            });
            let mapping = mappings(&json!([one])).unwrap().remove(0);
            assert_eq!(mapping.protocol, Protocol::Udp);
            let address = mapping.address().map(|ip| ip.to_string());
            (mapping.is_for(true), mapping.is_for(false), address)
        };
        assert_eq!(given(""), (true, true, None));
        assert_eq!(given("0.0.0.0"), (true, false, None));
        assert_eq!(given("::"), (false, true, None));
        assert_eq!(given("192.0.2.1"), (true, false, Some("192.0.2.1".into())));
        assert_eq!(given("::ffff:192.0.2.1"), (true, false, Some("192.0.2.1".into())));
        assert_eq!(given("2001:db8::1"), (false, true, Some("2001:db8::1".into())));
    }

    #[test]
    fn the_same_port_of_several_addresses_is_no_contradiction() {
        let map = |host_ip, to| json!({ "hostPort": 1, "containerPort": to, "hostIP": host_ip });
        let same = json!([map("", 2), map("", 2), map("0.0.0.0", 2), map("192.0.2.1", 3)]);
        assert!(mappings(&same).is_ok());
        assert!(mappings(&json!([map("0.0.0.0", 2), map("::", 3)])).is_ok());
    }
}
