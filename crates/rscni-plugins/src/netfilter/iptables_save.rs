//! Rules of iptables as lines of `iptables-save`.
//!
//! This recognises a rule wherever iptables keeps it: in the legacy kernel tables, whose tools
//! print these lines, or in nftables, where a rule is a list of expressions. Of the expressions,
//! only those of the firewall plugin's rules are translated; all others become `?`, which matches
//! no line.

use ipnet::IpNet;
use rscni_linux::nft::{RawExpression, RuleInfo, Verdict};

use super::nftable::address;

/// Chains of a table of iptables and their rules.
#[derive(Default)]
pub(crate) struct SavedTable {
    pub(crate) chains: Vec<SavedChain>,
    pub(crate) rules: Vec<SavedRule>,
}

pub(crate) struct SavedChain {
    pub(crate) name: String,
    /// Whether its policy is to drop packets.
    pub(crate) drops: bool,
}

pub(crate) struct SavedRule {
    pub(crate) chain: String,
    /// The line of `iptables-save` without the comment.
    pub(crate) line: String,
    pub(crate) jump_target: Option<String>,
    /// The whole line, or the comment and the attributes of all expressions in nftables.
    pub(crate) data: Vec<u8>,
}

impl SavedTable {
    /// Parses the output of `iptables-save`.
    pub(super) fn parse(text: &str) -> Self {
        let chain = |line: &str| {
            let mut words = line.strip_prefix(':')?.split(' ');
            let name = words.next()?.to_owned();
            Some(SavedChain { name, drops: words.next() == Some("DROP") })
        };
        let rule = |line: &str| {
            let chain = line.strip_prefix("-A ")?.split(' ').next()?.to_owned();
            Some(SavedRule {
                chain,
                line: without_comment(line),
                jump_target: jump_target(line).map(str::to_owned),
                data: line.as_bytes().to_vec(),
            })
        };
        Self {
            chains: text.lines().filter_map(chain).collect(),
            rules: text.lines().filter_map(rule).collect(),
        }
    }

    pub(crate) fn has_chain(&self, name: &str) -> bool {
        self.chains.iter().any(|chain| chain.name == name)
    }

    /// Whether the chain exists and its policy is to drop packets.
    pub(crate) fn drops(&self, name: &str) -> bool {
        self.chains.iter().any(|chain| chain.name == name && chain.drops)
    }

    pub(crate) fn rules_of(&self, chain: &str) -> impl Iterator<Item = &SavedRule> {
        self.rules.iter().filter(move |rule| rule.chain == chain)
    }
}

impl SavedRule {
    pub(super) fn of_nftables(chain: &str, rule: RuleInfo) -> Self {
        let line = line(chain, &rule);
        let mut data = rule.comment.map(String::into_bytes).unwrap_or_default();
        data.extend(rule.expressions.into_iter().flat_map(|expression| expression.attributes));
        Self { chain: chain.to_owned(), line, jump_target: rule.jump_target, data }
    }

    pub(crate) fn jumps_to(&self, chain: &str) -> bool {
        self.jump_target.as_deref() == Some(chain)
    }

    pub(super) fn has_comment(&self, text: &str) -> bool {
        self.contains(text.as_bytes()) || self.contains(escaped(text).as_bytes())
    }

    /// Whether these bytes occur in the line or in the expressions.
    pub(crate) fn contains(&self, part: &[u8]) -> bool {
        self.data.windows(part.len()).any(|window| window == part)
    }
}

pub(crate) fn line(chain: &str, rule: &RuleInfo) -> String {
    let mut line = format!("-A {chain}");
    let mut option = "?";
    for expression in &rule.expressions {
        match expression.name.as_str() {
            "counter" => {}
            "payload" => option = address_option(expression),
            "meta" => option = interface_option(expression),
            "cmp" => line.push_str(&comparison(option, expression)),
            "match" => line.push_str(extension(expression)),
            "immediate" => line.push_str(&target(rule.verdict.as_ref())),
            _ => line.push_str(" ?"),
        }
    }
    line
}

/// Returns the option for the address that a payload expression loads from the network header.
pub(crate) fn address_option(payload: &RawExpression) -> &'static str {
    const NETWORK_HEADER: u32 = 1;
    let number = |kind| payload.number(&[kind]);
    match (number(2) == Some(NETWORK_HEADER)).then(|| (number(3), number(4))) {
        Some((Some(12), Some(4)) | (Some(8), Some(16))) => "-s",
        Some((Some(16), Some(4)) | (Some(24), Some(16))) => "-d",
        _ => "?",
    }
}

fn interface_option(meta: &RawExpression) -> &'static str {
    match meta.number(&[2]) {
        Some(6) => "-i",
        Some(7) => "-o",
        _ => "?",
    }
}

fn comparison(option: &str, cmp: &RawExpression) -> String {
    let not = match cmp.number(&[2]) {
        Some(0) => "",
        Some(1) => " !",
        _ => " ?",
    };
    let value = cmp.attribute(&[3, 1]).unwrap_or_default();
    let value = match option {
        "-s" | "-d" => address(value).map(|address| IpNet::from(address).to_string()),
        // Without the NUL at the end, it is a prefix of names (`br+`).
        "-i" | "-o" if value.ends_with(&[0]) => cmp.text(&[3, 1]),
        _ => None,
    };
    format!("{not} {option} {}", value.as_deref().unwrap_or("?"))
}

