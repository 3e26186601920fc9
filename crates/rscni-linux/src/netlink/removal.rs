//! Removing a link without waiting until the kernel has freed it.

use std::{
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use super::Netlink;
use crate::{Error, Result};

/// Between two looks at whether it is still there.
const PAUSE: Duration = Duration::from_micros(200);

impl Netlink {
    /// Deletes a link, and comes back as soon as nobody can find it any more.
    ///
    /// The kernel answers a deletion when it has also freed the link, before which it waits for all processors: some 20 ms,
    /// ten times what the removal takes. Here a thread waits for the answer, on `other`, a socket in the same namespace.
    /// The process does not end before that thread: this is for programs that go on.
    ///
    /// # Errors
    ///
    /// As [`Netlink::del_link`].
    pub fn del_link_at_once(&mut self, mut other: Self, index: u32) -> Result<()> {
        // One that is gone already would be taken for one that went.
        self.link_by_index(index)?;
        let (sender, answer) = channel();
        thread::Builder::new()
            .name("del_link".to_owned())
            // Nobody listens any more if the link was seen to be gone before.
            .spawn(move || sender.send(other.del_link(index)).unwrap_or_default())
            .map_err(|error| Error::io("start a thread that removes a link", error))?;
        loop {
            match answer.recv_timeout(PAUSE) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Timeout) => match self.link_by_index(index) {
                    Err(error) if error.is_not_found() => return Ok(()),
                    _ => {}
                },
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::io(
                        "remove a link",
                        std::io::Error::other("its thread has ended"),
                    ));
                }
            }
        }
    }
}
