//! The private network of a test: a host, containers, plugins and snapshots.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use rscni_linux::{LinkChange, Netlink, Netns};

use crate::{
    Container, Namespace, Plugin,
    changes::Changes,
    enter::{EnterError, files},
    settings,
    snapshot::{self, Snapshot},
    wait::TIMEOUT,
};

/// Directory of named network namespaces, like that of `ip netns`.
pub(crate) const NAMESPACES: &str = "/run/netns";
/// Directory of this crate, in the private `/run`.
pub(crate) const OWN: &str = "/run/rscni-test";
/// `lo` is the first interface of every network namespace.
const LOOPBACK: u32 = 1;

/// A private network. Everything in it is gone when the process that entered it ends.
///
/// All methods take `&self`, and threads may share it: that is how to test plugins that run at the
/// same time.
#[derive(Debug)]
pub struct Lab {
    host: Namespace,
    watched: Mutex<Vec<PathBuf>>,
}

impl Lab {
    /// Returns the lab of this process, which is in its namespaces already.
    pub(crate) fn new() -> Result<Self, EnterError> {
        for path in [NAMESPACES, OWN, &format!("{OWN}/dir"), &format!("{OWN}/bin")] {
            std::fs::create_dir_all(path).map_err(files("make", Path::new(path)))?;
        }
        let network = |what| move |source| EnterError::Network { what, source };
        let host = Netns::current().map_err(network("open the own network namespace"))?;
        let mut netlink = Netlink::open().map_err(network("open a netlink socket"))?;
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        netlink.set_link(LOOPBACK, &up).map_err(network("set lo up"))?;
        Ok(Self { host: Namespace::host(host), watched: Mutex::default() })
    }

    /// The host's network, in which plugins are called.
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// Creates a container: a network namespace at `/run/netns/NAME` with `lo` down, and a
    /// container id. Its sysctls are the kernel's defaults.
    ///
    /// # Panics
    ///
    /// If a container of that name exists.
    #[track_caller]
    pub fn container(&self, name: &str) -> Container {
        let path = Path::new(NAMESPACES).join(name);
        let made = Netns::create().and_then(|netns| {
            netns.bind(&path)?;
            netns.enter(settings::reset_sysctls)
        });
        match made {
            Ok(Ok(())) => Container::new(name, path),
            Ok(Err(error)) => panic!("make container {name}: set sysctl {error}"),
            Err(error) => panic!("make container {name}: {error}"),
        }
    }

    /// Deletes the container's network namespace, like a runtime that calls DEL late, or a reboot.
    /// Its links go too, and a veth takes the host's end with it a moment later.
    ///
    /// # Panics
    ///
    /// If it does not exist any more.
    #[track_caller]
    pub fn remove_namespace(&self, container: &Container) {
        if let Err(error) = Netns::unbind(container.path()) {
            panic!("remove the namespace of container {}: {error}", container.name());
        }
    }

    /// Returns the plugin in this file. It finds others in the directory of the file, and
    /// [installed](Self::install) ones.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    #[track_caller]
    pub fn plugin(&self, program: impl AsRef<Path>) -> Plugin {
        Plugin::at(program).finding_others_in(bin())
    }

    /// Makes `program` available under a plugin's name. Installed plugins find each other, for
    /// delegation.
    ///
    /// # Panics
    ///
    /// If there is no such program, or the name is in use.
    #[track_caller]
    pub fn install(&self, name: &str, program: impl AsRef<Path>) -> Plugin {
        let program = program.as_ref();
        let installed = bin().join(name);
        let linked =
            std::path::absolute(program).and_then(|to| std::os::unix::fs::symlink(to, &installed));
        if let Err(error) = linked {
            panic!("install {} as {}: {error}", program.display(), installed.display());
        }
        self.plugin(installed)
    }

    /// Directory for the test's own files. [`snapshot`](Self::snapshot) ignores it unless it is
    /// [`watch`](Self::watch)ed.
    pub fn dir(&self) -> &Path {
        Path::new("/run/rscni-test/dir")
    }

