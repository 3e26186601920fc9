//! Messages: a fixed header, typed header fields, and a body.
//!
//! Numbers have the byte order of the sender and are aligned to their size.

use std::io;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A method call whose arguments are strings.
#[derive(Debug)]
pub(crate) struct MethodCall<'a> {
    pub(crate) destination: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) member: &'a str,
    pub(crate) arguments: &'a [&'a str],
}

impl<'a> MethodCall<'a> {
    /// Creates a call to the bus itself.
    pub(super) fn to_bus(member: &'a str, arguments: &'a [&'a str]) -> Self {
        let (name, path) = ("org.freedesktop.DBus", "/org/freedesktop/DBus");
        Self { destination: name, path, interface: name, member, arguments }
    }

    /// Encodes the call. The reply refers to it by `serial`.
    pub(super) fn encode(&self, serial: u32) -> io::Result<Vec<u8>> {
        let mut body = Writer::default();
        for argument in self.arguments {
            body.text(argument)?;
        }
        let mut message = Writer(vec![b'l', METHOD_CALL, 0, 1]);
        message.number(length(body.0.len())?);
        message.number(serial);
        let mut fields = Writer::default();
        for (code, kind, text) in [
            (PATH, b'o', self.path),
            (INTERFACE, b's', self.interface),
            (MEMBER, b's', self.member),
            (DESTINATION, b's', self.destination),
        ] {
            fields.align(8);
            fields.0.extend([code, 1, kind, 0]);
            fields.text(text)?;
        }
        if !self.arguments.is_empty() {
            fields.align(8);
            fields.0.extend([SIGNATURE, 1, b'g', 0]);
            fields.signature(&"s".repeat(self.arguments.len()))?;
        }
        message.number(length(fields.0.len())?);
        // The header has 16 bytes, so alignment in the fields is alignment in the message.
        message.0.extend(fields.0);
        message.align(8);
        message.0.extend(body.0);
        Ok(message.0)
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        if text.contains('\0') {
            return Err(invalid("a string contains a NUL byte"));
        }
        self.number(length(text.len())?);
        self.terminated(text);
        Ok(())
    }

    fn signature(&mut self, text: &str) -> io::Result<()> {
        self.0.push(u8::try_from(text.len()).map_err(|_| invalid("too many arguments"))?);
        self.terminated(text);
        Ok(())
    }

    fn terminated(&mut self, text: &str) {
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }
}

fn length(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_| invalid("a string is too long"))
}

/// The fixed header of a received message.
#[derive(Debug)]
pub(super) struct Header {
    is_big_endian: bool,
    kind: u8,
    fields: usize,
    /// The number of bytes that follow: fields, padding and body.
    pub(super) rest: usize,
}

impl Header {
    pub(super) const LENGTH: usize = 16;

    pub(super) fn decode(start: &[u8; Self::LENGTH]) -> io::Result<Self> {
        let is_big_endian = match start[0] {
            b'l' => false,
            b'B' => true,
            _ => return Err(invalid("the bus sent an invalid message")),
        };
        let mut reader = Reader { bytes: start, at: 4, is_big_endian };
        let (body, _serial, fields) = (reader.length()?, reader.number()?, reader.length()?);
        let rest = fields.checked_next_multiple_of(8).and_then(|padded| padded.checked_add(body));
        let rest = rest.ok_or_else(|| invalid("a message of the bus is too long"))?;
        Ok(Self { is_big_endian, kind: start[1], fields, rest })
    }

    /// Decodes the message from the header and the bytes that follow it.
    pub(super) fn message(&self, start: &[u8; Self::LENGTH], rest: &[u8]) -> io::Result<Message> {
        let bytes = [&start[..], rest].concat();
        let end = Self::LENGTH + self.fields;
        let mut message = Message {
            answers: None,
            error: None,
            signature: String::new(),
            body: bytes.get(end.next_multiple_of(8)..).unwrap_or_default().to_vec(),
            is_big_endian: self.is_big_endian,
        };
        let mut error_name = None;
        let mut reader =
            Reader { bytes: &bytes, at: Self::LENGTH, is_big_endian: self.is_big_endian };
        while reader.at < end {
            reader.align(8);
            let code = reader.byte()?;
            match (code, reader.signature()?.as_str()) {
                (REPLY_SERIAL, "u") => message.answers = Some(reader.number()?),
                (ERROR_NAME, "s") => error_name = Some(reader.text()?),
                (SIGNATURE, "g") => message.signature = reader.signature()?,
                (_, "s" | "o") => drop(reader.text()?),
                (_, "g") => drop(reader.signature()?),
                (_, "u") => drop(reader.number()?),
                _ => return Err(invalid("a message of the bus has a field of an unknown type")),
            }
        }
        match self.kind {
            METHOD_RETURN => {}
            ERROR => {
                message.error = Some(error_name.unwrap_or_else(|| "error without a name".into()));
            }
            // Signals and calls are not replies.
            _ => message.answers = None,
        }
        Ok(message)
    }
}

/// A received message.
#[derive(Debug)]
pub(crate) struct Message {
    /// The serial number of the call, if this is the reply to one.
    pub(super) answers: Option<u32>,
    pub(super) error: Option<String>,
    signature: String,
    body: Vec<u8>,
    is_big_endian: bool,
}

impl Message {
    /// Returns the first value, which must be a string.
    pub(super) fn text(&self) -> io::Result<String> {
        self.body('s')?.text()
    }

    /// Returns the first value, which must be a boolean.
    pub(crate) fn boolean(&self) -> io::Result<bool> {
        Ok(self.body('b')?.number()? != 0)
    }

