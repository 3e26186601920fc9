//! Identifiers of network namespaces: ids relative to another one, as `ip netns list-id` lists
//! them, and cookies.

use std::os::fd::{AsFd, AsRawFd};

use libc::RTM_GETNSID;
use rustix::io::Errno;

use super::{AttributeBuf, Message, Netlink, Value, attributes};
use crate::{Error, Netns, Result, kernel_interface};

const HEADER: usize = 4;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

impl Netlink {
    /// Returns a number that identifies the socket's namespace until the next boot; `None` before
    /// Linux 5.14.
    pub fn netns_cookie(&self) -> Result<Option<u64>> {
        match kernel_interface::netns_cookie(&self.socket) {
            Err(Errno::NOPROTOOPT) => Ok(None),
            cookie => cookie
                .map(Some)
                .map_err(|errno| Error::io("look up the cookie of the network namespace", errno)),
        }
    }

    /// Returns the id that this socket's namespace has for another one, as in
    /// [`Link::peer_netnsid`](crate::Link::peer_netnsid), or `None` if it has none.
    pub fn nsid(&mut self, netns: &Netns) -> Result<Option<i32>> {
        let fd = netns.as_fd().as_raw_fd().to_ne_bytes();
        let message =
            Message::new(RTM_GETNSID, &[0; HEADER], &AttributeBuf::new().with(NETNSA_FD, fd));
        let action = format!("look up the id of {}", netns.path().display());
        self.socket.get(&action, &message, |payload| {
            let id = attributes(payload, HEADER).value(NETNSA_NSID).map(Value::i32);
            // -1: no id is assigned.
            Ok(id.filter(|id| *id >= 0))
        })
    }
}
