//! `dhcp daemon`: the daemon of the plugin dhcp, with the command line of Go's.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser, Subcommand};
use rscni::Error;
use rscni_plugins::DhcpDaemon;
use rustix::{
    io::Errno,
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs},
};

use crate::{duration::duration, output};

/// The name under which this program is the plugin, and with an argument its daemon.
pub(crate) const NAME: &str = "dhcp";

/// The options of Go's daemon, which take one hyphen or two.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// File to write the number of the process to
    #[arg(long, value_name = "PATH")]
    pidfile: Option<PathBuf>,
    /// What to put before the paths of the socket and of network namespaces
    #[arg(long, value_name = "PATH", default_value = "")]
    hostprefix: String,
    /// Where to listen, unless systemd hands a socket over; leases are kept in a directory beside it
    #[arg(long, value_name = "PATH", default_value = "/run/cni/dhcp.sock")]
    socketpath: PathBuf,
    /// Ask servers to answer to all stations
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    broadcast: bool,
    /// How long to wait for the answer to a request before all begins anew
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// The longest pause between two attempts to get a lease
    #[arg(long, value_name = "TIME", default_value = "62s", value_parser = duration)]
    resendmax: Duration,
    /// When to give up getting a lease
    #[arg(long, value_name = "TIME", default_value = "208s", value_parser = duration)]
    resendtimeout: Duration,
}

impl Options {
    /// Runs the daemon until it is asked to end.
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
        confine().map_err(|errno| Error::IOFailure(format!("give up capabilities: {errno}")))?;
        daemon.run()
    }
}

/// Gives up what the daemon has no use for, since it reads what anybody on a container's network may send, for as long as
/// the node runs. It starts no programs, so none can give it back.
fn confine() -> Result<(), Errno> {
    let before = capabilities(None)?;
    // To send from containers, from the port of DHCP; and to enter namespaces wherever their paths are, those of other
    // users' processes too.
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

/// CNI plugin that gets addresses from a DHCP server; runtimes call it without arguments.
#[derive(Parser)]
#[command(name = NAME, version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Get and keep leases for the plugin, until SIGTERM or SIGINT
    Daemon(Options),
}

/// Runs what this process was called with under the plugin's name.
pub(crate) fn main() -> ExitCode {
    let Arguments { command: Command::Daemon(options) } =
        Arguments::parse_from(std::env::args_os().map(with_two_hyphens));
    output::exit("dhcp daemon", options.run())
}

/// The definition of the command line.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

/// `-pidfile` as `--pidfile`.
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
    fn options_are_written_as_for_gos_daemon() {
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
    fn the_defaults_are_those_of_gos_daemon() {
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
