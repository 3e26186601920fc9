//! Reports about problems to the API server: the condition of this Node, and events.
//!
//! A problem is reported once, after it has lasted for a while: a new Node has problems until it
//! has published its tunnel. Reports about one Node keep an interval, so that a Node that changes
//! all the time cannot flood the API server. If many Nodes have problems at once, as when this node
//! reaches none of them, most are in a summary.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use crate::podnet::Reason;

/// The time that a problem must last, at least.
const LASTING: Duration = Duration::from_secs(10);
/// The pause between reports about one Node.
const INTERVAL: Duration = Duration::from_secs(300);
/// Reports that may be sent at once, and the time until there may be one more.
const AT_ONCE: u32 = 20;
const ONE_MORE: Duration = Duration::from_secs(30);

/// The condition `NetworkUnavailable` of this Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether pods cannot be attached, or cannot be reached by other nodes.
    pub is_unavailable: bool,
    /// A word for programs.
    pub reason: &'static str,
    /// The text for people.
    pub message: String,
}

impl Condition {
    /// The network works.
    pub fn available() -> Self {
        let message = "rscnid has set up the pod network of this node".to_owned();
        Self { is_unavailable: false, reason: "RscniIsUp", message }
    }

    /// There is no network.
    pub fn unavailable(reason: &Reason) -> Self {
        Self { is_unavailable: true, reason: reason.name(), message: reason.to_string() }
    }
}

/// An event about a Node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Report {
    /// Name of the Node.
    pub node: String,
    /// Reason of the event: a word for programs.
    pub reason: &'static str,
    /// The problems as text.
    pub message: String,
    /// Whether the problems are solved.
    pub solved: bool,
}

impl Report {
    /// Returns a name that is the same on all nodes that report the same.
    pub fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        format!("rscnid.{:016x}", hasher.finish())
    }
}

/// The problems that were or will be reported. Times are since any fixed moment.
#[derive(Debug)]
pub struct Reports {
    own: String,
    lasting: Duration,
    /// When all reports are allowed again. The number that is allowed now follows from it.
    all_allowed: Duration,
    nodes: BTreeMap<String, Entry>,
    /// When the next report about a Node is due.
    due: BTreeSet<(Duration, String)>,
    /// When a Node without problems may be forgotten.
    forgotten: BTreeSet<(Duration, String)>,
}

