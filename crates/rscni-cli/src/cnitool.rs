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
#[command(name = NAME, version, after_help = VARIABLES, arg_required_else_help = true)]
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
    command: Command,
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
}

#[derive(clap::Args)]
struct Attachment {
    /// Name of a network in NETCONFPATH
    #[arg(value_name = "NETWORK-NAME")]
    network: String,
    /// Path of the network namespace
    netns: PathBuf,
}

/// Runs the command that this process was called with.
pub(crate) fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => output::exit(NAME, arguments.run()),
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

impl Arguments {
    fn run(self) -> Result<(), Error> {
        let (action, attachment) = match self.command {
            Command::Add(attachment) => (None, attachment),
            Command::Check(attachment) => (Some(Action::Check), attachment),
            Command::Del(attachment) => (Some(Action::Del), attachment),
            Command::Gc(attachment) => (Some(Action::Gc), attachment),
            Command::Status(attachment) => (Some(Action::Status), attachment),
        };
        let netns = absolute(&attachment.netns)?;
        let ifname = match self.ifname.filter(|name| !name.is_empty()) {
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
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn text(name: &str) -> Result<Option<String>, Error> {
    let not_text = |_| Error::InvalidEnvValue(format!("{name} is not UTF-8"));
    variable(name).map(OsString::into_string).transpose().map_err(not_text)
}
