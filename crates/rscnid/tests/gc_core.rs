//! Properties of the decision which attachments are stale: pods are attached in steps, detached,
//! killed and forgotten, in any order with passes of the collection, reboots and changes of the
//! clock.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use rscnid::gc::core::{
    Attachment, Blind, Core, Evidence, Namespace, Owner, Reason, Sandboxes, Snapshot, Stale,
    boot_time,
};

/// The longest ADD; the runtime ends a longer one.
const LONGEST_ADD: u64 = 240;

/// The steps of an attachment, as containerd takes them. Nothing else knows the sandbox before the
/// last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Namespace,
    Lease,
    Interface,
    Result,
    Recorded,
}

#[derive(Clone, Debug)]
struct Pod {
    /// The last step of ADD.
    step: Step,
    /// Since when its ADD is in progress, if it is.
    adding: Option<u64>,
    has_namespace: bool,
    has_interface: bool,
    /// When its lease and its result were written, by the clock.
    lease: Option<i64>,
    result: Option<i64>,
}

impl Pod {
    fn has_traces(&self) -> bool {
        self.lease.is_some() || self.result.is_some() || self.has_interface
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// Starts an ADD.
    Start,
    /// The next step of an ADD.
    Go(usize),
    /// The next step of a DEL: leases and rules, the result, the namespace, the sandbox.
    Delete(usize),
    /// The runtime is killed and starts again: it ends ADDs, and knows their sandboxes or not.
    Kill {
        forgets: bool,
    },
    /// The namespace of a sandbox whose ADD was killed is removed.
    Unmount(usize),
    Reboot {
        forgets: bool,
    },
    Wait(u64),
    /// The clock is set, in one direction for each boot.
    SetClock(i64),
    Snapshot,
    /// The list of sandboxes and the decision.
    Decide,
    /// One removal.
    Remove(usize),
}

#[derive(Debug)]
struct World {
    pods: BTreeMap<usize, Pod>,
    /// The sandboxes that the runtime knows, and whether they are ready.
    known: BTreeMap<usize, bool>,
    next: usize,
    uptime: u64,
    /// The clock, less the uptime.
    clock: i64,
    /// Whether the clock is set forward in this boot.
    is_forward: Option<bool>,
    /// When the runtime created its socket.
    socket: i64,
    core: Core,
    snapshot: Option<Snapshot>,
    stale: Vec<Stale>,
}

fn time(clock: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(clock).unwrap())
}

fn owner(id: usize) -> Owner {
    Owner { network: "net".into(), container_id: id.to_string(), ifname: Some("eth0".into()) }
}

impl World {
    fn new() -> Self {
        Self {
            pods: BTreeMap::new(),
            known: BTreeMap::new(),
            next: 0,
            uptime: 100,
            clock: 1 << 40,
            is_forward: None,
            socket: (1 << 40) + 100,
            core: Self::core(),
            snapshot: None,
            stale: Vec::new(),
        }
    }

    fn core() -> Core {
        Core::new(Evidence::Observation, Duration::from_secs(LONGEST_ADD))
    }

    fn now(&self) -> i64 {
        self.clock + i64::try_from(self.uptime).unwrap()
    }

