//! The functions for D-Bus in [`fuzzing`](crate::fuzzing).

#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

use super::{
    address,
    message::{Header, MethodCall},
};

/// Decodes a message and an address of the bus, and encodes a call with strings of these bytes.
pub fn dbus(data: &[u8]) {
    if let Some((start, rest)) = data.split_first_chunk::<{ Header::LENGTH }>()
        && let Ok(header) = Header::decode(start)
        && let Ok(message) = header.message(start, rest)
    {
        assert!(message.text().is_err() || message.boolean().is_err(), "a value has one type");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = address::parse(text);
    let texts: Vec<&str> = text.split('\n').take(4).collect();
    let call = MethodCall {
        destination: texts[0],
        path: "/p",
        interface: "i.i",
        member: "m",
        arguments: &texts,
    };
    let Ok(bytes) = call.encode(7) else { return assert!(text.contains('\0')) };
    let (start, rest) = bytes.split_first_chunk().expect("a call has a header");
    let header = Header::decode(start).expect("an encoded header is valid");
    assert_eq!(header.rest, rest.len());
    let message = header.message(start, rest).expect("an encoded call is valid");
    let first = message.text().expect("the first argument is a string");
    assert_eq!((&*first, message.answers), (texts[0], None));
}
