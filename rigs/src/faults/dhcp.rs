//! What the list `dhcp` needs: a LAN with a server (Debian's dnsmasq), and the daemon of the plugin, which can be killed.
//!
//! Both are children of a thread of their own: a thread that traces must have no other children.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use rscni_linux::{AddressFlags, Bridge};
use rscni_test::Lab;

/// The bridge that the server is at.
pub(super) const LAN: &str = "br-lan";
const SERVER: &str = "10.50.0.1/24";
/// For more than are attached at a time, as an address may be kept for its last client for an hour.
const RANGE: &str = "10.50.0.10,10.50.0.250,255.255.255.0,1h";
const SOCKET: &str = "/run/cni/dhcp.sock";
/// How long a program may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server and the daemon, as long as this lives.
pub(super) struct Service {
    orders: Option<Sender<Sender<Result<()>>>>,
    keeper: Option<JoinHandle<()>>,
    /// Odd while there is no daemon.
    changes: Arc<AtomicUsize>,
}

impl Service {
    pub(super) fn start(lab: &Lab, plugins: &Path) -> Result<Self> {
        let mut host = lab.host().netlink();
        let bridge = host.add_bridge(&Bridge { up: true, ..Bridge::new(LAN) })?.index;
        host.add_address(bridge, SERVER.parse()?, AddressFlags::default())?;
        let (orders, receiver) = mpsc::channel();
        let changes = Arc::new(AtomicUsize::new(1));
        let (directory, plugin) = (lab.dir().to_owned(), plugins.join("dhcp"));
        let counted = Arc::clone(&changes);
        let keeper = std::thread::spawn(move || keep(&directory, &plugin, &receiver, &counted));
        let service = Self { orders: Some(orders), keeper: Some(keeper), changes };
        service.restart()?;
        Ok(service)
    }

    /// Kills the daemon if there is one, and starts another; returns when that listens.
    pub(super) fn restart(&self) -> Result<()> {
        let (done, is_done) = mpsc::channel();
        let gone = || anyhow!("the thread that keeps the daemon is gone");
        self.orders.as_ref().context("the service has ended")?.send(done).map_err(|_| gone())?;
        is_done.recv().map_err(|_| gone())?
    }

    /// A number that changes when the daemon goes and when it comes; odd while there is none.
    pub(super) fn changes(&self) -> usize {
        self.changes.load(Ordering::SeqCst)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// Starts the server, and with each order the daemon anew; ends both when no more orders can come.
fn keep(
    directory: &Path,
    plugin: &Path,
    orders: &Receiver<Sender<Result<()>>>,
    changes: &AtomicUsize,
) {
    let mut server = server(directory);
    let mut daemon: Option<Running> = None;
    for done in orders {
        if daemon.is_some() {
            // Before it goes, so that whoever notices finds the number changed.
            changes.fetch_add(1, Ordering::SeqCst);
            daemon = None;
        }
        let started = match &mut server {
            Ok(_) => start_daemon(directory, plugin),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        let outcome = started.map(|started| {
            daemon = Some(started);
            changes.fetch_add(1, Ordering::SeqCst);
        });
        // Whoever gave the order may have gone.
        let _ = done.send(outcome);
    }
}

fn server(directory: &Path) -> Result<Running> {
    let mut command = until_the_end("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        "--user=root",
        "--group=",
    ]);
    command.args([
        "--pid-file=",
        "--log-facility=-",
        "--no-ping",
        "--bind-dynamic",
        "--dhcp-authoritative",
    ]);
    command.arg(format!("--interface={LAN}")).arg(format!("--dhcp-range={RANGE}"));
    command.arg(format!("--dhcp-leasefile={}", directory.join("dnsmasq.leases").display()));
    Running::start(command, &directory.join("dnsmasq.log"), "sockets bound exclusively")
}

fn start_daemon(directory: &Path, plugin: &Path) -> Result<Running> {
    let mut command = until_the_end(plugin);
    command.arg("daemon");
    let running = Running::start(command, &directory.join("daemon.log"), "")?;
    wait_for("the daemon's socket", || std::os::unix::net::UnixStream::connect(SOCKET).is_ok())?;
    Ok(running)
}

/// A program that the kernel kills when the thread has ended that started it.
fn until_the_end(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !is_there() {
        ensure!(begin.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// A program that is killed when this goes.
struct Running(Child);

impl Running {
    /// Starts it, and waits until it has said something.
    fn start(mut command: Command, log: &Path, says: &str) -> Result<Self> {
        let file = std::fs::File::create(log).with_context(|| format!("make {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let running = Self(command.spawn().context("start a program of the list dhcp")?);
        wait_for(says, || std::fs::read_to_string(log).is_ok_and(|text| text.contains(says)))?;
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
