//! Values that fields are compared with and looked up by, in the byte order of the field.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::MacAddr;

const IFNAMSIZ: usize = 16;

/// A value of a field, or a concatenation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Value {
    pub(super) bytes: Vec<u8>,
    /// The padded lengths of concatenated values; empty for a single value.
    pub(super) parts: Vec<usize>,
}

impl Value {
    /// Creates an interface name for `iifname` and `oifname`, compared exactly.
    pub fn ifname(name: &str) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(bytes.len().max(IFNAMSIZ), 0);
        Self::bytes(bytes)
    }

    /// Creates a port.
    pub fn port(port: u16) -> Self {
        Self::bytes(port.to_be_bytes())
    }

    /// Creates a number of one byte: IP protocol (6 TCP, 17 UDP, 132 SCTP) or `nfproto` (2 IPv4, 10
    /// IPv6).
    pub fn byte(number: u8) -> Self {
        Self::bytes([number])
    }

    /// Creates an Ethernet type: 0x0800 IPv4, 0x86dd IPv6, 0x0806 ARP.
    pub fn ether_type(number: u16) -> Self {
        Self::bytes(number.to_be_bytes())
    }

    /// Creates a number of four bytes in host byte order: mark, interface index, address type.
    pub fn number(number: u32) -> Self {
        Self::bytes(number.to_ne_bytes())
    }

    /// Creates a value from the bytes of a packet.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), parts: Vec::new() }
    }

    /// Returns the bytes, as in the kernel.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Concatenates values, as `10.1.0.2 . 80`: each is padded to four bytes.
    pub fn concat(values: impl IntoIterator<Item = Self>) -> Self {
        let mut joined = Self::bytes([]);
        for value in values {
            joined.bytes.extend(value.bytes);
            let padded = joined.bytes.len().next_multiple_of(4);
            joined.parts.push(padded - joined.parts.iter().sum::<usize>());
            joined.bytes.resize(padded, 0);
        }
        joined
    }

    /// Returns the next value, or `None` after the last.
    pub(super) fn next(&self) -> Option<Self> {
        let mut next = self.clone();
        for byte in next.bytes.iter_mut().rev() {
            let (sum, carried) = byte.overflowing_add(1);
            *byte = sum;
            if !carried {
                return Some(next);
            }
        }
        None
    }
}

impl From<Ipv4Addr> for Value {
    fn from(address: Ipv4Addr) -> Self {
        Self::bytes(address.octets())
    }
}

impl From<Ipv6Addr> for Value {
    fn from(address: Ipv6Addr) -> Self {
        Self::bytes(address.octets())
    }
}

impl From<IpAddr> for Value {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<MacAddr> for Value {
    fn from(mac: MacAddr) -> Self {
        Self::bytes(*mac.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenated_values_are_padded_to_four_bytes() {
        let key = Value::concat([
            Value::byte(6),
            Value::from(Ipv4Addr::new(10, 0, 0, 1)),
            Value::port(80),
        ]);
        assert_eq!(key.bytes, [6, 0, 0, 0, 10, 0, 0, 1, 0, 80, 0, 0]);
        assert_eq!(key.parts, [4, 4, 4]);
        let key = Value::concat([Value::from(MacAddr([1, 2, 3, 4, 5, 6])), Value::port(80)]);
        assert_eq!(key.parts, [8, 4]);
    }

    #[test]
    fn next_value_carries() {
        let value = Value::from(Ipv4Addr::new(10, 0, 0, 255));
        assert_eq!(value.next(), Some(Ipv4Addr::new(10, 0, 1, 0).into()));
        assert_eq!(Value::from(Ipv4Addr::BROADCAST).next(), None);
    }
}
