//! Whether the chains at the kernel's hook `forward` let a container's packets through, judged by
//! the rules that are there, whoever made them.
//!
//! Only chains that drop by policy are looked at. A rule counts if it accepts the packet whatever
//! else the packet is: conditions on addresses, interfaces and `dnat` are compared, and a rule with
//! any other condition is passed over.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni_linux::{
    Netlink,
    nft::{ChainInfo, Family, Hook, Nft, Policy, RawExpression, RuleInfo, Table, Verdict},
};

use crate::{
    meta::firewall::saved,
    netfilter::{
        iptables::{IpTable, jump_target},
        nftable,
    },
    plugin::error::Result,
};

/// A packet that is to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// The container begins a connection to another network.
    FromContainer(IpAddr),
    /// A connection to a published port, whose destination is the container by DNAT.
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
pub struct Dropping {
    /// The family that it is for; none if it is for both.
    v4: Option<bool>,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// `FORWARD` of iptables, as text: the lines of `iptables-save`.
    Lines { program: &'static str, lines: Vec<String> },
    /// A chain of another table of nftables.
    Chain { table: Table, chain: String },
}

impl Dropping {
    /// What the chain is called.
    pub fn name(&self) -> String {
        match &self.place {
            Place::Lines { program, .. } => format!("{program} FORWARD"),
            Place::Chain { table, chain } => format!("nftables {table} {chain}"),
        }
    }

    /// The program whose chain it is, if it is that of iptables or ip6tables.
    pub fn iptables(&self) -> Option<&'static str> {
        match &self.place {
            Place::Lines { program, .. } => Some(program),
            Place::Chain { .. } => None,
        }
    }

    /// Whether it is the chain of the plugin firewall in this project's table.
    pub fn is_of_firewall(&self) -> bool {
        let own = nftable::table(Family::Inet);
        matches!(&self.place, Place::Chain { table, chain } if *table == own && chain == "forward")
    }

    /// The command that has the chain accept by policy.
    pub fn accept_all(&self) -> String {
        match &self.place {
            Place::Lines { program, .. } => format!("{program} -P FORWARD ACCEPT"),
            Place::Chain { table, chain } => {
                format!("nft add chain {table} {chain} '{{ policy accept; }}'")
            }
        }
    }

    /// The command that lets such packets through this chain, and no others.
    pub fn accept(&self, packet: Packet) -> String {
        let address = packet.container();
        match (&self.place, packet) {
            (Place::Lines { program, .. }, Packet::FromContainer(_)) => {
                format!("{program} -I FORWARD -s {address} -j ACCEPT")
            }
            (Place::Lines { program, .. }, Packet::ToPublishedPort(_)) => {
                format!("{program} -I FORWARD -d {address} -m conntrack --ctstate DNAT -j ACCEPT")
            }
            (Place::Chain { table, chain }, packet) => {
                let ip = if address.is_ipv4() { "ip" } else { "ip6" };
                let conditions = match packet {
                    Packet::FromContainer(_) => format!("{ip} saddr {address}"),
                    Packet::ToPublishedPort(_) => format!("{ip} daddr {address} ct status dnat"),
                };
                format!("nft insert rule {table} {chain} {conditions} accept")
            }
        }
    }
}

/// The chains that drop what no rule of theirs accepts.
///
/// # Errors
/// Why they cannot be looked at.
pub fn dropping() -> std::result::Result<Vec<Dropping>, String> {
    look().map_err(|failure| failure.0.details().to_owned())
}

