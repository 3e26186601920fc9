//! The pod network in operation: Nodes and notifications in, changes of the kernel and the network
//! list out.

use std::{collections::BTreeMap, io, os::fd::BorrowedFd, path::PathBuf, time::Duration};

use rscni_linux::{Monitor, Result};
use tracing::{info, warn};

use super::{
    Backend, Both, Change, Core, Key, NodeInfo, Problem, Reason, State, Tunnel, acceptance,
    adoption,
    conflist::conflist,
    difference,
    kernel::{Kernel, Prepared},
    list_file::ListFile,
    node,
    prober::Prober,
    problems::Problems,
    repair::{Repair, repair},
};
use crate::report::Condition;

/// The settings of the pod network.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this Node.
    pub node: String,
    /// The way to other nodes.
    pub backend: Backend,
    /// The network list in the directory that runtimes read.
    pub conflist: PathBuf,
    /// The directory for the list itself, which must not survive a reboot.
    pub run_dir: PathBuf,
    /// The directory of host-local, with reserved addresses by network.
    pub leases: PathBuf,
}

/// The pod network of this node, in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Daemon {
    settings: Settings,
    kernel: Kernel,
    /// Notifications about links, addresses, routes and neighbours.
    pub links: Monitor,
    /// Notifications about nftables.
    pub tables: Monitor,
    /// This Node, if it is known and has podCIDRs.
    core: Option<Core>,
    own_node: Option<NodeInfo>,
    /// Whether the annotations of this Node differ from those that it should have.
    overwritten: bool,
    /// A list of Nodes whose synchronization failed.
    pending: Option<Vec<NodeInfo>>,
    /// Chains of other programs that drop packets of pods, as messages.
    dropping: Vec<String>,
    /// Whether the plugin firewall has to accept packets of pods, once it was necessary.
    needs_firewall: bool,
    /// Changes that the kernel refused.
    refused: BTreeMap<Key, String>,
    /// Why the last synchronization failed.
    failure: Option<String>,
    list_file: ListFile,
    prober: Prober,
    problems: Problems,
    /// Whether those of this Node may have changed since they were collected.
    own_changed: bool,
    /// The name of the network, once it is known.
    network: Option<String>,
    /// Numbers for the metrics.
    pub counts: Counts,
}

/// Numbers for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Complete comparisons with the kernel.
    pub syncs: u64,
    /// Objects that other programs had removed or changed.
    pub corrections: u64,
    /// Changes that the kernel refused.
    pub failures: u64,
}

impl Daemon {
    /// Opens the sockets. Nothing is changed before the first list of Nodes.
    pub fn open(settings: Settings) -> Result<Self> {
        let list_file = ListFile::new(&settings.conflist, &settings.run_dir);
        Ok(Self {
            kernel: Kernel::open()?,
            links: Monitor::open()?,
            tables: Monitor::open_nftables()?,
            core: None,
            own_node: None,
            overwritten: false,
            pending: None,
            dropping: Vec::new(),
            needs_firewall: false,
            refused: BTreeMap::new(),
            failure: None,
            list_file,
            prober: Prober::open(),
            problems: Problems::default(),
            own_changed: false,
            network: None,
            counts: Counts::default(),
            settings,
        })
    }

    /// The core, after the first list of Nodes.
    pub fn core(&self) -> Option<&Core> {
        self.core.as_ref()
    }

