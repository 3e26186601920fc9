//! Shapes what leaves a link: with a token bucket, or with classes if subnets are excepted.

use ipnet::IpNet;
use rscni_linux::{
    Link, Netlink, Request,
    tc::{Filter, Handle, HtbClass, Qdisc, Tbf, U32},
};

use super::config::{Limit, Subnets};
use crate::plugin::{Result, differs, unless_absent};

/// The remote address of a packet.
#[derive(Clone, Copy)]
pub(super) enum Peer {
    /// For packets to the container.
    Source,
    /// For packets from the container.
    Destination,
}

/// The limit of what leaves a link.
pub(super) struct Shaper<'a> {
    pub(super) limit: Limit,
    pub(super) subnets: &'a Subnets,
    pub(super) peer: Peer,
}

const ROOT: Handle = Handle::new(1, 0);
/// The limited class, with the number that the Go plugin used when it had classes.
const SHAPED: Handle = Handle::new(1, 48);
/// The queue of the limited class.
const SHAPED_QUEUE: Handle = Handle::new(48, 0);
/// The only class of a token bucket.
const BUCKET: Handle = Handle::new(1, 1);
/// The queue of a token bucket.
const BUCKET_QUEUE: Handle = Handle::new(2, 0);
/// The class without a limit. Its rate is so high that no packet waits.
const UNSHAPED: Handle = Handle::new(1, 1);
const UNLIMITED: u64 = 100_000_000_000;

