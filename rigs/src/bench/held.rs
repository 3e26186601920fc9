//! What a call costs where much is held already: reservations in host-local's store, mappings of portmap, containers.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::{
    call::{Attachment, Call},
    cases::{self, BRIDGE_MASQUERADE, Case, HOST_LOCAL, PORTMAP, Side},
    measure::{self, Measure, Rounds},
    world::World,
};

/// What an ADD and a DEL take, by how much is held.
#[derive(Debug, Serialize)]
pub(crate) struct Curve {
    /// Of what.
    pub(crate) held: &'static str,
    pub(crate) points: Vec<Point>,
}

/// A point of both curves.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Point {
    pub(crate) held: usize,
    /// In turn with the peer, as far as that goes.
    pub(crate) measures: [Measure; 2],
    /// Ours alone: a peer that reads all that is held leaves little of what ours needs in the processor's caches.
    pub(crate) alone: [Measure; 2],
}

impl Curve {
    pub(crate) fn at(&self, held: usize) -> Option<&Point> {
        self.points.iter().find(|point| point.held == held)
    }
}

/// How far a curve goes, and how far for the peer, which would take unbearably long beyond.
pub(crate) struct Extent<'a> {
    pub(crate) counts: &'a [usize],
    pub(crate) peer_most: usize,
    pub(crate) rounds: Rounds,
}

/// host-local, with this many reservations of others in its store.
pub(crate) fn reservations(world: &World, extent: &Extent<'_>, on: &Attachment) -> Result<Curve> {
    let points = points(world, &HOST_LOCAL, extent, on, fill_store)?;
    for side in BOTH {
        empty_store(side)?;
    }
    Ok(Curve { held: "reservations", points })
}

/// portmap, with this many ports that lead to others.
pub(crate) fn mappings(world: &World, extent: &Extent<'_>, on: &Attachment) -> Result<Curve> {
    let mut dels: Vec<Call> = Vec::new();
    let mut holders = 0;
    let points = points(world, &PORTMAP, extent, on, |side, from, to| {
        for first in (from..to).step_by(PORTS_EACH) {
            let count = PORTS_EACH.min(to - first);
            holders += 1;
            let on = Attachment { id: format!("holder-{holders}"), ..on.clone() };
            let config = cases::published(
                side,
                u16::try_from(FIRST_PORT + first)?,
                u16::try_from(count)?,
                holders,
            );
            let call = |command| {
                Call::plugin(&world.directory(side), PORTMAP.plugin, command, Some(&on), &config)
            };
            call("ADD").timed()?;
            dels.push(call("DEL"));
        }
        Ok(())
    })?;
    for del in &dels {
        del.timed()?;
    }
    Ok(Curve { held: "mappings", points })
}

const FIRST_PORT: usize = 30_000;
/// How many ports a holder has.
const PORTS_EACH: usize = 10;

/// bridge with ipMasq, with this many others attached.
pub(crate) fn containers(world: &World, extent: &Extent<'_>, on: &Attachment) -> Result<Curve> {
    let mut dels: Vec<Call> = Vec::new();
    let points = points(world, &BRIDGE_MASQUERADE, extent, on, |side, from, to| {
        for number in from..to {
            let on = world.attachment(&format!("{}{number}", side.name()), u16::try_from(number)?);
            let (_, answer) = world.add(&BRIDGE_MASQUERADE, side, &on, &Value::Null)?.timed()?;
            dels.push(world.del(&BRIDGE_MASQUERADE, side, &on, &answer)?);
        }
        Ok(())
    })?;
    for del in &dels {
        del.timed()?;
    }
    Ok(Curve { held: "containers", points })
}

const BOTH: [Side; 2] = [Side::Ours, Side::Peer];

/// Measures at each count, after `raise` has brought what a side holds from one count to the next.
fn points(
    world: &World,
    case: &Case,
    extent: &Extent<'_>,
    on: &Attachment,
    mut raise: impl FnMut(Side, usize, usize) -> Result<()>,
) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    let mut before = 0;
    for &held in extent.counts {
        let sides = if held <= extent.peer_most { &BOTH[..] } else { &BOTH[..1] };
        for side in sides {
            raise(*side, before, held)
                .with_context(|| format!("hold {held} for {}", side.name()))?;
        }
        let alone = measure::case(world, case, extent.rounds, &BOTH[..1], on)?;
        let measures = if sides.len() == 1 {
            alone.clone()
        } else {
            measure::case(world, case, extent.rounds, sides, on)?
        };
        points.push(Point { held, measures, alone });
        before = held;
    }
    Ok(points)
}

/// Reservations as host-local keeps them: a file for each, and the last one that was given.
fn fill_store(side: Side, from: usize, to: usize) -> Result<()> {
    let store = store(side);
    std::fs::create_dir_all(&store).with_context(|| format!("make {}", store.display()))?;
    for number in from..to {
        // From the first address after the gateway on.
        let number = number + 2;
        let mut address = side.prefix();
        let _ = write!(address, "{}.{}", number / 256, number % 256);
        std::fs::write(store.join(&address), format!("holder-{number}\r\neth0"))?;
        if number == to + 1 {
            std::fs::write(store.join("last_reserved_ip.0"), address)?;
        }
    }
    Ok(())
}

fn empty_store(side: Side) -> Result<()> {
    std::fs::remove_dir_all(store(side))?;
    Ok(())
}

fn store(side: Side) -> PathBuf {
    Path::new("/var/lib/cni/networks").join(cases::network(side))
}
