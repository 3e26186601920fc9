//! Verdicts.

use crate::netlink::{AttributeBuf, Value, nul_terminated};

const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

/// The decision on a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Accepts the packet.
    Accept,
    /// Drops the packet.
    Drop,
    /// Returns to the calling chain.
    Return,
    /// Calls another chain.
    Jump(String),
    /// Continues in another chain, without returning.
    Goto(String),
}

impl Verdict {
    fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
        }
    }

    fn from_code(code: i32, chain: Option<String>) -> Option<Self> {
        Some(match (code, chain) {
            (0, _) => Self::Drop,
            (1, _) => Self::Accept,
            (-3, Some(chain)) => Self::Jump(chain),
            (-4, Some(chain)) => Self::Goto(chain),
            (-5, _) => Self::Return,
            _ => return None,
        })
    }
}

/// Encodes a verdict where the kernel expects a value or a verdict.
pub(super) fn verdict_data(verdict: &Verdict) -> AttributeBuf {
    let chain = match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(nul_terminated(chain)),
        _ => None,
    };
    let attributes = AttributeBuf::new()
        .with(NFTA_VERDICT_CODE, verdict.code().to_be_bytes())
        .with_some(NFTA_VERDICT_CHAIN, chain);
    AttributeBuf::new().with_nested(NFTA_DATA_VERDICT, attributes)
}

pub(super) fn read_verdict(value: Value<'_>) -> Option<Verdict> {
    let verdict = value.nested().value(NFTA_DATA_VERDICT)?;
    let mut code = None;
    let mut chain = None;
    for (kind, value) in verdict.nested() {
        match kind {
            NFTA_VERDICT_CODE => code = Some(value.i32_be()),
            NFTA_VERDICT_CHAIN => chain = Some(value.string()),
            _ => {}
        }
    }
    Verdict::from_code(code?, chain)
}
