//! Settings of the daemon.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::super::{client::Timeouts, request::SOCKET};

/// The settings of the dhcp plugin's daemon, named like the options of the Go daemon.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// The socket, unless systemd passes one. Leases are stored in a directory beside it.
    pub socket_path: PathBuf,
    /// A file for the PID.
    pub pidfile: Option<PathBuf>,
    /// Prefix of the paths of the socket and of namespaces, for a daemon that sees the files of the
    /// host elsewhere.
    pub host_prefix: String,
    /// How long to wait for the answer to a request.
    pub timeout: Duration,
    /// The longest pause between two attempts to get a lease.
    pub resend_max: Duration,
    /// How long to try to get a lease.
    pub resend_timeout: Duration,
    /// Whether servers shall broadcast their answers.
    pub broadcast: bool,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            socket_path: SOCKET.into(),
            pidfile: None,
            host_prefix: String::new(),
            timeout: Duration::from_secs(10),
            resend_max: Duration::from_secs(62),
            resend_timeout: Duration::from_secs(208),
            broadcast: false,
        }
    }
}

impl Daemon {
    pub(in super::super) fn timeouts(&self) -> Timeouts {
        Timeouts {
            timeout: self.timeout,
            resend_max: self.resend_max,
            resend_timeout: self.resend_timeout,
        }
    }

    /// Returns the path with the prefix of the host.
    pub(super) fn on_host(&self, path: &Path) -> PathBuf {
        format!("{}{}", self.host_prefix, path.display()).into()
    }
}
