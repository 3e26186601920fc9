//! Network namespaces of the private network: the host's and those of containers.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rscni_linux::{Netlink, Netns};

use crate::{
    exchange::{self, Answer, Server},
    ping,
    wait::TIMEOUT,
};

/// Timeout for an answer that should not come.
const NO_ANSWER: Duration = Duration::from_secs(1);

/// A network namespace with a name: the host's ([`Lab::host`](crate::Lab::host)) or a
/// [`Container`]'s.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
    path: PathBuf,
    /// Open for the host only. A container's namespace must end with its name, so it is not held
    /// here.
    held: Option<Arc<Netns>>,
}

/// A request without an answer.
#[derive(Debug, thiserror::Error)]
#[error("{what} from {from} to {to}: {why}")]
pub struct Unreachable {
    pub(crate) what: &'static str,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) why: String,
}

impl Namespace {
    pub(crate) fn host(netns: Netns) -> Self {
        Self { name: "host".to_owned(), path: netns.path(), held: Some(Arc::new(netns)) }
    }

    pub(crate) fn named(name: &str, path: PathBuf) -> Self {
        Self { name: name.to_owned(), path, held: None }
    }

    /// Name in messages: `host`, or the name of the container.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path of the namespace: `CNI_NETNS` for a container.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the namespace still exists.
    pub fn exists(&self) -> bool {
        self.held.is_some() || Netns::open(&self.path).is_ok()
    }

    pub(crate) fn open(&self) -> rscni_linux::Result<Arc<Netns>> {
        self.held.clone().map_or_else(|| Netns::open(&self.path).map(Arc::new), Ok)
    }

