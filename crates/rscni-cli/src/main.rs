//! The `rscni` binary: every plugin of `rscni-plugins`, `cnitool`, and the operator's commands.
//!
//! The name that it is called by selects what it is:
//!
//! - A plugin's name, an alias such as `buildkit-cni-bridge`, or a link to a plugin's name: that
//!   plugin. Nothing else is initialised, since a node calls plugins for every container. With
//!   arguments, `dhcp` is the daemon of that plugin.
//! - `cnitool`: the command lines of Go's `cnitool`.
//! - Any other name: `rscni` with its subcommands. If `CNI_COMMAND` is set and there are no
//!   arguments, an environment variable selects the plugin: `rscni` starts itself that way.

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
mod options;
mod output;
mod repair;
mod status;
mod summary;
mod table;

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path, process::ExitCode};

use rscni::{Error, ErrorReply, SpecVersion};
use rscni_plugins::{Certainty, Plugin};
use rustix::{fs::Mode, param::linux_execfn, process::umask};

/// Replaces musl's allocator, which maps single pages and checks each block.
///
/// musl's takes a third of the instructions of an ADD and doubles the system calls.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// The name of this program.
const PROGRAM: &str = "rscni";

fn main() -> ExitCode {
    keep_owner_access();
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
    // Runtimes call plugins without arguments; a command line with arguments is not such a call.
    if args.next().is_none()
        && std::env::var_os("CNI_COMMAND").is_some_and(|command| !command.is_empty())
    {
        let wanted = std::env::var(network::PLUGIN_VARIABLE).unwrap_or_default();
        return rscni_plugins::find(&wanted).map_or_else(|| not_a_plugin(name), run);
    }
    cli::main()
}

/// Clears the owner bits of the umask so that files stay accessible to us.
///
/// The other bits stay as they are, also for child processes.
fn keep_owner_access() {
    let callers = umask(Mode::RWXG | Mode::RWXO);
    umask(callers - Mode::RWXU);
}

/// Returns the plugin that an alias stands for.
///
/// The caller chooses argv\[0\], so the path that the kernel executed (`execfn`) counts as well.
fn plugin_of_other_name(name: &str, called: &Path) -> Option<&'static Plugin> {
    if name == PROGRAM {
        return None;
    }
    let started = Path::new(OsStr::from_bytes(linux_execfn().to_bytes()));
    let (plugin, certainty) = rscni_plugins::resolve([called, started])?;
    // `rscni-static` may be a build of this program. Arguments show that it is called as a tool.
    (certainty == Certainty::Explicit || takes_arguments(plugin)).then_some(plugin)
}

/// The option that prints the version of a plugin.
const VERSION: &str = "--version";

/// Whether the plugin accepts the arguments of this process.
fn takes_arguments(plugin: &'static Plugin) -> bool {
    let first = std::env::args_os().nth(1);
    first.is_none_or(|it| it == VERSION || plugin.name == dhcp_daemon::NAME && it == "daemon")
}

/// Runs the plugin, prints its version, or starts the dhcp daemon.
fn run_as(plugin: &'static Plugin) -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(argument) if argument == VERSION => exit_code(&plugin.write_version()),
        Some(_) if plugin.name == dhcp_daemon::NAME => dhcp_daemon::main(),
        _ => run(plugin),
    }
}

fn run(plugin: &'static Plugin) -> ExitCode {
    // The plugin has written the error to stdout.
    exit_code(&plugin.run())
}

fn exit_code(outcome: &Result<(), Error>) -> ExitCode {
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns the names of all plugins for an error message.
fn plugin_names() -> String {
    let names: Vec<_> = rscni_plugins::ALL.iter().map(|plugin| plugin.name).collect();
    names.join(", ")
}

/// Replies to a runtime that this name does not select a plugin.
fn not_a_plugin(name: &str) -> ExitCode {
    let error = Error::InvalidEnvValue(if name == PROGRAM {
        "rscni was called as a plugin under its own name: run `rscni install DIR` to create an \
         entry for each plugin, and use a plugin's name as \"type\""
            .into()
    } else {
        format!(
            "{name:?} does not select a plugin of rscni: it is not a plugin's name, does not end \
             in one after a '-', and is not a link to one; create an entry with \
             `rscni install DIR --as {name}=PLUGIN`, where PLUGIN is one of {}",
            plugin_names()
        )
    });
    output::json(&ErrorReply::new(&error, SpecVersion::LATEST));
    ExitCode::FAILURE
}
