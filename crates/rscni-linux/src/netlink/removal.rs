//! Deleting links without waiting until the kernel has freed them.
//!
//! The kernel takes a link out of its namespace within a millisecond, and then notifies the group
//! `RTNLGRP_LINK`. It answers the request only after an RCU barrier, 15 to 30 ms later. Therefore a
//! worker sends the request, and the caller waits for the notification.
//!
//! The caller deletes every link itself that is not known to be gone, whatever happened to the
//! worker or to the notification.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    thread,
};

use libc::{RTM_DELLINK, RTNLGRP_LINK};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::retry_on_intr,
    net::{SendFlags, send},
    rand::{GetRandomFlags, getrandom},
};
use socket2::SockFilter;

use super::{
    Netlink, Request,
    message::{Message, NLM_F_ACK},
    socket::{Answer, NLMSG_ERROR, Socket, first_answer},
};
use crate::{
    Error, Result,
    bpf::{JUMP_IF_EQUAL, LOAD_BYTE, LOAD_HALF, RETURN},
    kernel_interface,
};

/// A message that only asks for an acknowledgement.
const NLMSG_NOOP: u16 = 1;

/// The inode of the initial PID namespace (`PROC_PID_INIT_INO` in `linux/proc_ns.h`).
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

/// The worker that waits while the kernel frees a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Background {
    /// A child process, for a program that is about to exit. A thread would not help there, because
    /// a process exits after its threads.
    ///
    /// The child has its own session and no descriptor but the socket. It outlives its parent, so
    /// it is started only in the initial PID namespace, where process 1 reaps it.
    Process,
    /// A thread, for a program that continues.
    Thread,
}

impl Background {
    /// Whether such a worker leaves nothing behind. Without `/proc` that is unknown.
    fn is_possible(self) -> bool {
        let is_initial = || {
            rustix::fs::stat("/proc/self/ns/pid").is_ok_and(|it| it.st_ino == INITIAL_PID_NAMESPACE)
        };
        self == Self::Thread || is_initial()
    }

    /// Starts a worker that sends a datagram. Returns a descriptor that is readable when the worker
    /// has ended.
    fn send(self, socket: &Socket, datagram: Vec<u8>) -> io::Result<OwnedFd> {
        if self == Self::Process {
            return Ok(kernel_interface::send_from_child(socket.as_fd(), &datagram)?);
        }
        let socket = socket.as_fd().try_clone_to_owned()?;
        let (ended, running) = io::pipe()?;
        thread::Builder::new().name("del_links".to_owned()).spawn(move || {
            let _running = running;
            // The caller notices a failure by the end of the thread.
            let _ = retry_on_intr(|| send(&socket, &datagram, SendFlags::empty()));
        })?;
        Ok(ended.into())
    }
}

impl Netlink {
    /// Deletes links with their veth peers, addresses and routes, and returns as soon as they are
    /// gone. A missing link is not an error.
    ///
    /// Their names and addresses can be used again at once: the kernel only frees memory in the
    /// background. Without a worker, or if it cannot be started, this waits as
    /// [`Netlink::del_link`] does.
    ///
    /// # Errors
    ///
    /// The first refusal. The other links are deleted nevertheless.
    pub fn del_links(mut self, links: &[u32], background: Option<Background>) -> Result<()> {
        let mut left = links.to_vec();
        if let Some(background) = background.filter(|it| !left.is_empty() && it.is_possible()) {
            // A failure leaves links, which are deleted below.
            let _ = self.del_in_background(&mut left, background);
            if !left.is_empty() {
                self.socket
                    .unsubscribe(RTNLGRP_LINK)
                    .map_err(|error| Error::io("leave the netlink group of links", error))?;
            }
        }
        let mut outcome = Ok(());
        for link in left {
            match self.del_link(link) {
                Err(error) if !error.is_not_found() => outcome = outcome.and(Err(error)),
                _ => {}
            }
        }
        outcome
    }

