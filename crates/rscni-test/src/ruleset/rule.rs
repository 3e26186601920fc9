//! Rules in the syntax of `nft`.
//!
//! A rule is a list of expressions that load values into registers, compare registers, or act. As
//! `nft` does, [`show`] follows the registers and leaves out matches of a protocol that the fields
//! after them imply. An expression that cannot be shown in the syntax of `nft` is shown with the
//! numbers of its attributes, as in [`raw`].

use super::{
    field::{self, ETHER_IP, ETHER_IP6, LINK, NETWORK, TRANSPORT},
    raw,
    registers::{Loaded, Registers, joined, word},
    set::{Set, Sets, Type},
    value::{Kind, show_all},
};
use crate::netlink::{Attributes, attributes, be_u32, list, text};

const INET: u8 = 1;
const IP: u8 = 2;
const IP6: u8 = 10;
const VERDICT_REGISTER: u32 = 0;

/// Formats the expressions of a rule in a table.
pub(super) fn show(family: u8, table: &str, expressions: &[u8], sets: &Sets) -> String {
    let network = match family {
        IP => Some(ETHER_IP),
        IP6 => Some(ETHER_IP6),
        _ => None,
    };
    let mut rule = Rule {
        family,
        table,
        sets,
        network,
        transport: None,
        registers: Registers::default(),
        parts: vec![],
    };
    let mut range = None;
    for (_, expression) in list(expressions) {
        let found = attributes(expression);
        let name = found.get(&1).map(|name| text(name)).unwrap_or_default();
        let data = found.get(&2).copied().unwrap_or_default();
        let raw = raw::expression(&name, data);
        let expression = Expression { name, data: attributes(data), raw };
        // `nft` shows two comparisons of one register as a range.
        if let Some(shown) = range.take().and_then(|first| rule.end_of_range(first, &expression)) {
            rule.parts.pop();
            rule.push(shown);
            continue;
        }
        range = expression.lower_bound();
        if rule.add(&expression).is_none() {
            rule.push(expression.raw);
        }
    }
    let unused = rule.registers.forget(0, usize::MAX);
    for raw in unused {
        rule.push(raw);
    }
    let shown = rule.parts.iter().map(|part| part.text.as_str()).filter(|text| !text.is_empty());
    shown.collect::<Vec<_>>().join(" ")
}

/// Formats a verdict.
pub(super) fn verdict(verdict: &[u8]) -> String {
    let found = attributes(verdict);
    let chain = found.get(&2).map(|chain| text(chain)).unwrap_or_default();
    match found.get(&1).and_then(|code| be_u32(code)).map(u32::cast_signed) {
        Some(0) => "drop".to_owned(),
        Some(1) => "accept".to_owned(),
        Some(-1) => "continue".to_owned(),
        Some(-2) => "break".to_owned(),
        Some(-3) => format!("jump {chain}"),
        Some(-4) => format!("goto {chain}"),
        Some(-5) => "return".to_owned(),
        code => format!("verdict {}", code.unwrap_or_default()),
    }
}

/// An expression: its name, its attributes, and all of them as text.
struct Expression<'a> {
    name: String,
    data: Attributes<'a>,
    raw: String,
}

impl<'a> Expression<'a> {
    fn number(&self, kind: u16) -> Option<u32> {
        be_u32(self.data.get(&kind)?)
    }

    /// The value in a data attribute.
    fn bytes(&self, kind: u16) -> &'a [u8] {
        let value = self.data.get(&kind).and_then(|data| attributes(data).get(&1).copied());
        value.unwrap_or_default()
    }

    /// The register and the value that it must not be below.
    fn lower_bound(&self) -> Option<(u32, &'a [u8])> {
        const GREATER_OR_EQUAL: u32 = 5;
        let is_bound = self.name == "cmp" && self.number(2) == Some(GREATER_OR_EQUAL);
        Some((self.number(1).filter(|_| is_bound)?, self.bytes(3)))
    }
}

/// A part of the text. Matches of a protocol can be implied by a later field of its header.
struct Part {
    text: String,
    implied_by: Option<u32>,
}