    fn chosen(&self, number: usize, is_wanted: impl Fn(usize, &Pod) -> bool) -> Option<usize> {
        let ids: Vec<_> = self.pods.iter().filter(|(id, pod)| is_wanted(**id, pod)).collect();
        ids.get(number % ids.len().max(1)).map(|(id, _)| **id)
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Start => {
                let pod = Pod {
                    step: Step::Namespace,
                    adding: Some(self.uptime),
                    has_namespace: true,
                    has_interface: false,
                    lease: None,
                    result: None,
                };
                self.pods.insert(self.next, pod);
                self.next += 1;
            }
            Op::Go(number) => self.go(number),
            Op::Delete(number) => self.delete(number),
            Op::Kill { forgets } => {
                self.uptime += 1;
                self.socket = self.now();
                self.end_adds(forgets, |_| true);
            }
            Op::Unmount(number) => {
                let is_lost = |id: usize, pod: &Pod| {
                    pod.adding.is_none() && self.known.get(&id) != Some(&true)
                };
                if let Some(id) = self.chosen(number, is_lost) {
                    self.drop_namespace(id);
                }
            }
            Op::Reboot { forgets } => self.reboot(forgets),
            Op::Wait(seconds) => {
                self.uptime += seconds;
                let uptime = self.uptime;
                self.end_adds(true, |start| uptime - start >= LONGEST_ADD);
            }
            Op::SetClock(by) => {
                if *self.is_forward.get_or_insert(by > 0) == (by > 0) {
                    self.clock += by;
                }
            }
            Op::Snapshot => self.snapshot = Some(self.take_snapshot()),
            Op::Decide => {
                if let Some(snapshot) = self.snapshot.take() {
                    let known = self.known.iter().map(|(id, ready)| (id.to_string(), *ready));
                    let known: Sandboxes = known.collect();
                    // A reboot forgets snapshots, so a ready sandbox has its namespace in it, or
                    // was stopped since.
                    self.stale = self.core.decide(&snapshot, &known).unwrap_or_default();
                    let is_known = |it: &Stale| known.contains_key(&it.owner.container_id);
                    assert!(!self.stale.iter().any(is_known), "{:?}", self.stale);
                }
            }
            Op::Remove(number) => {
                if !self.stale.is_empty() {
                    let stale = self.stale.swap_remove(number % self.stale.len());
                    self.remove(&stale);
                }
            }
        }
    }

    fn go(&mut self, number: usize) {
        let Some(id) = self.chosen(number, |_, pod| pod.adding.is_some()) else { return };
        let now = self.now();
        let pod = self.pods.get_mut(&id).unwrap();
        match pod.step {
            Step::Namespace => {
                pod.lease = Some(now);
                pod.step = Step::Lease;
            }
            Step::Lease => {
                pod.has_interface = true;
                pod.step = Step::Interface;
            }
            Step::Interface => {
                pod.result = Some(now);
                pod.step = Step::Result;
            }
            Step::Result => {
                pod.step = Step::Recorded;
                pod.adding = None;
                self.known.insert(id, true);
            }
            Step::Recorded => unreachable!("its ADD has ended"),
        }
    }

    fn delete(&mut self, number: usize) {
        let Some(id) = self.chosen(number, |id, _| self.known.contains_key(&id)) else { return };
        self.known.insert(id, false);
        let pod = self.pods.get_mut(&id).unwrap();
        if pod.lease.take().is_some() {
            return;
        }
        if pod.result.take().is_none() && !pod.has_namespace {
            self.known.remove(&id);
            return;
        }
        if pod.result.is_none() {
            self.drop_namespace(id);
        }
    }

    fn drop_namespace(&mut self, id: usize) {
        let pod = self.pods.get_mut(&id).unwrap();
        (pod.has_namespace, pod.has_interface) = (false, false);
    }

    /// Ends the ADDs that began when `is_ended` says.
    fn end_adds(&mut self, forgets: bool, is_ended: impl Fn(u64) -> bool) {
        for (id, pod) in &mut self.pods {
            if pod.adding.is_some_and(&is_ended) {
                pod.adding = None;
                if !forgets {
                    self.known.insert(*id, false);
                }
            }
        }
    }

    fn reboot(&mut self, forgets: bool) {
        self.end_adds(true, |_| true);
        let ids: Vec<_> = self.pods.keys().copied().collect();
        for id in ids {
            self.drop_namespace(id);
        }
        self.known.values_mut().for_each(|ready| *ready = false);
        if forgets {
            self.known.clear();
        }
        self.clock = self.now();
        self.uptime = 5;
        self.is_forward = None;
        self.socket = self.now();
        self.core = Self::core();
        self.snapshot = None;
        self.stale.clear();
    }

    fn take_snapshot(&self) -> Snapshot {
        let with_traces = self.pods.iter().filter(|(_, pod)| pod.has_traces());
        let attachments = with_traces.map(|(id, pod)| {
            let namespace = match (pod.result, pod.has_namespace) {
                (Some(_), true) => Namespace::Exists,
                (Some(_), false) => Namespace::Gone(PathBuf::from("/run/netns/x")),
                (None, _) if pod.has_interface => Namespace::Exists,
                (None, _) => Namespace::NotFound,
            };
            let modified = pod.lease.max(pod.result).map(time);
            let is_in_kernel = pod.has_interface;
            Attachment { owner: owner(*id), namespace, modified, is_in_kernel }
        });
        let (now, uptime) = (time(self.now()), Duration::from_secs(self.uptime));
        let boot = boot_time(now, uptime, Some(time(self.socket)));
        Snapshot { attachments: attachments.collect(), boot, now, uptime }
    }

    fn remove(&mut self, stale: &Stale) {
        if !stale.is_confirmed {
            return;
        }
        let id: usize = stale.owner.container_id.parse().unwrap();
        let Some(pod) = self.pods.get_mut(&id) else { return };
        assert!(pod.adding.is_none(), "{stale:?}: its ADD is in progress: {pod:?}");
        assert_ne!(self.known.get(&id), Some(&true), "{stale:?}: its sandbox is live: {pod:?}");
        let is_visible = pod.result.is_some() || pod.has_interface;
        assert!(!(pod.has_namespace && is_visible), "{stale:?}: its namespace exists: {pod:?}");
        (pod.lease, pod.result) = (None, None);
    }

    fn pass(&mut self) {
        self.apply(&Op::Snapshot);
        self.apply(&Op::Decide);
        while !self.stale.is_empty() {
            self.apply(&Op::Remove(0));
        }
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let number = 0_usize..8;
    let op = prop_oneof![
        3 => Just(Op::Start),
        10 => number.clone().prop_map(Op::Go),
        4 => number.clone().prop_map(Op::Delete),
        1 => any::<bool>().prop_map(|forgets| Op::Kill { forgets }),
        2 => number.clone().prop_map(Op::Unmount),
        1 => any::<bool>().prop_map(|forgets| Op::Reboot { forgets }),
        3 => (1_u64..200).prop_map(Op::Wait),
        1 => prop_oneof![-1_000_000_i64..-1, 1_i64..1_000_000].prop_map(Op::SetClock),
        4 => Just(Op::Snapshot),
        4 => Just(Op::Decide),
        8 => number.prop_map(Op::Remove),
    ];
    prop::collection::vec(op, 0..200)
}

