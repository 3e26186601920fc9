//! The one binary `rscni`: every plugin of `rscni-plugins`, `cnitool`, and the operator's commands.
//!
//! What it is depends on the name that it is called by. Under a plugin's name it is that plugin,
//! and nothing else is even set up, since a node calls it for every container; `dhcp daemon` is
//! what that plugin asks. Names such as `buildkit-cni-bridge`, and links to a plugin's name, stand
//! for that plugin too. Under the name `cnitool` it takes the command lines of Go's `cnitool`.
//! Under any other it is `rscni`, with subcommands. What `rscni` starts itself as, where no file
//! has a plugin's name, is the plugin that a variable names.

#![forbid(unsafe_code)]

mod attach;
mod cli;
mod cnitool;
mod conformance;
mod container;
mod dhcp_daemon;
mod doctor;
mod duration;
mod gc;
mod generate;
mod install;
mod list;
mod netns;
mod network;
mod node;
mod output;
mod places;
mod repair;
mod status;
mod summary;
mod table;

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path, process::ExitCode};

use rscni::{Error, ErrorReply, SpecVersion};
use rscni_plugins::{Certainty, Plugin};
use rustix::{fs::Mode, param::linux_execfn, process::umask};

/// The static binary's C library is musl, whose allocator maps and unmaps a page at a time and checks each block: a third
/// of the instructions of an ADD, and as many system calls again.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// This program's own name.
const PROGRAM: &str = "rscni";

fn main() -> ExitCode {
    spare_the_owner();
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    let name = Path::new(&called).file_name().and_then(OsStr::to_str).unwrap_or(PROGRAM);
    if let Some(plugin) = rscni_plugins::find(name) {
        return run_as(plugin);
    }
    if name == cnitool::NAME {
        return cnitool::main();
    }
    if let Some(plugin) = plugin_of_other_name(name, Path::new(&called)) {
        return run_as(plugin);
    }
    // Runtimes call plugins without arguments; with some it is a person, whatever the environment may hold.
    if args.next().is_none()
        && std::env::var_os("CNI_COMMAND").is_some_and(|command| !command.is_empty())
    {
        let wanted = std::env::var(network::PLUGIN_VARIABLE).unwrap_or_default();
        return rscni_plugins::find(&wanted).map_or_else(|| not_a_plugin(name), run);
    }
    cli::main()
}

/// Has the umask take nothing from the owner of a file, who could not open it again. What it takes from others it goes on
/// to take, in programs that are started from here too.
fn spare_the_owner() {
    let callers = umask(Mode::RWXG | Mode::RWXO);
    umask(callers - Mode::RWXU);
}

/// The plugin that this program is started as under a name that is not the plugin's own.
///
/// argv\[0\] is whatever the caller chose; the path that the kernel started is `execfn`.
fn plugin_of_other_name(name: &str, called: &Path) -> Option<&'static Plugin> {
    if name == PROGRAM {
        return None;
    }
    let started = Path::new(OsStr::from_bytes(linux_execfn().to_bytes()));
    let (plugin, certainty) = rscni_plugins::resolve([called, started])?;
    // `rscni-static` may be a build of this program. A plugin takes no arguments, a tool does.
    (certainty == Certainty::Explicit || takes_arguments(plugin)).then_some(plugin)
}

/// Asks a plugin for its version.
const VERSION: &str = "--version";

/// Whether the arguments of this process are such as a plugin takes.
fn takes_arguments(plugin: &Plugin) -> bool {
    let first = std::env::args_os().nth(1);
    first.is_none_or(|it| it == VERSION || plugin.name == dhcp_daemon::NAME && it == "daemon")
}

/// Runs the plugin. Runtimes call plugins without arguments.
fn run_as(plugin: &'static Plugin) -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(argument) if argument == VERSION => exit_code(&plugin.write_version()),
        Some(_) if plugin.name == dhcp_daemon::NAME => dhcp_daemon::main(),
        _ => run(plugin),
    }
}

fn run(plugin: &'static Plugin) -> ExitCode {
    // The error is told to the caller on stdout.
    exit_code(&plugin.run())
}

fn exit_code(outcome: &Result<(), Error>) -> ExitCode {
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tells a runtime that started this program as a plugin that it is none under this name.
fn not_a_plugin(name: &str) -> ExitCode {
    let error = Error::InvalidEnvValue(if name == PROGRAM {
        "rscni was started as a plugin under its own name: use `rscni install DIR` to get one entry for each plugin, \
         and a plugin's name as \"type\""
            .into()
    } else {
        let inside: Vec<_> = rscni_plugins::ALL.iter().map(|plugin| plugin.name).collect();
        format!(
            "{name:?} is not the name of a plugin of rscni, does not end in one after a '-', and \
             is no link to one; make an entry with `rscni install DIR --as {name}=PLUGIN`, where \
             PLUGIN is one of {}",
            inside.join(", ")
        )
    });
    output::json(&ErrorReply::new(&error, SpecVersion::LATEST));
    ExitCode::FAILURE
}
