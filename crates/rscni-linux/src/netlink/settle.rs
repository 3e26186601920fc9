//! Waiting for a carrier and for duplicate address detection.

use std::{
    thread,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::{Link, Netlink, OperState};
use crate::{Error, Result};

const MIN_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(50);

impl Netlink {
    /// Waits until the link is operational.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] if it is not within `limit`; [`Error::NotFound`] if the link disappears.
    pub fn wait_until_up(&mut self, index: u32, limit: Duration) -> Result<Link> {
        poll(
            limit,
            || {
                let link = self.link_by_index(index)?;
                // Loopback and some drivers never report `Up`.
                let ready =
                    link.running && matches!(link.operstate, OperState::Up | OperState::Unknown);
                Ok(ready.then_some(link))
            },
            || format!("interface {index} coming up"),
        )
    }

    /// Waits until no IPv6 address of the link is tentative.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if another host has one of the addresses; [`Error::Timeout`] if detection
    /// does not finish within `limit`.
    pub fn settle_addresses(&mut self, index: u32, limit: Duration) -> Result<()> {
        poll(
            limit,
            || {
                let addresses = self.addresses(index)?;
                if let Some(duplicate) = addresses.iter().find(|address| address.dadfailed) {
                    return Err(duplicate_address(duplicate.net));
                }
                let settled = addresses.iter().all(|address| !address.tentative);
                Ok(settled.then_some(()))
            },
            || format!("duplicate address detection on interface {index}"),
        )
    }
}

fn duplicate_address(net: IpNet) -> Error {
    Error::invalid(
        format!("address {net}"),
        "in use by another host on the link (duplicate address detection failed)",
    )
}

fn poll<T>(
    limit: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
    what: impl FnOnce() -> String,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut pause = MIN_PAUSE;
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Timeout { what: what() });
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