proptest! {
    #[test]
    fn live_attachments_are_kept_and_finally_nothing_stale_is_left(ops in ops()) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
        }
        // Everything ends: no ADD is in progress, and what the runtime lost has no namespace.
        world.apply(&Op::Wait(LONGEST_ADD));
        world.known.retain(|_, ready| *ready);
        let lost: Vec<_> =
            world.pods.keys().copied().filter(|id| !world.known.contains_key(id)).collect();
        for id in lost {
            world.drop_namespace(id);
        }
        let live: Vec<_> = world.known.keys().copied().collect();
        world.pass();
        world.apply(&Op::Wait(LONGEST_ADD));
        world.pass();
        let left: Vec<_> =
            world.pods.iter().filter(|(_, pod)| pod.has_traces()).map(|(id, _)| *id).collect();
        prop_assert_eq!(left, live);
    }
}

fn decide(namespace: &Namespace, sandboxes: &[(&str, bool)]) -> Result<Vec<Stale>, Blind> {
    let attachment = |id| Attachment {
        owner: owner(id),
        namespace: namespace.clone(),
        modified: None,
        is_in_kernel: true,
    };
    let snapshot = Snapshot {
        attachments: vec![attachment(0), attachment(1)],
        boot: time(10),
        now: time(20),
        uptime: Duration::from_secs(10),
    };
    let sandboxes = sandboxes.iter().map(|(id, ready)| ((*id).to_owned(), *ready)).collect();
    Core::new(Evidence::Observation, Duration::ZERO).decide(&snapshot, &sandboxes)
}

#[test]
fn missing_namespaces_mean_nothing_if_those_of_all_ready_sandboxes_are_missing() {
    let gone = Namespace::Gone("/run/netns/x".into());
    assert_eq!(decide(&gone, &[("0", true)]), Err(Blind));
    assert_eq!(decide(&gone, &[("0", false)]).unwrap().len(), 1);
    assert_eq!(decide(&Namespace::NotFound, &[("0", true)]).unwrap().len(), 1);
}

#[test]
fn unknown_namespaces_and_those_of_processes_are_kept() {
    for namespace in [Namespace::Exists, Namespace::Unknown("no".into()), Namespace::OfProcess] {
        assert_eq!(decide(&namespace, &[]), Ok(vec![]));
    }
    assert_eq!(decide(&Namespace::NotFound, &[]).unwrap()[0].reason, Reason::NotFound);
}

#[test]
fn age_of_files_confirms_only_in_a_single_pass() {
    let attachment = Attachment {
        owner: owner(0),
        namespace: Namespace::NotFound,
        modified: Some(time(500)),
        is_in_kernel: false,
    };
    let mut snapshot = Snapshot {
        attachments: vec![attachment],
        boot: time(10),
        now: time(800),
        uptime: Duration::from_secs(790),
    };
    let grace = Duration::from_secs(LONGEST_ADD);
    let confirmed = |evidence| {
        let mut core = Core::new(evidence, grace);
        core.decide(&snapshot, &Sandboxes::new()).unwrap()[0].is_confirmed
    };
    assert_eq!([confirmed(Evidence::Files), confirmed(Evidence::Observation)], [true, false]);
    // In an earlier boot no ADD of this one can be in progress.
    snapshot.boot = time(501);
    let mut core = Core::new(Evidence::Observation, grace);
    let stale = core.decide(&snapshot, &Sandboxes::new()).unwrap();
    assert!(stale[0].is_confirmed && stale[0].reason == Reason::EarlierBoot);
}