struct Rule<'a> {
    family: u8,
    table: &'a str,
    sets: &'a Sets,
    network: Option<u128>,
    transport: Option<u128>,
    registers: Registers,
    parts: Vec<Part>,
}

impl Rule<'_> {
    fn push(&mut self, text: String) {
        self.parts.push(Part { text, implied_by: None });
    }

    /// Adds an expression. `None` if it cannot be shown in the syntax of `nft`.
    fn add(&mut self, expression: &Expression<'_>) -> Option<()> {
        let number = |kind| expression.number(kind);
        match expression.name.as_str() {
            "meta" | "ct" if number(1).is_none() => {
                let source = if expression.name == "meta" { number(3) } else { number(4) };
                self.set(expression, source?)
            }
            "meta" => {
                let (text, kind) = field::meta(number(2)?)?;
                self.load(expression, text.to_owned(), kind, kind.length())
            }
            "ct" => {
                let direction = expression.data.get(&3).and_then(|direction| direction.first());
                let (text, kind) = field::ct(number(2)?, direction.copied())?;
                self.load(expression, text, kind, kind.length())
            }
            "fib" => {
                let (text, kind) = field::fib(number(2)?, number(3)?)?;
                self.load(expression, text, kind, kind.length())
            }
            "payload" => {
                let (base, length) = (number(2)?, number(4)? as usize);
                let (text, kind) =
                    field::payload(base, number(3)?, length, self.network, self.transport);
                self.load(expression, text.clone(), kind, length)?;
                if !text.starts_with('@') && !text.starts_with("th ") {
                    self.imply(base);
                    let is_icmp = matches!(kind, Kind::IcmpType | Kind::Icmp6Type);
                    is_icmp.then(|| self.imply(NETWORK));
                }
                Some(())
            }
            "bitwise" => self.mask(expression),
            "cmp" => {
                let (word, value) = (word(number(1)?)?, expression.bytes(3));
                let fields = self.take(word, value.len())?;
                let operator = ["", "!= ", "< ", "<= ", "> ", ">= "].get(number(2)? as usize)?;
                self.compare(&fields, operator, value)
            }
            "range" => {
                let fields = self.take(word(number(1)?)?, expression.bytes(3).len())?;
                let kind = fields[0].kind?;
                let operator = if number(2)? == 0 { "" } else { "!= " };
                let range = kind.range(expression.bytes(3), expression.bytes(4));
                self.push(format!("{} {operator}{range}", fields[0].show(kind)));
                Some(())
            }
            "lookup" => self.look_up(expression),
            "immediate" if number(1)? == VERDICT_REGISTER => {
                let data = attributes(expression.data.get(&2)?);
                self.push(verdict(data.get(&2)?));
                Some(())
            }
            "immediate" => {
                let constant = expression.bytes(2).to_vec();
                let length = constant.len();
                let loaded = Loaded { constant, ..Loaded::new(&expression.raw, length) };
                self.write(word(number(1)?)?, loaded);
                Some(())
            }
            "nat" => {
                let is_v6 = number(2)? == u32::from(IP6);
                let name = if number(1)? == 0 { "snat" } else { "dnat" };
                let family = match self.family {
                    INET if is_v6 => " ip6",
                    INET => " ip",
                    _ => "",
                };
                let kind = if is_v6 { Kind::Ip6 } else { Kind::Ip4 };
                let address = self.range_of(number(3), number(4), kind)?;
                let ports = self.range_of(number(5), number(6), Kind::Port)?;
                // One map can have the address and the port.
                let ports = if ports == address { String::new() } else { ports };
                let target = match (ports.as_str(), is_v6) {
                    ("", _) => address,
                    (_, true) => format!("[{address}]:{ports}"),
                    _ => format!("{address}:{ports}"),
                };
                let to = if target.is_empty() { "" } else { " to " };
                self.push(format!("{name}{family}{to}{target}{}", flags(number(7))));
                Some(())
            }
            "masq" | "redir" => {
                let is_masquerade = expression.name == "masq";
                let (first, last, bits) = if is_masquerade { (2, 3, 1) } else { (1, 2, 3) };
                let ports = self.range_of(number(first), number(last), Kind::Port)?;
                let to = if ports.is_empty() { String::new() } else { format!(" to :{ports}") };
                let name = if is_masquerade { "masquerade" } else { "redirect" };
                self.push(format!("{name}{to}{}", flags(number(bits))));
                Some(())
            }
            // Its values change with packets.
            "counter" | "notrack" => {
                self.push(expression.name.clone());
                Some(())
            }
            _ => None,
        }
    }

    /// Writes a field to registers.
    fn load(
        &mut self,
        expression: &Expression<'_>,
        text: String,
        kind: Kind,
        length: usize,
    ) -> Option<()> {
        let loaded = Loaded { text, kind: Some(kind), ..Loaded::new(&expression.raw, length) };
        self.write(word(expression.number(1)?)?, loaded);
        Some(())
    }

    fn write(&mut self, word: usize, loaded: Loaded) {
        for raw in self.registers.write(word, loaded) {
            self.push(raw);
        }
    }

    fn take(&mut self, word: usize, length: usize) -> Option<Vec<Loaded>> {
        self.registers.take(word, length)
    }

    fn set(&mut self, expression: &Expression<'_>, source: u32) -> Option<()> {
        let key = expression.number(2)?;
        let (text, kind) = match expression.name.as_str() {
            "meta" => field::meta(key).map(|(text, kind)| (text.to_owned(), kind))?,
            _ => field::ct(key, None)?,
        };
        let value = self.take(word(source)?, kind.length())?.first()?.show(kind);
        self.push(format!("{text} set {value}"));
        Some(())
    }

    fn mask(&mut self, expression: &Expression<'_>) -> Option<()> {
        let (from, to) = (word(expression.number(1)?)?, word(expression.number(2)?)?);
        // Shifts are other operations.
        if from != to || expression.number(6).unwrap_or_default() != 0 {
            return None;
        }
        let loaded = self.registers.at(from).filter(|loaded| loaded.bits.is_none())?;
        loaded.bits = Some((expression.bytes(4).to_vec(), expression.bytes(5).to_vec()));
        loaded.unused.push(expression.raw.clone());
        Some(())
    }

    fn compare(&mut self, fields: &[Loaded], operator: &str, value: &[u8]) -> Option<()> {
        let [field] = fields else {
            let kinds: Vec<Kind> = fields.iter().map(|field| field.kind).collect::<Option<_>>()?;
            self.push(format!("{} {operator}{}", joined(fields)?, show_all(&kinds, value)));
            return Some(());
        };
        let kind = field.kind?;
        let text = match &field.bits {
            Some((mask, xor)) if xor.iter().all(|byte| *byte == 0) => {
                let is_zero = value.iter().all(|byte| *byte == 0);
                let last: Vec<u8> =
                    value.iter().zip(mask).map(|(value, mask)| value | !mask).collect();
                match (kind, kind.range(value, &last)) {
                    (kind, _) if kind.is_flags() && is_zero && operator == "!= " => {
                        format!("{} {}", field.text, kind.show(mask))
                    }
                    (kind, _) if kind.is_flags() && is_zero && operator.is_empty() => {
                        format!("{} ! {}", field.text, kind.show(mask))
                    }
                    (Kind::Ip4 | Kind::Ip6, net) if net.contains('/') => {
                        format!("{} {operator}{net}", field.text)
                    }
                    _ => masked(field, kind, operator, value),
                }
            }
            Some(_) => masked(field, kind, operator, value),
            None => format!("{} {operator}{}", field.text, kind.show(value)),
        };
        let implied_by = if operator.is_empty() { self.learn(field, kind, value) } else { None };
        self.parts.push(Part { text, implied_by });
        Some(())
    }

    /// Notes a protocol that the rule has matched. Returns the header that implies the match.
    fn learn(&mut self, field: &Loaded, kind: Kind, value: &[u8]) -> Option<u32> {
        let number = kind.number(value);
        match field.text.as_str() {
            _ if field.bits.is_some() => None,
            "meta nfproto" => {
                self.network = Some(if number == u128::from(IP) { ETHER_IP } else { ETHER_IP6 });
                Some(NETWORK)
            }
            "meta protocol" | "ether type" => {
                self.network = Some(number);
                Some(NETWORK)
            }
            "meta l4proto" => {
                self.transport = Some(number);
                Some(TRANSPORT)
            }
            "ip protocol" | "ip6 nexthdr" => {
                self.transport = Some(number);
                None
            }
            _ => None,
        }
    }

    /// Leaves out the matches of a protocol that a field in this header implies.
    fn imply(&mut self, base: u32) {
        if base != LINK {
            self.parts.iter_mut().filter(|part| part.implied_by == Some(base)).for_each(|part| {
                part.text.clear();
            });
        }
    }

    /// The text of a range, if this expression compares the same register with its upper bound.
    fn end_of_range(
        &mut self,
        (register, first): (u32, &[u8]),
        expression: &Expression<'_>,
    ) -> Option<String> {
        const LESS_OR_EQUAL: u32 = 3;
        let is_end = expression.name == "cmp"
            && expression.number(2) == Some(LESS_OR_EQUAL)
            && expression.number(1) == Some(register);
        let fields = self.take(word(register).filter(|_| is_end)?, first.len())?;
        let [field] = fields.as_slice() else { return None };
        let kind = field.kind.filter(|_| field.bits.is_none())?;
        Some(format!("{} {}", field.text, kind.range(first, expression.bytes(3))))
    }

    fn look_up(&mut self, expression: &Expression<'_>) -> Option<()> {
        let name = text(expression.data.get(&1)?);
        let set = self.sets.get(&(self.family, self.table.to_owned(), name.clone()))?;
        let fields = self.take(word(expression.number(2)?)?, set.key_length)?;
        let fields = joined(&fields)?;
        let set_text = if set.is_anonymous { inline(set) } else { format!("@{name}") };
        let inverted = if expression.number(5).unwrap_or_default() == 0 { "" } else { "!= " };
        match expression.number(3) {
            None => self.push(format!("{fields} {inverted}{set_text}")),
            Some(VERDICT_REGISTER) => self.push(format!("{fields} vmap {set_text}")),
            Some(register) => {
                let mut word = word(register)?;
                let Some(Type::Values(kinds)) = &set.data else { return None };
                // A concatenation is used part by part.
                for kind in kinds {
                    let text = format!("{fields} map {set_text}");
                    let loaded = Loaded::new(&expression.raw, kind.length());
                    self.write(word, Loaded { text, kind: Some(*kind), ..loaded });
                    word += kind.length().div_ceil(4);
                }
            }
        }
        Some(())
    }

    /// Formats the values in two registers: `1000-2000`. Empty without registers.
    fn range_of(&mut self, first: Option<u32>, last: Option<u32>, kind: Kind) -> Option<String> {
        let Some(first) = first else { return Some(String::new()) };
        let mut show = |register| Some(self.take(word(register)?, kind.length())?[0].show(kind));
        let (first, last) = (show(first)?, show(last.unwrap_or(first))?);
        Some(if first == last { first } else { format!("{first}-{last}") })
    }
}

fn masked(field: &Loaded, kind: Kind, operator: &str, value: &[u8]) -> String {
    let operator = if operator.is_empty() { "== " } else { operator };
    format!("{} {operator}{}", field.show(kind), kind.show(value))
}

fn inline(set: &Set) -> String {
    format!("{{ {} }}", set.elements.join(", "))
}

/// Flags of network address translation.
fn flags(bits: Option<u32>) -> String {
    let names = [(0x4, "random"), (0x10, "fully-random"), (0x8, "persistent"), (0x40, "netmap")];
    let is_set = |(bit, _): &(u32, &str)| bits.unwrap_or_default() & bit != 0;
    let names: Vec<_> = names.into_iter().filter(is_set).map(|(_, name)| name).collect();
    if names.is_empty() { String::new() } else { format!(" {}", names.join(",")) }
}
