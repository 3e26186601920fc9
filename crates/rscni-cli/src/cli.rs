//! The subcommands of `rscni`: what they are called and take, and what of it goes where.

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use crate::{
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

/// CNI networks for containers: every reference plugin in one file, and a tool to run networks with
///
/// Called under the name of a plugin, it is that plugin; `rscni install` makes the names.
#[derive(Parser)]
#[command(name = "rscni", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  rscni install /opt/cni/bin               put the plugins where container runtimes look for them
  rscni plugins                            see which there are
  rscni add mynet testing --create-netns   attach /var/run/netns/testing to the network mynet of /etc/cni/net.d
  rscni check mynet testing
  rscni ls                                 see what is attached to what
  rscni del mynet testing
  rscni gc --auto --dry-run                see what was left by containers that are gone
  rscni gc mynet --auto                    remove it
  rscni repair                             put back what running containers have lost, such as flushed rules
  rscni doctor                             see what is wrong with this node, and what mends it
  rscni add mynet testing --cap portMappings='[{\"hostPort\":8080,\"containerPort\":80,\"protocol\":\"tcp\"}]'";

#[derive(Subcommand)]
enum Command {
    /// Attach a network namespace to a network, and print the result
    ///
    /// On a terminal the result is a summary, with the time that each plugin took; elsewhere it is the JSON of the
    /// spec, as cnitool prints it.
    Add(Add),
    /// Detach a network namespace from a network
    Del(Attachment),
    /// See that an attachment is as `add` left it
    Check(Attachment),
    /// List attachments: of which container, with which addresses, and whether it is still there
    Ls(List),
    /// Remove what containers that are gone have left behind in a network
    ///
    /// Attachments that are not in the given set are detached, and then each plugin is told the set, to remove what
    /// else it may hold. What was removed is printed, with the reason; --dry-run says it before. With --auto the set is
    /// what the cache directory remembers and has its namespace, and what has an interface in some namespace. Use it
    /// while none but rscni attaches: what another runtime is about to attach may look like what is left behind.
    // The network first: behind --valid it would be taken for an attachment.
    #[command(
        override_usage = "rscni gc [OPTIONS] <NETWORK> <--valid <CONTAINER/IFNAME>...|--auto>\n       \
                                rscni gc [OPTIONS] --auto"
    )]
    Gc(Gc),
    /// Put back what running attachments have lost, such as rules after a flush or a firewall
    /// reload
    ///
    /// Every attachment, or those of a network or of some containers of it, is compared with what
    /// `add` left. What can be put back without touching the interface is put back: rules and
    /// elements of nftables and iptables, firewalld's sources, routes, the gateway's addresses,
    /// forwarding and traffic shaping. Other attachments are not touched. Prints a line for each
    /// attachment and for each thing that was missing, and ends with status 1 if something could
    /// not be put back. --dry-run says what is missing.
    Repair(Repair),
    /// See whether networks are ready for containers
    ///
    /// Prints a line for each network, and ends with status 1 if one is not ready or its file cannot be read.
    Status(Status),
    /// Look at this node: what is wrong, why it matters, and the command that mends it
    ///
    /// Looks at directories, networks, plugins, the kernel, forwarding, addresses, and what is left of containers that are
    /// gone. It changes nothing, and ends with status 1 if it finds an error.
    Doctor(Doctor),
    /// Put this program and an entry for each plugin (and cnitool) into a directory
    ///
    /// Every file appears whole or not at all, so it may be a directory that runtimes are using, and may hold other
    /// plugins of the same names, which are replaced. Others stay as they are.
    Install {
        /// The directory, /opt/cni/bin for most runtimes; it is made if it is not there
        dir: PathBuf,
        /// Only these plugins; '' for none
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        only: Option<Vec<String>>,
        /// Make an entry of another name for a plugin too, such as cnv-bridge=bridge; may be given
        /// several times
        #[arg(long = "as", value_name = "NAME=PLUGIN")]
        aliases: Vec<Alias>,
    },
    /// List the plugins that are inside this program
    Plugins,
    /// Get and keep leases for the plugin dhcp, until SIGTERM or SIGINT; the same as `dhcp daemon`
    DhcpDaemon(dhcp_daemon::Options),
    /// Hold a plugin, of whatever origin, against the requirements of the CNI specification
    ///
    /// The plugin is called in namespaces of its own, where nothing of this host can be reached; no root is needed.
    /// Ends with status 0 if all that MUST be is met, 1 if not, and 2 if there is nothing to test.
    Conformance(Conformance),
    /// The part of `conformance` that is in the namespaces.
    #[command(hide = true, name = conformance::WORKER)]
    ConformanceWorker,
    /// Print a script that completes command lines of this program in a shell
    ///
    /// For bash: source <(rscni completions bash). For the others, write it to a file where the shell looks for such.
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write manual pages, one for each command, for cnitool and for the daemon of dhcp
    Man {
        /// The directory, such as /usr/local/share/man/man1; it is made if it is not there
        dir: PathBuf,
    },
}

/// Runs the subcommand that this process was called with.
pub(crate) fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Add(add) => add.run(),
        Command::Del(attachment) => attachment.run(Action::Del),
        Command::Check(attachment) => attachment.run(Action::Check),
        Command::Ls(list) => list.run(),
        Command::Gc(gc) => gc.run(),
        Command::Repair(repair) => {
            return repair.run().unwrap_or_else(|error| output::exit("rscni", Err(error)));
        }
        Command::Status(status) => status.run(),
        Command::Doctor(doctor) => {
            return doctor.run().unwrap_or_else(|error| output::exit("rscni", Err(error)));
        }
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
    output::exit("rscni", outcome)
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
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_its_place_in_the_page_about_them() {
        let page = include_str!("../../../docs/rscni.md");
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = format!("rscni {}", command.get_name());
            assert!(page.contains(&name), "docs/rscni.md does not say what `{name}` is for");
        }
    }
}
