//! `cargo xtask bench`: what a call costs, beside the Go plugins and beside the least that the kernel needs.
//!
//! It builds the static binary and a few programs to compare with, moves into a private network, and measures all
//! contenders in turn. What comes out is a table, charts, and a list of promises with whether each holds.
//!
//! | module | what |
//! |---|---|
//! | [`cases`] | what is measured, with its configuration and its limits |
//! | [`call`] | a call of a program: timed, or traced |
//! | [`world`] | the private network, and both sets of plugins in it |
//! | [`mod@measure`], [`statistics`] | interleaved samples, and what is told of them |
//! | [`footprint`] | system calls, processes, memory, bytes |
//! | [`held`] | the same with much held already |
//! | [`whole`] | a hundred containers at once; a chain through a long-lived runtime |
//! | [`limits`] | what is promised |
//! | [`environment`], [`report`], [`chart`] | what is written |
//! | [`counts`] | the guard: system calls and processes of each operation may not grow |

mod call;
mod cases;
mod chart;
pub(crate) mod counts;
mod environment;
mod footprint;
mod held;
mod limits;
mod measure;
pub(crate) mod names;
mod report;
mod statistics;
mod whole;
mod world;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Serialize;

use self::{
    cases::Side,
    environment::Environment,
    held::{Curve, Extent},
    limits::Limit,
    measure::{Measure, Rounds},
    world::{Programs, World},
};
use xtask::{dist, go, packages, program};

/// How much to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Fewer samples and no curves, in less than a minute; writes nothing unless asked to.
    #[arg(long)]
    quick: bool,
    /// Write the table, the charts and the numbers into docs/bench; without `--quick` that is done anyway.
    #[arg(long)]
    write: bool,
    /// The directory of the Go plugins [default: build them from their module].
    #[arg(long, value_name = "DIR")]
    go_plugins: Option<PathBuf>,
}

/// Everything that came out.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    environment: Environment,
    measures: Vec<Measure>,
    curves: Vec<Curve>,
    /// Bytes of the one file that is every plugin, and of the peer's files.
    disk: u64,
    peer_disk: u64,
    limits: Vec<Limit>,
}

/// Measures. The exit code says whether everything that is promised holds.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    packages::ensure("the bench", packages::FOR_BENCH)?;
    println!("building the static binary, and what it is compared with");
    let peer = go::plugins(options.go_plugins.as_deref())?;
    let programs = build(&peer)?;
    let environment = Environment::read(&peer)?;
    let world = World::enter(&programs)?;
    let plan = if options.quick { Plan::quick() } else { Plan::full() };
    let (measures, curves) = measure(&world, &plan)?;
    let size = |program: &Path| std::fs::metadata(program).map(|data| data.len());
    let mut results = Results {
        environment,
        measures,
        curves,
        disk: size(&programs.rscni)?,
        peer_disk: programs.peer.iter().map(|plugin| size(plugin)).sum::<std::io::Result<u64>>()?,
        limits: Vec::new(),
    };
    results.limits = limits::of(&results);
    print!("\n{}", report::text(&results));
    if options.write || !options.quick {
        let directory = program::workspace_root().join("docs/bench");
        report::write(&results, &directory)?;
        println!("\nwritten: {}", directory.display());
    }
    let broken = results.limits.iter().filter(|limit| !limit.holds()).count();
    println!("\n{} of {} limits hold", results.limits.len() - broken, results.limits.len());
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn build(peer: &Path) -> Result<Programs> {
    let ours = |name| dist::build("bench-programs", name).map(Some);
    let peer = std::fs::read_dir(peer)
        .with_context(|| format!("list {}", peer.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    Ok(Programs {
        rscni: dist::build("rscni-cli", "rscni")?,
        peer,
        floor: ours("floor")?,
        empty: vec![
            dist::build_with_glibc("bench-programs", "empty")?,
            dist::build("bench-programs", "empty")?,
        ],
        runtime: ours("runtime")?,
    })
}

/// How much is measured.
struct Plan {
    rounds: Rounds,
    /// The kernel removes a link after grace periods, whose number is a matter of luck: the median needs more samples.
    rounds_with_links: Rounds,
    containers_at_once: u16,
    rounds_at_once: Rounds,
    reservations: Extent<'static>,
    mappings: Extent<'static>,
    containers: Option<Extent<'static>>,
}

impl Plan {
    fn full() -> Self {
        let few = Rounds { dropped: 1, counted: 9 };
        Self {
            rounds: Rounds { dropped: 3, counted: 41 },
            rounds_with_links: Rounds { dropped: 3, counted: 123 },
            containers_at_once: 100,
            rounds_at_once: Rounds { dropped: 1, counted: 5 },
            reservations: Extent {
                counts: &[0, 100, 1_000, 10_000, 60_000],
                peer_most: 60_000,
                rounds: few,
            },
            mappings: Extent { counts: &[0, 10, 100, 1_000], peer_most: 100, rounds: few },
            containers: Some(Extent {
                counts: &[1, 10, 50, 100, 200],
                peer_most: 100,
                rounds: few,
            }),
        }
    }

    fn quick() -> Self {
        let few = Rounds { dropped: 1, counted: 3 };
        Self {
            rounds: Rounds { dropped: 1, counted: 7 },
            rounds_with_links: Rounds { dropped: 1, counted: 15 },
            containers_at_once: 100,
            rounds_at_once: Rounds { dropped: 0, counted: 1 },
            reservations: Extent { counts: &[0, 10_000, 60_000], peer_most: 60_000, rounds: few },
            mappings: Extent { counts: &[0, 1_000], peer_most: 0, rounds: few },
            containers: None,
        }
    }
}

fn measure(world: &World, plan: &Plan) -> Result<(Vec<Measure>, Vec<Curve>)> {
    let on = world.attachment("bench", 0);
    let mut measures = Vec::from(measure::version(world, plan.rounds)?);
    for case in &cases::ALL {
        println!("{}", case.name);
        let sides = [Side::Ours, Side::Peer, Side::Floor];
        let sides = if case.floor.is_some() { &sides[..] } else { &sides[..2] };
        let rounds = if case.makes_link() { plan.rounds_with_links } else { plan.rounds };
        measures.extend(measure::case(world, case, rounds, sides, &on)?);
    }
    println!("a chain through a runtime");
    measures.extend(whole::chain(world, plan.rounds, &on)?);
    println!("many containers at once");
    measures.extend(whole::at_once(world, plan.containers_at_once, plan.rounds_at_once)?);
    // The kernel still takes apart what those had.
    std::thread::sleep(Duration::from_secs(2));
    println!("with reservations held");
    let mut curves = vec![held::reservations(world, &plan.reservations, &on)?];
    println!("with mappings held");
    curves.push(held::mappings(world, &plan.mappings, &on)?);
    if let Some(extent) = &plan.containers {
        println!("with containers attached");
        curves.push(held::containers(world, extent, &on)?);
    }
    Ok((measures, curves))
}