#[derive(Debug, Default)]
struct Entry {
    /// The present problems, and since when they are the same.
    present: Option<(&'static str, String)>,
    since: Duration,
    /// The reported problems.
    reported: Option<(&'static str, String)>,
    last: Option<Duration>,
}

impl Entry {
    /// Returns the time of the next report.
    fn due(&self, lasting: Duration) -> Option<Duration> {
        let after_last = self.last.map_or(Duration::ZERO, |last| last + INTERVAL);
        (self.present != self.reported).then(|| after_last.max(self.since + lasting))
    }
}

impl Reports {
    /// Starts without problems. The name of this node spreads the reports of all nodes over time.
    pub fn new(own: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        own.hash(&mut hasher);
        let spread = Duration::from_millis(hasher.finish() % 10_000);
        Self {
            own: own.to_owned(),
            lasting: LASTING + spread,
            all_allowed: Duration::ZERO,
            nodes: BTreeMap::new(),
            due: BTreeSet::new(),
            forgotten: BTreeSet::new(),
        }
    }

    /// Takes all problems of each Node whose problems have changed, and returns the reports that
    /// are due.
    pub fn update(
        &mut self,
        changed: impl IntoIterator<Item = (String, Vec<Reason>)>,
        now: Duration,
    ) -> Vec<Report> {
        for (name, reasons) in changed {
            let texts: BTreeSet<String> = reasons.iter().map(Reason::to_string).collect();
            let reason = reasons.first().map(Reason::name);
            let present = reason.map(|reason| (reason, Vec::from_iter(texts).join("; ")));
            let mut entry = self.nodes.remove(&name).unwrap_or_default();
            if let Some(due) = entry.due(self.lasting) {
                self.due.remove(&(due, name.clone()));
            }
            if present != entry.present {
                (entry.present, entry.since) = (present, now);
            }
            self.keep(name, entry, now);
        }
        let mut reports = Vec::new();
        let allowed = self.allowed(now);
        while allowed > 0
            && let Some(name) = pop_until(&mut self.due, now)
        {
            let Some(mut entry) = self.nodes.remove(&name) else { continue };
            reports.push(entry.report(&name));
            entry.last = Some(now);
            entry.reported.clone_from(&entry.present);
            self.keep(name, entry, now);
        }
        let reports = self.summarize(reports, allowed);
        if !reports.is_empty() {
            let count = u32::try_from(reports.len()).unwrap_or(u32::MAX);
            self.all_allowed = self.all_allowed.max(now) + ONE_MORE * count;
        }
        while let Some(name) = pop_until(&mut self.forgotten, now) {
            if let Some(entry) = self.nodes.remove(&name) {
                self.keep(name, entry, now);
            }
        }
        reports
    }

    /// Returns the number of reports that may be sent.
    fn allowed(&self, now: Duration) -> u32 {
        let missing = self.all_allowed.saturating_sub(now).as_nanos().div_ceil(ONE_MORE.as_nanos());
        AT_ONCE.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    /// Puts the reports that are too many into a summary.
    fn summarize(&self, mut reports: Vec<Report>, allowed: u32) -> Vec<Report> {
        let allowed = allowed as usize;
        if reports.len() <= allowed {
            return reports;
        }
        reports.sort_by_key(|report| report.node != self.own);
        let (solved, present): (Vec<_>, Vec<_>) = reports
            .split_off(allowed.saturating_sub(1))
            .into_iter()
            .partition(|report| report.solved);
        for mut rest in [present, solved] {
            let count = rest.len();
            let Some(mut report) = rest.pop() else { continue };
            if count > 1 {
                report.message =
                    format!("{count} Nodes, such as {}: {}", report.node, report.message);
                report.node.clone_from(&self.own);
            }
            reports.push(report);
        }
        reports
    }

    /// Keeps what is known about a Node as long as it matters.
    fn keep(&mut self, name: String, entry: Entry, now: Duration) {
        if let Some(due) = entry.due(self.lasting) {
            self.due.insert((due, name.clone()));
        } else if entry.present.is_none() {
            match entry.last.map(|last| last + INTERVAL) {
                Some(end) if end > now => self.forgotten.insert((end, name.clone())),
                _ => return,
            };
        }
        self.nodes.insert(name, entry);
    }

    /// Returns how long it takes until a report is due if nothing changes, or `None` for ever.
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        let allowed = self.all_allowed.saturating_sub(ONE_MORE * (AT_ONCE - 1));
        self.due.first().map(|(due, _)| allowed.max(*due).saturating_sub(now))
    }
}

/// Takes the next Node whose time has come.
fn pop_until(times: &mut BTreeSet<(Duration, String)>, now: Duration) -> Option<String> {
    times.first().filter(|(time, _)| *time <= now)?;
    times.pop_first().map(|(_, name)| name)
}

impl Entry {
    fn report(&self, name: &str) -> Report {
        let solved = self.present.is_none();
        let (reason, message) = match (&self.present, &self.reported) {
            (Some((reason, message)), _) => (*reason, message.clone()),
            (None, Some((reason, message))) => (*reason, format!("solved: {message}")),
            (None, None) => ("Solved", String::new()),
        };
        Report { node: name.to_owned(), reason, message, solved }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_a(texts: &[&str]) -> [(String, Vec<Reason>); 1] {
        let reasons = texts.iter().map(|text| Reason::Fault((*text).to_owned()));
        [("a".to_owned(), reasons.collect())]
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn messages(reports: &[Report]) -> Vec<&str> {
        reports.iter().map(|report| &*report.message).collect()
    }

    #[test]
    fn lasting_problem_is_reported_once_and_its_solution_too() {
        let mut reports = Reports::new("own");
        assert_eq!(reports.update(of_a(&["bad", "annotation"]), seconds(0)), []);
        let wait = reports.wait(seconds(0)).unwrap();
        assert!((seconds(10)..seconds(20)).contains(&wait), "{wait:?}");
        let due = reports.update([], wait);
        assert_eq!(messages(&due), ["annotation; bad"]);
        assert!(!due[0].solved && due[0].node == "a" && due[0].reason == "InvalidNode");
        for later in [30, 300, 10_000] {
            assert_eq!(reports.update([], seconds(later)), []);
            assert_eq!(reports.wait(seconds(later)), None);
        }
        assert_eq!(reports.update(of_a(&[]), seconds(20_000)), []);
        let due = reports.update([], seconds(20_020));
        assert_eq!(messages(&due), ["solved: annotation; bad"]);
        assert!(due[0].solved);
        assert_eq!(reports.wait(seconds(20_020)), None);
        assert_eq!(reports.update([], seconds(30_000)), []);
        assert!(reports.nodes.is_empty() && reports.forgotten.is_empty());
    }

    #[test]
    fn short_problem_is_not_reported() {
        let mut reports = Reports::new("own");
        assert_eq!(reports.update(of_a(&["new"]), seconds(0)), []);
        assert_eq!(reports.update(of_a(&[]), seconds(9)), []);
        assert_eq!(reports.wait(seconds(9)), None);
        assert_eq!(reports.update([], seconds(100)), []);
        assert!(reports.nodes.is_empty());
    }

    #[test]
    fn changing_problem_of_a_node_is_reported_at_intervals() {
        let mut reports = Reports::new("own");
        let mut count = 0;
        for second in 0..3000 {
            // Another problem every 30 s.
            let problem = (second / 30).to_string();
            count += reports.update(of_a(&[&problem]), seconds(second)).len();
        }
        assert_eq!(count, 10);
    }

    #[test]
    fn problem_that_returns_as_it_was_reported_is_not_reported_again() {
        let mut reports = Reports::new("own");
        reports.update(of_a(&["bad"]), seconds(0));
        assert_eq!(reports.update([], seconds(20)).len(), 1);
        assert_eq!(reports.update(of_a(&[]), seconds(21)), []);
        assert_eq!(reports.update(of_a(&["bad"]), seconds(25)), []);
        assert_eq!(reports.wait(seconds(25)), None);
    }

    #[test]
    fn problems_of_many_nodes_are_summarized() {
        let mut reports = Reports::new("own");
        let all = |range: std::ops::Range<usize>, text: &'static str| {
            let reasons = || (!text.is_empty()).then(|| Reason::Fault(text.to_owned()));
            range.map(move |number| (format!("n{number}"), reasons().into_iter().collect()))
        };
        let mut own = of_a(&["mine"]);
        own[0].0 = "own".to_owned();
        reports.update(all(0..5000, "bad").chain(own), seconds(0));
        let due = reports.update([], seconds(20));
        assert_eq!(due.len(), AT_ONCE as usize);
        assert!(due[0].node == "own" && due[0].message == "mine", "{:?}", due[0]);
        let last = due.last().unwrap();
        assert!(
            last.node == "own" && last.message.starts_with("4982 Nodes, such as n"),
            "{last:?}"
        );
        assert!(last.message.ends_with(": bad"), "{last:?}");
        // Later ones wait, and share the next report.
        reports.update(all(5000..5100, "bad"), seconds(20));
        assert_eq!(reports.update([], seconds(40)), []);
        assert_eq!(reports.wait(seconds(40)), Some(seconds(10)));
        let due = reports.update([], seconds(50));
        assert!(due[0].message.starts_with("100 Nodes, such as "), "{due:?}");
        assert_eq!(due.len(), 1);
        // Solutions too.
        reports.update(all(0..5100, ""), seconds(10_000));
        let due = reports.update([], seconds(10_020));
        assert_eq!(due.len(), AT_ONCE as usize);
        let last = due.last().unwrap();
        assert!(last.solved && last.message.contains(": solved: bad"), "{last:?}");
        assert!(last.message.starts_with("5081 Nodes, such as n"), "{last:?}");
    }

    #[test]
    fn reports_of_the_same_have_the_same_name() {
        let report = |message: &str| Report {
            node: "a".to_owned(),
            reason: "InvalidNode",
            message: message.to_owned(),
            solved: false,
        };
        assert_eq!(report("x").name(), report("x").name());
        assert_ne!(report("x").name(), report("y").name());
    }
}
