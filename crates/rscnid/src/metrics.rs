//! Metrics, in the text format of Prometheus.

use std::time::Duration;

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    gc::collector::Report,
    podnet::{Key, daemon::Daemon},
};

/// The metrics of the daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    events: Histogram,
    syncs: Counter,
    corrections: Counter,
    failures: Counter,
    peers: Gauge,
    routes: Gauge,
    problems: Gauge,
    unreachable: Gauge,
    /// The metrics of the garbage collection.
    pub gc: GcMetrics,
}

/// The metrics of the garbage collection.
#[derive(Clone, Debug)]
pub struct GcMetrics {
    passes: Histogram,
    stale: Family<[(&'static str, &'static str); 1], Gauge>,
    removed: Family<[(&'static str, &'static str); 1], Counter>,
    errors: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
        let mut metrics = Self {
            registry: Registry::with_prefix("rscnid"),
            events: Histogram::new(seconds),
            syncs: Counter::default(),
            corrections: Counter::default(),
            failures: Counter::default(),
            peers: Gauge::default(),
            routes: Gauge::default(),
            problems: Gauge::default(),
            unreachable: Gauge::default(),
            gc: GcMetrics::default(),
        };
        let it = &mut metrics;
        let registry = &mut it.registry;
        registry.register(
            "event_duration_seconds",
            "Time to carry out a change of Nodes or to restore lost state",
            it.events.clone(),
        );
        let counters = [
            ("syncs", "Complete comparisons with the kernel", &it.syncs),
            ("corrections", "Objects that were restored", &it.corrections),
            ("failures", "Changes that the kernel refused", &it.failures),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let gauges = [
            ("peers", "Other Nodes", &it.peers),
            ("routes", "Routes to pods of other Nodes", &it.routes),
            ("unreachable", "Tunnels over which peers do not answer probes", &it.unreachable),
            ("problems", "Reasons why a Node is not or not completely reachable", &it.problems),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        it.gc.register(registry);
        metrics
    }
}

impl Default for GcMetrics {
    fn default() -> Self {
        Self {
            passes: Histogram::new([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]),
            stale: Family::default(),
            removed: Family::default(),
            errors: Counter::default(),
        }
    }
}

impl GcMetrics {
    fn register(&self, registry: &mut Registry) {
        let help = "Duration of a pass of the garbage collection";
        registry.register("gc_pass_duration_seconds", help, self.passes.clone());
        let help = "Objects of stale attachments that the last pass found and did not remove";
        registry.register("gc_stale", help, self.stale.clone());
        let help = "Objects of stale attachments that were removed";
        registry.register("gc_removed", help, self.removed.clone());
        let help = "Failed passes, and objects that could not be inspected or removed";
        registry.register("gc_errors", help, self.errors.clone());
    }

    /// Records a pass.
    pub fn record(&self, duration: Duration, outcome: &anyhow::Result<Report>) {
        self.passes.observe(duration.as_secs_f64());
        let Ok(report) = outcome else {
            self.errors.inc();
            return;
        };
        self.errors.inc_by(report.failures.len() as u64);
        for kind in ["result", "address", "link", "element", "chain", "file"] {
            let of_kind = || report.findings.iter().filter(|finding| finding.kind == kind);
            let removed = of_kind().filter(|finding| finding.is_removed).count();
            self.removed.get_or_create(&[("kind", kind)]).inc_by(removed as u64);
            self.stale.get_or_create(&[("kind", kind)]).set(number(of_kind().count() - removed));
        }
    }
}

impl Metrics {
    /// Records the duration of an event.
    pub fn record(&self, duration: Duration) {
        self.events.observe(duration.as_secs_f64());
    }

    /// Returns all metrics as text.
    pub fn text(&self, daemon: Option<&Daemon>) -> String {
        if let Some(daemon) = daemon {
            self.update(daemon);
        }
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn update(&self, daemon: &Daemon) {
        for (counter, total) in [
            (&self.syncs, daemon.counts.syncs),
            (&self.corrections, daemon.counts.corrections),
            (&self.failures, daemon.counts.failures),
        ] {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        let core = daemon.core();
        let is_route = |key: &&Key| matches!(key, Key::Route(_));
        let routes = core.map_or(0, |core| core.desired().keys().filter(is_route).count());
        self.peers.set(number(core.map_or(0, crate::podnet::Core::peers)));
        self.routes.set(number(routes));
        self.unreachable.set(number(daemon.unreachable()));
        self.problems.set(number(daemon.problems().count()));
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
