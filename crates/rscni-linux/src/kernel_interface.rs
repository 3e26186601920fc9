//! Safe wrappers for kernel interfaces that rustix has only through unsafe functions: packet socket
//! addresses, ioctls, socket options, namespaces and their cookies, child processes. No other
//! module contains unsafe code.
#![allow(
    unsafe_code,
    reason = "rustix has no safe functions for these addresses, ioctls, options and processes"
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::{
    io,
    ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode},
    net::{
        SendFlags,
        addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
        send,
    },
    process::setsid,
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::MacAddr;

/// `struct sockaddr_ll`: an interface and, if the kernel writes the link header, its contents.
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
    /// Addresses the interface only; the frame contains its own header.
    pub(crate) fn of_frame(index: u32) -> Self {
        Self { family: rustix::net::AddressFamily::PACKET.as_raw(), index, ..Self::default() }
    }

    /// Selects packets of one Ethernet type on the interface, for listening.
    pub(crate) fn of_protocol(index: u32, ethernet_type: u16) -> Self {
        Self { protocol: ethernet_type.to_be(), ..Self::of_frame(index) }
    }

    /// Addresses a station on the interface, for packets of this Ethernet type.
    pub(crate) fn of_station(index: u32, ethernet_type: u16, mac: MacAddr) -> Self {
        let mut address = [0; 8];
        address[..6].copy_from_slice(mac.as_bytes());
        Self { length: 6, address, ..Self::of_protocol(index, ethernet_type) }
    }
}

// SAFETY: `with_sockaddr` passes a pointer to an initialised `PacketAddress`, laid out as `struct
// sockaddr_ll`, with its true length; the borrow keeps it valid for the whole call.
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

/// `struct ifreq` with flags. 40 bytes is its length with 64-bit pointers; with 32-bit pointers the
/// kernel reads less.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// `TUNSETIFF`: creates the interface, or attaches an open `/dev/net/tun` to it.
///
/// # Errors
///
/// `EINVAL` for a name of more than 15 bytes; otherwise the kernel's error.
pub(crate) fn attach_tun(tun: impl AsFd, name: &str, flags: u16) -> io::Result<()> {
    const { assert!(size_of::<InterfaceRequest>() == 40) };
    let mut request = InterfaceRequest { name: [0; 16], flags, rest: [0; 22] };
    match request.name.get_mut(..name.len()) {
        Some(bytes) if name.len() < 16 => bytes.copy_from_slice(name.as_bytes()),
        _ => return Err(io::Errno::INVAL),
    }
    // SAFETY: this opcode reads and writes one `struct ifreq`, which has the size of
    // `InterfaceRequest`.
    unsafe { ioctl(tun, Updater::<{ opcode::write::<i32>(b'T', 202) }, _>::new(&mut request)) }
}

/// `TUNSETPERSIST`: keeps the interface after the last descriptor is closed.
pub(crate) fn make_tun_persistent(tun: impl AsFd) -> io::Result<()> {
    // SAFETY: this opcode takes a number.
    unsafe { ioctl(tun, IntegerSetter::<{ opcode::write::<i32>(b'T', 203) }>::new_usize(1)) }
}

/// `TUNSETOWNER`: lets this user open the interface.
pub(crate) fn set_tun_owner(tun: impl AsFd, user: u32) -> io::Result<()> {
    // SAFETY: this opcode takes a number.
    unsafe {
        ioctl(tun, IntegerSetter::<{ opcode::write::<i32>(b'T', 204) }>::new_usize(user as usize))
    }
}

/// `TUNSETGROUP`: lets users of this group open the interface.
pub(crate) fn set_tun_group(tun: impl AsFd, group: u32) -> io::Result<()> {
    // SAFETY: this opcode takes a number.
    unsafe {
        ioctl(tun, IntegerSetter::<{ opcode::write::<i32>(b'T', 206) }>::new_usize(group as usize))
    }
}

/// `struct ifreq` with a pointer, and `struct ethtool_value`.
#[repr(C)]
struct EthtoolRequest {
    name: [u8; 16],
    value: *mut EthtoolValue,
    rest: [u8; 16],
}

