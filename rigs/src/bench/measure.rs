//! Takes samples: ours, the peer and the floor in turn, in one run, so that whatever else the machine does meets all of
//! them alike. The order turns with each round, and every other round it is reversed, so that none has always the same
//! one before it. Rounds to warm up are dropped.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::{
    call::Attachment,
    cases::{Case, Side},
    footprint::{self, Footprint},
    statistics::Spread,
    world::{EMPTY, World},
};

/// How many rounds are dropped, and how many are counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounds {
    pub(crate) dropped: usize,
    pub(crate) counted: usize,
}

/// An operation, and what it takes each of the contenders.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measure {
    pub(crate) case: String,
    pub(crate) command: &'static str,
    pub(crate) ours: Cost,
    pub(crate) peer: Option<Cost>,
    pub(crate) floor: Option<Spread>,
}

/// Time, and what does not depend on the machine's mood.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cost {
    pub(crate) time: Spread,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) footprint: Option<Footprint>,
}

impl Measure {
    /// Ours as a part of the peer's.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|peer| self.ours.time.median / peer.time.median)
    }

    /// Ours as a part of the floor's.
    pub(crate) fn to_floor(&self) -> Option<f64> {
        self.floor.map(|floor| self.ours.time.median / floor.median)
    }
}

impl Measure {
    fn note(&mut self, side: Side, footprint: Footprint) {
        let cost = if side == Side::Peer { self.peer.as_mut() } else { Some(&mut self.ours) };
        if let Some(cost) = cost {
            cost.footprint = Some(footprint);
        }
    }
}

/// Each contender's samples.
type Samples = Vec<(Side, Vec<Duration>)>;

fn spread(samples: &Samples, side: Side) -> Option<Spread> {
    samples
        .iter()
        .find(|(of, times)| *of == side && !times.is_empty())
        .map(|(_, times)| Spread::of(times))
}

/// Calls `sample` for each side in each round; what it gives are the times of as many operations as it measures.
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

/// ADD and DEL of a case, of all who are `sides`, with what each takes beside time.
pub(crate) fn case(
    world: &World,
    case: &Case,
    rounds: Rounds,
    sides: &[Side],
    on: &Attachment,
) -> Result<[Measure; 2]> {
    let samples = interleaved(sides, rounds, |side| round(world, case, side, on))
        .with_context(|| format!("measure {}", case.name))?;
    let mut measures =
        [times(case.name, "ADD", &samples[0])?, times(case.name, "DEL", &samples[1])?];
    for side in sides.iter().filter(|side| **side != Side::Floor) {
        for (measure, footprint) in measures.iter_mut().zip(footprint::of(world, case, *side, on)?)
        {
            measure.note(*side, footprint);
        }
    }
    Ok(measures)
}

/// Lets the kernel end what the call before has left to it, which would else be in the next one's time. It is not
/// always as long: grace periods and timers end with the kernel's ticks, and all samples would begin at the same place
/// between two of them.
fn pause(round: usize) {
    const TICK_AT_MOST: usize = 10;
    std::thread::sleep(Duration::from_millis(5 + (round * 3 % TICK_AT_MOST) as u64));
}

/// What passes between two turns of a contender while another has one. Without, its ADD would wait for what the kernel
/// still frees of its own DEL.
const TURN_OF_ANOTHER: Duration = Duration::from_millis(30);

/// Both commands of one contender, once.
fn round(world: &World, case: &Case, side: Side, on: &Attachment) -> Result<[Duration; 2]> {
    let (add, answer) = world.add(case, side, on, &Value::Null)?.timed()?;
    pause(add.subsec_micros() as usize);
    let (del, _) = world.del(case, side, on, &answer)?.timed()?;
    Ok([add, del])
}

/// The start of a process that does next to nothing, against one that does nothing: with glibc, and with our C library.
pub(crate) fn version(world: &World, rounds: Rounds) -> Result<[Measure; 2]> {
    let [glibc, same] = EMPTY;
    let call =
        |side, empty| if side == Side::Floor { world.empty(empty) } else { world.version(side) };
    let sides = [Side::Ours, Side::Peer, Side::Floor];
    let [samples] = interleaved(&sides, rounds, |side| Ok([call(side, glibc).timed()?.0]))?;
    let mut measure = times("process start", "VERSION", &samples)?;
    for side in [Side::Ours, Side::Peer] {
        measure.note(side, footprint::of_call(&world.version(side))?.0);
    }
    let sides = [Side::Ours, Side::Floor];
    let [samples] = interleaved(&sides, rounds, |side| Ok([call(side, same).timed()?.0]))?;
    Ok([measure, times("process start, the floor with our C library", "VERSION", &samples)?])
}

/// What the samples say; what else an operation takes is noted later.
pub(crate) fn times(case: &str, command: &'static str, samples: &Samples) -> Result<Measure> {
    let cost = |side| spread(samples, side).map(|time| Cost { time, footprint: None });
    Ok(Measure {
        case: case.to_owned(),
        command,
        ours: cost(Side::Ours).context("ours is always measured")?,
        peer: cost(Side::Peer),
        floor: spread(samples, Side::Floor),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_turns_with_each_round_and_rounds_to_warm_up_are_dropped() {
        let mut order = Vec::new();
        let sides = [Side::Ours, Side::Peer, Side::Floor];
        let [samples] = interleaved(&sides, Rounds { dropped: 1, counted: 2 }, |side| {
            order.push(side.name());
            Ok([Duration::from_micros(order.len() as u64)])
        })
        .unwrap();
        assert_eq!(
            order,
            ["ours", "peer", "floor", "ours", "floor", "peer", "floor", "ours", "peer"]
        );
        assert_eq!(samples[0].1, [4, 8].map(Duration::from_micros));
        assert_eq!(samples[1].1, [6, 9].map(Duration::from_micros));
    }
}
