//! Closing sockets that the kernel takes its time to close.
//!
//! The close of a packet socket, and of one of nftables while something that was deleted is not freed yet, waits until
//! every processor has let go of what it may still look at: some 10 ms, where all else that a call does takes one or
//! two. What was asked for has been done by then; only memory is waited for.
//!
//! A file that is on its way in a message between Unix sockets which nobody has open any more is closed by the kernel's
//! collector of such messages (`SCM_RIGHTS` in `unix(7)`): in newer kernels that is a thread of the kernel's own, in
//! older ones whoever closes the Unix sockets, who then waits as it would have without this.

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

/// A socket that is left to the kernel to close, when it is dropped.
#[derive(Debug)]
pub(crate) struct ClosedLater<T: AsFd> {
    // Fields are dropped in this order, and so are the two: the collector, which the end of the sender calls, has to find
    // that neither the socket nor the receiver is open here any more.
    socket: T,
    in_flight: Option<(OwnedFd, OwnedFd)>,
}

impl<T: AsFd> From<T> for ClosedLater<T> {
    fn from(socket: T) -> Self {
        Self { socket, in_flight: None }
    }
}

impl<T: AsFd> Deref for ClosedLater<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.socket
    }
}

impl<T: AsFd> DerefMut for ClosedLater<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.socket
    }
}

impl<T: AsFd> Drop for ClosedLater<T> {
    fn drop(&mut self) {
        // Where that cannot be had, closing the socket waits.
        self.in_flight = put_in_flight(&self.socket).ok();
    }
}

/// Sends the socket to where nobody can receive it: in one message with the only end that could.
fn put_in_flight(socket: &impl AsFd) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    // The receiver is the first, as it has the lower number: a process that is killed closes it before the sender, too.
    let (receiver, sender) =
        socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let files = [socket.as_fd(), receiver.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(&sender, &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;
    Ok((receiver, sender))
}
