//! Samples of ours, the peer and the floor in turn, so that other work of the machine affects all
//! of them alike. The order rotates with each round, and every other round it is reversed, so that
//! none always follows the same one. Warm-up rounds are dropped.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::{
    call::Attachment,
    cases::{Case, Side},
    footprint::{self, Footprint},
    host::{BenchHost, EMPTY},
    statistics::Spread,
};

/// Numbers of warm-up rounds and of counted rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    pub(crate) dropped: usize,
    pub(crate) counted: usize,
}

/// An operation, and its cost for each contender.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measure {
    pub(crate) case: String,
    pub(crate) command: &'static str,
    pub(crate) ours: Cost,
    pub(crate) peer: Option<Cost>,
    pub(crate) floor: Option<Spread>,
}

/// Time and resources of an operation.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cost {
    pub(crate) time: Spread,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) footprint: Option<Footprint>,
}

impl Measure {
    /// Our time relative to the peer's.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|peer| self.ours.time.median / peer.time.median)
    }

    /// Our time relative to the floor's.
    pub(crate) fn to_floor(&self) -> Option<f64> {
        self.floor.map(|floor| self.ours.time.median / floor.median)
    }

    fn set_footprint(&mut self, side: Side, footprint: Footprint) {
        let cost = if side == Side::Peer { self.peer.as_mut() } else { Some(&mut self.ours) };
        if let Some(cost) = cost {
            cost.footprint = Some(footprint);
        }
    }
}

/// Samples of each contender.
type Samples = Vec<(Side, Vec<Duration>)>;

/// Calls `sample` for each side in each round. It returns the times of `N` operations.
pub(crate) fn interleaved<const N: usize>(
    sides: &[Side],
    rounds: Rounds,
    mut sample: impl FnMut(Side) -> Result<[Duration; N]>,
) -> Result<[Samples; N]> {
    let mut all: [Samples; N] =
        std::array::from_fn(|_| sides.iter().map(|side| (*side, Vec::new())).collect());
    for round in 0..rounds.dropped + rounds.counted {
        let mut order: Vec<usize> =
            (0..sides.len()).map(|turn| (round + turn) % sides.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for which in order {
            pause(round);
            if sides.len() == 1 {
                std::thread::sleep(TURN_OF_ANOTHER);
            }
            let times = sample(sides[which])?;
            if round >= rounds.dropped {
                for (samples, time) in all.iter_mut().zip(times) {
                    samples[which].1.push(time);
                }
            }
        }
    }
    Ok(all)
}

/// ADD and DEL of a case for all `sides`, with footprints.
pub(crate) fn case(
    host: &BenchHost,
    case: &Case,
    rounds: Rounds,
    sides: &[Side],
    on: &Attachment,
) -> Result<[Measure; 2]> {
    let samples = interleaved(sides, rounds, |side| {
        let (add, answer) = host.add(case, side, on, &Value::Null)?.timed()?;
        pause(add.subsec_micros() as usize);
        let (del, _) = host.del(case, side, on, &answer)?.timed()?;
        Ok([add, del])
    })
    .with_context(|| format!("measure {}", case.name))?;
    let mut measures = measures(case.name, ["ADD", "DEL"], &samples)?;
    for &side in sides.iter().filter(|side| **side != Side::Floor) {
        let (add, answer) = footprint::of_call(&host.add(case, side, on, &Value::Null)?)?;
        let (del, _) = footprint::of_call(&host.del(case, side, on, &answer)?)?;
        for (measure, footprint) in measures.iter_mut().zip([add, del]) {
            measure.set_footprint(side, footprint);
        }
    }
    Ok(measures)
}

/// Waits until the kernel has finished work that the previous call deferred. The pause varies:
/// grace periods and timers end with the kernel's ticks, and all samples would otherwise begin at
/// the same place between two ticks.
fn pause(round: usize) {
    const TICK_AT_MOST: usize = 10;
    std::thread::sleep(Duration::from_millis(5 + (round * 3 % TICK_AT_MOST) as u64));
}

/// Pause of a contender that is measured alone. Without it, ADD would wait for what the kernel
/// still frees after DEL.
const TURN_OF_ANOTHER: Duration = Duration::from_millis(30);

/// VERSION, against a program that does nothing: linked with glibc, and with our C library.
pub(crate) fn version(host: &BenchHost, rounds: Rounds) -> Result<[Measure; 2]> {
    let [glibc, same] = EMPTY;
    let call =
        |side, empty| if side == Side::Floor { host.empty(empty) } else { host.version(side) };
    let sides = [Side::Ours, Side::Peer, Side::Floor];
    let samples = interleaved(&sides, rounds, |side| Ok([call(side, glibc).timed()?.0]))?;
    let [mut with_glibc] = measures("process start", ["VERSION"], &samples)?;
    for side in [Side::Ours, Side::Peer] {
        with_glibc.set_footprint(side, footprint::of_call(&host.version(side))?.0);
    }
    let sides = [Side::Ours, Side::Floor];
    let samples = interleaved(&sides, rounds, |side| Ok([call(side, same).timed()?.0]))?;
    let name = "process start, the floor with our C library";
    let [with_same] = measures(name, ["VERSION"], &samples)?;
    Ok([with_glibc, with_same])
}

/// The measures of the commands whose samples these are, without footprints.
pub(crate) fn measures<const N: usize>(
    case: &str,
    commands: [&'static str; N],
    samples: &[Samples; N],
) -> Result<[Measure; N]> {
    let mut measures = Vec::new();
    for (command, samples) in commands.into_iter().zip(samples) {
        let spread = |side| {
            let of_side = samples.iter().find(|(of, times)| *of == side && !times.is_empty());
            of_side.map(|(_, times)| Spread::of(times))
        };
        let cost = |side| spread(side).map(|time| Cost { time, footprint: None });
        measures.push(Measure {
            case: case.to_owned(),
            command,
            ours: cost(Side::Ours).context("there is no sample of ours")?,
            peer: cost(Side::Peer),
            floor: spread(Side::Floor),
        });
    }
    measures.try_into().ok().context("a command has no samples")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_rotates_and_warm_up_rounds_are_dropped() {
        let mut order = Vec::new();
        let sides = [Side::Ours, Side::Peer, Side::Floor];
        let [samples] = interleaved(&sides, Rounds { dropped: 1, counted: 2 }, |side| {
            order.push(side.name());
            Ok([Duration::from_micros(order.len() as u64)])
        })
        .unwrap();
        let expected = ["ours", "peer", "floor", "ours", "floor", "peer", "floor", "ours", "peer"];
        assert_eq!(order, expected);
        assert_eq!(samples[0].1, [4, 8].map(Duration::from_micros));
        assert_eq!(samples[1].1, [6, 9].map(Duration::from_micros));
    }
}
