//! Routing rules, as `ip rule` lists and changes them.

use ipnet::IpNet;
use libc::{RT_TABLE_UNSPEC, RTM_DELRULE, RTM_GETRULE, RTM_NEWRULE, RTPROT_BOOT};
use rustix::io::Errno;

use super::{
    AttributeBuf, Family, Message, NLM_F_CREATE, NLM_F_EXCL, Netlink, Request, attributes, octets,
};
use crate::Result;

const HEADER: usize = 12;
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TUN_ID: u16 = 12;
const FRA_TABLE: u16 = 15;
const FRA_OIFNAME: u16 = 17;
const FRA_L3MDEV: u16 = 19;
const FRA_UID_RANGE: u16 = 20;
const FRA_PROTOCOL: u16 = 21;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;

const FR_ACT_TO_TBL: u8 = 1;
const FIB_RULE_INVERT: u32 = 2;

/// A rule that selects a table by source: `ip rule add from SRC lookup TABLE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Source; `0.0.0.0/0` or `::/0` matches the whole family.
    pub src: IpNet,
    /// Table.
    pub table: u32,
    /// Priority; the lowest comes first. By default the rule precedes all others except that of
    /// `local`.
    pub priority: Option<u32>,
    /// Whether it has other selectors or another action. Such a rule is listed only; it cannot be
    /// added or removed here.
    pub has_more: bool,
}

impl Rule {
    /// Creates the rule `from SRC lookup TABLE`.
    pub fn new(src: impl Into<IpNet>, table: u32) -> Self {
        Self { src: src.into(), table, priority: None, has_more: false }
    }

    fn message(&self, kind: u16, protocol: Option<u8>) -> Message {
        let (family, prefix_len) = (Family::of(&self.src.addr()).number(), self.src.prefix_len());
        // Larger numbers do not fit into the header; the attribute takes precedence.
        let table = u8::try_from(self.table).unwrap_or(RT_TABLE_UNSPEC);
        let header = [family, 0, prefix_len, 0, table, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
        let src = (prefix_len > 0).then(|| octets(self.src.network()));
        let attributes = AttributeBuf::new()
            .with_some(FRA_SRC, src)
            .with_some(FRA_PRIORITY, self.priority.map(u32::to_ne_bytes))
            .with(FRA_TABLE, self.table.to_ne_bytes())
            .with_some(FRA_PROTOCOL, protocol.map(|protocol| [protocol]));
        Message::new(kind, &header, &attributes)
    }

    fn describe(&self, verb: &str) -> String {
        format!("{verb} rule from {} lookup {}", self.src, self.table)
    }

    /// Returns `None` for other families than IPv4 and IPv6.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let [family, dst_len, src_len, tos, table, _, _, action, f0, f1, f2, f3] =
            *payload.first_chunk::<HEADER>()?;
        let mut src = Family::from_number(family)?.everything().addr();
        let is_inverted = u32::from_ne_bytes([f0, f1, f2, f3]) & FIB_RULE_INVERT != 0;
        let mut has_more = dst_len != 0 || tos != 0 || action != FR_ACT_TO_TBL || is_inverted;
        let mut table = u32::from(table);
        // The kernel omits a priority of zero.
        let mut priority = 0;
        for (kind, value) in attributes(payload, HEADER) {
            match kind {
                FRA_SRC => src = value.ip()?,
                FRA_PRIORITY => priority = value.u32(),
                FRA_TABLE => table = value.u32(),
                FRA_DST | FRA_IIFNAME | FRA_OIFNAME | FRA_UID_RANGE | FRA_SPORT_RANGE
                | FRA_DPORT_RANGE => {
                    has_more = true;
                }
                FRA_FWMARK => has_more |= value.u32() != 0,
                FRA_TUN_ID | FRA_L3MDEV | FRA_IP_PROTO => {
                    has_more |= value.0.iter().any(|byte| *byte != 0);
                }
                _ => {}
            }
        }
        Some(Self {
            src: IpNet::new(src, src_len).ok()?,
            table,
            priority: Some(priority),
            has_more,
        })
    }
}

impl Request {
    /// See [`Netlink::add_rule`].
    #[must_use]
    pub fn add_rule(rule: &Rule) -> Self {
        let message = rule.message(RTM_NEWRULE, Some(RTPROT_BOOT));
        Self::new(message, NLM_F_CREATE | NLM_F_EXCL, rule.describe("add"))
    }

    /// See [`Netlink::del_rule`].
    #[must_use]
    pub fn del_rule(rule: &Rule) -> Self {
        Self::new(rule.message(RTM_DELRULE, None), 0, rule.describe("remove"))
    }
}

impl Netlink {
    /// Lists all rules of the namespace: IPv4, then IPv6, each by priority.
    pub fn rules(&mut self) -> Result<Vec<Rule>> {
        let mut rules = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut header = [0; HEADER];
            header[0] = family.number();
            let message = Message::new(RTM_GETRULE, &header, &AttributeBuf::new());
            let listed =
                self.socket.dump("list rules", &message, |payload| Ok(Rule::parse(payload)));
            match listed {
                Ok(listed) => rules.extend(listed),
                // The kernel does not support IPv6.
                Err(error) if error.is_unsupported() || error.has_errno(Errno::AFNOSUPPORT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(rules)
    }
}
