//! Comments, stored where `nft` stores them: in userdata, which the kernel does not interpret.
//!
//! Userdata is a list of (type, length, value), with one byte each for type and length.

use crate::{Error, Result};

const COMMENT: u8 = 0;
/// The limit of `nft`.
const MAX_LENGTH: usize = 128;

/// Encodes a comment as userdata of a rule or element.
pub(super) fn comment(text: &str) -> Result<Vec<u8>> {
    if text.len() > MAX_LENGTH {
        return Err(Error::invalid(
            format!("comment {text:?}"),
            format!("longer than {MAX_LENGTH} bytes"),
        ));
    }
    if text.contains('\0') {
        return Err(Error::invalid(format!("comment {text:?}"), "contains a NUL byte"));
    }
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![COMMENT, length];
    bytes.extend(text.as_bytes());
    bytes.push(0);
    Ok(bytes)
}

/// Encodes an optional comment.
pub(super) fn some_comment(text: Option<&str>) -> Result<Option<Vec<u8>>> {
    text.map(comment).transpose()
}

/// Reads the comment in the userdata of a rule or element.
pub(super) fn read_comment(mut bytes: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = bytes {
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *kind == COMMENT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        bytes = rest;
    }
    None
}

/// Encodes a number, by which `nft` records the byte order of a set's keys.
pub(super) fn number(kind: u8, value: u32) -> Vec<u8> {
    let mut bytes = vec![kind, 4];
    bytes.extend(value.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comment_round_trips_in_the_format_of_nft() {
        let bytes = comment("net; id").unwrap();
        assert_eq!(bytes, b"\x00\x08net; id\x00");
        assert_eq!(read_comment(&bytes).as_deref(), Some("net; id"));
    }

    #[test]
    fn comment_is_found_after_other_userdata() {
        assert_eq!(read_comment(b"\x07\x01x\x00\x02a\x00").as_deref(), Some("a"));
        assert_eq!(read_comment(b"\x00\xffa"), None);
        assert_eq!(read_comment(b"\x07\x00"), None);
        assert_eq!(read_comment(b""), None);
    }

    #[test]
    fn long_comment_is_rejected() {
        assert!(comment(&"x".repeat(128)).is_ok());
        assert!(comment(&"x".repeat(129)).is_err());
        assert!(comment("a\0b").is_err());
    }
}
