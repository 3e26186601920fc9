//! What packet sockets need: the address of an interface, and the checksum of what is written whole.

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

pub(crate) use self::address::PacketAddress;

/// The one address type that rustix does not have.
mod address {
    #![allow(
        unsafe_code,
        reason = "rustix takes other socket addresses only through an unsafe trait, and none of its own is a packet address"
    )]

    use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

    use crate::MacAddr;

    /// `struct sockaddr_ll`: an interface and, where the kernel is to write the link's header, what belongs into it.
    #[repr(C)]
    #[derive(Default)]
    pub(crate) struct PacketAddress {
        family: u16,
        protocol: u16,
        index: u32,
        hardware: u16,
        kind: u8,
        length: u8,
        address: [u8; 8],
    }

    impl PacketAddress {
        /// The interface that a frame leaves by. The rest is in the frame.
        pub(crate) fn of_frame(index: u32) -> Self {
            Self { family: rustix::net::AddressFamily::PACKET.as_raw(), index, ..Self::default() }
        }

        /// The interface for packets of this Ethernet type, to listen to them.
        pub(crate) fn of_protocol(index: u32, ethernet_type: u16) -> Self {
            Self { protocol: ethernet_type.to_be(), ..Self::of_frame(index) }
        }

        /// A station behind the interface, to send it packets of this Ethernet type.
        pub(crate) fn of_station(index: u32, ethernet_type: u16, mac: MacAddr) -> Self {
            let mut address = [0; 8];
            address[..6].copy_from_slice(mac.as_bytes());
            Self { length: 6, address, ..Self::of_protocol(index, ethernet_type) }
        }
    }

    // SAFETY: `with_sockaddr` gives a pointer to a whole `PacketAddress`, laid out as `struct sockaddr_ll` and
    // initialised, with its true length; it is borrowed, and so valid, for the whole call.
    unsafe impl SocketAddrArg for PacketAddress {
        unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
            const LENGTH: SocketAddrLen = 20;
            const { assert!(size_of::<PacketAddress>() == LENGTH as usize) };
            f(std::ptr::from_ref(self).cast(), LENGTH)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[1]), !0x0100);
    }
}