fn look() -> Result<Vec<Dropping>> {
    let mut nft = Nft::open()?;
    let mut found = Vec::new();
    for table in IpTable::of_both_families("filter") {
        let program = if table.v4 { "iptables" } else { "ip6tables" };
        let v4 = Some(table.v4);
        if table.drops(&mut nft, "FORWARD")? {
            let lines = lines(&mut nft, table)?;
            found.push(Dropping { v4, place: Place::Lines { program, lines } });
        }
        let saved = table.legacy().map(|legacy| legacy.save()).transpose()?.unwrap_or_default();
        if saved.lines().any(|line| line.starts_with(":FORWARD DROP ")) {
            let rules = saved.lines().filter(|line| line.starts_with("-A "));
            let lines = rules.map(saved::without_comment).collect();
            found.push(Dropping { v4, place: Place::Lines { program, lines } });
        }
    }
    for table in nft.tables()? {
        let v4 = match table.family {
            Family::Ip => Some(true),
            Family::Ip6 => Some(false),
            Family::Inet => None,
            _ => continue,
        };
        for chain in nft.chains(&table)? {
            let is_iptables = v4.is_some() && table.name == "filter" && chain.name == "FORWARD";
            if drops(&chain) && !is_iptables {
                let place = Place::Chain { table: table.clone(), chain: chain.name };
                found.push(Dropping { v4, place });
            }
        }
    }
    Ok(found)
}

fn drops(chain: &ChainInfo) -> bool {
    chain.hook == Some(Hook::Forward) && chain.policy == Some(Policy::Drop)
}

/// The lines of all chains of iptables in nftables.
fn lines(nft: &mut Nft, table: IpTable) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for chain in table.chains(nft)? {
        let rules = table.rules(nft, &chain, |_| true)?;
        lines.extend(rules.iter().map(|rule| saved::line(&chain, rule)));
    }
    Ok(lines)
}

/// The first of these chains that drops the packet.
///
/// # Errors
/// Why they cannot be looked at.
pub fn dropped_by(
    chains: &[Dropping],
    packet: Packet,
) -> std::result::Result<Option<&Dropping>, String> {
    first(chains, packet).map_err(|failure| failure.0.details().to_owned())
}

fn first(chains: &[Dropping], packet: Packet) -> Result<Option<&Dropping>> {
    let address = packet.container();
    let of_family = |chain: &&Dropping| chain.v4.is_none_or(|v4| v4 == address.is_ipv4());
    let mut nft = Nft::open()?;
    let mut host = Netlink::open()?;
    let oif = host.route_to(address)?.and_then(|route| route.oif);
    let link = oif.map(|index| host.link_by_index(index)).transpose()?.map(|link| link.name);
    let known = Known { packet, link };
    for chain in chains.iter().filter(of_family) {
        let accepts = match &chain.place {
            Place::Lines { lines, .. } => known.is_accepted_by(lines, "FORWARD", DEPTH),
            Place::Chain { table, chain } => known.is_accepted_in(&mut nft, table, chain, DEPTH)?,
        };
        if !accepts {
            return Ok(Some(chain));
        }
    }
    Ok(None)
}

/// How far jumps are followed.
const DEPTH: usize = 8;

/// What is known of a packet.
struct Known {
    packet: Packet,
    /// The host's interface to the container.
    link: Option<String>,
}

impl Known {
    fn is_dnated(&self) -> bool {
        matches!(self.packet, Packet::ToPublishedPort(_))
    }

    /// Whether a chain of iptables accepts it.
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

    /// Whether it meets all conditions of a rule of iptables.
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

    /// Whether a chain of nftables accepts it.
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

    /// Whether it meets all conditions of a rule of nftables.
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
            // The mask is left over: none of its bits is not equal.
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

/// What a rule of nftables has loaded.
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
            ("payload", _) => match saved::address_option(expression) {
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

    fn known(packet: Packet) -> Known {
        Known { packet, link: Some("br0".into()) }
    }

    #[test]
    fn a_packet_is_accepted_by_a_rule_whose_conditions_it_meets() {
        let address: IpAddr = "10.1.0.5".parse().unwrap();
        let lines = |rules: &[&str]| rules.iter().map(|rule| format!("-A {rule}")).collect();
        let accepted = |packet, rules: &[&str]| {
            let lines: Vec<String> = lines(rules);
            known(packet).is_accepted_by(&lines, "FORWARD", DEPTH)
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
