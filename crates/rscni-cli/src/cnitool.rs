//! `cnitool`, with the command lines and variables of Go's.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};
use rscni::{
    Error,
    runtime::{AttachmentParams, Cache},
};

use crate::{
    generate::{self, Shell},
    network::{
        Action, CONF_DIR, Target, absolute, container_id, is_true, parse_args, parse_cap_args,
        split_path,
    },
    output,
};

/// The file name that makes this program cnitool.
pub(crate) const NAME: &str = "cnitool";

/// Add, check or delete the interface of a network namespace, collect garbage, or query the status
#[derive(Parser)]
#[command(name = NAME, version, after_help = VARIABLES)]
struct Arguments {
    #[arg(
        short,
        long,
        global = true,
        value_name = "NAME",
        help = "Interface name [default: $CNI_IFNAME, or eth0]"
    )]
    ifname: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

const VARIABLES: &str = "\
Variables:
  NETCONFPATH  directory of network configurations [default: /etc/cni/net.d]
  CNI_PATH     directories of plugins, separated by ':'; this program's own are always found
  CNI_ARGS     arguments for the plugins: KEY1=VALUE1;KEY2=VALUE2
  CAP_ARGS     capability arguments, a JSON object
  CNI_IFNAME   interface name [default: eth0]";

#[derive(Subcommand)]
enum Command {
    /// Add an interface to a network namespace and print the result
    Add(Attachment),
    /// Check the interface in a network namespace
    Check(Attachment),
    /// Delete the interface from a network namespace
    Del(Attachment),
    /// Remove all attachments to the network, in any namespace, and other resources of its plugins
    Gc(Attachment),
    /// Query whether the network's plugins are ready
    Status(Attachment),
    /// Print a shell completion script for cnitool
    ///
    /// For bash: source <(cnitool completion bash). For other shells, save it where the shell looks
    /// for completions.
    Completion {
        #[command(subcommand)]
        shell: Option<Completion>,
    },
}

/// A subcommand for each shell, as in cobra.
#[derive(Clone, Copy, Subcommand)]
enum Completion {
    /// Print the script for bash
    Bash(Descriptions),
    /// Print the script for zsh
    Zsh(Descriptions),
    /// Print the script for fish
    Fish(Descriptions),
    /// Print the script for PowerShell
    Powershell(Descriptions),
}

#[derive(Clone, Copy, clap::Args)]
struct Descriptions {
    /// Omit the descriptions of commands and options
    #[arg(long = "no-descriptions")]
    without: bool,
}

#[derive(clap::Args)]
struct Attachment {
    /// Name of a network in NETCONFPATH
    #[arg(value_name = "NETWORK-NAME")]
    network: String,
    /// Path of the network namespace
    netns: PathBuf,
    /// Ignored, as in Go's cnitool.
    #[arg(hide = true)]
    ignored: Vec<OsString>,
}

/// Runs the command on the command line.
pub(crate) fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(Arguments { command: None, .. }) => help(&[]),
        Ok(Arguments { command: Some(Command::Completion { shell }), .. }) => match shell {
            Some(shell) => shell.print(),
            None => help(&["completion"]),
        },
        Ok(Arguments { command: Some(command), ifname }) => {
            output::exit(NAME, run(command, ifname))
        }
        Err(help) => {
            // There is nowhere to report a failed write.
            let _ = help.print();
            if help.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
    }
}

/// Returns the definition of the command line.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

/// Prints the help of a command that was called without its subcommand.
fn help(path: &[&str]) -> ExitCode {
    let mut command = command();
    command.build();
    let found =
        path.iter().try_fold(&mut command, |command, name| command.find_subcommand_mut(name));
    if let Some(command) = found {
        output::text(&command.render_long_help().to_string());
    }
    ExitCode::SUCCESS
}

impl Completion {
    fn print(self) -> ExitCode {
        let (shell, Descriptions { without }) = match self {
            Self::Bash(descriptions) => (Shell::Bash, descriptions),
            Self::Zsh(descriptions) => (Shell::Zsh, descriptions),
            Self::Fish(descriptions) => (Shell::Fish, descriptions),
            Self::Powershell(descriptions) => (Shell::Powershell, descriptions),
        };
        let mut command = command();
        if without {
            command = generate::without_descriptions(command);
        }
        generate::completions(shell, &mut command);
        ExitCode::SUCCESS
    }
}

fn run(command: Command, ifname: Option<String>) -> Result<(), Error> {
    let (action, attachment) = match command {
        Command::Add(attachment) => (None, attachment),
        Command::Check(attachment) => (Some(Action::Check), attachment),
        Command::Del(attachment) => (Some(Action::Del), attachment),
        Command::Gc(attachment) => (Some(Action::Gc), attachment),
        Command::Status(attachment) => (Some(Action::Status), attachment),
        // `main` has handled it.
        Command::Completion { .. } => return Ok(()),
    };
    let netns = absolute(&attachment.netns)?;
    let ifname = match ifname.filter(|name| !name.is_empty()) {
        Some(name) => name,
        None => text("CNI_IFNAME")?.unwrap_or_else(|| "eth0".into()),
    };
    let mut params = AttachmentParams::new(container_id(&netns), &netns, ifname);
    if let Some(args) = text("CNI_ARGS")? {
        params.args = parse_args(&args)?;
    }
    if let Some(args) = text("CAP_ARGS")? {
        params.capability_args = parse_cap_args(&args)?;
    }
    params.netns_override = text("CNI_NETNS_OVERRIDE")?.is_some_and(|text| is_true(&text));
    let target = Target {
        network: attachment.network,
        netns,
        params,
        conf_dir: variable("NETCONFPATH")
            .map_or_else(|| Path::new(CONF_DIR).to_owned(), Into::into),
        plugin_path: variable("CNI_PATH").as_deref().map(split_path).unwrap_or_default(),
        timeout: None,
        cache: Cache::default(),
    };
    match action {
        None => target.add().map(|added| output::json(&added.result.to_json(added.version))),
        Some(action) => target.run(action),
    }
}

/// Returns the value of a variable unless it is empty.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn text(name: &str) -> Result<Option<String>, Error> {
    let not_text = |_| Error::InvalidEnvValue(format!("{name} is not UTF-8"));
    variable(name).map(OsString::into_string).transpose().map_err(not_text)
}
