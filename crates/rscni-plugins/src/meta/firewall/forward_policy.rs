//! Checks whether the chains at the kernel's hook `forward` accept a container's packets, whichever
//! program made the rules.
//!
//! Only chains that drop by policy are checked. A rule counts if it accepts the packet for certain:
//! conditions on addresses, interfaces and `dnat` are compared, and rules with any other condition
//! are skipped.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni_linux::{
    Netlink,
    nft::{ChainInfo, Family, Hook, Nft, Policy, RawExpression, RuleInfo, Table, Verdict},
};

use crate::{
    netfilter::{
        IpTable, SavedTable,
        iptables_save::{address_option, jump_target},
        nftable,
    },
    plugin::Result,
};

/// The chain of iptables at the hook `forward`.
const FORWARD: &str = "FORWARD";

/// A kind of packet to forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// The first packet of a connection from the container to another network.
    FromContainer(IpAddr),
    /// A packet for a published port, whose destination is the container by DNAT.
    ToPublishedPort(IpAddr),
}

impl Packet {
    fn container(self) -> IpAddr {
        match self {
            Self::FromContainer(address) | Self::ToPublishedPort(address) => address,
        }
    }
}

/// A chain at the hook `forward` that drops by policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppingChain {
    /// Whether the chain is for IPv4, or `None` if it is for both families.
    v4: Option<bool>,
    rules: Rules,
}

/// The rules of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rules {
    /// `FORWARD` of iptables, and the lines of its table.
    Iptables { program: &'static str, lines: Vec<String> },
    /// Another chain of nftables, whose rules are read when they are needed.
    Nftables { table: Table, chain: String },
}

impl DroppingChain {
    /// Returns the name for people.
    pub fn name(&self) -> String {
        match &self.rules {
            Rules::Iptables { program, .. } => format!("{program} {FORWARD}"),
            Rules::Nftables { table, chain } => format!("nftables {table} {chain}"),
        }
    }

    /// Returns `iptables` or `ip6tables` if the chain is theirs.
    pub fn iptables_program(&self) -> Option<&'static str> {
        match &self.rules {
            Rules::Iptables { program, .. } => Some(program),
            Rules::Nftables { .. } => None,
        }
    }

    /// Whether the firewall plugin of this project made the chain.
    pub fn is_of_firewall(&self) -> bool {
        let own = nftable::table(Family::Inet);
        matches!(
            &self.rules,
            Rules::Nftables { table, chain } if *table == own && chain == "forward"
        )
    }

    /// Returns the command that makes the chain accept by policy.
    pub fn accept_all_command(&self) -> String {
        match &self.rules {
            Rules::Iptables { program, .. } => format!("{program} -P {FORWARD} ACCEPT"),
            Rules::Nftables { table, chain } => {
                format!("nft add chain {table} {chain} '{{ policy accept; }}'")
            }
        }
    }

    /// Returns the command that adds a rule which accepts only such packets.
    pub fn accept_command(&self, packet: Packet) -> String {
        let ip = if packet.container().is_ipv4() { "ip" } else { "ip6" };
        let (iptables, nftables) = match packet {
            Packet::FromContainer(address) => {
                (format!("-s {address}"), format!("{ip} saddr {address}"))
            }
            Packet::ToPublishedPort(address) => (
                format!("-d {address} -m conntrack --ctstate DNAT"),
                format!("{ip} daddr {address} ct status dnat"),
            ),
        };
        match &self.rules {
            Rules::Iptables { program, .. } => {
                format!("{program} -I {FORWARD} {iptables} -j ACCEPT")
            }
            Rules::Nftables { table, chain } => {
                format!("nft insert rule {table} {chain} {nftables} accept")
            }
        }
    }
}

/// Finds the chains at the hook `forward` that drop by policy.
///
/// # Errors
/// The reason why they cannot be read.
pub fn dropping_chains() -> std::result::Result<Vec<DroppingChain>, String> {
    find().map_err(|failure| failure.0.details().to_owned())
}

