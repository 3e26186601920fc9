//! Closing slow sockets in the kernel's own time.
//!
//! Closing a packet socket, or an nftables socket shortly after a deletion, waits for an RCU grace
//! period: about 10 ms, where the rest of a call takes one or two. Only memory is freed then; the
//! requests have been carried out.
//!
//! A file descriptor in a message between Unix sockets that are closed is released by the kernel's
//! garbage collector (`SCM_RIGHTS` in `unix(7)`). Newer kernels collect in a kernel thread. On
//! older kernels the process that closes the Unix sockets waits, as it would without this.

use std::{
    io::IoSlice,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};

/// A socket that the kernel's collector closes after it is dropped.
#[derive(Debug)]
pub(crate) struct DeferredClose<T: AsFd> {
    // The drop order of the fields, and of the pair, matters. Closing the sender starts the
    // collector, which must find the socket and the receiver closed by this process.
    socket: T,
    in_flight: Option<(OwnedFd, OwnedFd)>,
}

impl<T: AsFd> From<T> for DeferredClose<T> {
    fn from(socket: T) -> Self {
        Self { socket, in_flight: None }
    }
}

impl<T: AsFd> Deref for DeferredClose<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.socket
    }
}

impl<T: AsFd> DerefMut for DeferredClose<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.socket
    }
}

impl<T: AsFd> Drop for DeferredClose<T> {
    fn drop(&mut self) {
        // If this fails, the descriptor is closed directly, which waits.
        self.in_flight = put_in_flight(&self.socket).ok();
    }
}

/// Sends the socket and the only receiving end in one message, so that it can never be received.
fn put_in_flight(socket: &impl AsFd) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    // A process that is killed closes lower descriptors first, so the receiver must have the lower
    // one.
    let (receiver, sender) =
        socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let files = [socket.as_fd(), receiver.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(&sender, &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;
    Ok((receiver, sender))
}
