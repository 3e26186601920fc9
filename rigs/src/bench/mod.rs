//! `cargo xtask bench`: cost of a call, beside the Go plugins and beside the least that the kernel
//! needs.
//!
//! It builds the static binary and programs to compare with, moves into a private network, and
//! measures all contenders in turn. The result is a table, charts, and a list of limits and whether
//! each holds.
//!
//! | module | content |
//! |---|---|
//! | [`cases`] | plugins with configurations and limits |
//! | [`call`] | a call of a program: timed, or traced |
//! | [`host`] | the private network with both sets of plugins |
//! | [`mod@measure`], [`statistics`] | interleaved samples, median and quartiles |
//! | [`footprint`] | system calls, processes, memory, bytes |
//! | [`growth`] | the same with many reservations, mappings or containers |
//! | [`throughput`] | a hundred containers at once; a chain through a long-lived runtime |
//! | [`limits`] | limits that the project promises |
//! | [`environment`], [`report`], [`chart`] | the output |
//! | [`counts`] | system calls and processes of each operation may not grow |

mod call;
mod cases;
mod chart;
pub(crate) mod counts;
mod environment;
mod footprint;
mod growth;
mod host;
mod limits;
mod measure;
mod report;
mod statistics;
mod throughput;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use fs_err as fs;
use serde::Serialize;
use xtask::{dist, go, packages, program};

use self::{
    cases::Side,
    environment::Environment,
    growth::{Curve, Extent},
    host::{BenchHost, Programs},
    limits::Limit,
    measure::{Measure, Rounds},
};

/// Extent of the measurement.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Take fewer samples and no curves, in about a minute; write nothing without --write.
    #[arg(long)]
    quick: bool,
    /// Write the table, the charts and the numbers into docs/bench; the default without --quick.
    #[arg(long)]
    write: bool,
    /// The directory of the Go plugins [default: build them from their module].
    #[arg(long, value_name = "DIR")]
    go_plugins: Option<PathBuf>,
}

/// All results.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Results {
    environment: Environment,
    measures: Vec<Measure>,
    curves: Vec<Curve>,
    /// Bytes of our file, which contains every plugin, and of the peer's files.
    disk: u64,
    peer_disk: u64,
    limits: Vec<Limit>,
}

/// Measures; the exit code says whether all limits hold.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    packages::ensure("the bench", packages::FOR_BENCH)?;
    println!("building the static binary, and programs to compare with");
    let peer = go::plugins(options.go_plugins.as_deref())?;
    let programs = build(&peer)?;
    let environment = Environment::read(&peer)?;
    let host = BenchHost::enter(&programs)?;
    let plan = Plan::new(options.quick);
    let (measures, curves) = measure(&host, &plan)?;
    let size = |program: &PathBuf| fs::metadata(program).map(|data| data.len());
    let mut results = Results {
        environment,
        measures,
        curves,
        disk: size(&programs.rscni)?,
        peer_disk: programs.peer.iter().map(size).sum::<std::io::Result<u64>>()?,
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
    let ours = |name| dist::build("bench-programs", name);
    Ok(Programs {
        rscni: dist::build("rscni-cli", "rscni")?,
        peer: fs::read_dir(peer)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?,
        // The one with glibc first: both are built under the same name.
        others: vec![
            dist::build_with_glibc("bench-programs", "empty")?,
            ours("empty")?,
            ours("floor")?,
            ours("runtime")?,
        ],
    })
}

struct Plan {
    rounds: Rounds,
    /// The kernel removes a link after a random number of grace periods, so the median needs more
    /// samples.
    rounds_with_links: Rounds,
    rounds_at_once: Rounds,
    reservations: Extent<'static>,
    mappings: Extent<'static>,
    containers: Option<Extent<'static>>,
}

/// Containers that are attached at once.
const AT_ONCE: u16 = 100;

impl Plan {
    fn new(quick: bool) -> Self {
        let rounds = if quick {
            [(1, 7), (1, 15), (0, 1), (1, 3)]
        } else {
            [(3, 41), (3, 123), (1, 5), (1, 9)]
        };
        let [rounds, rounds_with_links, rounds_at_once, few] =
            rounds.map(|(dropped, counted)| Rounds { dropped, counted });
        let extent = |counts, peer_most| Extent { counts, peer_most, rounds: few };
        let (reservations, mappings, containers) = if quick {
            (extent(&[0, 10_000, 60_000], 60_000), extent(&[0, 1_000], 0), None)
        } else {
            (
                extent(&[0, 100, 1_000, 10_000, 60_000], 60_000),
                extent(&[0, 10, 100, 1_000], 100),
                Some(extent(&[1, 10, 50, 100, 200], 100)),
            )
        };
        Self { rounds, rounds_with_links, rounds_at_once, reservations, mappings, containers }
    }
}

fn measure(host: &BenchHost, plan: &Plan) -> Result<(Vec<Measure>, Vec<Curve>)> {
    let on = host.attachment("bench", 0);
    let mut measures = Vec::from(measure::version(host, plan.rounds)?);
    for case in &cases::ALL {
        println!("{}", case.name);
        let sides = [Side::Ours, Side::Peer, Side::Floor];
        let sides = if case.floor.is_some() { &sides[..] } else { &sides[..2] };
        let rounds = if case.makes_link() { plan.rounds_with_links } else { plan.rounds };
        measures.extend(measure::case(host, case, rounds, sides, &on)?);
    }
    println!("a chain through a runtime");
    measures.extend(throughput::chain(host, plan.rounds, &on)?);
    println!("many containers at once");
    measures.extend(throughput::at_once(host, AT_ONCE, plan.rounds_at_once)?);
    // The kernel is still freeing their interfaces.
    std::thread::sleep(Duration::from_secs(2));
    println!("with reservations held");
    let mut curves = vec![growth::reservations(host, &plan.reservations, &on)?];
    println!("with mappings held");
    curves.push(growth::mappings(host, &plan.mappings, &on)?);
    if let Some(extent) = &plan.containers {
        println!("with containers attached");
        curves.push(growth::containers(host, extent, &on)?);
    }
    Ok((measures, curves))
}
