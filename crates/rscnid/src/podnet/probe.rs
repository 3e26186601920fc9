//! Which peers are probed over their tunnels, and what their answers mean. Times are since any
//! fixed moment.
//!
//! A probe is sent after a tunnel was added or changed, repeated twice if there is no answer, and
//! sent again after a while. A peer that answers only probes without a checksum gets wrong ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    time::Duration,
};

use rscni_linux::Family;

use super::{Reason, Tunnel};

/// The first probe: other nodes have to learn of the tunnel too.
const FIRST: Duration = Duration::from_secs(2);
/// Milliseconds over which the first probes of all peers are spread.
const SPREAD: u64 = 8_000;
/// The pause after a probe that may still be answered.
const REPEAT: Duration = Duration::from_secs(2);
/// Probes without an answer until a peer counts as unreachable.
const ATTEMPTS: u32 = 3;
/// The pause between probes of a peer that does not answer.
const UNREACHABLE: Duration = Duration::from_secs(30);
/// The pause between probes of a peer that answers.
const INTERVAL: Duration = Duration::from_secs(300);

/// A peer that answers probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name of its Node.
    pub name: String,
    /// Its tunnel.
    pub tunnel: Tunnel,
}

/// Something to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Sends a probe to a gateway.
    Send {
        /// Address on the VXLAN device of the peer.
        to: IpAddr,
        /// Whether the packet has a checksum.
        checked: bool,
    },
    /// Turns off the offload of checksums on a VXLAN device.
    ComputeChecksums(Family),
}

/// The peers that are probed, by their gateway.
#[derive(Debug, Default)]
pub struct Probes {
    peers: BTreeMap<IpAddr, Peer>,
    /// Tunnels that were added or changed since the last call of [`wait`](Self::wait).
    fresh: BTreeSet<IpAddr>,
    due: BTreeSet<(Duration, IpAddr)>,
    /// Nodes whose problems have changed.
    changed: BTreeSet<String>,
}

#[derive(Debug)]
struct Peer {
    target: Target,
    due: Duration,
    unanswered: u32,
    /// Whether a probe without a checksum was answered since the last one with a checksum.
    answers_unchecked: bool,
    /// Whether checksums are computed without offload because of this peer.
    computes: bool,
    problem: Option<Reason>,
}

impl Probes {
    /// Adds or changes a peer, or removes it.
    pub fn set(&mut self, gateway: IpAddr, target: Option<Target>) {
        let before = self.peers.get(&gateway).map(|peer| &peer.target);
        if before == target.as_ref() {
            return;
        }
        if let Some(peer) = self.peers.remove(&gateway) {
            self.due.remove(&(peer.due, gateway));
            self.changed.extend(peer.problem.is_some().then_some(peer.target.name));
        }
        self.fresh.remove(&gateway);
        if let Some(target) = target {
            let peer = Peer {
                target,
                due: Duration::ZERO,
                unanswered: 0,
                answers_unchecked: false,
                computes: false,
                problem: None,
            };
            self.peers.insert(gateway, peer);
            self.fresh.insert(gateway);
        }
    }

    /// Whether a gateway is that of a known peer.
    pub fn knows(&self, gateway: IpAddr) -> bool {
        self.peers.contains_key(&gateway)
    }

    /// Returns how long it takes until something has to be done, or `None` for ever.
    pub fn wait(&mut self, now: Duration) -> Option<Duration> {
        for gateway in std::mem::take(&mut self.fresh) {
            let mut hasher = DefaultHasher::new();
            gateway.hash(&mut hasher);
            let spread = Duration::from_millis(hasher.finish() % SPREAD);
            self.schedule(gateway, now + FIRST + spread);
        }
        self.due.first().map(|(due, _)| due.saturating_sub(now))
    }

    fn schedule(&mut self, gateway: IpAddr, due: Duration) {
        if let Some(peer) = self.peers.get_mut(&gateway) {
            self.due.remove(&(peer.due, gateway));
            peer.due = due;
            self.due.insert((due, gateway));
        }
    }

    /// Returns what has to be done now.
    pub fn actions(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some((due, gateway)) = self.due.first().copied()
            && due <= now
        {
            self.due.pop_first();
            let Some(peer) = self.peers.get_mut(&gateway) else { continue };
            if peer.unanswered >= ATTEMPTS {
                let endpoint = peer.target.tunnel.endpoint;
                let problem = match (peer.answers_unchecked, peer.computes) {
                    (true, false) => None,
                    (true, true) => Some(Reason::WrongChecksums(endpoint)),
                    (false, _) => Some(Reason::Unreachable(endpoint)),
                };
                if peer.answers_unchecked {
                    // Again if it did before: the device may be a new one.
                    actions.push(Action::ComputeChecksums(Family::of(&gateway)));
                    if !peer.computes {
                        (peer.computes, peer.unanswered) = (true, 0);
                    }
                }
                if problem.is_some() && problem != peer.problem {
                    peer.problem = problem;
                    self.changed.insert(peer.target.name.clone());
                }
                peer.answers_unchecked = false;
            }
            actions.push(Action::Send { to: gateway, checked: true });
            if peer.unanswered > 0 {
                actions.push(Action::Send { to: gateway, checked: false });
            }
            let is_exhausted = peer.unanswered >= ATTEMPTS;
            peer.unanswered = (peer.unanswered + 1).min(ATTEMPTS);
            self.schedule(gateway, now + if is_exhausted { UNREACHABLE } else { REPEAT });
        }
        actions
    }

