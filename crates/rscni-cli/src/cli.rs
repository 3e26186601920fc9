//! The command line of `rscni`: subcommands and dispatch.

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};
use rscni::Error;

use crate::{
    PROGRAM,
    attach::{Add, Attachment},
    cnitool,
    conformance::{self, Conformance},
    dhcp_daemon,
    doctor::Doctor,
    gc::Gc,
    generate::{self, Shell},
    install::{self, Alias},
    list::List,
    network::Action,
    output,
    repair::Repair,
    status::Status,
};

/// Every CNI reference plugin in one binary, and commands to run and inspect CNI networks
///
/// Called under the name of a plugin, it is that plugin. `rscni install` creates these names.
#[derive(Parser)]
#[command(name = "rscni", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  rscni install /opt/cni/bin               install the plugins for container runtimes
  rscni plugins                            list the plugins
  rscni add mynet testing --create-netns   attach /var/run/netns/testing to mynet of /etc/cni/net.d
  rscni check mynet testing
  rscni ls                                 list attachments
  rscni del mynet testing
  rscni gc --auto --dry-run                list stale resources of containers that no longer exist
  rscni gc mynet --auto                    remove those of one network
  rscni repair                             restore lost rules and routes of running containers
  rscni doctor                             find problems on this node, with commands that fix them
  rscni add mynet testing --cap \\
    portMappings='[{\"hostPort\":8080,\"containerPort\":80,\"protocol\":\"tcp\"}]'";

#[derive(Subcommand)]
enum Command {
    /// Attach a network namespace to a network and print the result
    ///
    /// On a terminal, prints a summary with the time that each plugin took. Otherwise, prints the
    /// result as JSON, like cnitool.
    Add(Add),
    /// Detach a network namespace from a network
    Del(Attachment),
    /// Check that an attachment is still as `add` left it
    Check(Attachment),
    /// List attachments with their containers, addresses and network namespaces
    Ls(List),
    /// Remove stale resources of containers that no longer exist
    ///
    /// Detaches every attachment to the network that is not valid, and then calls GC of each plugin
    /// with the valid attachments. Prints what it removed and why. With --auto, an attachment is
    /// valid if its namespace exists, or if its interface exists in some namespace. Do not run it
    /// while another runtime attaches containers: an unfinished ADD may look stale.
    // The network first: behind --valid it would be taken for an attachment.
    #[command(
        override_usage = "rscni gc [OPTIONS] <NETWORK> <--valid <CONTAINER/IFNAME>...|--auto>
       rscni gc [OPTIONS] --auto"
    )]
    Gc(Gc),
    /// Restore what running attachments have lost, such as rules after a flush or firewall reload
    ///
    /// Compares every attachment, or those of a network or of some containers, with what `add`
    /// created. Restores rules and set elements of nftables and iptables, sources of firewalld,
    /// routes, gateway addresses, forwarding and traffic shaping. Does not change the interface or
    /// intact attachments. Prints a line for each attachment and each missing thing. Exits with
    /// status 1 if something could not be restored.
    Repair(Repair),
    /// Report whether networks are ready for containers
    ///
    /// Prints a line for each network. Exits with status 1 if a network is not ready or its file is
    /// invalid.
    Status(Status),
    /// Find problems on this node: each with its effect and the command that fixes it
    ///
    /// Checks directories, networks, plugins, the kernel, forwarding, addresses, and stale
    /// resources. Changes nothing. Exits with status 1 if there is an error.
    Doctor(Doctor),
    /// Install this program and an entry for each plugin and cnitool into a directory
    ///
    /// Files are replaced atomically, so runtimes may use the directory meanwhile. Plugins of the
    /// same names are replaced; other files stay.
    Install {
        /// Target directory, /opt/cni/bin for most runtimes; created if missing
        dir: PathBuf,
        /// Install only these plugins; '' for none
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        only: Option<Vec<String>>,
        /// Also create an entry for a plugin under another name, such as cnv-bridge=bridge; may be
        /// repeated
        #[arg(long = "as", value_name = "NAME=PLUGIN")]
        aliases: Vec<Alias>,
    },
    /// List the plugins in this program
    Plugins,
    /// Run the daemon of the dhcp plugin until SIGTERM or SIGINT; same as `dhcp daemon`
    DhcpDaemon(dhcp_daemon::Options),
    /// Check a CNI plugin for conformance with the specification
    ///
    /// Calls the plugin in private namespaces, isolated from this host; root is not required. Exits
    /// with status 0 if every MUST requirement is met, 1 if not, and 2 if there is nothing to test.
    Conformance(Conformance),
    /// The worker process of `conformance`, which runs in the private namespaces.
    #[command(hide = true, name = conformance::WORKER)]
    ConformanceWorker,
    /// Print a shell completion script
    ///
    /// For bash: source <(rscni completions bash). For other shells, save it where the shell looks
    /// for completions.
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write manual pages for all commands, cnitool and the dhcp daemon
    Man {
        /// Target directory, such as /usr/local/share/man/man1; created if missing
        dir: PathBuf,
    },
}

/// Runs the subcommand on the command line.
pub(crate) fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Add(add) => add.run(),
        Command::Del(attachment) => attachment.run(Action::Del),
        Command::Check(attachment) => attachment.run(Action::Check),
        Command::Ls(list) => list.run(),
        Command::Gc(gc) => gc.run(),
        Command::Repair(repair) => return status(repair.run()),
        Command::Status(status) => status.run(),
        Command::Doctor(doctor) => return status(doctor.run()),
        Command::Install { dir, only, aliases } => {
            install::install(&dir, only.as_deref(), &aliases, &mut |done| output::line(&done))
        }
        Command::Plugins => {
            list_plugins();
            Ok(())
        }
        Command::DhcpDaemon(options) => options.run(),
        Command::Conformance(options) => return options.run(),
        Command::ConformanceWorker => return conformance::work(),
        Command::Completions { shell } => {
            generate::completions(shell, &mut Cli::command());
            Ok(())
        }
        Command::Man { dir } => {
            generate::manual(&dir, [Cli::command(), cnitool::command(), dhcp_daemon::command()])
        }
    };
    output::exit(PROGRAM, outcome)
}

fn status(outcome: Result<ExitCode, Error>) -> ExitCode {
    outcome.unwrap_or_else(|error| output::exit(PROGRAM, Err(error)))
}

fn list_plugins() {
    let width = rscni_plugins::ALL.iter().map(|plugin| plugin.name.len()).max().unwrap_or_default();
    for plugin in rscni_plugins::ALL {
        output::line(&format!("{:width$}  {}", plugin.name, plugin.about));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_definition_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn docs_mention_every_command() {
        let page = include_str!("../../../docs/rscni.md");
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = format!("rscni {}", command.get_name());
            assert!(page.contains(&name), "docs/rscni.md does not describe `{name}`");
        }
    }
}
