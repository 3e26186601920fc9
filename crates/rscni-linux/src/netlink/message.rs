//! Messages to the kernel: a header of fixed length, then attributes.

use std::net::IpAddr;

/// Flags of requests and answers (`linux/netlink.h`).
pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_ECHO: u16 = 0x8;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
pub(crate) const NLM_F_CAPPED: u16 = 0x100;
pub(crate) const NLM_F_ACK_TLVS: u16 = 0x200;

pub(crate) const NLA_F_NESTED: u16 = 0x8000;
/// Length and type of an attribute.
const ATTRIBUTE_HEADER: usize = 4;
pub(super) const ALIGNMENT: usize = 4;

/// A message without its `nlmsghdr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// The message type, such as `RTM_NEWLINK`.
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

impl Message {
    /// Creates a message from its fixed header and attributes.
    pub(crate) fn new(kind: u16, header: &[u8], attributes: &AttributeBuf) -> Self {
        Self { kind, payload: [header, attributes.as_ref()].concat() }
    }
}

/// Encoded attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AttributeBuf(Vec<u8>);

impl AttributeBuf {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Appends an attribute.
    #[must_use]
    pub(crate) fn with(mut self, kind: u16, value: impl AsRef<[u8]>) -> Self {
        self.push(kind, value.as_ref());
        self
    }

    /// Appends an attribute if there is a value for it.
    #[must_use]
    pub(crate) fn with_some(self, kind: u16, value: Option<impl AsRef<[u8]>>) -> Self {
        match value {
            Some(value) => self.with(kind, value),
            None => self,
        }
    }

    /// Appends text with its NUL.
    #[must_use]
    pub(crate) fn with_text(self, kind: u16, text: &str) -> Self {
        self.with(kind, nul_terminated(text))
    }

    /// Appends a number in network byte order, as nftables expects them.
    #[must_use]
    pub(crate) fn with_be(self, kind: u16, number: u32) -> Self {
        self.with(kind, number.to_be_bytes())
    }

    /// Appends an attribute that contains attributes.
    #[must_use]
    pub(crate) fn with_nested(self, kind: u16, attributes: impl AsRef<[u8]>) -> Self {
        self.with(kind | NLA_F_NESTED, attributes)
    }

    pub(crate) fn push(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl AsRef<[u8]> for AttributeBuf {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

pub(crate) fn nul_terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// Returns the 4 or 16 bytes of an address.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
