//! A lease with its server and times.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{
    super::{
        lease::{Lease, Terms},
        message::Message,
    },
    timers::Time,
};

/// A lease that a server has given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Binding {
    pub(crate) lease: Lease,
    pub(crate) server: Ipv4Addr,
    /// When the lease was requested.
    pub(crate) since: Time,
    /// `None` if the lease does not expire.
    pub(crate) terms: Option<Terms>,
}

impl Binding {
    /// Reads an acknowledgement that arrives `now`.
    ///
    /// # Errors
    /// The reason why it is unusable, as the predicate of a sentence.
    pub(super) fn of(
        message: &Message,
        server: Ipv4Addr,
        since: Time,
        now: Time,
    ) -> Result<Self, String> {
        let binding =
            Self { lease: Lease::of(message)?, server, since, terms: Terms::of(message)? };
        if binding.is_expired(now) {
            return Err("comes after the lease's end".into());
        }
        Ok(binding)
    }

    pub(super) fn address(&self) -> Ipv4Addr {
        self.lease.address.addr()
    }

    /// Returns when the lease expires, if it does.
    pub(super) fn end(&self) -> Option<Time> {
        self.terms.map(|terms| self.since + terms.expire)
    }

    pub(super) fn is_expired(&self, now: Time) -> bool {
        self.end().is_some_and(|end| end <= now)
    }

    /// Whether its times do not overflow. A file may contain any number.
    pub(in super::super) fn has_valid_times(&self) -> bool {
        let is_valid = |time: Time| self.since.checked_add(time).is_some();
        self.terms.is_none_or(|Terms { renew, rebind, expire }| {
            [renew, rebind, expire].into_iter().all(is_valid)
        })
    }
}
