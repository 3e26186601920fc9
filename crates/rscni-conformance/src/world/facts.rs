//! What the first attachments show of a plugin, and what has changed since.

use std::time::{Duration, Instant};

use rscni_test::{Container, Snapshot};

use super::{Attachment, World, patience::Patience};
use crate::{
    sample::Sample,
    shape::addresses,
    verdict::{Checked, Not, not_applicable, not_met},
};

/// How long to wait before looking once more whether everything is as it was; then twice as long, up to the longest.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(320);

/// What the first attachments have shown.
pub(crate) struct Facts {
    /// Whether the interface is there before the plugin, as `lo` is: it only changes it then.
    pub(crate) adjusts: bool,
    /// Why there cannot be two attachments at a time.
    pub(crate) exclusive: Option<String>,
    /// Whether two attachments got the same addresses.
    pub(crate) fixed: bool,
    /// What is there while nothing is attached.
    pub(super) baseline: Snapshot,
    /// Files whose content changes with every attachment.
    moving: Vec<String>,
    /// What an attachment that was removed has left behind.
    pub(crate) leaks: Vec<String>,
}

impl World {
    /// What the first attachments show. Where even they fail, other requirements cannot be asked for.
    pub(crate) fn facts(&self) -> Checked<&Facts> {
        match self.facts.get_or_init(|| self.try_out()) {
            Ok(facts) => Ok(facts),
            Err(why) => not_applicable(why.clone()),
        }
    }

    /// Two attachments are possible.
    pub(crate) fn shareable(&self) -> Checked {
        match &self.facts()?.exclusive {
            None => Ok(()),
            Some(why) => not_applicable(format!(
                "it attaches one container at a time with this configuration: {why}"
            )),
        }
    }

    /// An attachment that worked, and what the kernel has then.
    pub(crate) fn sample(&self) -> Checked<&Sample> {
        if self.sample.get().is_none() {
            let made = self.attach()?;
            let sample = Sample::take(self, &made);
            self.detach(&made)?;
            let _ = self.sample.set(sample);
        }
        self.sample.get().map_or_else(|| not_applicable("there is no attachment to look at"), Ok)
    }

    /// Everything is as it was.
    pub(crate) fn unchanged_since(&self, before: &Snapshot, expected: &str) -> Checked {
        // While something is attached, that may be the host's interface.
        if self.open.borrow().is_empty()
            && let Err(error) = self.restore_host_interfaces()
        {
            return not_applicable(error);
        }
        let changes = self.lasting_changes_since(before);
        if changes.is_empty() {
            return Ok(());
        }
        self.spoilt.set(true);
        not_met(expected, changes.join("\n"))
    }

    /// Nothing is other than it was, at once.
    pub(crate) fn has_not_changed_since(&self, before: &Snapshot) -> bool {
        self.changes_since(before).is_empty()
    }

    /// What is different at once.
    fn changes_since(&self, before: &Snapshot) -> Vec<String> {
        self.lab.changes_since(before, Duration::ZERO)
    }

    /// What is different once the kernel has done what it does in the background.
    pub(super) fn lasting_changes_since(&self, before: &Snapshot) -> Vec<String> {
        let mut patience = Patience::begin(Instant::now());
        // To look takes a while of a processor; what is to go goes soon, or late.
        let mut pause = PAUSE;
        loop {
            let changes = self.changes_since(before);
            if patience.is_over(&changes, Instant::now()) {
                return changes;
            }
            std::thread::sleep(pause);
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// What is there, without what changes with each attachment.
    pub(crate) fn snapshot(&self) -> Checked<Snapshot> {
        Ok(self.facts()?.moving.iter().fold(self.lab.snapshot(), |all, file| all.ignoring(file)))
    }

    fn try_out(&self) -> Result<Facts, String> {
        let version = self.version;
        let why = |not| match not {
            Not::Applicable(why) => why,
            Not::Met(failure) => failure.found,
        };
        let fails = |not| format!("ADD fails in {version}, see add-in-{version}: {}", why(not));
        let ifname = self.subject.ifname.as_str();
        let adjusts = self.first.netlink().find_link(ifname).is_ok_and(|link| link.is_some());
        let at = |namespace: &Container, name: &str| Container::at(name, namespace.path());
        let one = self.attach_in(at(&self.first, "first-1"), ifname, version).map_err(fails)?;
        let two = self.attach_in(at(&self.second, "first-2"), ifname, version);
        let addresses = |made: &Attachment| made.result.as_ref().map(addresses).unwrap_or_default();
        let (exclusive, fixed) = match two.map_err(why) {
            Ok(two) => (None, !addresses(&one).is_empty() && addresses(&one) == addresses(&two)),
            Err(why) => (Some(why), false),
        };
        self.detach_open();
        self.restore_host_interfaces()?;
        let network = self.settled();
        // Once more: what has changed then is what every attachment changes, or leaves behind.
        let again = self.attach_in(at(&self.first, "first-3"), ifname, version).map_err(fails)?;
        let _ = self.call("DEL", &again, again.result.as_ref()).run();
        self.forget(&again);
        self.restore_host_interfaces()?;
        let is_moving = |change: &String| change.starts_with("~ file ");
        // Files that change with every attachment would be waited for in vain.
        let mut changes = self.changes_since(&network);
        if !changes.iter().all(is_moving) {
            changes = self.lasting_changes_since(&network);
        }
        let (moving, leaks): (Vec<_>, Vec<_>) = changes.into_iter().partition(is_moving);
        let file =
            |change: &String| change[2..].split(": was ").next().unwrap_or_default().to_owned();
        let moving: Vec<_> = moving.iter().map(file).collect();
        let baseline = moving.iter().fold(self.lab.snapshot(), |all, file| all.ignoring(file));
        Ok(Facts { adjusts, exclusive, fixed, baseline, moving, leaks })
    }

    /// What is there once the kernel has done what it does in the background.
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
