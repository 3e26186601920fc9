//! Metrics, in the text format of Prometheus.

use std::time::Duration;

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::podnet::{Key, daemon::Daemon};

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
            ("problems", "Reasons why a Node is not or not completely reachable", &it.problems),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        metrics
    }
}

impl Metrics {
    /// Records the duration of an event.
    pub fn record(&self, duration: Duration) {
        self.events.observe(duration.as_secs_f64());
    }

    /// Returns all metrics as text.
    pub fn text(&self, daemon: &Daemon) -> String {
        for (counter, total) in [
            (&self.syncs, daemon.counts.syncs),
            (&self.corrections, daemon.counts.corrections),
            (&self.failures, daemon.counts.failures),
        ] {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        let core = daemon.core();
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let is_route = |key: &&Key| matches!(key, Key::Route(_));
        let routes = core.map_or(0, |core| core.desired().keys().filter(is_route).count());
        self.peers.set(number(core.map_or(0, crate::podnet::Core::peers)));
        self.routes.set(number(routes));
        self.problems.set(number(daemon.problems().len()));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