    /// Runs `f` in the namespace, on a thread of its own. Programs that it starts and sockets that
    /// it opens are in the namespace too.
    ///
    /// # Panics
    ///
    /// If the namespace is gone, and if `f` panics.
    #[track_caller]
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        match self.open().and_then(|netns| netns.enter(f)) {
            Ok(result) => result,
            Err(error) => panic!("run something in {}: {error}", self.name),
        }
    }

    /// Opens a netlink socket in the namespace.
    ///
    /// # Panics
    ///
    /// If the namespace is gone.
    #[track_caller]
    pub fn netlink(&self) -> Netlink {
        match self.open().and_then(|netns| Netlink::open_in(&netns)) {
            Ok(netlink) => netlink,
            Err(error) => panic!("open a netlink socket in {}: {error}", self.name),
        }
    }

    /// Reads `/proc/sys/NAME` in the namespace. The name has slashes, because interfaces may have
    /// dots.
    ///
    /// # Panics
    ///
    /// If it cannot be read.
    #[track_caller]
    pub fn sysctl(&self, name: &str) -> String {
        let path = Path::new("/proc/sys").join(name);
        match self.run(|| std::fs::read_to_string(&path)) {
            Ok(text) => text.trim_end().to_owned(),
            Err(error) => panic!("read {} in {}: {error}", path.display(), self.name),
        }
    }

    /// Asserts that an ICMP echo request to `address` is answered. IPv4 or IPv6.
    ///
    /// # Panics
    ///
    /// If no answer comes, with the reason.
    #[track_caller]
    pub fn ping(&self, address: impl Display) {
        if let Err(error) = self.try_ping(address, TIMEOUT) {
            panic!("{error}");
        }
    }

    /// Asserts that echo requests to `address` are not answered within a second.
    ///
    /// # Panics
    ///
    /// If one is.
    #[track_caller]
    pub fn cannot_ping(&self, address: impl Display) {
        let address = address.to_string();
        assert!(
            self.try_ping(&address, NO_ANSWER).is_err(),
            "ping from {} to {address}: an answer came, and none should",
            self.name
        );
    }

    /// Sends echo requests to `address` until one is answered or the timeout ends.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] with an ICMP error, the error of sending, or no reason.
    #[track_caller]
    pub fn try_ping(&self, address: impl Display, timeout: Duration) -> Result<(), Unreachable> {
        let to: IpAddr = parse("an IP address", &address);
        self.run(|| ping::ping(to, timeout)).map_err(self.unreachable("ping", to))
    }

    /// Answers TCP connections inside on `port` (0 lets the kernel choose) until the [`Server`] is
    /// dropped.
    ///
    /// # Panics
    ///
    /// If the port is taken.
    #[track_caller]
    pub fn serve_tcp(&self, port: u16) -> Server {
        self.serving("TCP", port, self.run(|| Server::tcp(&self.name, port)))
    }

    /// Answers UDP packets inside on `port` (0 lets the kernel choose) until the [`Server`] is
    /// dropped.
    ///
    /// # Panics
    ///
    /// If the port is taken.
    #[track_caller]
    pub fn serve_udp(&self, port: u16) -> Server {
        self.serving("UDP", port, self.run(|| Server::udp(&self.name, port)))
    }

    #[track_caller]
    fn serving(&self, what: &str, port: u16, server: std::io::Result<Server>) -> Server {
        match server {
            Ok(server) => server,
            Err(error) => panic!("serve {what} port {port} in {}: {error}", self.name),
        }
    }

    /// Asserts that a [`Server`] answers at `address` (`10.1.0.3:80`, `[fd00::3]:80`) over TCP: 64
    /// KiB go there and come back the same. The answer names the server and the address that it
    /// saw.
    ///
    /// # Panics
    ///
    /// If that fails, with the reason.
    #[track_caller]
    pub fn tcp(&self, address: impl Display) -> Answer {
        self.try_tcp(address, TIMEOUT).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Tries [`tcp`](Self::tcp) until it succeeds or the timeout ends.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] with the reason of the last attempt.
    #[track_caller]
    pub fn try_tcp(&self, address: impl Display, timeout: Duration) -> Result<Answer, Unreachable> {
        let to: SocketAddr = parse("an IP address with a port", &address);
        self.run(|| exchange::tcp(to, timeout)).map_err(self.unreachable("TCP", to))
    }

    /// Asserts that a [`Server`] answers at `address` over UDP.
    ///
    /// # Panics
    ///
    /// If none does.
    #[track_caller]
    pub fn udp(&self, address: impl Display) -> Answer {
        self.try_udp(address, TIMEOUT).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Sends UDP packets to `address` until one is answered or the timeout ends.
    ///
    /// # Errors
    ///
    /// [`Unreachable`] with the last reason.
    #[track_caller]
    pub fn try_udp(&self, address: impl Display, timeout: Duration) -> Result<Answer, Unreachable> {
        let to: SocketAddr = parse("an IP address with a port", &address);
        self.run(|| exchange::udp(to, timeout)).map_err(self.unreachable("UDP", to))
    }

    fn unreachable(
        &self,
        what: &'static str,
        to: impl Display,
    ) -> impl FnOnce(String) -> Unreachable {
        let (from, to) = (self.name.clone(), to.to_string());
        move |why| Unreachable { what, from, to, why }
    }
}

#[track_caller]
fn parse<T: std::str::FromStr>(kind: &str, address: &impl Display) -> T {
    let text = address.to_string();
    text.parse().unwrap_or_else(|_| panic!("`{text}` is not {kind}"))
}

/// A container as a runtime sees it before it calls the first plugin: a network namespace and an
/// id.
#[derive(Debug, Clone)]
pub struct Container {
    id: String,
    namespace: Namespace,
}

impl Container {
    pub(crate) fn new(name: &str, path: PathBuf) -> Self {
        Self { id: format!("ctr-{name}"), namespace: Namespace::named(name, path) }
    }

    /// Returns a container with this id and this path of its network namespace. The namespace is
    /// not created; [`Lab::container`](crate::Lab::container) does that.
    pub fn at(id: &str, netns: impl Into<PathBuf>) -> Self {
        Self { id: id.to_owned(), namespace: Namespace::named(id, netns.into()) }
    }

    /// Container id, `CNI_CONTAINERID`. For a [lab](crate::Lab)'s container it differs from the
    /// name of the namespace, so that tests notice if a plugin confuses them.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Deref for Container {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}