#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `SIOCETHTOOL` with a command that takes a number, such as `ETHTOOL_STXCSUM`.
///
/// # Errors
///
/// `EINVAL` for a name of more than 15 bytes; otherwise the kernel's error.
pub(crate) fn set_ethtool_value(
    socket: impl AsFd,
    name: &str,
    command: u32,
    data: u32,
) -> io::Result<()> {
    const SIOCETHTOOL: Opcode = 0x8946;
    let mut value = EthtoolValue { command, data };
    let mut request = EthtoolRequest { name: [0; 16], value: &raw mut value, rest: [0; 16] };
    match request.name.get_mut(..name.len()) {
        Some(bytes) if name.len() < 16 => bytes.copy_from_slice(name.as_bytes()),
        _ => return Err(io::Errno::INVAL),
    }
    // SAFETY: this opcode reads one `struct ifreq`, which is not longer than `EthtoolRequest`. The
    // commands of the callers read and write one `struct ethtool_value` at its pointer; it outlives
    // the call.
    unsafe { ioctl(socket, Updater::<SIOCETHTOOL, _>::new(&mut request)) }
}

/// Sets a socket option that is a number.
pub(crate) fn set_option(socket: impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    const LENGTH: libc::socklen_t = 4;
    const { assert!(size_of::<i32>() == LENGTH as usize) };
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the number, whose length is given. It outlives the call.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), LENGTH) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

/// Moves the calling thread into a new network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: only `UnshareFlags::FILES` makes this call unsafe.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
}

/// `SO_NETNS_COOKIE`: identifies the socket's network namespace, unique until the next boot.
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
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, which has that size, and the
    // written length to `length`. Both outlive the call.
    let result = unsafe {
        getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut length)
    };
    match result {
        0 => Ok(cookie),
        _ => Err(last_error()),
    }
}

/// `struct clone_args` of Linux 5.3, the first with `clone3`.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// Starts a child process that sends a datagram and exits.
///
/// The child has a session of its own. It closes all inherited descriptors except the socket before
/// it sends. Returns a descriptor that is readable when the child has exited.
///
/// # Errors
///
/// `ENOSYS` before Linux 5.3; `EAGAIN` at a limit on processes.
pub(crate) fn send_from_child(socket: BorrowedFd<'_>, datagram: &[u8]) -> io::Result<OwnedFd> {
    let mut pidfd: RawFd = -1;
    let arguments = CloneArguments {
        flags: libc::CLONE_PIDFD.cast_unsigned().into(),
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD.cast_unsigned().into(),
        ..CloneArguments::default()
    };
    // SAFETY: without `CLONE_VM` the child has a copy of the memory and returns on a copy of the
    // stack. Other threads do not exist in the child, so their locks are never released there; the
    // child takes none, since it only makes system calls. The kernel reads `arguments` and writes
    // the descriptor to `pidfd`; both outlive the call.
    let child =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
    match child {
        0 => {
            let sent = send_as_child(socket, datagram);
            // SAFETY: it ends the child without running what the parent has registered for its
            // exit.
            unsafe { libc::_exit(sent.is_err().into()) }
        }
        // SAFETY: the kernel has opened the descriptor for this call.
        1.. => Ok(unsafe { OwnedFd::from_raw_fd(pidfd) }),
        _ => Err(last_error()),
    }
}

/// Only makes system calls: see [`send_from_child`].
fn send_as_child(socket: BorrowedFd<'_>, datagram: &[u8]) -> io::Result<()> {
    let socket_number = socket.as_raw_fd().cast_unsigned();
    if let Some(below) = socket_number.checked_sub(1) {
        close_descriptors(0, below)?;
    }
    close_descriptors(socket_number + 1, u32::MAX)?;
    setsid()?;
    io::retry_on_intr(|| send(socket, datagram, SendFlags::empty()))?;
    Ok(())
}

/// `close_range`.
///
/// # Errors
///
/// `ENOSYS` before Linux 5.9.
fn close_descriptors(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: it takes three numbers. The child, the only caller, uses none of the descriptors.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> io::Errno {
    io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(io::Errno::INVAL)
}
