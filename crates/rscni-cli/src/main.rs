//! The one binary `rscni`: every plugin of `rscni-plugins`, `cnitool`, and the operator's commands.
//!
//! What it is depends on the name that it is called by. Under a plugin's name it is that plugin, and nothing else is
//! even set up, since a node calls it for every container; `dhcp daemon` is what that plugin asks. Under the name
//! `cnitool` it takes the command lines of Go's `cnitool`. Under any other it is `rscni`, with subcommands.
//! What `rscni` starts itself as, where no file has a plugin's name, is the plugin that a variable names.

#![forbid(unsafe_code)]

mod attach;
mod cli;
mod cnitool;
mod conformance;
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
mod status;
mod summary;
mod table;

use std::{ffi::OsStr, path::Path, process::ExitCode};

use rscni::{Error, ErrorReply, SpecVersion};
use rscni_plugins::Entry;
use rustix::{fs::Mode, process::umask};

/// The static binary's C library is musl, whose allocator maps and unmaps a page at a time and checks each block: a third
/// of the instructions of an ADD, and as many system calls again.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    spare_the_owner();
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    let name = Path::new(&called).file_name().and_then(OsStr::to_str).unwrap_or("rscni");
    if let Some(plugin) = rscni_plugins::find(name) {
        return run_as(plugin);
    }
    if name == cnitool::NAME {
        return cnitool::main();
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

/// Asks a plugin for its version.
const VERSION: &str = "--version";

/// Runs the plugin. Runtimes call plugins without arguments.
fn run_as(plugin: &Entry) -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(argument) if argument == VERSION => exit_code(&plugin.write_version()),
        Some(_) if plugin.name == dhcp_daemon::NAME => dhcp_daemon::main(),
        _ => run(plugin),
    }
}

fn run(plugin: &Entry) -> ExitCode {
    // The error is told to the caller on stdout.
    exit_code(&plugin.run())
}

fn exit_code(outcome: &Result<(), Error>) -> ExitCode {
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tells a runtime that started this program as a plugin that it is none under this name.
fn not_a_plugin(name: &str) -> ExitCode {
    let error = Error::InvalidEnvValue(if name == "rscni" {
        "rscni was started as a plugin under its own name: use `rscni install DIR` to get one entry for each plugin, \
         and a plugin's name as \"type\""
            .into()
    } else {
        let inside: Vec<_> = rscni_plugins::ALL.iter().map(|plugin| plugin.name).collect();
        format!("this rscni has no plugin named {name:?}; it has {}", inside.join(", "))
    });
    output::json(&ErrorReply::new(&error, SpecVersion::LATEST));
    ExitCode::FAILURE
}
