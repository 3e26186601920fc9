//! One pass of the collection: reads, decides, removes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rscni::runtime::{Cache, Runtime};
use rscni_plugins::{LinkedFirst, inventory::release_incomplete};
use tracing::info;

use super::{
    core::{Core, Evidence, Stale},
    cri,
    node::{Node, Traces, is_unchanged},
};

/// The settings of the collection.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The socket of the container runtime.
    pub socket: PathBuf,
    /// The cache of libcni.
    pub cache_dir: PathBuf,
    /// The network lists, which name directories of plugin state.
    pub conf_dir: PathBuf,
    /// Directories of plugins that are not linked in.
    pub plugin_dirs: Vec<PathBuf>,
    /// Longer than any ADD takes.
    pub grace: Duration,
}

/// Something stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The kind: `result` for an entry of the cache, `address`, `link`, `element`, `chain`, `file`.
    pub kind: &'static str,
    /// The object.
    pub what: String,
    /// The network and the owner, unless it has none.
    pub owner: Option<(String, String)>,
    /// How long it has been so.
    pub age: Option<Duration>,
    /// Why it is stale.
    pub why: String,
    /// Whether no ADD of it can be in progress.
    pub is_confirmed: bool,
    /// Whether this pass removed it.
    pub is_removed: bool,
}

/// The findings and actions of a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Everything stale.
    pub findings: Vec<Finding>,
    /// Errors: objects that could not be inspected or removed.
    pub failures: Vec<String>,
}

/// Removes what stale attachments left.
#[derive(Debug)]
pub struct Collector {
    settings: Settings,
    core: Core,
    executor: tokio::runtime::Runtime,
}

impl Collector {
    /// Creates a collector. `evidence` is `Observation` unless there is only one pass.
    ///
    /// # Errors
    ///
    /// If the event loop for the socket cannot be created.
    pub fn new(settings: Settings, evidence: Evidence) -> anyhow::Result<Self> {
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { core: Core::new(evidence, settings.grace), settings, executor })
    }

    /// Finds what is stale and, unless this is a dry run, removes what is confirmed.
    ///
    /// # Errors
    ///
    /// If the cache or the list of sandboxes cannot be read, or no namespace is visible. Nothing is
    /// removed then.
    pub fn pass(&mut self, is_dry_run: bool) -> anyhow::Result<Report> {
        let Settings { socket, cache_dir, conf_dir, plugin_dirs, .. } = &self.settings;
        let cache = Cache::new(cache_dir);
        let node = Node::inspect(&cache, conf_dir)?;
        // After the snapshot: a sandbox that is added now has no traces in it.
        let listed = self.executor.block_on(cri::list(socket))?;
        let facts = node.facts(socket, listed.is_process_visible);
        let stale = self.core.decide(&facts, &listed.sandboxes)?;
        let runtime = Runtime::new(LinkedFirst, plugin_dirs).with_cache(cache);
        let mut report = Report { failures: node.failures.clone(), ..Report::default() };
        for stale in stale {
            let traces = &node.attachments[&stale.owner];
            let removed = if stale.is_confirmed && !is_dry_run {
                remove(&runtime, &node, &stale, traces)
            } else {
                Ok(false)
            };
            let is_removed = removed.unwrap_or_else(|error| {
                let Stale { owner, .. } = &stale;
                report.failures.push(format!("detach {owner} from {}: {error}", owner.network));
                false
            });
            report.add(&stale, traces, is_removed);
        }
        for file in &node.incomplete {
            report.add_incomplete(file, is_dry_run);
        }
        Ok(report)
    }
}

/// Detaches a stale attachment unless a call for it is in progress.
fn remove(
    runtime: &Runtime<LinkedFirst>,
    node: &Node,
    stale: &Stale,
    traces: &Traces,
) -> Result<bool, rscni::Error> {
    let (list, params) = node.del(&stale.owner)?;
    let before = traces.entry.as_ref();
    Ok(runtime.del_if(&list, &params, |now| is_unchanged(before, now))?)
}

impl Report {
    fn add(&mut self, stale: &Stale, traces: &Traces, is_removed: bool) {
        let Stale { owner, reason, age, is_confirmed } = stale;
        let finding = |kind, what: String| {
            let (network, why) = (owner.network.clone(), reason.to_string());
            if is_removed {
                info!(kind, what, network, owner = %owner, why, "gc: removed");
            }
            let (age, is_confirmed) = (Some(*age), *is_confirmed);
            let owner = Some((network, owner.to_string()));
            Finding { kind, what, owner, age, why, is_confirmed, is_removed }
        };
        let result = traces.entry.iter().map(|entry| {
            let addresses: Vec<_> =
                entry.result.ips.iter().map(|ip| ip.address.to_string()).collect();
            finding("result", addresses.join(" "))
        });
        let items = traces.items.iter().map(|item| finding(item.kind(), item.to_string()));
        self.findings.extend(result.chain(items));
    }

    fn add_incomplete(&mut self, file: &Path, is_dry_run: bool) {
        let is_removed = !is_dry_run
            && release_incomplete(file).unwrap_or_else(|error| {
                self.failures.push(error.to_string());
                false
            });
        let what = file.display().to_string();
        if is_removed {
            info!(kind = "address", what, "gc: removed incomplete reservation");
        }
        self.findings.push(Finding {
            kind: "address",
            what,
            owner: None,
            age: None,
            why: "incomplete: its call was interrupted".into(),
            is_confirmed: true,
            is_removed,
        });
    }
}
