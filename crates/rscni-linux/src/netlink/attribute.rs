//! Reading attributes: unknown ones are skipped.

use std::net::IpAddr;

/// The two highest bits of an attribute's type are flags (nested, network byte order).
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 4;

/// Iterates over the attributes after a header of `header` bytes. A truncated attribute ends the
/// list.
pub(crate) fn attributes(payload: &[u8], header: usize) -> Attributes<'_> {
    Attributes(payload.get(header..).unwrap_or_default())
}

/// See [`attributes`].
#[derive(Debug, Clone)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Returns the value of the first attribute of this type.
    pub(crate) fn value(mut self, wanted: u16) -> Option<Value<'a>> {
        self.find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }

    /// Collects attributes into a value: `set` is called for each.
    pub(crate) fn read<T: Default>(self, mut set: impl FnMut(&mut T, u16, Value<'a>)) -> T {
        let mut read = T::default();
        self.for_each(|(kind, value)| set(&mut read, kind, value));
        read
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let [l0, l1, k0, k1] = *self.0.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & TYPE_MASK, Value(value)))
    }
}

/// Numbers in host byte order, and in network byte order, which nftables uses.
macro_rules! numbers {
    ($(fn $name:ident() -> $type:ident = $decode:ident;)*) => {
        $(pub(crate) fn $name(self) -> $type {
            $type::$decode(self.array())
        })*
    };
}

/// The value of one attribute.
///
/// A number of the wrong length reads as zero; the kernel does not send such.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value<'a>(pub(crate) &'a [u8]);

impl<'a> Value<'a> {
    fn array<const N: usize>(self) -> [u8; N] {
        self.0.first_chunk().copied().unwrap_or([0; N])
    }

    numbers! {
        fn u8() -> u8 = from_ne_bytes;
        fn u16() -> u16 = from_ne_bytes;
        fn u32() -> u32 = from_ne_bytes;
        fn i32() -> i32 = from_ne_bytes;
        fn u64() -> u64 = from_ne_bytes;
        fn u16_be() -> u16 = from_be_bytes;
        fn u32_be() -> u32 = from_be_bytes;
        fn i32_be() -> i32 = from_be_bytes;
        fn u64_be() -> u64 = from_be_bytes;
    }

    pub(crate) fn bool(self) -> bool {
        self.u8() != 0
    }

    /// Returns the text up to its NUL. Names in the kernel are bytes; invalid UTF-8 is replaced.
    pub(crate) fn string(self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0);
        String::from_utf8_lossy(&self.0[..end.unwrap_or(self.0.len())]).into_owned()
    }

    /// Returns an IPv4 or IPv6 address, depending on the length.
    pub(crate) fn ip(self) -> Option<IpAddr> {
        if let Ok(v4) = <[u8; 4]>::try_from(self.0) {
            return Some(v4.into());
        }
        <[u8; 16]>::try_from(self.0).ok().map(IpAddr::from)
    }

    /// Returns the bytes after the first `skipped`.
    pub(crate) fn rest(self, skipped: usize) -> Self {
        Self(self.0.get(skipped..).unwrap_or_default())
    }

    pub(crate) fn nested(self) -> Attributes<'a> {
        attributes(self.0, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_parsed_without_padding_and_flags() {
        let bytes = [
            5, 0, 1, 0x80, 7, 0, 0, 0, // type 1, nested flag, one byte and three of padding
            8, 0, 2, 0, 1, 2, 3, 4,
        ];
        let read: Vec<(u16, &[u8])> = attributes(&bytes, 0).map(|(k, v)| (k, v.0)).collect();
        assert_eq!(read, [(1, &[7][..]), (2, &[1, 2, 3, 4][..])]);
    }

    #[test]
    fn truncated_attribute_ends_the_list() {
        assert_eq!(attributes(&[8, 0, 1, 0, 1], 0).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0, 1], 0).count(), 0);
        assert_eq!(attributes(&[1], 0).count(), 0);
        assert_eq!(attributes(&[1], 16).count(), 0);
    }

    #[test]
    fn text_ends_at_nul() {
        assert_eq!(Value(b"eth0\0\0").string(), "eth0");
        assert_eq!(Value(b"eth0").string(), "eth0");
    }
}
