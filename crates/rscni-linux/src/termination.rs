//! Termination signals as a file descriptor to poll.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

use crate::{Error, Result};

/// Becomes readable on SIGTERM or SIGINT, which have no other effect any more.
#[derive(Debug)]
pub struct Termination(SignalFd);

impl Termination {
    /// Blocks the signals and opens the descriptor. Call this before starting threads: running
    /// threads are not affected.
    pub fn catch() -> Result<Self> {
        let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        signals
            .thread_block()
            .and_then(|()| {
                SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            })
            .map(Self)
            .map_err(|errno| Error::io("block SIGTERM and SIGINT", std::io::Error::from(errno)))
    }
}

impl AsFd for Termination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
