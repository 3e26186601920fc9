//! Instructions of classic BPF, for filters of sockets. Filters read numbers in network byte order.

pub(crate) const LOAD_WORD: u16 = 0x20;
pub(crate) const LOAD_HALF: u16 = 0x28;
pub(crate) const LOAD_BYTE: u16 = 0x30;
pub(crate) const LOAD_HALF_AT_X: u16 = 0x48;
pub(crate) const X_IS_IP_HEADER: u16 = 0xb1;
pub(crate) const JUMP_IF_EQUAL: u16 = 0x15;
pub(crate) const JUMP_IF_SET: u16 = 0x45;
pub(crate) const RETURN: u16 = 0x06;