    /// The problems of all Nodes.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        self.problems.iter()
    }

    /// Takes the Nodes whose problems have changed since the last call, with their problems now.
    pub fn take_changed(&mut self) -> BTreeMap<String, Vec<Reason>> {
        self.problems.take_changed()
    }

    /// Whether a synchronization failed, so that it has to be repeated.
    pub fn is_behind(&self) -> bool {
        self.failure.is_some()
    }

    /// The condition of this Node, or `None` if it is not known yet.
    pub fn condition(&self) -> Option<Condition> {
        let own = self.core.as_ref().map(Core::own).filter(|own| !own.is_connected());
        if let Some(fault) = own.and_then(|own| own.faults().into_iter().next()) {
            return Some(Condition::unavailable(&fault));
        }
        if self.is_ready() {
            return Some(Condition::available());
        }
        let failure = self.failure.clone().map(Reason::NotSynchronized);
        failure.as_ref().map(Condition::unavailable)
    }

    /// Takes a complete list of Nodes.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be read, or the network list cannot be written.
    pub fn replace(&mut self, nodes: Vec<NodeInfo>) -> io::Result<()> {
        self.pending = Some(nodes.clone());
        let outcome = self.replace_all(nodes);
        if outcome.is_ok() {
            self.pending = None;
        }
        self.report(outcome)
    }

    fn replace_all(&mut self, nodes: Vec<NodeInfo>) -> io::Result<()> {
        self.own_node = nodes.iter().find(|node| node.name == self.settings.node).cloned();
        let Some(own_node) = &self.own_node else {
            warn!(node = self.settings.node, "the list of Nodes does not contain this node");
            self.succeed();
            return Ok(());
        };
        let before = self.core.as_ref().map(Core::own);
        let own = self.kernel.own(own_node, self.settings.backend, before).map_err(other)?;
        let state = self.kernel.read(&own).map_err(other)?;
        let core = match &mut self.core {
            Some(core) => {
                let changes = core.set_own(own);
                self.prober.follow(core, &changes, None);
                core
            }
            none => none.insert(Core::new(own)),
        };
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        let changes = core.replace(nodes, &state);
        self.prober.follow(core, &changes, names.iter().map(String::as_str));
        self.sync_from(Some(state))
    }

    /// Takes a new or changed Node.
    ///
    /// # Errors
    ///
    /// As [`replace`](Self::replace).
    pub fn set(&mut self, node: NodeInfo) -> io::Result<()> {
        if node.name == self.settings.node {
            if self.own_node.as_ref() == Some(&node) {
                return Ok(());
            }
            let published = (node.tunnels, node.tunnel_only);
            self.own_node = Some(node);
            let outcome = self.look_again();
            self.overwritten |= published != (self.own_tunnels(), false);
            return self.report(outcome);
        }
        let Some(core) = &mut self.core else { return Ok(()) };
        let before = Both::each(|family| core.needs_tunnel(family));
        let name = node.name.clone();
        let changes = core.set(node);
        self.prober.follow(core, &changes, [&*name]);
        let outcome = if before == Both::each(|family| core.needs_tunnel(family)) {
            self.apply(&changes);
            Ok(())
        } else {
            self.sync()
        };
        self.report(outcome)
    }

    /// Forgets a Node.
    ///
    /// # Errors
    ///
    /// As [`replace`](Self::replace).
    pub fn remove(&mut self, name: &str) -> io::Result<()> {
        let Some(core) = self.core.as_mut().filter(|_| name != self.settings.node) else {
            return Ok(());
        };
        let changes = core.remove(name);
        self.prober.follow(core, &changes, None);
        self.apply(&changes);
        self.report(Ok(()))
    }

    /// Reads the notifications and restores what other programs changed.
    ///
    /// # Errors
    ///
    /// As [`replace`](Self::replace).
    pub fn notice(&mut self) -> io::Result<()> {
        let outcome = self.restore();
        self.report(outcome)
    }

    fn restore(&mut self) -> io::Result<()> {
        let mut events = self.links.receive().map_err(other)?;
        events.extend(self.tables.receive().map_err(other)?);
        let Some(core) = &self.core else { return Ok(()) };
        let mut changes = BTreeMap::new();
        let (mut everything, mut acceptance) = (false, false);
        for event in &events {
            match repair(event, core.own(), core.desired(), &mut self.kernel) {
                Some(Repair::One(key, value)) => drop(changes.insert(key, value)),
                Some(Repair::Acceptance) => acceptance = true,
                Some(Repair::Everything) => everything = true,
                None => {}
            }
        }
        if everything {
            return self.look_again();
        }
        // In the order of keys, as a difference.
        let set = |(key, value)| Change::Set(key, value);
        let changes: Vec<Change> = changes.into_iter().map(set).collect();
        self.correct(&changes);
        if acceptance {
            self.accept_forwarded()?;
            self.write_list()?;
        }
        Ok(())
    }

    /// The socket of probes. The daemon works without one.
    pub fn probe_socket(&self) -> Option<BorrowedFd<'_>> {
        self.prober.socket()
    }

    /// Returns how long it takes until a probe is due, or `None` for ever. Times are since any
    /// fixed moment.
    pub fn probe_in(&mut self, now: Duration) -> Option<Duration> {
        self.prober.wait(now)
    }

    /// Sends the probes that are due.
    pub fn probe(&mut self, now: Duration) {
        self.prober.send(now);
        // Nothing failed.
        let _ = self.report(Ok(()));
    }

    /// Answers the probes of peers, and takes their answers.
    pub fn answer_probes(&mut self, now: Duration) {
        self.prober.receive(now);
        let _ = self.report(Ok(()));
    }

    /// The number of peers that do not answer probes, or not as they should.
    pub fn unreachable(&self) -> usize {
        self.prober.unreachable()
    }

    /// Returns the annotations that this Node should have, or `None` if it needs no tunnel. If
    /// flanneld has published some, they are replaced: other nodes would use the tunnel only.
    pub fn annotations(&self) -> Option<BTreeMap<String, String>> {
        let tunnels = self.own_tunnels();
        (tunnels != Both::default()).then(|| node::annotations(&tunnels))
    }

    /// Returns whether the annotations of this Node were overwritten since the last call.
    pub fn take_overwritten(&mut self) -> bool {
        std::mem::take(&mut self.overwritten)
    }

    fn own_tunnels(&self) -> Both<Option<Tunnel>> {
        Both::each(|family| {
            let own = self.core.as_ref()?.own();
            let endpoint = own.uplinks.of(family).as_ref()?.address;
            let is_of_flannel =
                |node: &NodeInfo| node.tunnel_only && node.tunnels.of(family).is_some();
            let is_published = self.own_node.as_ref().is_some_and(is_of_flannel);
            (is_published || *self.tunnels().of(family))
                .then_some(Tunnel { endpoint, mac: *own.macs.of(family) })
        })
    }

    /// Repeats a synchronization that failed.
    ///
    /// # Errors
    ///
    /// As [`replace`](Self::replace).
    pub fn retry(&mut self) -> io::Result<()> {
        if let Some(nodes) = self.pending.take() {
            return self.replace(nodes);
        }
        let outcome = self.look_again();
        self.report(outcome)
    }

    /// Returns a table of the desired state, with what the kernel has instead.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be read.
    pub fn status(&mut self) -> io::Result<String> {
        use std::fmt::Write;
        let Some(core) = &self.core else {
            return Ok("Nodes are not known yet\n".to_owned());
        };
        let state = self.kernel.read(core.own()).map_err(other)?;
        let mut text = String::new();
        for (key, value) in core.desired() {
            let owner = core.owner(key).unwrap_or_default();
            let remark = match state.get(key) {
                Some(actual) if actual == value => String::new(),
                Some(actual) => format!("  the kernel has: {actual}"),
                None => "  MISSING in the kernel".to_owned(),
            };
            let _ = writeln!(text, "{owner:<20} {key}, {value}{remark}");
        }
        for (key, value) in state.iter().filter(|(key, _)| !core.desired().contains_key(key)) {
            let _ = writeln!(text, "{:<20} {key}, {value}  NOT WANTED", "-");
        }
        for problem in self.problems.iter() {
            let _ = writeln!(text, "{:<20} PROBLEM: {}", problem.node, problem.reason);
        }
        Ok(text)
    }

    fn tunnels(&self) -> Both<bool> {
        Both::each(|family| self.core.as_ref().is_some_and(|core| core.needs_tunnel(family)))
    }

    /// Collects the facts about this node again, and compares everything.
    fn look_again(&mut self) -> io::Result<()> {
        let (Some(node), Some(core)) = (&self.own_node, &mut self.core) else {
            // The list of Nodes comes first.
            self.succeed();
            return Ok(());
        };
        let before = Some(core.own());
        let own = self.kernel.own(node, self.settings.backend, before).map_err(other)?;
        let changes = core.set_own(own);
        self.prober.follow(core, &changes, None);
        self.sync()
    }

    /// Brings the kernel into the desired state and writes the network list.
    fn sync(&mut self) -> io::Result<()> {
        self.sync_from(None)
    }

    /// As [`sync`](Self::sync), with the state that was read before if it is known.
    fn sync_from(&mut self, state: Option<State>) -> io::Result<()> {
        let Some(core) = &self.core else { return Ok(()) };
        self.counts.syncs += 1;
        self.own_changed = true;
        // Without a device, plain routes work.
        let Prepared { missing, changed } = self.kernel.prepare_devices(core);
        self.kernel.prepare(core).map_err(other)?;
        // The ports exist since the first request.
        self.kernel.hide_from(&mut self.links, &mut self.tables).map_err(other)?;
        let state = match state.filter(|_| !changed) {
            Some(state) => state,
            None => self.kernel.read(core.own()).map_err(other)?,
        };
        let changes = difference(&state, core.desired());
        self.accept_forwarded()?;
        self.refused.clear();
        self.correct(&changes);
        self.write_list()?;
        if !missing.is_empty() {
            return Err(io::Error::other(missing.join("; ")));
        }
        self.succeed();
        Ok(())
    }

    fn succeed(&mut self) {
        self.own_changed |= self.failure.take().is_some();
    }

    fn accept_forwarded(&mut self) -> io::Result<()> {
        let Some(core) = &self.core else { return Ok(()) };
        let accepted = self.kernel.accept_forwarded(core.own()).map_err(other)?;
        self.counts.corrections += accepted.changed as u64;
        self.own_changed |= self.dropping != accepted.failures;
        self.dropping = accepted.failures;
        self.needs_firewall |= !self.dropping.is_empty() || acceptance::has_legacy_tables();
        Ok(())
    }

    fn correct(&mut self, changes: &[Change]) {
        self.counts.corrections += changes.len() as u64;
        self.apply(changes);
    }

    fn apply(&mut self, changes: &[Change]) {
        let Some(core) = &self.core else { return };
        log(changes);
        let failures = self.kernel.apply(core.own(), changes);
        self.counts.failures += failures.len() as u64;
        for change in changes {
            self.own_changed |= self.refused.remove(&change.key()).is_some();
        }
        self.own_changed |= !failures.is_empty();
        self.refused.extend(failures);
    }

    /// Collects the problems that may have changed, and returns the outcome.
    fn report(&mut self, outcome: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &outcome {
            self.failure = Some(error.to_string());
            self.own_changed = true;
        }
        let mut names = self.core.as_mut().map(Core::take_changed).unwrap_or_default();
        names.append(&mut self.prober.take_changed());
        if std::mem::take(&mut self.own_changed) {
            names.insert(self.settings.node.clone());
        }
        for name in names {
            let reasons = self.reasons(&name);
            self.problems.set(name, reasons);
        }
        outcome
    }

    /// Collects the problems of a Node.
    fn reasons(&self, name: &str) -> Vec<Reason> {
        if name != self.settings.node {
            let Some(core) = &self.core else { return Vec::new() };
            let tunnels = core.tunnels(name);
            let silent = tunnels.filter_map(|(gateway, _)| self.prober.problem(gateway));
            return core.problems_of(name).iter().chain(silent).cloned().collect();
        }
        let faults = self.core.iter().flat_map(|core| core.own().faults());
        let refused = self.refused.values().cloned().map(Reason::Refused);
        let dropping = self.dropping.iter().cloned().map(Reason::Dropped);
        let failure = self.failure.clone().map(Reason::NotSynchronized);
        faults.chain(refused).chain(dropping).chain(failure).collect()
    }

    fn write_list(&mut self) -> io::Result<()> {
        let own = self.core.as_ref().map(Core::own);
        let Some(own) = own.filter(|own| own.pod_cidrs != Both::default()) else { return Ok(()) };
        let network = if let Some(network) = self.network.take() {
            network
        } else {
            let previous = self.list_file.network();
            adoption::network(&self.settings.leases, &own.pod_cidrs, previous)?
        };
        let list = conflist(own, &network, self.tunnels(), self.needs_firewall);
        self.network = Some(network);
        list.map_or(Ok(()), |list| self.list_file.write(&list))
    }

    /// Whether the network list was written, so that runtimes can attach pods.
    pub fn is_ready(&self) -> bool {
        self.list_file.is_written()
    }
}

fn other(error: rscni_linux::Error) -> io::Error {
    io::Error::other(error)
}

/// Changes that are logged one by one. A synchronization of many Nodes takes longer to log than to
/// carry out.
const LOGGED: usize = 20;

fn log(changes: &[Change]) {
    if changes.len() > LOGGED {
        let set = changes.iter().filter(|change| matches!(change, Change::Set(..))).count();
        return info!(set, removed = changes.len() - set, "many objects");
    }
    for change in changes {
        match change {
            Change::Set(key, value) => info!(%key, %value, "set"),
            Change::Remove(key, value) => info!(%key, %value, "removed"),
        }
    }
}