impl Shaper<'_> {
    /// Returns the request that creates the root queueing discipline, and those for what depends on
    /// it.
    pub(super) fn requests(&self, link: &Link) -> (Request, Vec<Request>) {
        let index = link.index;
        let root = Request::add_qdisc(index, Handle::ROOT, ROOT, &self.root(link));
        let (class, handle, queue) = self.queue(link);
        let queue = Request::add_qdisc(index, class, handle, &queue);
        if *self.subnets == Subnets::All {
            let queue = self.limit.needs_queue(link.mtu).then_some(queue);
            return (root, queue.into_iter().collect());
        }
        let mut rest = self.classes().map(|class| Request::add_htb_class(index, &class)).to_vec();
        rest.push(queue);
        rest.extend(self.filters().iter().map(|filter| Request::add_filter(index, filter)));
        (root, rest)
    }

    fn root(&self, link: &Link) -> Qdisc {
        match self.subnets {
            Subnets::All => Qdisc::Tbf(self.limit.bucket(link.mtu)),
            Subnets::Only(_) => Qdisc::Htb { default: UNSHAPED.minor() },
            Subnets::Except(_) => Qdisc::Htb { default: SHAPED.minor() },
        }
    }

    fn classes(&self) -> [HtbClass; 2] {
        [
            HtbClass::new(SHAPED, self.limit.rate, self.limit.burst),
            HtbClass::new(UNSHAPED, UNLIMITED, 0),
        ]
    }

    /// Returns the queue: its class, its handle and its length. The queue that the kernel creates
    /// for a token bucket can hold the burst too, which is seconds of traffic with the largest
    /// bursts of runtimes.
    fn queue(&self, link: &Link) -> (Handle, Handle, Qdisc) {
        match self.subnets {
            Subnets::All => {
                (BUCKET, BUCKET_QUEUE, Qdisc::Bfifo { limit: self.limit.queue(link.mtu) })
            }
            // `htb` does not split packets.
            _ => (SHAPED, SHAPED_QUEUE, Qdisc::Bfifo { limit: self.limit.unsplit_queue() }),
        }
    }

    fn filters(&self) -> Vec<U32> {
        let (subnets, class): (&[IpNet], _) = match self.subnets {
            Subnets::All => (&[], UNSHAPED),
            Subnets::Only(subnets) => (subnets, SHAPED),
            Subnets::Except(subnets) => (subnets, UNSHAPED),
        };
        let filter = match self.peer {
            Peer::Source => U32::from_subnet,
            Peer::Destination => U32::to_subnet,
        };
        subnets.iter().map(|subnet| filter(*subnet, class)).collect()
    }

    /// Compares the queueing disciplines with the configuration for CHECK.
    pub(super) fn check(&self, host: &mut Netlink, link: &Link) -> Result<()> {
        let name = &link.name;
        let wanted = self.root(link);
        match host.find_qdisc(link.index, Handle::ROOT)? {
            Some(Qdisc::Tbf(found))
                if *self.subnets == Subnets::All && self.limit.is_kept_by(&found) =>
            {
                return self.check_bucket_queue(host, link, &found);
            }
            Some(found) if found == wanted => {}
            Some(found) if found.kind() == wanted.kind() => {
                return Err(differs(format!(
                    "{name} has {}, ADD left {}",
                    in_words(&found),
                    in_words(&wanted)
                )));
            }
            _ => return Err(differs(format!("{} is missing on {name}", in_words(&wanted)))),
        }
        let classes = host.htb_classes(link.index)?;
        for wanted in self.classes() {
            let handle = wanted.handle;
            let Some(found) = classes.iter().find(|class| class.handle == handle) else {
                return Err(differs(format!("class htb {handle} is missing on {name}")));
            };
            // The kernel rounds a burst of zero.
            if found.rate != wanted.rate
                || (handle == SHAPED && !self.limit.has_buffer(found.buffer))
            {
                let words = |class: &HtbClass| bucket_in_words(class.rate, class.buffer);
                return Err(differs(format!(
                    "class htb {handle} on {name} has {}, ADD left {}",
                    words(found),
                    words(&wanted)
                )));
            }
        }
        // Earlier releases added the burst to its limit.
        if !matches!(host.find_qdisc(link.index, SHAPED)?, Some(Qdisc::Bfifo { .. })) {
            return Err(differs(format!("the queue of class htb {SHAPED} is missing on {name}")));
        }
        let filters = host.filters(link.index, ROOT)?;
        let subnets = match self.subnets {
            Subnets::All => return Ok(()),
            Subnets::Only(subnets) | Subnets::Except(subnets) => subnets,
        };
        for (subnet, wanted) in subnets.iter().zip(self.filters()) {
            if !filters.contains(&Filter::U32(wanted)) {
                return Err(differs(format!("the filter for {subnet} is missing on {name}")));
            }
        }
        Ok(())
    }

    /// Checks the queue of a token bucket whose own values are right.
    fn check_bucket_queue(&self, host: &mut Netlink, link: &Link, found: &Tbf) -> Result<()> {
        let (class, _, wanted) = self.queue(link);
        let complain = |has: &str| {
            let wanted = in_words(&wanted);
            Err(differs(format!("qdisc tbf on {} has {has}, ADD left {wanted}", link.name)))
        };
        match host.find_qdisc(link.index, class)? {
            Some(queue) if queue != wanted => complain(&in_words(&queue)),
            Some(_) if found.largest.is_some() != self.limit.bucket(link.mtu).largest.is_some() => {
                complain("this queue but another largest packet")
            }
            Some(_) => Ok(()),
            // The Go plugin and earlier releases keep the queue that the kernel creates.
            None if host.find_default_qdisc(link.index, class)?.is_some() => Ok(()),
            None => complain("no queue"),
        }
    }
}

pub(super) fn remove(host: &mut Netlink, link: &Link) -> Result<()> {
    match host.find_qdisc(link.index, Handle::ROOT)? {
        Some(Qdisc::Tbf(_) | Qdisc::Htb { .. }) => delete(host, link, Handle::ROOT),
        _ => Ok(()),
    }
}

/// Deletes a queueing discipline. A missing one is not an error.
pub(super) fn delete(host: &mut Netlink, link: &Link, place: Handle) -> Result<()> {
    unless_absent(host.del_qdisc(link.index, place))
}

fn in_words(qdisc: &Qdisc) -> String {
    match qdisc {
        Qdisc::Tbf(bucket) => {
            format!(
                "qdisc tbf with {}, limit {} bytes",
                bucket_in_words(bucket.rate, bucket.buffer),
                bucket.limit
            )
        }
        Qdisc::Bfifo { limit } => format!("a queue of {limit} bytes"),
        Qdisc::Htb { default } => format!("qdisc htb with default class {default:x}"),
        other => format!("qdisc {}", other.kind()),
    }
}

/// The kernel counts the burst in ticks of 64 ns.
fn bucket_in_words(rate: u64, buffer: u32) -> String {
    format!("rate {} bit/s, burst of {} us", rate * 8, u64::from(buffer) * 64 / 1000)
}