fn find() -> Result<Vec<DroppingChain>> {
    let mut nft = Nft::open()?;
    let mut found = Vec::new();
    for table in IpTable::of_both_families("filter") {
        let mut add = |saved: SavedTable| {
            let lines = saved.rules.into_iter().map(|rule| rule.line).collect();
            let rules = Rules::Iptables { program: table.program(), lines };
            found.push(DroppingChain { v4: Some(table.v4), rules });
        };
        if table.saved(&mut nft, &[FORWARD], &[])?.drops(FORWARD) {
            let chains = table.chains(&mut nft)?;
            let chains: Vec<&str> = chains.iter().map(String::as_str).collect();
            add(table.saved(&mut nft, &[], &chains)?);
        }
        let legacy = table.legacy().map(|legacy| legacy.saved()).transpose()?;
        legacy.filter(|saved| saved.drops(FORWARD)).into_iter().for_each(add);
    }
    for table in nft.tables()? {
        let v4 = match table.family {
            Family::Ip => Some(true),
            Family::Ip6 => Some(false),
            Family::Inet => None,
            _ => continue,
        };
        for chain in nft.chains(&table)? {
            let is_iptables = v4.is_some() && table.name == "filter" && chain.name == FORWARD;
            if drops(&chain) && !is_iptables {
                let rules = Rules::Nftables { table: table.clone(), chain: chain.name };
                found.push(DroppingChain { v4, rules });
            }
        }
    }
    Ok(found)
}

fn drops(chain: &ChainInfo) -> bool {
    chain.hook == Some(Hook::Forward) && chain.policy == Some(Policy::Drop)
}

/// Returns the first of these chains that drops the packet.
///
/// # Errors
/// The reason why the rules or the route to the container cannot be read.
pub fn dropped_by(
    chains: &[DroppingChain],
    packet: Packet,
) -> std::result::Result<Option<&DroppingChain>, String> {
    first(chains, packet).map_err(|failure| failure.0.details().to_owned())
}

fn first(chains: &[DroppingChain], packet: Packet) -> Result<Option<&DroppingChain>> {
    let address = packet.container();
    let of_family = |chain: &&DroppingChain| chain.v4.is_none_or(|v4| v4 == address.is_ipv4());
    let mut nft = Nft::open()?;
    let mut host = Netlink::open()?;
    let oif = host.route_to(address)?.and_then(|route| route.oif);
    let link = oif.map(|index| host.link_by_index(index)).transpose()?.map(|link| link.name);
    let packet = KnownPacket { packet, link };
    for chain in chains.iter().filter(of_family) {
        let is_accepted = match &chain.rules {
            Rules::Iptables { lines, .. } => packet.is_accepted_by(lines, FORWARD, DEPTH),
            Rules::Nftables { table, chain } => {
                packet.is_accepted_in(&mut nft, table, chain, DEPTH)?
            }
        };
        if !is_accepted {
            return Ok(Some(chain));
        }
    }
    Ok(None)
}

/// The maximum number of nested jumps that are followed.
const DEPTH: usize = 8;

struct KnownPacket {
    packet: Packet,
    /// The host's interface on the route to the container.
    link: Option<String>,
}

impl KnownPacket {
    fn is_dnated(&self) -> bool {
        matches!(self.packet, Packet::ToPublishedPort(_))
    }

    /// Whether a chain of iptables accepts the packet.
    fn is_accepted_by(&self, lines: &[String], chain: &str, depth: usize) -> bool {
        let start = format!("-A {chain} ");
        lines.iter().filter_map(|line| line.strip_prefix(&start)).any(|rule| {
            let Some((conditions, _)) = rule.rsplit_once("-j ") else { return false };
            let target = jump_target(rule).unwrap_or_default();
            self.meets(conditions)
                && (target == "ACCEPT"
                    || depth > 0 && self.is_accepted_by(lines, target, depth - 1))
        })
    }

