//! Dumps of kernel objects, attribute by attribute, as bytes.
//!
//! It does not use `rscni-linux`: the list of leftovers must not depend on the code of the plugin,
//! and must include kinds of rules and links that `rscni-linux` does not know.

use std::{collections::BTreeMap, fmt::Write, io};

use netlink_sys::Socket;

const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST_DUMP: u16 = 0x301;
const DUMP_INTERRUPTED: u16 = 0x10;
/// Flag bits of an attribute's type.
const LAYOUT_BITS: u16 = 0xc000;

/// Dumps objects in the calling thread's namespace. Returns the messages without their netlink
/// header.
pub(crate) fn dump(protocol: isize, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = Socket::new(protocol)?;
    // The kernel marks a dump during which something changed, since it may be incomplete.
    for _ in 0..100 {
        if let Some(messages) = attempt(&socket, kind, body)? {
            return Ok(messages);
        }
    }
    Err(io::Error::other("the network changes too fast to be listed"))
}

fn attempt(socket: &Socket, kind: u16, body: &[u8]) -> io::Result<Option<Vec<Vec<u8>>>> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or_default();
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    socket.send(&request, 0)?;
    let (mut messages, mut complete) = (Vec::new(), true);
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while let Some((message, kind, flags, after)) = split(rest) {
            rest = after;
            complete &= flags & DUMP_INTERRUPTED == 0;
            match kind {
                DONE => return Ok(complete.then_some(messages)),
                ERROR => return Err(refusal(message)),
                _ => messages.push(message.to_vec()),
            }
        }
    }
}

/// The first message's body, type and flags, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], u16, u16, &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let message = bytes.get(HEADER..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((message, u16_at(bytes, 4)?, u16_at(bytes, 6)?, rest))
}

fn refusal(message: &[u8]) -> io::Error {
    let code = u32_at(message, 0).unwrap_or_default();
    io::Error::from_raw_os_error(code.wrapping_neg().cast_signed())
}

/// Attributes by their type without the flag bits.
pub(crate) type Attributes<'a> = BTreeMap<u16, &'a [u8]>;

/// Reads the attributes in `bytes`, the last one of each type.
pub(crate) fn attributes(bytes: &[u8]) -> Attributes<'_> {
    list(bytes).into_iter().collect()
}

/// Reads the attributes in `bytes`, in order.
pub(crate) fn list(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) {
        let length = usize::from(length);
        let Some(value) = bytes.get(4..length) else {
            break;
        };
        found.push((kind & !LAYOUT_BITS, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Encodes an attribute for a request.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads an attribute of nftables, which are in network byte order.
pub(crate) fn be_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

pub(crate) fn be_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}

/// A string attribute, without the zero at its end.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// Formats bytes as hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