    /// Lets a worker delete links, and removes those from `left` that are gone.
    fn del_in_background(&mut self, left: &mut Vec<u32>, background: Background) -> Result<()> {
        let deletion = match left[..] {
            [link] => Request::del_link(link),
            _ => self.gather(left)?,
        };
        self.await_removals(left, &deletion, background)
            .map_err(|error| Error::io("delete links in the background", error))
    }

    /// Puts links into a group, so that one request deletes all of them. Removes missing links from
    /// `links`.
    fn gather(&mut self, links: &mut Vec<u32>) -> Result<Request> {
        let group = random_group()?;
        links.retain(|link| match self.run(&Request::set_group(*link, group)) {
            Err(error) => !error.is_not_found(),
            Ok(()) => true,
        });
        Ok(Request::del_group(group))
    }

    /// Starts a worker that sends `deletion`, and removes from `left` the links that are gone.
    fn await_removals(
        &mut self,
        left: &mut Vec<u32>,
        deletion: &Request,
        background: Background,
    ) -> io::Result<()> {
        // The kernel acknowledges the first message before it reads the second. Then the worker
        // has closed everything that it inherited.
        let start =
            self.socket.queue(NLM_F_ACK, &Message { kind: NLMSG_NOOP, payload: Vec::new() });
        let end = self.socket.queue(NLM_F_ACK, &deletion.message);
        let datagram = self.socket.take_queue();
        self.socket.subscribe(RTNLGRP_LINK, &removals())?;
        let worker = background.send(&self.socket, datagram)?;
        let mut has_started = false;
        while !(has_started && left.is_empty()) {
            if !is_readable(&self.socket, &worker)? {
                // The worker has ended without an answer.
                break;
            }
            // A notification may be lost if memory is short. The answer or the worker's end
            // follows.
            let Ok(datagram) = self.socket.receive_now() else { continue };
            if let Some(index) = removed_link(datagram) {
                left.retain(|link| *link != index);
                continue;
            }
            match first_answer(datagram)? {
                (sequence, _, Answer::Ack, _) if sequence == start => has_started = true,
                (sequence, _, Answer::Ack | Answer::Refused(_), _) if sequence == end => break,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Returns a group that no other program uses: administrators use small numbers.
fn random_group() -> Result<u32> {
    let mut bytes = [0; 4];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| Error::io("choose a group of links", errno))?;
    Ok(u32::from_ne_bytes(bytes) | 1 << 31)
}

/// Waits until the socket is readable. Returns false if the worker has ended and nothing more will
/// come.
fn is_readable(socket: &Socket, worker: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::new(worker, PollFlags::IN)];
    retry_on_intr(|| poll(&mut fds, None))?;
    Ok(!fds[0].revents().is_empty())
}

/// Returns a classic BPF filter that accepts answers to requests, and notifications of deleted
/// links. Other changes of links do not wake the caller.
fn removals() -> [SockFilter; 7] {
    let op = SockFilter::new;
    [
        // The type of the message.
        op(LOAD_HALF, 0, 0, 4),
        op(JUMP_IF_EQUAL, 3, 0, NLMSG_ERROR.to_be().into()),
        op(JUMP_IF_EQUAL, 0, 3, RTM_DELLINK.to_be().into()),
        // The family. A port that leaves a bridge is reported with `AF_BRIDGE`.
        op(LOAD_BYTE, 0, 0, 16),
        op(JUMP_IF_EQUAL, 0, 1, libc::AF_UNSPEC.cast_unsigned()),
        op(RETURN, 0, 0, u32::MAX),
        op(RETURN, 0, 0, 0),
    ]
}

/// Returns the index of the link if the datagram is a notification.
fn removed_link(datagram: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(*datagram.get(4..)?.first_chunk()?);
    let index = u32::from_ne_bytes(*datagram.get(20..)?.first_chunk()?);
    (kind == RTM_DELLINK).then_some(index)
}
