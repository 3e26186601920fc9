//! Rules of iptables as lines of `iptables-save`, without their comments.
//!
//! So a rule of this plugin can be recognised wherever iptables keeps it: in the old kernel tables, whose tools print
//! these lines, or in nftables, where a rule is a row of expressions. Of those only what this plugin's rules are made
//! of is understood; anything else shows as `?`, and so is none of them.

use ipnet::IpNet;
use rscni_linux::nft::{RawExpression, RuleInfo, Verdict};

use crate::netfilter::nftable::address;

/// The line of a rule in nftables.
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

/// The option for the address that is loaded, whole, from the network header.
pub(crate) fn address_option(payload: &RawExpression) -> &'static str {
    const NETWORK_HEADER: u32 = 1;
    let number = |kind| payload.number(&[kind]);
    match (number(2), number(3), number(4)) {
        (Some(NETWORK_HEADER), Some(12), Some(4)) | (Some(NETWORK_HEADER), Some(8), Some(16)) => {
            "-s"
        }
        (Some(NETWORK_HEADER), Some(16), Some(4)) | (Some(NETWORK_HEADER), Some(24), Some(16)) => {
            "-d"
        }
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
        // A name that does not end with its NUL is the start of names.
        "-i" | "-o" if value.ends_with(&[0]) => cmp.text(&[3, 1]),
        _ => None,
    };
    format!("{not} {option} {}", value.as_deref().unwrap_or("?"))
}

/// A match that the kernel has from the old tables: its name and its own structure.
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
        None => " ?".into(),
    }
}

/// A line of `iptables-save` without its comment.
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

/// See [`fuzzing`](crate::fuzzing::saved).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    let rule = line("CHAIN", &RuleInfo::parse(data));
    assert!(rule.starts_with("-A CHAIN"));
    let text = String::from_utf8_lossy(data);
    let without = without_comment(&text);
    assert!(without.len() <= text.len());
    assert!(text.contains(" -m comment --comment ") || without == text);
    let commented = format!(
        "-A CHAIN {} -j ACCEPT",
        crate::netfilter::iptables::comment(&text.replace('\\', ""))
    );
    assert_eq!(without_comment(&commented), "-A CHAIN -j ACCEPT");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_left_out_quoted_or_not() {
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
