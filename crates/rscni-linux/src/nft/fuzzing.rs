//! Fuzzing entry points of nftables, see [`fuzzing`](crate::fuzzing).

#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

use super::{ChainInfo, Data, RuleInfo, Verdict, list::elements, userdata, verdict};
use crate::netlink::{Value, attributes};

/// Parses a message as a chain, a rule and elements.
pub fn nft(data: &[u8]) {
    let _ = ChainInfo::parse(data);
    let rule = RuleInfo::parse(data);
    check_comment(rule.comment.as_deref());
    for expression in &rule.expressions {
        for (kind, value) in attributes(&expression.attributes, 0) {
            let found = expression.attribute(&[kind]).expect("what is listed is found");
            // A type may occur more than once.
            assert!(
                found == value.0
                    || attributes(&expression.attributes, 0).filter(|(k, _)| *k == kind).count()
                        > 1
            );
            let inner = value.nested().next().map(|(inner, _)| inner);
            let _ = (
                expression.number(&[kind]),
                expression.text(&[kind]),
                expression.attribute(&[kind, inner.unwrap_or(1)]),
            );
        }
    }
    if let Some(Verdict::Jump(chain) | Verdict::Goto(chain)) = &rule.verdict {
        assert!(rule.jump_target.as_ref() == Some(chain));
    }
    rule.verdict.iter().for_each(check_verdict);
    for element in elements(data) {
        check_comment(element.comment.as_deref());
        if let Some(Data::Verdict(verdict)) = &element.data {
            check_verdict(verdict);
        }
    }
    let comment = userdata::read_comment(data);
    check_comment(comment.as_deref());
}

/// Checks that a valid comment encodes to what was read.
fn check_comment(comment: Option<&str>) {
    let Some((comment, Ok(bytes))) = comment.map(|comment| (comment, userdata::comment(comment)))
    else {
        return;
    };
    assert_eq!(userdata::read_comment(&bytes).as_deref(), Some(comment));
}

fn check_verdict(verdict: &Verdict) {
    let written = verdict::verdict_data(verdict);
    assert_eq!(verdict::read_verdict(Value(written.as_ref())).as_ref(), Some(verdict));
}