    /// Adds the files below `dir` to snapshots, such as a `dataDir` of host-local.
    ///
    /// # Panics
    ///
    /// If another thread panicked during a call.
    pub fn watch(&self, dir: impl AsRef<Path>) {
        self.watched.lock().expect("the list of watched directories").push(dir.as_ref().to_owned());
    }

    /// Takes a [`Snapshot`] of everything that is there now.
    ///
    /// # Panics
    ///
    /// If the kernel refuses to list something.
    #[track_caller]
    pub fn snapshot(&self) -> Snapshot {
        let watched = self.watched.lock().expect("the list of watched directories").clone();
        match snapshot::take(&self.host, &watched) {
            Ok(snapshot) => snapshot,
            Err(error) => panic!("list what is there: {error}"),
        }
    }

    /// Asserts that everything is as it was `before`.
    ///
    /// It waits, up to a minute, for what the kernel removes in the background: a veth whose peer
    /// was in a removed namespace, with its addresses, routes and neighbours; promiscuous mode of a
    /// parent whose macvlan links were in one; processes that end. Any other difference fails at
    /// once, and so does one of these beside it.
    ///
    /// ```
    /// # rscni_test::run(|lab| {
    /// let before = lab.snapshot();
    /// let a = lab.container("a");
    /// // The plugin's ADD and DEL are here.
    /// lab.remove_namespace(&a);
    /// lab.assert_unchanged_since(&before);
    /// # });
    /// ```
    ///
    /// # Panics
    ///
    /// If something differs, with one difference per line.
    #[track_caller]
    pub fn assert_unchanged_since(&self, before: &Snapshot) {
        let after = self.settled(before);
        Changes::between(before, &after).assert_none();
    }

    /// Returns the differences from `before`, after the same wait as
    /// [`assert_unchanged_since`](Self::assert_unchanged_since). Without a wait:
    /// [`Snapshot::changes_to`].
    ///
    /// # Panics
    ///
    /// If the kernel refuses to list something.
    #[track_caller]
    pub fn changes_since(&self, before: &Snapshot) -> Vec<String> {
        before.changes_to(&self.settled(before))
    }

    /// Takes a snapshot after the kernel has removed what it removes in the background.
    #[track_caller]
    fn settled(&self, before: &Snapshot) -> Snapshot {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let is_over = Instant::now() >= deadline;
            let after = self.snapshot();
            if is_over || !Changes::between(before, &after).are_going() {
                return after;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asserts that `from` gets an answer to a ping. The same as [`Namespace::ping`].
    #[track_caller]
    pub fn ping(&self, from: &Namespace, to: impl std::fmt::Display) {
        from.ping(to);
    }

    /// Asserts that `from` reaches a server in `to` over TCP at `address` and `port`. 64 KiB go
    /// there and back. For translated addresses use [`Namespace::serve_tcp`].
    #[track_caller]
    pub fn tcp(
        &self,
        from: &Namespace,
        to: &Namespace,
        address: impl std::fmt::Display,
        port: u16,
    ) {
        let server = to.serve_tcp(port);
        from.tcp(socket(&address, server.port())).assert_by(&server);
    }

    /// Asserts that `from` reaches `to` over UDP at `address` and `port`. The same as
    /// [`tcp`](Self::tcp) with [`Namespace::serve_udp`].
    #[track_caller]
    pub fn udp(
        &self,
        from: &Namespace,
        to: &Namespace,
        address: impl std::fmt::Display,
        port: u16,
    ) {
        let server = to.serve_udp(port);
        from.udp(socket(&address, server.port())).assert_by(&server);
    }
}

#[track_caller]
fn socket(address: &impl std::fmt::Display, port: u16) -> std::net::SocketAddr {
    let text = address.to_string();
    match text.parse::<std::net::IpAddr>() {
        Ok(ip) => (ip, port).into(),
        Err(error) => panic!("`{text}`: {error}"),
    }
}

/// Directory of the installed plugins.
pub(crate) fn bin() -> PathBuf {
    Path::new(OWN).join("bin")
}
