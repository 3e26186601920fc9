//! `dhcp daemon`: the daemon of the dhcp plugin, with the command line of Go's.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser, Subcommand};
use rscni::Error;
use rscni_plugins::DhcpDaemon;
use rustix::{
    io::Errno,
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs},
};

use crate::{duration::duration, output};

/// The file name that makes this program the plugin or, with arguments, its daemon.
pub(crate) const NAME: &str = "dhcp";

/// The options of Go's daemon, with one hyphen or two.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Write the process id to this file
    #[arg(long, value_name = "PATH")]
    pidfile: Option<PathBuf>,
    /// Prefix of the paths of the socket and of network namespaces
    #[arg(long, value_name = "PATH", default_value = "")]
    hostprefix: String,
    /// Socket to listen on, unless systemd passes one; leases are stored in a directory next to it
    #[arg(long, value_name = "PATH", default_value = "/run/cni/dhcp.sock")]
    socketpath: PathBuf,
    /// Ask servers for broadcast replies
    #[arg(long, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", default_value = "false")]
    broadcast: bool,
    /// Restart the exchange with the server if a request is not answered within this time
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Maximum delay between two attempts to get a lease
    #[arg(long, value_name = "TIME", default_value = "62s", value_parser = duration)]
    resendmax: Duration,
    /// Give up getting a lease after this time
    #[arg(long, value_name = "TIME", default_value = "208s", value_parser = duration)]
    resendtimeout: Duration,
}

impl Options {
    /// Runs the daemon until SIGTERM or SIGINT.
    pub(crate) fn run(self) -> Result<(), Error> {
        let Self { pidfile, hostprefix, socketpath, broadcast, timeout, resendmax, resendtimeout } =
            self;
        let daemon = DhcpDaemon {
            socket_path: socketpath,
            pidfile,
            host_prefix: hostprefix,
            timeout,
            resend_max: resendmax,
            resend_timeout: resendtimeout,
            broadcast,
        };
        confine().map_err(|errno| Error::IOFailure(format!("drop capabilities: {errno}")))?;
        daemon.run()
    }
}

/// Drops the capabilities that the daemon does not need, since it parses untrusted packets.
///
/// It executes no programs, so they cannot be regained.
fn confine() -> Result<(), Errno> {
    let before = capabilities(None)?;
    // The first three send from containers and from the DHCP port. The others enter namespaces
    // under any path, also those of other users' processes.
    let kept = CapabilitySet::NET_ADMIN
        | CapabilitySet::NET_RAW
        | CapabilitySet::NET_BIND_SERVICE
        | CapabilitySet::SYS_ADMIN
        | CapabilitySet::SYS_PTRACE
        | CapabilitySet::DAC_OVERRIDE;
    let sets = CapabilitySets {
        effective: before.effective & kept,
        permitted: before.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)?;
    set_no_new_privs(true)
}

/// CNI plugin that gets addresses from a DHCP server; runtimes call it without arguments
#[derive(Parser)]
#[command(name = NAME, version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Get and renew leases for the plugin until SIGTERM or SIGINT
    Daemon(Options),
}

/// Runs the command line under the plugin's name.
pub(crate) fn main() -> ExitCode {
    let Arguments { command: Command::Daemon(options) } =
        Arguments::parse_from(std::env::args_os().map(with_two_hyphens));
    output::exit("dhcp daemon", options.run())
}

/// Returns the definition of the command line.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

/// Turns `-pidfile` into `--pidfile`.
fn with_two_hyphens(argument: OsString) -> OsString {
    match argument.to_str().and_then(|text| text.strip_prefix('-')) {
        Some(name) if name.len() > 1 && !name.starts_with('-') => format!("--{name}").into(),
        _ => argument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Result<Options, clap::Error> {
        let all =
            ["dhcp", "daemon"].iter().chain(arguments).map(|text| with_two_hyphens(text.into()));
        Arguments::try_parse_from(all)
            .map(|Arguments { command: Command::Daemon(options) }| options)
    }

    #[test]
    fn options_of_gos_daemon_are_accepted() {
        let all = [
            "-pidfile",
            "/run/p",
            "--socketpath=/run/s",
            "-hostprefix=/host",
            "-broadcast",
            "-timeout",
            "1m30s",
        ];
        let options = options(&all).unwrap();
        assert_eq!((options.pidfile, options.socketpath), (Some("/run/p".into()), "/run/s".into()));
        assert_eq!((options.hostprefix.as_str(), options.broadcast), ("/host", true));
        assert_eq!(options.timeout, Duration::from_secs(90));
    }

    #[test]
    fn defaults_equal_those_of_the_daemon() {
        let Options {
            pidfile,
            hostprefix,
            socketpath,
            broadcast,
            timeout,
            resendmax,
            resendtimeout,
        } = options(&[]).unwrap();
        assert_eq!((pidfile, hostprefix.as_str(), broadcast), (None, "", false));
        let daemon = DhcpDaemon::default();
        assert_eq!(daemon.socket_path, socketpath);
        assert_eq!(
            (daemon.timeout, daemon.resend_max, daemon.resend_timeout),
            (timeout, resendmax, resendtimeout)
        );
        assert!(!options(&["-broadcast=false"]).unwrap().broadcast);
    }
}
