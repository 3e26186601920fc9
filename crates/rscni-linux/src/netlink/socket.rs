//! A netlink socket: several requests in one `send`, answers read into a reused buffer.
//!
//! It handles headers, acknowledgements and dumps, for both rtnetlink and nftables.

use std::{
    io, mem,
    ops::ControlFlow,
    os::fd::{AsFd, BorrowedFd},
};

use libc::{MSG_DONTWAIT, MSG_TRUNC};
use netlink_sys::{Socket as Raw, protocols::NETLINK_ROUTE};
use socket2::{SockFilter, SockRef};

use super::{
    attribute::{Value, attributes},
    message::{
        ALIGNMENT, Message, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR,
        NLM_F_ECHO, NLM_F_REQUEST,
    },
};
use crate::{Error, Netns, Result};

/// The kernel sends at most 32 KiB per datagram of a dump, so no answer is truncated.
const BUFFER: usize = 32 * 1024;
const HEADER: usize = 16;
/// The number of attempts at a dump that concurrent changes interrupt.
const DUMP_ATTEMPTS: usize = 20;

pub(super) const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The kernel's refusal of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    pub(crate) extack: Option<String>,
}

impl Refusal {
    pub(crate) fn into_error(self, action: impl Into<String>) -> Error {
        Error::Netlink { action: action.into(), errno: self.errno, extack: self.extack }
    }
}

/// One message of an answer.
#[derive(Debug)]
pub(crate) enum Answer<'a> {
    /// The request succeeded.
    Ack,
    /// The request failed.
    Refused(Refusal),
    /// The end of a dump.
    Done,
    /// An object.
    Object(&'a [u8]),
}

/// The result of a complete dump.
enum Dump {
    Complete,
    /// The state changed during the dump: objects may be missing or duplicated.
    Interrupted,
    Refused(Refusal),
}

#[derive(Debug)]
pub(crate) struct Socket {
    raw: Raw,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    sequence: u32,
    strict: bool,
}

impl Socket {
    /// Opens a socket in the calling thread's namespace.
    pub(crate) fn open(protocol: isize) -> Result<Self> {
        let failed = |error| Error::io("open a netlink socket", error);
        let raw = Raw::new(protocol).map_err(failed)?;
        // Both options exist since Linux 4.12 and only improve error messages.
        let _ = raw.set_cap_ack(true);
        let _ = raw.set_ext_ack(true);
        Ok(Self {
            raw,
            outgoing: Vec::new(),
            incoming: Vec::with_capacity(BUFFER),
            sequence: 0,
            // Strict checking exists for rtnetlink only.
            strict: protocol != NETLINK_ROUTE,
        })
    }

    /// Opens a socket in `netns`.
    pub(crate) fn open_in(netns: &Netns, protocol: isize) -> Result<Self> {
        netns.enter(|| Self::open(protocol))?
    }

