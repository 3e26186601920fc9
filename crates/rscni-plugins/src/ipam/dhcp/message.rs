//! Encoding of DHCP messages (RFC 2131, section 2, and RFC 2132).
//!
//! The input is untrusted: no message may cause a panic.

use std::net::Ipv4Addr;

use rscni_linux::MacAddr;

pub(crate) const SERVER_PORT: u16 = 67;
pub(crate) const CLIENT_PORT: u16 = 68;

/// Numbers of options (RFC 2132, 3397, 3442).
pub(crate) mod code {
    pub(crate) const PAD: u8 = 0;
    pub(crate) const SUBNET_MASK: u8 = 1;
    pub(crate) const ROUTERS: u8 = 3;
    pub(crate) const DOMAIN_NAME_SERVERS: u8 = 6;
    pub(crate) const HOST_NAME: u8 = 12;
    pub(crate) const DOMAIN_NAME: u8 = 15;
    pub(crate) const STATIC_ROUTES: u8 = 33;
    pub(crate) const REQUESTED_ADDRESS: u8 = 50;
    pub(crate) const LEASE_TIME: u8 = 51;
    pub(crate) const OVERLOAD: u8 = 52;
    pub(crate) const MESSAGE_TYPE: u8 = 53;
    pub(crate) const SERVER_IDENTIFIER: u8 = 54;
    pub(crate) const PARAMETER_REQUEST_LIST: u8 = 55;
    pub(crate) const MAXIMUM_SIZE: u8 = 57;
    pub(crate) const RENEWAL_TIME: u8 = 58;
    pub(crate) const REBINDING_TIME: u8 = 59;
    pub(crate) const VENDOR_CLASS: u8 = 60;
    pub(crate) const CLIENT_IDENTIFIER: u8 = 61;
    pub(crate) const USER_CLASS: u8 = 77;
    pub(crate) const DOMAIN_SEARCH: u8 = 119;
    pub(crate) const CLASSLESS_ROUTES: u8 = 121;
    pub(crate) const END: u8 = 255;
}

/// The message type (option 53).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Ack = 5,
    Nak = 6,
    Release = 7,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        let kinds =
            [Self::Discover, Self::Offer, Self::Request, Self::Ack, Self::Nak, Self::Release];
        kinds.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A message of a client or of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) xid: u32,
    /// Seconds since the client started.
    pub(crate) secs: u16,
    /// Whether servers shall broadcast their answers.
    pub(crate) broadcast: bool,
    /// The current address of the client.
    pub(crate) ciaddr: Ipv4Addr,
    /// The address for the client.
    pub(crate) yiaddr: Ipv4Addr,
    /// The client's hardware address.
    pub(crate) chaddr: MacAddr,
    /// The options without the message type.
    pub(crate) options: Options,
}

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET: u8 = 1;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const BROADCAST: u16 = 0x8000;
const SERVER_NAME: std::ops::Range<usize> = 44..108;
const BOOT_FILE: std::ops::Range<usize> = 108..236;
const OPTIONS: usize = 240;
/// Size of the smallest message that every relay forwards (RFC 1542, section 2.1).
const SMALLEST: usize = 300;

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SMALLEST);
        bytes.extend([if self.is_reply() { REPLY } else { REQUEST }, ETHERNET, 6, 0]);
        bytes.extend(self.xid.to_be_bytes());
        bytes.extend(self.secs.to_be_bytes());
        bytes.extend(if self.broadcast { BROADCAST } else { 0 }.to_be_bytes());
        bytes.extend(self.ciaddr.octets());
        bytes.extend(self.yiaddr.octets());
        bytes.extend([0; 8]);
        bytes.extend(self.chaddr.as_bytes());
        bytes.resize(OPTIONS - COOKIE.len(), 0);
        bytes.extend(COOKIE);
        bytes.extend([code::MESSAGE_TYPE, 1, self.kind as u8]);
        for (code, value) in &self.options.0 {
            // A long value is split into several options (RFC 3396). An empty one is one option.
            let mut parts = value.chunks(255);
            let first = parts.next().unwrap_or_default();
            for part in std::iter::once(first).chain(parts) {
                bytes.extend([*code, u8::try_from(part.len()).unwrap_or(u8::MAX)]);
                bytes.extend(part);
            }
        }
        bytes.push(code::END);
        bytes.resize(bytes.len().max(SMALLEST), code::PAD);
        bytes
    }

    /// Parses a message. Returns `None` if it is not a valid one for an Ethernet client.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let four = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
        let two = |at: usize| -> Option<u16> {
            Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
        };
        let (op, hardware, length) = (*bytes.first()?, *bytes.get(1)?, *bytes.get(2)?);
        if hardware != ETHERNET || length != 6 || four(OPTIONS - COOKIE.len())? != COOKIE {
            return None;
        }
        let mut options = Options::default();
        options.read(bytes.get(OPTIONS..)?)?;
        // Options can continue in the fields for names (RFC 2132, section 9.3).
        let overload = options
            .take(code::OVERLOAD)
            .and_then(|value| value.first().copied())
            .unwrap_or_default();
        for (bit, field) in [(1, BOOT_FILE), (2, SERVER_NAME)] {
            if overload & bit != 0 {
                options.read(bytes.get(field)?)?;
            }
        }
        // In those fields the option has no meaning.
        options.take(code::OVERLOAD);
        let [kind] = options.take(code::MESSAGE_TYPE)?[..] else { return None };
        let message = Self {
            kind: Kind::from_number(kind)?,
            xid: u32::from_be_bytes(four(4)?),
            secs: two(8)?,
            broadcast: two(10)? & BROADCAST != 0,
            ciaddr: four(12)?.into(),
            yiaddr: four(16)?.into(),
            chaddr: MacAddr::from_bytes(bytes.get(28..34)?)?,
            options,
        };
        (op == if message.is_reply() { REPLY } else { REQUEST }).then_some(message)
    }

    fn is_reply(&self) -> bool {
        matches!(self.kind, Kind::Offer | Kind::Ack | Kind::Nak)
    }
}

