//! What the plugin and its daemon say to each other: one line of JSON there, one line back, over a Unix socket.

use crate::plugin::Call;
use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use rscni::Error;
use serde::{Deserialize, Serialize};

use super::{lease::Lease, options::Wishes};
use crate::state::owner::Owner;

/// Where the daemon listens if nobody says otherwise; the Go daemon's place, too.
pub(crate) const SOCKET: &str = "/run/cni/dhcp.sock";

/// The longest line.
pub(super) const LONGEST: usize = 1 << 20;

/// What a lease belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) network: String,
    pub(super) container_id: String,
    pub(super) ifname: String,
}

impl Key {
    pub(super) fn new(network: &str, call: &Call<'_>) -> Self {
        Self::of(network, &call.args.container_id, &call.args.ifname)
    }

    pub(super) fn of(network: &str, container_id: &str, ifname: &str) -> Self {
        Self { network: network.into(), container_id: container_id.into(), ifname: ifname.into() }
    }

    /// The client identifier, as the Go daemon has it, so that a server knows the container whichever asks.
    pub(super) fn client_id(&self) -> Vec<u8> {
        let Self { network, container_id, ifname } = self;
        // Type 0: no hardware address.
        let mut id = format!("\0{container_id}/{network}/{ifname}").into_bytes();
        id.truncate(255);
        id
    }

    /// The name of its file: a hash, since names together may be longer than a file's may be.
    pub(super) fn file_name(&self) -> String {
        let Self { network, container_id, ifname } = self;
        format!("{}.json", Owner { network, container_id, ifname }.digest())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.ifname)
    }
}

/// What the daemon is asked to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum DaemonRequest {
    /// Get a lease, and keep it.
    Acquire { key: Key, netns: PathBuf, wishes: Wishes },
    /// Say which lease there is.
    Look { key: Key },
    /// Give a lease back.
    Release { key: Key },
    /// Give back all leases of a network but these.
    ReleaseOthers { network: String, valid: Vec<Key> },
    /// Say something.
    Ping,
}

/// What the daemon answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer {
    /// The lease that was asked for.
    Lease(Lease),
    /// It is done; or there is none.
    Done,
    /// An error of the protocol: code, message, details.
    Error(u32, String, String),
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        Self::Error(error.code(), error.msg().into(), error.details().into())
    }
}

/// What came of a call.
pub(super) enum Outcome {
    Answered(Answer),
    /// Nobody listens there; why.
    NoDaemon(String),
}

/// Asks the daemon that listens at `socket`, and waits for its answer.
///
/// # Errors
/// The error that it answered; [`Error::TryAgainLater`] if it ended before it answered, and [`Error::IOFailure`] if
/// something else listens there.
pub(super) fn ask(socket: &Path, call: &DaemonRequest) -> Result<Outcome, Error> {
    let at = socket.display();
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            return Ok(Outcome::NoDaemon(format!(
                "no DHCP daemon listens at {at} ({error}): start `dhcp daemon`, or the unit cni-dhcp.socket"
            )));
        }
        Err(error) => {
            return Err(Error::IOFailure(format!("connect to the DHCP daemon at {at}: {error}")));
        }
    };
    let mut line = serde_json::to_vec(call)?;
    line.push(b'\n');
    let mut reply = Vec::new();
    let broken = |error| broken(socket, &error);
    stream.write_all(&line).map_err(broken)?;
    BufReader::new(stream.take(LONGEST as u64)).read_until(b'\n', &mut reply).map_err(broken)?;
    match serde_json::from_slice(&reply) {
        Ok(Answer::Error(code, msg, details)) => Err(Error::Custom(code, msg, details)),
        Ok(answer) => Ok(Outcome::Answered(answer)),
        Err(_) if reply.is_empty() => Err(broken(ErrorKind::UnexpectedEof.into())),
        Err(_) => Err(Error::IOFailure(format!(
            "what listens at {at} is another DHCP daemon, perhaps that of the Go plugin: stop it, and start this one"
        ))),
    }
}

/// What an error in the middle of a conversation with the daemon is: that it went away passes, for whoever keeps it
/// starts it again.
fn broken(socket: &Path, error: &std::io::Error) -> Error {
    let at = socket.display();
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            Error::TryAgainLater(format!("the DHCP daemon at {at} went away: {error}"))
        }
        _ => Error::IOFailure(format!("talk to the DHCP daemon at {at}: {error}")),
    }
}

/// What a Go plugin is told, which speaks HTTP: it shows the status line to its caller.
pub(super) const TO_GO: &str = "HTTP/1.0 501 this is the DHCP daemon of rscni: install its plugin dhcp too\r\nContent-Length: 0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_goes_away_is_worth_another_try_and_a_call_that_is_refused_is_not() {
        let code = |kind: ErrorKind| broken(Path::new("/run/cni/dhcp.sock"), &kind.into()).code();
        for kind in [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe] {
            assert_eq!(code(kind), 11);
        }
        assert_eq!((code(ErrorKind::PermissionDenied), code(ErrorKind::OutOfMemory)), (5, 5));
    }

    #[test]
    fn the_client_identifier_is_that_of_the_go_daemon() {
        let mut key = Key::of("net", "id", "eth0");
        assert_eq!(key.client_id(), b"\0id/net/eth0");
        key.container_id = "x".repeat(300);
        assert_eq!(key.client_id().len(), 255);
    }
}
