//! Limits of cost that the project promises.

use serde::Serialize;

use super::{
    Results,
    cases::{self, Case},
    measure::Measure,
};

/// A number and its limit.
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

/// Cost of a call with many things held, relative to the cost with none.
const GROWTH: f64 = 1.3;

/// All limits of values that were measured.
pub(crate) fn of(results: &Results) -> Vec<Limit> {
    let mut limits = Limits(Vec::new());
    for measure in &results.measures {
        let name = &measure.case;
        if measure.command == "VERSION" {
            limits.peer(measure, 0.3);
            let what = format!("{name} VERSION, to an empty static program");
            limits.add(what, measure.to_floor(), 1.5);
        }
        if let Some(case) = cases::ALL.iter().find(|case| case.name == name) {
            limits.case(case, measure);
        }
        if measure.command == "both" {
            limits.peer(measure, if name.starts_with("chain") { 0.15 } else { 0.5 });
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
    let what = "own memory of a call, to the peer, at worst".to_owned();
    limits.add(what, worst_memory(&results.measures), 0.3);
    #[expect(clippy::cast_precision_loss, reason = "a size of some megabytes")]
    let disk = results.disk as f64 / 1e6;
    limits.add("disk for every plugin together, in MB".to_owned(), Some(disk), 4.0);
    limits.0
}

struct Limits(Vec<Limit>);

impl Limits {
    fn add(&mut self, what: String, value: Option<f64>, at_most: f64) {
        self.0.extend(value.map(|value| Limit { what, value, at_most }));
    }

    fn peer(&mut self, measure: &Measure, at_most: f64) {
        let what = format!("{} {}, to the peer", measure.case, measure.command);
        self.add(what, measure.ratio(), at_most);
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
        Some(ours.usage.own_memory as f64 / peer.usage.own_memory as f64)
    };
    measures.iter().filter_map(ratio).max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{
            cases::Side,
            growth::{Curve, Point},
            measure::measures,
        },
        *,
    };

    fn measure(case: &str, command: &'static str, micros: [u64; 3]) -> Measure {
        let sides = [Side::Ours, Side::Peer, Side::Floor];
        let samples =
            sides.into_iter().zip(micros.map(|time| vec![Duration::from_micros(time)])).collect();
        let [measure] = measures(case, [command], &[samples]).unwrap();
        measure
    }

    fn broken(results: &Results) -> Vec<String> {
        of(results).into_iter().filter(|limit| !limit.holds()).map(|limit| limit.what).collect()
    }

    #[test]
    fn a_call_that_is_slow_relative_to_the_peer_or_to_the_floor_breaks_its_limit() {
        let name = cases::BRIDGE.name;
        let broken = |add, floor| {
            let measures = vec![
                measure(name, "ADD", [add, 1000, 1]),
                measure(name, "DEL", [120, 1000, floor]),
            ];
            broken(&Results { measures, ..Results::default() })
        };
        assert!(broken(200, 800).is_empty());
        assert_eq!(
            broken(201, 700),
            ["bridge + host-local ADD, to the peer", "bridge + host-local DEL, to a bare removal"]
        );
    }

    #[test]
    fn a_call_that_grows_with_what_is_held_breaks_its_limit() {
        let both = |micros| {
            ["ADD", "DEL"].map(|command| measure("host-local", command, [micros, 1_000_000, 1]))
        };
        let point = |held, micros| Point { held, measures: both(micros), alone: both(micros) };
        let broken = |then| {
            let points = vec![point(0, 100), point(60_000, then)];
            let curves = vec![Curve { held: "reservations", points }];
            broken(&Results { curves, ..Results::default() })
        };
        assert!(broken(130).is_empty());
        assert_eq!(
            broken(131),
            ["ADD", "DEL"]
                .map(|c| format!("host-local {c} with 60000 reservations, to ours with none"))
        );
    }

    #[test]
    fn a_file_of_more_than_four_megabytes_breaks_its_limit() {
        let results = Results { disk: 4_000_001, ..Results::default() };
        assert_eq!(broken(&results), ["disk for every plugin together, in MB"]);
    }
}
