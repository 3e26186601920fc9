//! Being asked to end, as something that a loop can poll like a socket.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

use crate::{Error, Result};

/// Readable once the process has been asked to end with SIGTERM or SIGINT, which do nothing else any more.
#[derive(Debug)]
pub struct Termination(SignalFd);

impl Termination {
    /// Takes the signals over. For the beginning of a program: threads that run already keep them.
    pub fn catch() -> Result<Self> {
        let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        signals
            .thread_block()
            .and_then(|()| {
                SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            })
            .map(Self)
            .map_err(|errno| Error::io("catch SIGTERM and SIGINT", std::io::Error::from(errno)))
    }
}

impl AsFd for Termination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