    /// Whether the packet meets all conditions of a rule of iptables.
    fn meets(&self, conditions: &str) -> bool {
        let mut words = conditions.split_whitespace();
        while let Some(word) = words.next() {
            let met = match (word, words.next()) {
                ("-s", Some(net)) => self.has_address(net, true),
                ("-d", Some(net)) => self.has_address(net, false),
                ("-i", Some(name)) => self.has_link(name, true),
                ("-o", Some(name)) => self.has_link(name, false),
                ("-m", Some("conntrack")) => {
                    let states = (words.next(), words.next());
                    let (Some("--ctstate"), Some(states)) = states else { return false };
                    let own = if self.is_dnated() { ["NEW", "DNAT"] } else { ["NEW", "NEW"] };
                    states.split(',').any(|state| own.contains(&state))
                }
                _ => false,
            };
            if !met {
                return false;
            }
        }
        true
    }

    fn has_address(&self, net: &str, as_source: bool) -> bool {
        let address = match self.packet {
            Packet::FromContainer(address) if as_source => address,
            Packet::ToPublishedPort(address) if !as_source => address,
            _ => return false,
        };
        net.parse().is_ok_and(|net: IpNet| net.contains(&address))
    }

    fn has_link(&self, name: &str, as_incoming: bool) -> bool {
        self.is_dnated() != as_incoming && self.link.as_deref() == Some(name)
    }

    /// Whether a chain of nftables accepts the packet.
    fn is_accepted_in(
        &self,
        nft: &mut Nft,
        table: &Table,
        chain: &str,
        depth: usize,
    ) -> Result<bool> {
        for rule in nft.rules(table, chain)? {
            if !self.meets_rule(nft, table, &rule)? {
                continue;
            }
            match &rule.verdict {
                Some(Verdict::Accept) => return Ok(true),
                Some(Verdict::Jump(target) | Verdict::Goto(target))
                    if depth > 0 && self.is_accepted_in(nft, table, target, depth - 1)? =>
                {
                    return Ok(true);
                }
                _ => {}
            }
        }
        Ok(false)
    }

