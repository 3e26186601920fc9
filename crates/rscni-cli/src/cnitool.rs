//! The face of Go's `cnitool`: the same command lines and variables, for scripts and habits that have them.

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

/// The name under which this program is cnitool.
pub(crate) const NAME: &str = "cnitool";

/// Add a network interface to a network namespace, check it, or remove it; collect garbage, or ask for the status.
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
  CNI_PATH     directories of plugins, divided by ':'; those inside this program need not be there
  CNI_ARGS     arguments for the plugins: KEY1=VALUE1;KEY2=VALUE2
  CAP_ARGS     capability arguments, a JSON object
  CNI_IFNAME   interface name [default: eth0]";

#[derive(Subcommand)]
enum Command {
    /// Add a network interface to a network namespace, and print the result
    Add(Attachment),
    /// Check the network interface in a network namespace
    Check(Attachment),
    /// Delete the network interface from a network namespace
    Del(Attachment),
    /// Remove every attachment to the network, whatever the namespace, and what else its plugins hold
    Gc(Attachment),
    /// Ask the network's plugins whether they are ready
    Status(Attachment),
    /// Print a script that completes command lines of cnitool in a shell
    ///
    /// For bash: source <(cnitool completion bash). For the others, write it to a file where the
    /// shell looks for such.
    Completion {
        #[command(subcommand)]
        shell: Option<Completion>,
    },
}

/// A shell, as cobra has it: a command each.
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
    /// Leave out what the commands and options do
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
    /// Go's cnitool ignores what follows.
    #[arg(hide = true)]
    ignored: Vec<OsString>,
}

/// Runs the command that this process was called with.
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
            // Where neither stream takes it there is no one to tell.
            let _ = help.print();
            if help.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
    }
}

/// The definition of the command lines.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

/// Prints the help of a command, which without its own subcommand does nothing else.
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
        // Answered before.
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

/// A variable that is set to something.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn text(name: &str) -> Result<Option<String>, Error> {
    let not_text = |_| Error::InvalidEnvValue(format!("{name} is not UTF-8"));
    variable(name).map(OsString::into_string).transpose().map_err(not_text)
}