    /// Takes an answer from a gateway.
    pub fn answer(&mut self, from: IpAddr, checked: bool, now: Duration) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if !checked {
            peer.answers_unchecked = true;
            return;
        }
        if peer.problem.take().is_some() {
            self.changed.insert(peer.target.name.clone());
        }
        (peer.unanswered, peer.answers_unchecked, peer.computes) = (0, false, false);
        self.schedule(from, now + INTERVAL);
    }

    /// The problem of the peer with this gateway.
    pub fn problem(&self, gateway: IpAddr) -> Option<&Reason> {
        self.peers.get(&gateway)?.problem.as_ref()
    }

    /// The number of peers that do not answer, or not as they should.
    pub fn unreachable(&self) -> usize {
        self.peers.values().filter(|peer| peer.problem.is_some()).count()
    }

    /// Takes the names of Nodes whose problems have changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rscni_linux::MacAddr;

    const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 1, 0));

    fn target() -> Target {
        let tunnel = Tunnel { endpoint: [192, 0, 2, 1].into(), mac: MacAddr([2, 0, 0, 0, 0, 1]) };
        Target { name: "a".into(), tunnel }
    }

    /// Lets time pass with a peer that answers some probes.
    fn run(
        probes: &mut Probes,
        time: &mut Duration,
        seconds: u64,
        mut answers: impl FnMut(Action) -> bool,
    ) -> Vec<Action> {
        let end = *time + Duration::from_secs(seconds);
        let mut all = Vec::new();
        while let Some(wait) = probes.wait(*time).filter(|wait| *time + *wait <= end) {
            *time += wait;
            for action in probes.actions(*time) {
                all.push(action);
                if let Action::Send { to, checked } = action
                    && answers(action)
                {
                    probes.answer(to, checked, *time);
                }
            }
        }
        *time = end;
        all
    }

    #[test]
    fn peer_that_answers_is_probed_once_in_five_minutes() {
        let (mut probes, mut time) = (Probes::default(), Duration::ZERO);
        probes.set(GATEWAY, Some(target()));
        let actions = run(&mut probes, &mut time, 3500, |_| true);
        assert_eq!(actions, [Action::Send { to: GATEWAY, checked: true }; 12]);
        assert_eq!(probes.problem(GATEWAY), None);
        // The same tunnel again is no reason for a probe.
        probes.set(GATEWAY, Some(target()));
        assert_eq!(run(&mut probes, &mut time, 100, |_| true), []);
        assert!(probes.take_changed().is_empty());
    }

    #[test]
    fn silent_peer_is_a_problem_until_it_answers() {
        let (mut probes, mut time) = (Probes::default(), Duration::ZERO);
        probes.set(GATEWAY, Some(target()));
        run(&mut probes, &mut time, 17, |_| false);
        assert!(matches!(probes.problem(GATEWAY), Some(Reason::Unreachable(_))));
        assert_eq!(probes.take_changed(), ["a".to_owned()].into());
        let count = run(&mut probes, &mut time, 3600, |_| false).len();
        assert!(count < 260, "{count} probes");
        assert!(probes.take_changed().is_empty());
        run(&mut probes, &mut time, 30, |_| true);
        assert_eq!(probes.problem(GATEWAY), None);
        assert_eq!(probes.take_changed(), ["a".to_owned()].into());
    }

    #[test]
    fn single_lost_probe_is_no_problem() {
        let (mut probes, mut time) = (Probes::default(), Duration::ZERO);
        probes.set(GATEWAY, Some(target()));
        let mut number = 0;
        run(&mut probes, &mut time, 3600, |action| {
            number += u32::from(matches!(action, Action::Send { checked: true, .. }));
            number.is_multiple_of(3)
        });
        assert!(probes.take_changed().is_empty());
    }

    #[test]
    fn wrong_checksums_are_computed_without_offload_and_else_reported() {
        let (mut probes, mut time) = (Probes::default(), Duration::ZERO);
        probes.set(GATEWAY, Some(target()));
        let only_unchecked = |action| matches!(action, Action::Send { checked: false, .. });
        let turned_off = Action::ComputeChecksums(Family::V4);
        let mut actions = Vec::new();
        while !actions.contains(&turned_off) {
            actions = run(&mut probes, &mut time, 1, only_unchecked);
        }
        assert!(probes.take_changed().is_empty());
        run(&mut probes, &mut time, 10, only_unchecked);
        assert!(matches!(probes.problem(GATEWAY), Some(Reason::WrongChecksums(_))));
        run(&mut probes, &mut time, 60, |_| true);
        assert_eq!(probes.problem(GATEWAY), None);
    }

    #[test]
    fn removed_peer_is_not_probed_and_no_problem() {
        let (mut probes, mut time) = (Probes::default(), Duration::ZERO);
        probes.set(GATEWAY, Some(target()));
        run(&mut probes, &mut time, 20, |_| false);
        probes.take_changed();
        probes.set(GATEWAY, None);
        assert_eq!(probes.take_changed(), ["a".to_owned()].into());
        assert_eq!(probes.wait(time), None);
        assert_eq!(probes.problem(GATEWAY), None);
    }
}
