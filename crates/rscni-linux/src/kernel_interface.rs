//! What the kernel offers and rustix has only through unsafe functions, made safe: the addresses of packet sockets, the
//! ioctls of `/dev/net/tun`, and the cookie of a network namespace. No other module has unsafe code.
#![allow(
    unsafe_code,
    reason = "rustix takes other addresses, ioctls and options than its own only through unsafe code"
)]

use std::os::fd::{AsFd, AsRawFd};

use rustix::{
    io,
    ioctl::{IntegerSetter, Updater, ioctl, opcode},
    net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
    thread::{UnshareFlags, unshare_unsafe},
};

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
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        const LENGTH: SocketAddrLen = 20;
        const { assert!(size_of::<PacketAddress>() == LENGTH as usize) };
        f(std::ptr::from_ref(self).cast(), LENGTH)
    }
}

/// `struct ifreq` with flags, as long as it is where a pointer has 64 bits; where it has 32 the kernel takes less.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// `TUNSETIFF`: makes the interface of that name, or attaches an open `/dev/net/tun` to it.
///
/// # Errors
///
/// `EINVAL` for a name of more than 15 bytes; what the kernel says.
pub(crate) fn attach_tun(tun: impl AsFd, name: &str, flags: u16) -> io::Result<()> {
    const { assert!(size_of::<InterfaceRequest>() == 40) };
    let mut request = InterfaceRequest { name: [0; 16], flags, rest: [0; 22] };
    match request.name.get_mut(..name.len()) {
        Some(bytes) if name.len() < 16 => bytes.copy_from_slice(name.as_bytes()),
        _ => return Err(io::Errno::INVAL),
    }
    // SAFETY: this opcode reads and writes one `struct ifreq`, which `InterfaceRequest` is as long as.
    unsafe { ioctl(tun, Updater::<{ opcode::write::<i32>(b'T', 202) }, _>::new(&mut request)) }
}

/// `TUNSETPERSIST`: the interface stays when nobody has it open.
pub(crate) fn persist_tun(tun: impl AsFd) -> io::Result<()> {
    // SAFETY: this opcode takes a number.
    unsafe { ioctl(tun, IntegerSetter::<{ opcode::write::<i32>(b'T', 203) }>::new_usize(1)) }
}

/// `TUNSETOWNER`: that user may open the interface.
pub(crate) fn own_tun(tun: impl AsFd, user: u32) -> io::Result<()> {
    // SAFETY: this opcode takes a number.
    unsafe {
        ioctl(tun, IntegerSetter::<{ opcode::write::<i32>(b'T', 204) }>::new_usize(user as usize))
    }
}

/// `TUNSETGROUP`: users of that group may open the interface.
pub(crate) fn own_tun_by_group(tun: impl AsFd, group: u32) -> io::Result<()> {
    // SAFETY: this opcode takes a number.
    unsafe {
        ioctl(tun, IntegerSetter::<{ opcode::write::<i32>(b'T', 206) }>::new_usize(group as usize))
    }
}

/// Moves the calling thread into a new network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: only `UnshareFlags::FILES` makes this call unsafe.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
}

/// `SO_NETNS_COOKIE`: a number of the socket's network namespace that no other one gets before the next boot.
///
/// # Errors
///
/// `ENOPROTOOPT` before Linux 5.14.
pub(crate) fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    use libc::{SO_NETNS_COOKIE, SOL_SOCKET, getsockopt, socklen_t};
    const LENGTH: socklen_t = 8;
    const { assert!(size_of::<u64>() == LENGTH as usize) };
    let (mut cookie, mut length) = (0_u64, LENGTH);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which is that long, and the number of them to
    // `length`. Both live longer than the call.
    let result = unsafe {
        getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut length)
    };
    match result {
        0 => Ok(cookie),
        _ => Err(io::Errno::from_io_error(&std::io::Error::last_os_error())
            .unwrap_or(io::Errno::NOPROTOOPT)),
    }
}
