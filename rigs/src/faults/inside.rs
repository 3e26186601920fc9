//! The trials of one list, in a process that is in a private network.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use rscni_test::Lab;

use super::{
    Kind,
    call::Caller,
    churn::{self, Plan},
    dhcp::Service,
    lists::List,
    power,
    table::Count,
    trial::{self, Operation, Outcome, TestBed, Trial},
};

/// Name of the hidden command.
pub(crate) const INSIDE: &str = "faults-inside";

/// Arguments of the hidden command.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The directory of the plugins.
    directory: PathBuf,
    #[arg(long)]
    list: String,
    #[arg(long)]
    kind: Kind,
    #[arg(long)]
    every: usize,
    #[arg(long)]
    at_most: usize,
    /// The part of the trials: `0/4` is the first of four.
    #[arg(long, value_parser = part, default_value = "0/1")]
    part: (usize, usize),
    #[arg(long)]
    seconds: u64,
    /// The directory of our runtime and plugins.
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

/// Prints each failure, and the count at the end.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let lab = rscni_test::enter_private_network()?;
    let list = List::named(&options.list)?;
    let directory = &options.directory;
    let service = (list.name == "dhcp").then(|| Service::start(&lab, directory)).transpose()?;
    let count = match options.kind {
        Kind::Kill | Kind::Errno => trials(&lab, &list, options)?,
        Kind::Power => power::run(&lab, directory, &options.ours, options.every)?,
        Kind::Churn => {
            let (containers, workers) = if service.is_some() { (60, 8) } else { (200, 16) };
            let gc = *directory == options.ours;
            let plan = Plan { containers, workers, daemon: service.as_ref(), gc };
            let list = List::for_many(&options.list)?;
            churn::run(&lab, directory, &list, options.seconds, &plan)?
        }
    };
    println!("{count}");
    Ok(ExitCode::SUCCESS)
}

fn trials(lab: &Lab, list: &List, options: &Options) -> Result<Count> {
    let is_peer = options.directory != options.ours;
    let mut bed = TestBed::new(lab, Caller { directory: &options.directory, list, is_peer })?;
    let (add, del) = (bed.calls(Operation::Add)?, bed.calls(Operation::Del)?);
    let all = match (options.trial, options.kind) {
        (Some(trial), _) => vec![trial],
        (None, Kind::Kill) => trial::kills(add.len(), del.len(), list.may_vanish),
        (None, _) => trial::errors(&add, &del, list.may_vanish),
    };
    let mut count = Count::default();
    let step = options.every.max(all.len().div_ceil(options.at_most)).max(1);
    let (part, parts) = options.part;
    for trial in all.iter().step_by(step).skip(part).step_by(parts) {
        match bed.run(trial)? {
            Outcome::Passed => count.add(&[]),
            Outcome::NotReached => {}
            Outcome::Failed { call, problems } => {
                count.add(&problems);
                let again = format!("cargo xtask faults --plugin {} --trial {trial}", list.name);
                println!("  FAILED at {call}: {again}");
                for line in problems {
                    println!("    {line}");
                }
            }
        }
    }
    Ok(count)
}
