//! Deleting a link without waiting for the kernel to free it.

use std::{
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use super::Netlink;
use crate::{Error, Result};

/// Pause between two lookups.
const PAUSE: Duration = Duration::from_micros(200);

impl Netlink {
    /// Deletes a link, and returns as soon as it can no longer be found.
    ///
    /// The kernel answers a deletion after it has freed the link, which takes an RCU grace period:
    /// about 20 ms, ten times the removal itself. A thread waits for the answer on `other`, a
    /// socket in the same namespace. The process does not exit before that thread, so this only
    /// helps long-running programs.
    ///
    /// # Errors
    ///
    /// As [`Netlink::del_link`].
    pub fn del_link_at_once(&mut self, mut other: Self, index: u32) -> Result<()> {
        // A link that does not exist must not count as deleted.
        self.link_by_index(index)?;
        let (sender, answer) = channel();
        thread::Builder::new()
            .name("del_link".to_owned())
            // The receiver is gone if the lookup noticed the deletion first.
            .spawn(move || sender.send(other.del_link(index)).unwrap_or_default())
            .map_err(|error| Error::io("start a thread to delete a link", error))?;
        loop {
            match answer.recv_timeout(PAUSE) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Timeout) => match self.link_by_index(index) {
                    Err(error) if error.is_not_found() => return Ok(()),
                    _ => {}
                },
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::io(
                        "delete a link",
                        std::io::Error::other("the thread ended without an answer"),
                    ));
                }
            }
        }
    }
}