    /// Queues a message for the next [`Socket::send`], and returns its sequence number.
    pub(crate) fn queue(&mut self, flags: u16, message: &Message) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + message.payload.len()).unwrap_or(u32::MAX);
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&length.to_ne_bytes());
        header[4..6].copy_from_slice(&message.kind.to_ne_bytes());
        header[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        header[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.outgoing.extend_from_slice(&header);
        self.outgoing.extend_from_slice(&message.payload);
        self.sequence
    }

    /// Sends all queued messages as one datagram.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        let sent = retry(|| self.raw.send(&self.outgoing, 0));
        self.outgoing.clear();
        sent.map(drop)
    }

    /// Returns the queued messages, for another thread or process that sends them.
    pub(super) fn take_queue(&mut self) -> Vec<u8> {
        mem::take(&mut self.outgoing)
    }

    /// Joins a multicast group, and receives only what the filter accepts.
    ///
    /// A notification may have the sequence number of an answer, so the other functions must not be
    /// used until [`Socket::unsubscribe`].
    pub(super) fn subscribe(&self, group: u32, filter: &[SockFilter]) -> io::Result<()> {
        SockRef::from(self).attach_filter(filter)?;
        self.raw.add_membership(group)
    }

    /// Leaves a multicast group, and drops all notifications that have arrived.
    pub(super) fn unsubscribe(&mut self, group: u32) -> io::Result<()> {
        self.raw.drop_membership(group)?;
        match SockRef::from(&*self).detach_filter() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        loop {
            match self.receive_now() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return Err(error),
                _ => {}
            }
        }
    }

    /// Returns a datagram that has arrived.
    pub(super) fn receive_now(&mut self) -> io::Result<&[u8]> {
        self.incoming.clear();
        retry(|| self.raw.recv(&mut self.incoming, MSG_DONTWAIT))?;
        Ok(&self.incoming)
    }

    /// Receives the next datagram and returns its true length.
    ///
    /// The kernel processes a request while it is sent, so a receive error, such as a lack of
    /// memory, does not mean that the request failed. Receiving is retried; the error is returned
    /// only if no answer is waiting. The awaited answer may be lost, so after an error, whose
    /// number is kept in `failed`, this does not wait for one.
    fn receive_datagram(&mut self, failed: &mut Option<i32>) -> io::Result<usize> {
        // With `MSG_TRUNC` the kernel returns the true length.
        let mut receive = |flags| retry(|| self.raw.recv(&mut self.incoming, MSG_TRUNC | flags));
        let errno = match *failed {
            Some(errno) => errno,
            None => match receive(0) {
                Ok(length) => return Ok(length),
                Err(error) => *failed.insert(error.raw_os_error().unwrap_or_default()),
            },
        };
        let received = (0..RECEIVE_ATTEMPTS).find_map(|_| receive(MSG_DONTWAIT).ok());
        received.ok_or_else(|| io::Error::from_raw_os_error(errno))
    }

    /// Passes the answers to the messages `first..=last`, with the sequence number they answer, to
    /// `handle` until it breaks. Answers to earlier requests are dropped.
    pub(crate) fn receive<B>(
        &mut self,
        first: u32,
        last: u32,
        mut handle: impl FnMut(u32, u16, Answer<'_>) -> ControlFlow<B>,
    ) -> io::Result<B> {
        let span = last.wrapping_sub(first);
        let mut failed = None;
        loop {
            self.incoming.clear();
            let length = self.receive_datagram(&mut failed)?;
            if length > self.incoming.len() {
                return Err(invalid_data("message longer than the buffer"));
            }
            let mut rest = &self.incoming[..];
            while !rest.is_empty() {
                let (sequence, flags, answer, others) = first_answer(rest)?;
                rest = others;
                if sequence.wrapping_sub(first) > span {
                    continue;
                }
                if let ControlFlow::Break(value) = handle(sequence, flags, answer) {
                    return Ok(value);
                }
            }
        }
    }

    /// Returns the port id of the socket. The kernel assigns it when the first request is sent.
    pub(crate) fn port(&self) -> Result<u32> {
        let mut address = netlink_sys::SocketAddr::new(0, 0);
        let port = self.raw.get_address(&mut address).map(|()| address.port_number());
        port.map_err(|error| Error::io("look up the port of a netlink socket", error))
    }

    /// Joins multicast groups. The socket no longer blocks.
    pub(crate) fn join(&mut self, groups: &[u32], queue: usize) -> io::Result<()> {
        // More than the limit of the machine takes CAP_NET_ADMIN in the initial user namespace.
        let size = socket2::SockRef::from(&self.raw).set_recv_buffer_size(queue);
        size.and_then(|()| self.raw.bind_auto().map(drop))?;
        groups.iter().try_for_each(|group| self.raw.add_membership(*group))?;
        self.raw.set_non_blocking(true)
    }

    /// Passes the type, the port of the originator and the payload of each message of the next
    /// datagram to `handle`.
    pub(crate) fn notifications(
        &mut self,
        mut handle: impl FnMut(u16, u32, &[u8]),
    ) -> io::Result<()> {
        self.incoming.clear();
        let length = retry(|| self.raw.recv(&mut self.incoming, MSG_TRUNC | MSG_DONTWAIT))?;
        if length > self.incoming.len() {
            return Err(rustix::io::Errno::NOBUFS.into());
        }
        let mut rest = &self.incoming[..];
        while let Some([l0, l1, l2, l3, k0, k1, _, _, _, _, _, _, p0, p1, p2, p3]) =
            rest.first_chunk::<HEADER>()
        {
            let length = u32::from_ne_bytes([*l0, *l1, *l2, *l3]) as usize;
            let Some(payload) = rest.get(HEADER..length) else { break };
            let port = u32::from_ne_bytes([*p0, *p1, *p2, *p3]);
            handle(u16::from_ne_bytes([*k0, *k1]), port, payload);
            rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends one request and parses the object that answers it.
    pub(crate) fn get<T>(
        &mut self,
        action: &str,
        message: &Message,
        read: impl FnOnce(&[u8]) -> Result<T>,
    ) -> Result<T> {
        let sequence = self.queue(0, message);
        self.send().map_err(|error| Error::io(action, error))?;
        self.answer(action, sequence, sequence, read)
    }

    /// Sends one request that may have no object as an answer.
    pub(crate) fn find<T>(
        &mut self,
        action: &str,
        message: &Message,
        read: impl Fn(&[u8]) -> Result<T>,
    ) -> Result<Option<T>> {
        // Older kernels return an object only with `NLM_F_ECHO`.
        let sequence = self.queue(NLM_F_ACK | NLM_F_ECHO, message);
        self.send().map_err(|error| Error::io(action, error))?;
        let mut found = None;
        self.receive(sequence, sequence, |_, _, answer| match answer {
            Answer::Refused(refusal) => ControlFlow::Break(Err(refusal.into_error(action))),
            Answer::Object(payload) => {
                found = Some(read(payload));
                ControlFlow::Continue(())
            }
            Answer::Ack | Answer::Done => ControlFlow::Break(found.take().transpose()),
        })
        .map_err(|error| Error::io(action, error))?
    }

    /// Waits for the object that answers the messages `first..=last`, or for the first refusal.
    pub(crate) fn answer<T>(
        &mut self,
        action: &str,
        first: u32,
        last: u32,
        read: impl FnOnce(&[u8]) -> Result<T>,
    ) -> Result<T> {
        let mut read = Some(read);
        let mut refused = None;
        self.receive(first, last, |sequence, _, answer| match answer {
            Answer::Refused(refusal) => {
                let refusal = refused.take().unwrap_or(refusal);
                if sequence == last {
                    return ControlFlow::Break(Err(refusal.into_error(action)));
                }
                refused = Some(refusal);
                ControlFlow::Continue(())
            }
            Answer::Object(payload) => match (refused.take(), read.take()) {
                (Some(refusal), _) => ControlFlow::Break(Err(refusal.into_error(action))),
                (None, Some(read)) => ControlFlow::Break(read(payload)),
                (None, None) => ControlFlow::Continue(()),
            },
            Answer::Ack | Answer::Done => ControlFlow::Continue(()),
        })
        .map_err(|error| Error::io(action, error))?
    }

    /// Sends one dump request and parses every object of the answer.
    ///
    /// An interrupted dump is repeated, so that the result is consistent.
    pub(crate) fn dump<T>(
        &mut self,
        action: &str,
        message: &Message,
        mut read: impl FnMut(&[u8]) -> Result<Option<T>>,
    ) -> Result<Vec<T>> {
        if !self.strict {
            // Since Linux 4.20. Older kernels ignore the filter of the request; callers filter
            // again.
            let _ = self.raw.set_netlink_get_strict_chk(true);
            self.strict = true;
        }
        for _ in 0..DUMP_ATTEMPTS {
            let mut objects = Vec::new();
            let mut failure = None;
            let mut interrupted = false;
            let sequence = self.queue(NLM_F_DUMP, message);
            self.send().map_err(|error| Error::io(action, error))?;
            let outcome = self
                .receive(sequence, sequence, |_, flags, answer| {
                    interrupted |= flags & NLM_F_DUMP_INTR != 0;
                    match answer {
                        Answer::Object(payload) => {
                            // After a bad object the dump is still read to its end, so that the
                            // socket can be reused.
                            match read(payload) {
                                Ok(object) => objects.extend(object),
                                Err(error) => failure = failure.take().or(Some(error)),
                            }
                            ControlFlow::Continue(())
                        }
                        Answer::Ack => ControlFlow::Continue(()),
                        Answer::Refused(refusal) => ControlFlow::Break(Dump::Refused(refusal)),
                        Answer::Done if interrupted => ControlFlow::Break(Dump::Interrupted),
                        Answer::Done => ControlFlow::Break(Dump::Complete),
                    }
                })
                .map_err(|error| Error::io(action, error))?;
            match (outcome, failure) {
                (Dump::Interrupted, _) => {}
                (Dump::Refused(refusal), _) => return Err(refusal.into_error(action)),
                (Dump::Complete, Some(error)) => return Err(error),
                (Dump::Complete, None) => return Ok(objects),
            }
        }
        Err(Error::Timeout { what: format!("{action} (interrupted by other changes)") })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

/// The number of attempts to receive an answer.
const RECEIVE_ATTEMPTS: usize = 3;

/// Parses the first message of a datagram into its sequence number, flags and answer; also returns
/// the rest.
pub(super) fn first_answer(datagram: &[u8]) -> io::Result<(u32, u16, Answer<'_>, &[u8])> {
    let truncated = || invalid_data("truncated message");
    let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] =
        *datagram.first_chunk::<HEADER>().ok_or_else(truncated)?;
    let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
    let payload = datagram.get(HEADER..length).ok_or_else(truncated)?;
    let (kind, flags) = (u16::from_ne_bytes([k0, k1]), u16::from_ne_bytes([f0, f1]));
    let answer = parse(kind, flags, payload)?;
    let rest = datagram.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    Ok((u32::from_ne_bytes([s0, s1, s2, s3]), flags, answer, rest))
}

fn parse(kind: u16, flags: u16, payload: &[u8]) -> io::Result<Answer<'_>> {
    if kind != NLMSG_ERROR && kind != NLMSG_DONE {
        return Ok(Answer::Object(payload));
    }
    // `NLMSG_DONE` may come without an error code.
    let code = match payload.first_chunk() {
        Some(code) => i32::from_ne_bytes(*code),
        None if kind == NLMSG_DONE => 0,
        None => return Err(invalid_data("error message without a code")),
    };
    if code >= 0 {
        return Ok(if kind == NLMSG_DONE { Answer::Done } else { Answer::Ack });
    }
    // The error code is followed by the header of the failed request and, unless capped, its
    // payload.
    let echoed = if kind == NLMSG_DONE {
        0
    } else if flags & NLM_F_CAPPED != 0 {
        HEADER
    } else {
        let length = payload.get(4..).and_then(<[u8]>::first_chunk);
        length.map_or(HEADER, |length| u32::from_ne_bytes(*length) as usize).min(payload.len())
    };
    let extack = (flags & NLM_F_ACK_TLVS != 0)
        .then(|| attributes(payload, 4 + echoed.next_multiple_of(ALIGNMENT)))
        .and_then(|details| details.value(NLMSGERR_ATTR_MSG))
        .map(Value::string);
    Ok(Answer::Refused(Refusal { errno: code.saturating_neg(), extack }))
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

fn invalid_data(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_contains_the_message_of_the_kernel() {
        let mut capped = (-1_i32).to_ne_bytes().to_vec();
        capped.extend(24_u32.to_ne_bytes());
        capped.extend([0; 12]);
        let mut whole = capped.clone();
        whole.extend([0xaa; 8]);
        let words = [9_u8, 0, 1, 0, b'n', b'o', b'p', b'e', 0, 0, 0, 0];
        capped.extend(words);
        whole.extend(words);
        for (flags, payload) in [(NLM_F_CAPPED | NLM_F_ACK_TLVS, capped), (NLM_F_ACK_TLVS, whole)] {
            let Answer::Refused(refusal) = parse(NLMSG_ERROR, flags, &payload).unwrap() else {
                panic!("not understood as a refusal");
            };
            assert_eq!(refusal.errno, 1);
            assert_eq!(refusal.extack.as_deref(), Some("nope"));
        }
    }

    #[test]
    fn smallest_error_code_is_a_refusal() {
        let Ok(Answer::Refused(refusal)) = parse(NLMSG_ERROR, 0, &i32::MIN.to_ne_bytes()) else {
            panic!("not understood as a refusal");
        };
        assert_eq!(refusal.errno, i32::MAX);
    }

    #[test]
    fn truncated_error_does_not_panic() {
        assert!(parse(NLMSG_ERROR, 0, &[1]).is_err());
        for length in 0..40 {
            let mut payload = vec![0xff; length];
            if let Some(size) = payload.get_mut(4..8) {
                size.copy_from_slice(&[0xff, 0xff, 0, 0]);
            }
            let _ = parse(NLMSG_ERROR, NLM_F_ACK_TLVS, &payload);
        }
    }
}