/// Returns the options of a match of the legacy tables, which has a name and its own structure.
fn extension(expression: &RawExpression) -> &'static str {
    /// `match_flags`, `invert_flags` and `state_mask` of `xt_conntrack_mtinfo3`.
    const FLAGS: std::ops::Range<usize> = 146..152;
    const STATE: u16 = 1;
    const ESTABLISHED_OR_RELATED: u16 = 2 | 4;
    /// `XT_CONNTRACK_STATE_DNAT`
    const DNAT: u16 = 1 << 7;
    match expression.text(&[1]).as_deref() {
        Some("comment") => "",
        Some("conntrack") => {
            let flags = expression.attribute(&[3]).and_then(|info| info.get(FLAGS));
            let is = |states| flags == Some(&[STATE, 0, states].map(u16::to_ne_bytes).concat()[..]);
            if is(ESTABLISHED_OR_RELATED) {
                " -m conntrack --ctstate RELATED,ESTABLISHED"
            } else if is(DNAT) {
                " -m conntrack --ctstate DNAT"
            } else {
                " -m conntrack ?"
            }
        }
        _ => " ?",
    }
}

fn target(verdict: Option<&Verdict>) -> String {
    match verdict {
        Some(Verdict::Accept) => " -j ACCEPT".into(),
        Some(Verdict::Drop) => " -j DROP".into(),
        Some(Verdict::Return) => " -j RETURN".into(),
        Some(Verdict::Jump(chain)) => format!(" -j {chain}"),
        Some(Verdict::Goto(chain)) => format!(" -g {chain}"),
        _ => " ?".into(),
    }
}

pub(crate) fn without_comment(line: &str) -> String {
    const START: &str = " -m comment --comment ";
    let Some((before, rest)) = line.split_once(START) else { return line.to_owned() };
    let after = if let Some(quoted) = rest.strip_prefix('"') {
        let mut escaped = false;
        let end = quoted.find(|c| {
            let is_end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            is_end
        });
        end.and_then(|end| quoted.get(end + 1..)).unwrap_or_default()
    } else {
        rest.find(' ').map_or("", |end| &rest[end..])
    };
    format!("{before}{after}")
}

/// Returns a comment as an argument in a line for `iptables-restore`.
pub(crate) fn comment(text: &str) -> String {
    format!("-m comment --comment \"{}\"", escaped(text))
}

/// Escapes text for the quotes in a line of `iptables-save` or `iptables-restore`.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', r#"\""#)
}

/// Returns the target of a rule's jump. Ignores text in quotes, such as a comment.
pub(crate) fn jump_target(line: &str) -> Option<&str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let mut words = line.split(|c| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match c {
            '\\' => is_escaped = !was_escaped,
            '"' if !was_escaped => is_quoted = !is_quoted,
            _ => {}
        }
        c == ' ' && !is_quoted
    });
    words.find(|word| *word == "-j")?;
    words.next()
}

/// See [`fuzzing`](crate::fuzzing::saved).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    let rule = line("CHAIN", &RuleInfo::parse(data));
    assert!(rule.starts_with("-A CHAIN"));
    let text = String::from_utf8_lossy(data);
    let without = without_comment(&text);
    assert!(without.len() <= text.len());
    assert!(text.contains(" -m comment --comment ") || without == text);
    let commented = format!("-A CHAIN {} -j ACCEPT", comment(&text.replace('\\', "")));
    assert_eq!(without_comment(&commented), "-A CHAIN -j ACCEPT");
    if let Some(target) = jump_target(&text) {
        assert!(text.contains(&format!("-j {target}")));
    }
    assert_eq!(jump_target(&format!("-A FORWARD {} -j CNI-1", comment(&text))), Some("CNI-1"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jump_target_skips_comments() {
        let line = r#"-A POSTROUTING -s 10.1.0.5/32 -m comment --comment "x" -j CNI-1"#;
        assert_eq!(jump_target(line), Some("CNI-1"));
        assert_eq!(jump_target("-A POSTROUTING -s 10.0.0.1/32"), None);
        let comment = comment(r#"was -j CNI-2, \ and " -j CNI-3 before"#);
        assert_eq!(jump_target(&format!("-A POSTROUTING {comment} -j ACCEPT")), Some("ACCEPT"));
    }

    #[test]
    fn without_comment_removes_quoted_and_plain_comments() {
        for (line, expected) in [
            ("-A F -s 10.0.0.1/32 -j ACCEPT", "-A F -s 10.0.0.1/32 -j ACCEPT"),
            (r#"-A F -m comment --comment "a -j b" -j C"#, "-A F -j C"),
            (r#"-A F -i a -m comment --comment "x \"y\" z" -j C"#, "-A F -i a -j C"),
            ("-A F -m comment --comment word -j C", "-A F -j C"),
        ] {
            assert_eq!(without_comment(line), expected);
        }
    }
}
