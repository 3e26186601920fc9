//! The part of the message bus in [`fuzzing`](crate::fuzzing).

#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

use super::{
    address,
    message::{Call, Header},
};

/// A message of the bus, and a call with texts of these bytes; and an address of a bus.
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
    let call = Call {
        destination: texts[0],
        path: "/p",
        interface: "i.i",
        member: "m",
        arguments: &texts,
    };
    let Ok(bytes) = call.encode(7) else { return assert!(text.contains('\0')) };
    let (start, rest) = bytes.split_first_chunk().expect("a call has a start");
    let header = Header::decode(start).expect("what was written is read");
    assert_eq!(header.rest, rest.len());
    let message = header.message(start, rest).expect("what was written is read");
    assert_eq!(
        (message.text().expect("its first argument"), message.answers),
        (texts[0].to_owned(), None)
    );
}
