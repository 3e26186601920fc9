//! Facts about a plugin that the first attachments show, and the differences since then.

use std::time::{Duration, Instant};

use rscni_test::{Container, Snapshot};

use super::{Attachment, PrivateHost, settle::SettleTimer};
use crate::{
    sample::Sample,
    shape::addresses,
    verdict::{CheckResult, NotPassed, fail, not_applicable},
};

/// The first and the longest pause between two snapshots; a pause is twice as long as the previous.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(320);

/// The facts that the first attachments show.
pub(crate) struct Facts {
    /// Whether the plugin modifies an existing interface, such as `lo`.
    pub(crate) modifies_existing: bool,
    /// The reason why a second attachment is impossible.
    pub(crate) exclusive: Option<String>,
    /// Whether two attachments got the same addresses.
    pub(crate) has_fixed_addresses: bool,
    /// The snapshot without attachments.
    pub(super) baseline: Snapshot,
    /// Files whose content changes with each attachment.
    volatile_files: Vec<String>,
    /// The remains of a removed attachment.
    pub(crate) leaks: Vec<String>,
}

impl PrivateHost {
    /// Returns the facts. If the first attachments fail, other requirements are not applicable.
    pub(crate) fn facts(&self) -> CheckResult<&Facts> {
        match self.facts.get_or_init(|| self.gather_facts()) {
            Ok(facts) => Ok(facts),
            Err(reason) => not_applicable(reason.clone()),
        }
    }

    /// Not applicable unless two attachments are possible.
    pub(crate) fn require_two_attachments(&self) -> CheckResult {
        match &self.facts()?.exclusive {
            None => Ok(()),
            Some(reason) => not_applicable(format!(
                "it attaches one container at a time with this configuration: {reason}"
            )),
        }
    }

    /// Returns a successful attachment and the state of the kernel with it.
    pub(crate) fn sample(&self) -> CheckResult<&Sample> {
        if self.sample.get().is_none() {
            let made = self.attach()?;
            let sample = Sample::take(self, &made);
            self.detach(&made)?;
            let _ = self.sample.set(sample);
        }
        self.sample.get().map_or_else(|| not_applicable("there is no attachment"), Ok)
    }

    /// Fails if there are differences to a snapshot.
    pub(crate) fn expect_unchanged(&self, before: &Snapshot, expected: &str) -> CheckResult {
        // A host interface may be part of an attachment.
        if self.open.borrow().is_empty()
            && let Err(error) = self.restore_host_interfaces()
        {
            return not_applicable(error);
        }
        let changes = self.lasting_changes_since(before);
        if changes.is_empty() {
            return Ok(());
        }
        self.is_dirty.set(true);
        fail(expected, changes.join("\n"))
    }

    /// Returns the present differences to a snapshot.
    pub(crate) fn changes_since(&self, before: &Snapshot) -> Vec<String> {
        before.changes_to(&self.lab.snapshot())
    }

    /// Returns the differences to a snapshot after the kernel has finished its work.
    pub(super) fn lasting_changes_since(&self, before: &Snapshot) -> Vec<String> {
        let mut timer = SettleTimer::begin(Instant::now());
        // Short at first: a snapshot costs time, and most objects disappear soon or late.
        let mut pause = PAUSE;
        loop {
            let changes = self.changes_since(before);
            if timer.is_over(&changes, Instant::now()) {
                return changes;
            }
            std::thread::sleep(pause);
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// Takes a snapshot, without files that change with each attachment.
    pub(crate) fn snapshot(&self) -> CheckResult<Snapshot> {
        Ok(self.snapshot_without(&self.facts()?.volatile_files))
    }

    fn snapshot_without(&self, files: &[String]) -> Snapshot {
        files.iter().fold(self.lab.snapshot(), |snapshot, file| snapshot.ignoring(file))
    }

    fn gather_facts(&self) -> Result<Facts, String> {
        let version = self.version;
        let reason = |not| match not {
            NotPassed::NotApplicable(reason) => reason,
            NotPassed::Failed(failure) => failure.found,
        };
        let fails = |not| format!("ADD fails in {version}, see add-in-{version}: {}", reason(not));
        let ifname = self.subject.ifname.as_str();
        let modifies_existing =
            self.first.netlink().find_link(ifname).is_ok_and(|link| link.is_some());
        let at = |namespace: &Container, name: &str| Container::at(name, namespace.path());
        let one = self.attach_in(at(&self.first, "first-1"), ifname, version).map_err(fails)?;
        let two = self.attach_in(at(&self.second, "first-2"), ifname, version);
        let addresses = |made: &Attachment| made.result.as_ref().map(addresses).unwrap_or_default();
        let (exclusive, has_fixed_addresses) = match two.map_err(reason) {
            Ok(two) => (None, !addresses(&one).is_empty() && addresses(&one) == addresses(&two)),
            Err(reason) => (Some(reason), false),
        };
        self.detach_open();
        self.restore_host_interfaces()?;
        let network = self.settled();
        // Differences after a third attachment are made by each attachment, or left behind.
        let again = self.attach_in(at(&self.first, "first-3"), ifname, version).map_err(fails)?;
        let _ = self.call("DEL", &again, again.result.as_ref()).run();
        self.detach_previous(&again);
        self.restore_host_interfaces()?;
        let is_file_change = |change: &String| change.starts_with("~ file ");
        // Changed files stay changed, so without other changes there is nothing to wait for.
        let mut changes = self.changes_since(&network);
        if !changes.iter().all(is_file_change) {
            changes = self.lasting_changes_since(&network);
        }
        let (files, leaks): (Vec<_>, Vec<_>) = changes.into_iter().partition(is_file_change);
        let name =
            |change: &String| change[2..].split(": was ").next().unwrap_or_default().to_owned();
        let volatile_files: Vec<_> = files.iter().map(name).collect();
        let baseline = self.snapshot_without(&volatile_files);
        Ok(Facts {
            modifies_existing,
            exclusive,
            has_fixed_addresses,
            baseline,
            volatile_files,
            leaks,
        })
    }

    /// Takes a snapshot after the kernel has finished its work.
    fn settled(&self) -> Snapshot {
        loop {
            let now = self.lab.snapshot();
            std::thread::sleep(PAUSE);
            if self.changes_since(&now).is_empty() {
                return now;
            }
        }
    }
}
