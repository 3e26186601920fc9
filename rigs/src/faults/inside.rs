//! The trials of one list, in a process that is in a private network.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use rscni_test::Lab;

use super::{
    Kind,
    call::Caller,
    churn,
    churn::Plan,
    dhcp::Service,
    power,
    table::Count,
    trial::{self, Operation, Outcome, Place, Trial},
    worlds::World,
};

/// The name of the hidden task.
pub(crate) const INSIDE: &str = "faults-inside";

/// What the inside needs to know.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The directory of the plugins.
    directory: PathBuf,
    #[arg(long)]
    world: String,
    #[arg(long)]
    kind: Kind,
    #[arg(long)]
    every: usize,
    #[arg(long)]
    at_most: usize,
    /// Which of how many parts of the trials: `0/4`.
    #[arg(long, value_parser = part, default_value = "0/1")]
    part: (usize, usize),
    #[arg(long)]
    seconds: u64,
    /// Where our runtime and plugins are.
    #[arg(long)]
    ours: PathBuf,
    #[arg(long)]
    trial: Option<Trial>,
}

fn part(text: &str) -> Result<(usize, usize), String> {
    let parse = || {
        let (part, parts) = text.split_once('/')?;
        Some((part.parse().ok()?, parts.parse().ok()?)).filter(|(part, parts)| part < parts)
    };
    parse().ok_or_else(|| format!("`{text}` is not like 0/4"))
}

/// Tells each failure on a line or more, and in the end how many there were.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let lab = rscni_test::enter_private_network()?;
    let world = World::named(&options.world)?;
    let directory = &options.directory;
    let service = (world.name == "dhcp").then(|| Service::start(&lab, directory)).transpose()?;
    let count = match options.kind {
        Kind::Kill | Kind::Errno => trials(&lab, &world, options)?,
        Kind::Power => power::run(&lab, directory, &options.ours, options.every)?,
        Kind::Churn => {
            let (containers, workers) = if service.is_some() { (60, 8) } else { (200, 16) };
            let plan = Plan {
                containers,
                workers,
                daemon: service.as_ref(),
                gc: *directory == options.ours,
            };
            churn::run(&lab, directory, &world.for_many(), options.seconds, &plan)?
        }
    };
    println!("{count}");
    Ok(ExitCode::SUCCESS)
}

fn trials(lab: &Lab, world: &World, options: &Options) -> Result<Count> {
    let is_peer = options.directory != options.ours;
    let mut place = Place::new(lab, Caller { directory: &options.directory, world, is_peer })?;
    let (add, del) = (place.calls(Operation::Add)?, place.calls(Operation::Del)?);
    let all = match (options.trial, options.kind) {
        (Some(trial), _) => vec![trial],
        (None, Kind::Kill) => trial::kills(add.len(), del.len(), world.may_vanish),
        (None, _) => trial::errors(&add, &del, world.may_vanish),
    };
    let mut count = Count::default();
    let step = options.every.max(all.len().div_ceil(options.at_most)).max(1);
    let (part, parts) = options.part;
    for trial in all.iter().step_by(step).skip(part).step_by(parts) {
        match place.run(trial)? {
            Outcome::Held => count.add(&[]),
            Outcome::NotReached => {}
            Outcome::Failed { call, wrong } => {
                count.add(&wrong);
                println!(
                    "  FAILED at {call}: cargo xtask faults --plugin {} --trial {trial}",
                    world.name
                );
                for line in wrong {
                    println!("    {line}");
                }
            }
        }
    }
    Ok(count)
}
