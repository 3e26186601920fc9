//! Requirements of the list `dhcp`: a LAN with a server (Debian's dnsmasq), and the plugin's
//! daemon, which can be killed.
//!
//! A separate thread starts both, since a thread that traces must have no other children.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use rscni_linux::{AddressFlags, Bridge};
use rscni_test::Lab;

use crate::daemon::{Daemon, bound_to_thread};

/// The bridge of the server.
pub(super) const LAN: &str = "br-lan";
const SERVER: &str = "10.50.0.1/24";
/// The server may keep an address for its last client for an hour, so the range exceeds the number
/// of containers.
const RANGE: &str = "10.50.0.10,10.50.0.250,255.255.255.0,1h";
const SOCKET: &str = "/run/cni/dhcp.sock";
/// Timeout for the start of a program.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The server and the daemon, ended when the value is dropped.
pub(super) struct Service {
    /// A request to restart the daemon, with the channel for the outcome.
    restarts: Option<Sender<Sender<Result<()>>>>,
    thread: Option<JoinHandle<()>>,
    /// Odd while there is no daemon.
    changes: Arc<AtomicUsize>,
}

impl Service {
    pub(super) fn start(lab: &Lab, plugins: &Path) -> Result<Self> {
        let mut host = lab.host().netlink();
        let bridge = host.add_bridge(&Bridge { up: true, ..Bridge::new(LAN) })?.index;
        host.add_address(bridge, SERVER.parse()?, AddressFlags::default())?;
        let (restarts, receiver) = mpsc::channel();
        let changes = Arc::new(AtomicUsize::new(1));
        let (directory, plugin) = (lab.dir().to_owned(), plugins.join("dhcp"));
        let counted = Arc::clone(&changes);
        let thread = std::thread::spawn(move || serve(&directory, &plugin, &receiver, &counted));
        let service = Self { restarts: Some(restarts), thread: Some(thread), changes };
        service.restart()?;
        Ok(service)
    }

    /// Kills the daemon if there is one, starts another, and waits until that listens.
    pub(super) fn restart(&self) -> Result<()> {
        let (done, is_done) = mpsc::channel();
        let restarts = self.restarts.as_ref().context("the service has ended")?;
        restarts.send(done).map_err(|_| anyhow!("the thread of the daemon has ended"))?;
        is_done.recv().context("the thread of the daemon has ended")?
    }

    /// Starts and ends of the daemon so far; odd while there is none.
    pub(super) fn changes(&self) -> usize {
        self.changes.load(Ordering::SeqCst)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.restarts = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts the server, and a new daemon for each request; ends both with the channel.
fn serve(
    directory: &Path,
    plugin: &Path,
    restarts: &Receiver<Sender<Result<()>>>,
    changes: &AtomicUsize,
) {
    let server = start_server(directory);
    let mut daemon: Option<Daemon> = None;
    for done in restarts {
        if daemon.is_some() {
            // Before the daemon ends, so that a worker whose call fails sees the change.
            changes.fetch_add(1, Ordering::SeqCst);
            daemon = None;
        }
        let started = match &server {
            Ok(_) => start_daemon(directory, plugin),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        let outcome = started.map(|started| {
            daemon = Some(started);
            changes.fetch_add(1, Ordering::SeqCst);
        });
        let _ = done.send(outcome);
    }
}

fn start_server(directory: &Path) -> Result<Daemon> {
    let mut command = bound_to_thread("dnsmasq");
    command
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root"])
        .args(["--group=", "--pid-file=", "--log-facility=-", "--no-ping", "--bind-dynamic"])
        .args(["--dhcp-authoritative", &format!("--interface={LAN}")])
        .arg(format!("--dhcp-range={RANGE}"))
        .arg(format!("--dhcp-leasefile={}", directory.join("dnsmasq.leases").display()));
    let log = directory.join("dnsmasq.log");
    let mut server = Daemon::start("dnsmasq", &mut command, log.clone())?;
    server.wait_until(TIMEOUT, || {
        let is_ready = fs_err::read_to_string(&log)?.contains("sockets bound exclusively");
        ensure!(is_ready, "it has not bound its sockets");
        Ok(())
    })?;
    Ok(server)
}

fn start_daemon(directory: &Path, plugin: &Path) -> Result<Daemon> {
    let mut command = bound_to_thread(plugin);
    let log = directory.join("daemon.log");
    let mut daemon = Daemon::start("the daemon of dhcp", command.arg("daemon"), log)?;
    daemon.wait_until(TIMEOUT, || Ok(std::os::unix::net::UnixStream::connect(SOCKET)?))?;
    Ok(daemon)
}