    /// Whether the packet meets all conditions of a rule of nftables.
    fn meets_rule(&self, nft: &mut Nft, table: &Table, rule: &RuleInfo) -> Result<bool> {
        let mut field = None;
        for expression in &rule.expressions {
            let met = match expression.name.as_str() {
                "counter" | "immediate" => true,
                "meta" | "payload" | "ct" => {
                    field = Field::of(expression);
                    field.is_some()
                }
                // The mask of `ct status`.
                "bitwise" => {
                    let mask = expression.attribute(&[4, 1]).and_then(|mask| mask.try_into().ok());
                    let mask = mask.map(u32::from_ne_bytes);
                    match field {
                        Some(Field::CtStatus) => mask == Some(DNAT),
                        Some(Field::CtState) => mask.is_some_and(|mask| mask & NEW != 0),
                        _ => false,
                    }
                }
                "cmp" => self.meets_comparison(field, expression),
                "lookup" => self.is_in_set(nft, table, field, expression)?,
                _ => false,
            };
            if !met {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn meets_comparison(&self, field: Option<Field>, cmp: &RawExpression) -> bool {
        let (is_equal, value) = (cmp.number(&[2]) == Some(0), cmp.attribute(&[3, 1]));
        let value = value.unwrap_or_default();
        let address = self.packet.container();
        match field {
            Some(Field::Nfproto) => is_equal && value == [if address.is_ipv4() { 2 } else { 10 }],
            Some(Field::Source) => is_equal && self.is_address(value, true),
            Some(Field::Destination) => is_equal && self.is_address(value, false),
            Some(Field::Iifname | Field::Oifname) => {
                let name = cmp.text(&[3, 1]).unwrap_or_default();
                is_equal
                    && value.ends_with(&[0])
                    && self.has_link(&name, field == Some(Field::Iifname))
            }
            // Compared with 0 after the mask: one of its bits is set.
            Some(Field::CtState) => !is_equal,
            Some(Field::CtStatus) => !is_equal && self.is_dnated(),
            None => false,
        }
    }

    fn is_address(&self, value: &[u8], as_source: bool) -> bool {
        nftable::address(value)
            .is_some_and(|address| self.has_address(&IpNet::from(address).to_string(), as_source))
    }

    fn is_in_set(
        &self,
        nft: &mut Nft,
        table: &Table,
        field: Option<Field>,
        lookup: &RawExpression,
    ) -> Result<bool> {
        /// `NFTA_LOOKUP_SET`, `NFTA_LOOKUP_FLAGS`
        const SET: u16 = 1;
        const FLAGS: u16 = 5;
        let is_of_packet = match field {
            Some(Field::Source) => !self.is_dnated(),
            Some(Field::Destination) => self.is_dnated(),
            _ => false,
        };
        let Some(set) = lookup.text(&[SET]).filter(|_| is_of_packet) else { return Ok(false) };
        if lookup.number(&[FLAGS]).unwrap_or_default() != 0 {
            return Ok(false);
        }
        Ok(nft.get_element(table, &set, &self.packet.container().into())?.is_some())
    }
}

/// `ct status dnat`
const DNAT: u32 = 0x20;
/// `ct state new`
const NEW: u32 = 8;

/// The field that a rule of nftables has loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Nfproto,
    Source,
    Destination,
    Iifname,
    Oifname,
    CtState,
    CtStatus,
}

impl Field {
    fn of(expression: &RawExpression) -> Option<Self> {
        match (expression.name.as_str(), expression.number(&[2])) {
            ("meta", Some(6)) => Some(Self::Iifname),
            ("meta", Some(7)) => Some(Self::Oifname),
            ("meta", Some(15)) => Some(Self::Nfproto),
            ("ct", Some(0)) => Some(Self::CtState),
            ("ct", Some(2)) => Some(Self::CtStatus),
            ("payload", _) => match address_option(expression) {
                "-s" => Some(Self::Source),
                "-d" => Some(Self::Destination),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_accepts_packets_that_meet_its_conditions() {
        let address: IpAddr = "10.1.0.5".parse().unwrap();
        let accepted = |packet, rules: &[&str]| {
            let lines: Vec<String> = rules.iter().map(|rule| format!("-A {rule}")).collect();
            KnownPacket { packet, link: Some("br0".into()) }.is_accepted_by(&lines, FORWARD, DEPTH)
        };
        let (out, published) = (Packet::FromContainer(address), Packet::ToPublishedPort(address));
        for (rules, passes_out, passes_published) in [
            (&["FORWARD -j ACCEPT"][..], true, true),
            (&["FORWARD -s 10.1.0.0/24 -j ACCEPT"], true, false),
            (&["FORWARD -d 10.1.0.5/32 -j ACCEPT"], false, true),
            (&["FORWARD -d 10.1.0.6/32 -j ACCEPT"], false, false),
            (&["FORWARD -i br0 -j ACCEPT"], true, false),
            (&["FORWARD -o br0 -j ACCEPT"], false, true),
            (&["FORWARD -o br1 -j ACCEPT"], false, false),
            (&["FORWARD -m conntrack --ctstate DNAT -j ACCEPT"], false, true),
            (&["FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"], false, false),
            (&["FORWARD -p tcp -j ACCEPT"], false, false),
            (&["FORWARD -j A", "A -j B", "B -s 10.1.0.5/32 -j ACCEPT"], true, false),
            (&["FORWARD -j A", "A -j RETURN"], false, false),
            (&["FORWARD -j FORWARD"], false, false),
        ] {
            assert_eq!(accepted(out, rules), passes_out, "{rules:?}");
            assert_eq!(accepted(published, rules), passes_published, "{rules:?}");
        }
    }
}
