//! What is promised, and whether it holds.

use serde::Serialize;

use super::{
    Results,
    cases::{self, Case},
    measure::Measure,
};

/// A promise about a number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Limit {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) at_most: f64,
}

impl Limit {
    pub(crate) fn holds(&self) -> bool {
        self.value <= self.at_most
    }
}

/// How much more a call may take with much held than with nothing.
const GROWTH: f64 = 1.3;

/// All promises that what was measured says something about.
pub(crate) fn of(results: &Results) -> Vec<Limit> {
    let mut limits = Limits(Vec::new());
    for measure in &results.measures {
        if measure.command == "VERSION" {
            limits.peer(measure, 0.3);
            limits.add(
                format!("{} VERSION, to an empty static program", measure.case),
                measure.to_floor(),
                1.5,
            );
        }
        if let Some(case) = cases::ALL.iter().find(|case| case.name == measure.case) {
            limits.case(case, measure);
        }
        if measure.command == "both" {
            limits.peer(measure, if measure.case.starts_with("chain") { 0.15 } else { 0.5 });
        }
    }
    for curve in &results.curves {
        let (counts, to_peer): (&[usize], _) = match curve.held {
            "reservations" => (&[10_000, 60_000], Some(0.02)),
            "mappings" => (&[1_000], None),
            _ => continue,
        };
        let Some(none) = curve.at(0) else { continue };
        for (held, command) in counts.iter().flat_map(|held| [(held, 0), (held, 1)]) {
            let Some(point) = curve.at(*held) else { continue };
            let measure = &point.measures[command];
            let name = format!("{} {} with {held} {}", measure.case, measure.command, curve.held);
            if let Some(at_most) = to_peer {
                limits.add(format!("{name}, to the peer"), measure.ratio(), at_most);
            }
            let [now, before] = [point, none].map(|point| point.alone[command].ours.time.median);
            limits.add(format!("{name}, to ours with none"), Some(now / before), GROWTH);
        }
    }
    limits.add(
        "own memory of a call, to the peer, at worst".to_owned(),
        worst_memory(&results.measures),
        0.3,
    );
    #[expect(clippy::cast_precision_loss, reason = "a size of some megabytes")]
    limits.add(
        "disk for every plugin together, in MB".to_owned(),
        Some(results.disk as f64 / 1e6),
        4.0,
    );
    limits.0
}

struct Limits(Vec<Limit>);

impl Limits {
    fn add(&mut self, what: String, value: Option<f64>, at_most: f64) {
        self.0.extend(value.map(|value| Limit { what, value, at_most }));
    }

    fn peer(&mut self, measure: &Measure, at_most: f64) {
        self.add(
            format!("{} {}, to the peer", measure.case, measure.command),
            measure.ratio(),
            at_most,
        );
    }

    fn case(&mut self, case: &Case, measure: &Measure) {
        let is_del = measure.command == "DEL";
        if let Some(at_most) = case.limits[usize::from(is_del)] {
            self.peer(measure, at_most);
        }
        if let Some(at_most) = case.del_to_floor.filter(|_| is_del) {
            self.add(format!("{} DEL, to a bare removal", case.name), measure.to_floor(), at_most);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes of some megabytes")]
fn worst_memory(measures: &[Measure]) -> Option<f64> {
    let ratio = |measure: &Measure| {
        let (ours, peer) = (measure.ours.footprint?, measure.peer.as_ref()?.footprint?);
        Some(ours.own_memory as f64 / peer.own_memory as f64)
    };
    measures.iter().filter_map(ratio).max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{
            cases::Side,
            environment::Environment,
            held::{Curve, Point},
            measure::times,
        },
        *,
    };

    fn measure(case: &str, command: &'static str, micros: [u64; 3]) -> Measure {
        let sides = [Side::Ours, Side::Peer, Side::Floor];
        let samples =
            sides.into_iter().zip(micros.map(|time| vec![Duration::from_micros(time)])).collect();
        times(case, command, &samples).unwrap()
    }

    fn results(measures: Vec<Measure>, curves: Vec<Curve>, disk: u64) -> Results {
        let none = String::new;
        let environment = Environment {
            date: none(),
            rscni: none(),
            peer: none(),
            iptables: none(),
            kernel: none(),
            processor: none(),
            processors: 1,
            memory_mib: 1,
        };
        Results { environment, measures, curves, disk, peer_disk: 0, limits: Vec::new() }
    }

    fn broken(results: &Results) -> Vec<String> {
        of(results).into_iter().filter(|limit| !limit.holds()).map(|limit| limit.what).collect()
    }

    #[test]
    fn a_call_that_takes_too_much_of_the_peer_s_time_or_of_the_floor_s_breaks_its_limit() {
        let name = cases::BRIDGE.name;
        let good =
            vec![measure(name, "ADD", [200, 1000, 1]), measure(name, "DEL", [850, 1000, 800])];
        assert!(broken(&results(good, Vec::new(), 0)).is_empty());
        let bad =
            vec![measure(name, "ADD", [201, 1000, 1]), measure(name, "DEL", [850, 1000, 700])];
        assert_eq!(
            broken(&results(bad, Vec::new(), 0)),
            ["bridge + host-local ADD, to the peer", "bridge + host-local DEL, to a bare removal"]
        );
    }

    #[test]
    fn a_call_that_takes_more_the_more_is_held_breaks_its_limit() {
        let both = |micros| {
            ["ADD", "DEL"].map(|command| measure("host-local", command, [micros, 1_000_000, 1]))
        };
        let point = |held, micros| Point { held, measures: both(micros), alone: both(micros) };
        let curve =
            |then| Curve { held: "reservations", points: vec![point(0, 100), point(60_000, then)] };
        assert!(broken(&results(Vec::new(), vec![curve(130)], 0)).is_empty());
        assert_eq!(
            broken(&results(Vec::new(), vec![curve(131)], 0)),
            ["ADD", "DEL"]
                .map(|c| format!("host-local {c} with 60000 reservations, to ours with none"))
        );
    }

    #[test]
    fn a_file_of_more_than_four_megabytes_breaks_its_limit() {
        assert_eq!(
            broken(&results(Vec::new(), Vec::new(), 4_000_001)),
            ["disk for every plugin together, in MB"]
        );
    }
}
