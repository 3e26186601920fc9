//! Cost of a call while many things are held: reservations in host-local's store, mappings of
//! portmap, containers.

use std::{fmt::Write, path::Path};

use anyhow::{Context, Result};
use fs_err as fs;
use rscni_test::Container;
use serde::Serialize;
use serde_json::Value;

use super::{
    call::{Attachment, Call},
    cases::{self, BRIDGE_MASQUERADE, Case, HOST_LOCAL, PORTMAP, Side},
    host::BenchHost,
    measure::{self, Measure, Rounds},
};

/// Cost of ADD and DEL by the number of things held.
#[derive(Debug, Serialize)]
pub(crate) struct Curve {
    /// The kind of thing.
    pub(crate) held: &'static str,
    pub(crate) points: Vec<Point>,
}

/// ADD and DEL with a number of things held.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Point {
    pub(crate) held: usize,
    /// In turn with the peer, as far as the peer is measured.
    pub(crate) measures: [Measure; 2],
    /// Ours alone. A peer that reads everything held evicts our data from the processor's caches.
    pub(crate) alone: [Measure; 2],
}

impl Curve {
    pub(crate) fn at(&self, held: usize) -> Option<&Point> {
        self.points.iter().find(|point| point.held == held)
    }
}

/// Numbers of things to hold. Beyond `peer_most` the peer would take too long.
pub(crate) struct Extent<'a> {
    pub(crate) counts: &'a [usize],
    pub(crate) peer_most: usize,
    pub(crate) rounds: Rounds,
}

/// host-local with reservations of other containers in its store.
pub(crate) fn reservations(
    host: &BenchHost,
    extent: &Extent<'_>,
    on: &Attachment,
) -> Result<Curve> {
    let points = points(host, &HOST_LOCAL, extent, on, fill_store)?;
    for side in BOTH {
        fs::remove_dir_all(Path::new(STORES).join(cases::network(side)))?;
    }
    Ok(Curve { held: "reservations", points })
}

/// portmap with ports of other containers.
pub(crate) fn mappings(host: &BenchHost, extent: &Extent<'_>, on: &Attachment) -> Result<Curve> {
    const FIRST_PORT: usize = 30_000;
    const PORTS_EACH: usize = 10;
    let mut dels: Vec<Call> = Vec::new();
    let mut containers = 0;
    let points = points(host, &PORTMAP, extent, on, |side, from, to| {
        for first in (from..to).step_by(PORTS_EACH) {
            let count = u16::try_from(PORTS_EACH.min(to - first))?;
            containers += 1;
            let container = Container::at(&format!("other-{containers}"), on.container.path());
            let on = Attachment { container, number: on.number };
            let first = u16::try_from(FIRST_PORT + first)?;
            let config = cases::published(side, first, count, containers);
            let call =
                |command| Call::plugin(&host.directory(side), command, Some(&on), config.clone());
            call("ADD").timed()?;
            dels.push(call("DEL"));
        }
        Ok(())
    })?;
    dels.iter().try_for_each(|del| del.timed().map(drop))?;
    Ok(Curve { held: "mappings", points })
}

/// bridge with ipMasq and other containers attached.
pub(crate) fn containers(host: &BenchHost, extent: &Extent<'_>, on: &Attachment) -> Result<Curve> {
    let mut dels: Vec<Call> = Vec::new();
    let points = points(host, &BRIDGE_MASQUERADE, extent, on, |side, from, to| {
        for number in from..to {
            let on = host.attachment(&format!("{}{number}", side.name()), u16::try_from(number)?);
            let (_, answer) = host.add(&BRIDGE_MASQUERADE, side, &on, &Value::Null)?.timed()?;
            dels.push(host.del(&BRIDGE_MASQUERADE, side, &on, &answer)?);
        }
        Ok(())
    })?;
    dels.iter().try_for_each(|del| del.timed().map(drop))?;
    Ok(Curve { held: "containers", points })
}

const BOTH: [Side; 2] = [Side::Ours, Side::Peer];

/// Measures at each count. `raise` increases the number of things that a side holds.
fn points(
    host: &BenchHost,
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
        let alone = measure::case(host, case, extent.rounds, &BOTH[..1], on)?;
        let measures = match sides {
            [_] => alone.clone(),
            _ => measure::case(host, case, extent.rounds, sides, on)?,
        };
        points.push(Point { held, measures, alone });
        before = held;
    }
    Ok(points)
}

const STORES: &str = "/var/lib/cni/networks";

/// Writes reservations as host-local does: a file for each, and the last address.
fn fill_store(side: Side, from: usize, to: usize) -> Result<()> {
    let store = Path::new(STORES).join(cases::network(side));
    fs::create_dir_all(&store)?;
    // From the first address after the gateway on.
    for number in from + 2..to + 2 {
        let mut address = side.prefix();
        write!(address, "{}.{}", number / 256, number % 256)?;
        fs::write(store.join(&address), format!("other-{number}\r\neth0"))?;
        if number == to + 1 {
            fs::write(store.join("last_reserved_ip.0"), address)?;
        }
    }
    Ok(())
}