/// Ordered options of a message, each of them once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    pub(crate) fn set(&mut self, code: u8, value: impl Into<Vec<u8>>) {
        let value = value.into();
        match self.0.iter_mut().find(|(other, _)| *other == code) {
            Some((_, old)) => *old = value,
            None => self.0.push((code, value)),
        }
    }

    pub(crate) fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| *other == code).map(|(_, value)| value.as_slice())
    }

    pub(crate) fn address(&self, code: u8) -> Option<Ipv4Addr> {
        <[u8; 4]>::try_from(self.get(code)?).ok().map(Ipv4Addr::from)
    }

    pub(crate) fn addresses(&self, code: u8) -> impl Iterator<Item = Ipv4Addr> {
        self.get(code)
            .unwrap_or_default()
            .chunks_exact(4)
            .map(|four| Ipv4Addr::new(four[0], four[1], four[2], four[3]))
    }

    pub(crate) fn number(&self, code: u8) -> Option<u32> {
        self.address(code).map(u32::from)
    }

    fn take(&mut self, code: u8) -> Option<Vec<u8>> {
        let at = self.0.iter().position(|(other, _)| *other == code)?;
        Some(self.0.remove(at).1)
    }

    /// Parses the options of a field. Repeated options are parts of one value (RFC 3396). Returns
    /// `None` if an option is truncated.
    fn read(&mut self, mut bytes: &[u8]) -> Option<()> {
        while let [code, rest @ ..] = bytes {
            bytes = match *code {
                code::PAD => rest,
                code::END => return Some(()),
                code => {
                    let (length, rest) = rest.split_first()?;
                    let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                    match self.0.iter_mut().find(|(other, _)| *other == code) {
                        Some((_, old)) => old.extend(value),
                        None => self.0.push((code, value.to_vec())),
                    }
                    rest
                }
            };
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message() -> Message {
        let mut options = Options::default();
        options.set(code::SUBNET_MASK, [255, 255, 255, 0]);
        options.set(code::CLASSLESS_ROUTES, vec![7; 600]);
        options.set(code::USER_CLASS, []);
        Message {
            kind: Kind::Offer,
            xid: 0x1234_5678,
            secs: 3,
            broadcast: true,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::new(10, 0, 0, 7),
            chaddr: MacAddr([2, 0, 0, 0, 0, 1]),
            options,
        }
    }

    #[test]
    fn messages_are_decoded_as_encoded() {
        assert_eq!(Message::decode(&message().encode()).unwrap(), message());
        let small = Message { options: Options::default(), kind: Kind::Discover, ..message() };
        let bytes = small.encode();
        assert_eq!(bytes.len(), SMALLEST);
        assert_eq!(Message::decode(&bytes).unwrap(), small);
    }

    #[test]
    fn options_continue_in_the_fields_for_names() {
        let mut bytes = Message { options: Options::default(), ..message() }.encode();
        bytes[OPTIONS + 3..OPTIONS + 7].copy_from_slice(&[code::OVERLOAD, 1, 3, code::END]);
        // A nested overload option has no meaning.
        bytes[108..118].copy_from_slice(&[
            code::ROUTERS,
            4,
            10,
            0,
            0,
            1,
            code::OVERLOAD,
            1,
            3,
            code::END,
        ]);
        bytes[44..51].copy_from_slice(&[code::ROUTERS, 4, 10, 0, 0, 2, code::END]);
        let read = Message::decode(&bytes).unwrap();
        assert_eq!(
            read.options.addresses(code::ROUTERS).collect::<Vec<_>>(),
            [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]
        );
        assert_eq!(Message::decode(&read.encode()), Some(read));
    }

    #[test]
    fn truncated_and_invalid_messages_are_rejected() {
        let whole = message().encode();
        for length in 0..OPTIONS + 3 {
            assert_eq!(Message::decode(&whole[..length]), None, "{length}");
        }
        // Wrong direction, hardware type, cookie and message type.
        for (at, value) in [(0, 1), (1, 6), (2, 16), (236, 0), (OPTIONS + 2, 99), (OPTIONS + 1, 2)]
        {
            let mut bad = whole.clone();
            bad[at] = value;
            assert_eq!(Message::decode(&bad), None, "byte {at} is {value}");
        }
    }

    proptest! {
        #[test]
        fn no_input_causes_a_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..700),
            looks_real: bool,
        ) {
            if looks_real && bytes.len() > OPTIONS {
                bytes[..3].copy_from_slice(&[REPLY, ETHERNET, 6]);
                bytes[236..OPTIONS].copy_from_slice(&COOKIE);
            }
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()), Some(message));
            }
        }
    }
}