    fn body(&self, wanted: char) -> io::Result<Reader<'_>> {
        if !self.signature.starts_with(wanted) {
            let signature = &self.signature;
            return Err(invalid(format!("a reply has type {signature:?}, not {wanted:?}")));
        }
        Ok(Reader { bytes: &self.body, at: 0, is_big_endian: self.is_big_endian })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    is_big_endian: bool,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let end = self.at.checked_add(count);
        let taken = end
            .and_then(|end| self.bytes.get(self.at..end))
            .ok_or_else(|| invalid("a message is truncated"))?;
        self.at += count;
        Ok(taken)
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> io::Result<u32> {
        self.align(4);
        let bytes = self.take(4)?.first_chunk().copied().unwrap_or_default();
        Ok(if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn length(&mut self) -> io::Result<usize> {
        self.number().map(|length| length as usize)
    }

    fn text(&mut self) -> io::Result<String> {
        let length = self.length()?;
        self.terminated(length)
    }

    fn signature(&mut self) -> io::Result<String> {
        let length = self.byte()?.into();
        self.terminated(length)
    }

    fn terminated(&mut self, length: usize) -> io::Result<String> {
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(text)
    }
}

pub(super) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_has_aligned_fields_and_then_its_arguments() {
        let bytes = MethodCall {
            destination: "d.d",
            path: "/p",
            interface: "i.i",
            member: "m",
            arguments: &["ab", "c"],
        }
        .encode(7)
        .unwrap();
        let expected: &[&[u8]] = &[
            &[b'l', 1, 0, 1, 14, 0, 0, 0, 7, 0, 0, 0, 72, 0, 0, 0],
            b"\x01\x01o\0\x02\0\0\0/p\0\0\0\0\0\0",
            b"\x02\x01s\0\x03\0\0\0i.i\0\0\0\0\0",
            b"\x03\x01s\0\x01\0\0\0m\0\0\0\0\0\0\0",
            b"\x06\x01s\0\x03\0\0\0d.d\0\0\0\0\0",
            b"\x08\x01g\0\x02ss\0",
            b"\x02\0\0\0ab\0\0\x01\0\0\0c\0",
        ];
        assert_eq!(bytes, expected.concat());
    }

    /// Encodes and decodes a reply in either byte order.
    fn reply(
        kind: u8,
        big: bool,
        error: Option<&str>,
        signature: &str,
        body: &[u8],
    ) -> io::Result<Message> {
        let number = |n: usize| {
            let n = u32::try_from(n).unwrap();
            if big { n.to_be_bytes() } else { n.to_le_bytes() }
        };
        let mut fields = [&[5, 1, b'u', 0][..], &number(42)].concat();
        if let Some(error) = error {
            let length = number(error.len());
            fields.extend([&[4, 1, b's', 0][..], &length, error.as_bytes(), &[0]].concat());
            fields.resize(fields.len().next_multiple_of(8), 0);
        }
        fields.extend([8, 1, b'g', 0, u8::try_from(signature.len()).unwrap()]);
        fields.extend(signature.as_bytes());
        fields.push(0);
        let order = if big { b'B' } else { b'l' };
        let lengths = [body.len(), 9, fields.len()].map(number).concat();
        let start = [&[order, kind, 0, 1][..], &lengths].concat().try_into().unwrap();
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend(body);
        let header = Header::decode(&start)?;
        assert_eq!(header.rest, fields.len());
        header.message(&start, &fields)
    }

    #[test]
    fn replies_of_both_byte_orders_are_decoded() {
        let little = reply(METHOD_RETURN, false, None, "b", &[1, 0, 0, 0]).unwrap();
        assert_eq!((little.answers, little.boolean().unwrap()), (Some(42), true));
        let big = reply(METHOD_RETURN, true, None, "s", b"\0\0\0\x02ok\0").unwrap();
        assert_eq!((big.answers, big.text().unwrap()), (Some(42), "ok".into()));
        assert!(big.boolean().is_err());
    }

    #[test]
    fn error_reply_has_a_name_and_a_message() {
        let message = reply(ERROR, false, Some("org.x.Error"), "s", b"\x03\0\0\0why\0").unwrap();
        assert_eq!(
            (message.error.as_deref(), message.text().unwrap()),
            (Some("org.x.Error"), "why".into())
        );
    }

    #[test]
    fn signal_is_not_a_reply() {
        assert_eq!(reply(4, false, None, "s", b"\x01\0\0\0x\0").unwrap().answers, None);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_are_decoded_or_rejected(
            kind in 0..5_u8,
            order in proptest::sample::select(&[b'l', b'B'][..]),
            fields in 0..200_u32,
            bytes in proptest::collection::vec(0..20_u8, 0..200),
        ) {
            let mut start = [0; Header::LENGTH];
            (start[0], start[1]) = (order, kind);
            let (little, big) = (fields.to_le_bytes(), fields.to_be_bytes());
            start[12..].copy_from_slice(if order == b'l' { &little } else { &big });
            let header = Header::decode(&start);
            if let Ok(message) = header.and_then(|header| header.message(&start, &bytes)) {
                let _ = (message.text(), message.boolean());
            }
        }
    }

    #[test]
    fn malformed_messages_are_errors() {
        assert!(Header::decode(&[b'x'; 16]).is_err());
        let mut start = [0xff; 16];
        start[0] = b'l';
        let header = Header::decode(&start).unwrap();
        assert!(header.message(&start, &[0xff; 40]).is_err());
        assert!(reply(METHOD_RETURN, false, None, "s", b"\xff\0\0\0x\0").unwrap().text().is_err());
        assert!(reply(METHOD_RETURN, false, None, "s", b"").unwrap().text().is_err());
    }
}
