//! The problems of all Nodes, and which of them were not reported yet.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tracing::{info, warn};

use super::{Problem, Reason};

#[derive(Debug, Default)]
pub(super) struct Problems {
    /// The problems of each Node that has some.
    present: BTreeMap<String, Vec<Reason>>,
    /// Nodes whose problems have changed since they were taken.
    changed: BTreeSet<String>,
}

impl Problems {
    pub(super) fn iter(&self) -> impl Iterator<Item = Problem> {
        self.present.iter().flat_map(|(node, reasons)| {
            let problem = |reason: &Reason| Problem { node: node.clone(), reason: reason.clone() };
            reasons.iter().map(problem)
        })
    }

    /// Sets the problems that a Node has now, and logs those that are new or solved.
    pub(super) fn set(&mut self, node: String, now: Vec<Reason>) {
        let before = self.present.get(&node).map(Vec::as_slice).unwrap_or_default();
        if now == before {
            return;
        }
        let [old, new] = [before, &now].map(|reasons| reasons.iter().collect::<HashSet<_>>());
        for reason in new.difference(&old) {
            warn!(node, "{reason}");
        }
        for reason in old.difference(&new) {
            info!(node, "solved: {reason}");
        }
        if now.is_empty() {
            self.present.remove(&node);
        } else {
            self.present.insert(node.clone(), now);
        }
        self.changed.insert(node);
    }

    /// Takes the Nodes whose problems have changed since the last call, with their problems now.
    pub(super) fn take_changed(&mut self) -> BTreeMap<String, Vec<Reason>> {
        let names = std::mem::take(&mut self.changed).into_iter();
        names
            .map(|name| (name.clone(), self.present.get(&name).cloned().unwrap_or_default()))
            .collect()
    }
}
