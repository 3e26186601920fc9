//! Messages between plugin and daemon: one line of JSON each way, over a Unix socket.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use rscni::Error;
use serde::{Deserialize, Serialize};

use super::{lease::Lease, options::ClientOptions};
use crate::{
    plugin::Call,
    state::{OwnedBy, Owner},
};

/// Default of `daemonSocketPath`, as in the Go plugin.
pub(crate) const SOCKET: &str = "/run/cni/dhcp.sock";

pub(super) const LONGEST_LINE: usize = 1 << 20;

/// The attachment that a lease belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) network: String,
    pub(super) container_id: String,
    pub(super) ifname: String,
}

impl Key {
    pub(super) fn new(call: &Call<'_>) -> Self {
        Self::of(&call.conf.name, &call.args.container_id, &call.args.ifname)
    }

    pub(super) fn of(network: &str, container_id: &str, ifname: &str) -> Self {
        Self { network: network.into(), container_id: container_id.into(), ifname: ifname.into() }
    }

    /// Returns the client identifier of the Go daemon, so that servers recognize the container.
    pub(super) fn client_id(&self) -> Vec<u8> {
        let Self { network, container_id, ifname } = self;
        // Type 0: no hardware address.
        let mut id = format!("\0{container_id}/{network}/{ifname}").into_bytes();
        id.truncate(255);
        id
    }

    /// Returns the name of its file: a hash, since the names together may be too long.
    pub(super) fn file_name(&self) -> String {
        let Self { network, container_id, ifname } = self;
        format!("{}.json", Owner { network, container_id, ifname }.digest())
    }
}

impl From<Key> for OwnedBy {
    fn from(Key { network, container_id, ifname }: Key) -> Self {
        Self::Attachment { network, container_id, ifname }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.ifname)
    }
}

/// A request to the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum DaemonRequest {
    /// Obtains a lease and keeps it.
    Acquire {
        key: Key,
        netns: PathBuf,
        #[serde(rename = "wishes")]
        client_options: ClientOptions,
    },
    Look {
        key: Key,
    },
    Release {
        key: Key,
    },
    /// Releases all leases of a network except these.
    ReleaseOthers {
        network: String,
        valid: Vec<Key>,
    },
    /// Tests that the daemon is running.
    Ping,
}

/// An answer of the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer {
    Lease(Lease),
    /// The request is done, or there is no lease.
    Done,
    /// Code, message and details of an error.
    Error(u32, String, String),
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        Self::Error(error.code(), error.msg().into(), error.details().into())
    }
}

pub(super) enum Outcome {
    Answered(Answer),
    /// No daemon is running, for this reason.
    NoDaemon(String),
}

/// Sends a request to the daemon at `socket`, and waits for the answer.
///
/// # Errors
/// The error in the answer; [`Error::TryAgainLater`] if the daemon exits before it answers, and
/// [`Error::IOFailure`] if another program listens there.
pub(super) fn send(socket: &Path, request: &DaemonRequest) -> Result<Outcome, Error> {
    let at = socket.display();
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            return Ok(Outcome::NoDaemon(format!(
                "no DHCP daemon listens at {at} ({error}): start `dhcp daemon`, or the unit \
                 cni-dhcp.socket"
            )));
        }
        Err(error) => {
            return Err(Error::IOFailure(format!("connect to the DHCP daemon at {at}: {error}")));
        }
    };
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let mut reply = Vec::new();
    let broken = |error| broken(socket, &error);
    stream.write_all(&line).map_err(broken)?;
    BufReader::new(stream.take(LONGEST_LINE as u64))
        .read_until(b'\n', &mut reply)
        .map_err(broken)?;
    match serde_json::from_slice(&reply) {
        Ok(Answer::Error(code, msg, details)) => Err(Error::Custom(code, msg, details)),
        Ok(answer) => Ok(Outcome::Answered(answer)),
        Err(_) if reply.is_empty() => Err(broken(ErrorKind::UnexpectedEof.into())),
        Err(_) => Err(Error::IOFailure(format!(
            "what listens at {at} is another DHCP daemon, perhaps that of the Go plugin: stop it, \
             and start this one"
        ))),
    }
}

/// Converts an error of a connection. After an exit of the daemon its supervisor restarts it.
fn broken(socket: &Path, error: &std::io::Error) -> Error {
    let at = socket.display();
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            Error::TryAgainLater(format!("the DHCP daemon at {at} went away: {error}"))
        }
        _ => Error::IOFailure(format!("talk to the DHCP daemon at {at}: {error}")),
    }
}

/// The answer to a Go plugin, which speaks HTTP and prints the status line.
pub(super) const ANSWER_TO_GO: &str = "HTTP/1.0 501 this is the DHCP daemon of rscni: install its \
                                       plugin dhcp too\r\nContent-Length: 0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_exit_of_the_daemon_is_worth_another_try() {
        let code = |kind: ErrorKind| broken(Path::new("/run/cni/dhcp.sock"), &kind.into()).code();
        for kind in [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe] {
            assert_eq!(code(kind), 11);
        }
        assert_eq!((code(ErrorKind::PermissionDenied), code(ErrorKind::OutOfMemory)), (5, 5));
    }

    #[test]
    fn client_identifiers_are_those_of_the_go_daemon() {
        let mut key = Key::of("net", "id", "eth0");
        assert_eq!(key.client_id(), b"\0id/net/eth0");
        key.container_id = "x".repeat(300);
        assert_eq!(key.client_id().len(), 255);
    }
}
