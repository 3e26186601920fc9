//! The order of the calls in a daemon.
//!
//! Calls of one attachment run one after the other, and GC excludes all other calls of its network
//! (spec: "Lifecycle & Ordering"). Others run in parallel.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// The subject of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Network(String),
    Attachment { network: String, container_id: String, ifname: String },
}

impl Subject {
    fn network(&self) -> &str {
        match self {
            Self::Network(network) | Self::Attachment { network, .. } => network,
        }
    }

    fn excludes(&self, other: &Self) -> bool {
        let is_network = |subject: &Self| matches!(subject, Self::Network(_));
        self == other
            || (self.network() == other.network() && (is_network(self) || is_network(other)))
    }
}

/// The calls that run or wait.
#[derive(Clone, Debug, Default)]
pub(super) struct CallQueue(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    /// In the order of their arrival.
    entries: BTreeMap<u64, (Subject, Option<Waker>)>,
}

/// A future that is ready when the call may run. The call ends on drop.
#[derive(Debug)]
#[must_use]
pub(super) struct QueuedCall {
    calls: CallQueue,
    number: u64,
}

impl CallQueue {
    /// Queues a call behind all earlier ones that exclude it.
    pub(super) fn enter(&self, subject: Subject) -> QueuedCall {
        let mut queue = self.lock();
        let number = queue.next;
        queue.next += 1;
        queue.entries.insert(number, (subject, None));
        QueuedCall { calls: self.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Future for &QueuedCall {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.calls.lock();
        let Some((subject, _)) = queue.entries.get(&self.number) else { return Poll::Ready(()) };
        if !queue.entries.range(..self.number).any(|(_, (other, _))| other.excludes(subject)) {
            return Poll::Ready(());
        }
        if let Some((_, waker)) = queue.entries.get_mut(&self.number) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for QueuedCall {
    fn drop(&mut self) {
        let mut queue = self.calls.lock();
        let Some((ended, _)) = queue.entries.remove(&self.number) else { return };
        let later = queue.entries.range_mut(self.number..);
        let waiting: Vec<_> = later
            .filter(|(_, (subject, _))| subject.excludes(&ended))
            .filter_map(|(_, (_, waker))| waker.take())
            .collect();
        drop(queue);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn attachment(network: &str, container_id: &str) -> Subject {
        Subject::Attachment {
            network: network.into(),
            container_id: container_id.into(),
            ifname: "eth0".into(),
        }
    }

    fn may_run(call: &QueuedCall) -> bool {
        pin!(call).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn calls_of_one_attachment_run_in_their_order_and_others_in_parallel() {
        let calls = CallQueue::default();
        let first = calls.enter(attachment("net", "a"));
        let [second, third] = [(); 2].map(|()| calls.enter(attachment("net", "a")));
        let others = [attachment("net", "b"), attachment("other", "a")].map(|s| calls.enter(s));
        assert!(may_run(&first) && others.iter().all(may_run));
        assert!(!may_run(&second) && !may_run(&third));
        drop(first);
        assert!(may_run(&second) && !may_run(&third));
        drop(second);
        assert!(may_run(&third));
        drop((third, others));
        assert!(calls.lock().entries.is_empty());
    }

    #[test]
    fn gc_excludes_its_network_and_later_calls_queue_behind_it() {
        let calls = CallQueue::default();
        let running = calls.enter(attachment("net", "a"));
        let gc = calls.enter(Subject::Network("net".into()));
        let later = calls.enter(attachment("net", "b"));
        let other = calls.enter(Subject::Network("other".into()));
        assert!(may_run(&running) && may_run(&other) && !may_run(&gc) && !may_run(&later));
        drop(running);
        assert!(may_run(&gc) && !may_run(&later));
        drop(gc);
        assert!(may_run(&later));
    }

    #[test]
    fn a_call_that_gives_up_does_not_block_later_ones() {
        let calls = CallQueue::default();
        let running = calls.enter(attachment("net", "a"));
        let impatient = calls.enter(attachment("net", "a"));
        let last = calls.enter(attachment("net", "a"));
        drop(impatient);
        assert!(!may_run(&last));
        drop(running);
        assert!(may_run(&last));
    }
}
