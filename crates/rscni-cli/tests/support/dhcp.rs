//! A LAN with Debian's dnsmasq as the DHCP server, and the daemon of the plugin.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rscni_linux::{AddressFlags, Bridge};
use rscni_test::{Lab, eventually};
use serde_json::{Value, json};

use super::{Attached, Network};

/// Name of the LAN's bridge, and address of the server.
pub(crate) const LAN: &str = "br-lan";
pub(crate) const SERVER: &str = "10.50.0.1";
/// Default socket of the daemon.
pub(crate) const SOCKET: &str = "/run/cni/dhcp.sock";

/// A program that ends with the test.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> Self {
        Self::start_with(command, log, Stdio::null())
    }

    pub(crate) fn start_with(command: &mut Command, log: PathBuf, stdin: Stdio) -> Self {
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let command = command.stdin(stdin).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", command.get_program().display()));
        Self { child, log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The output so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until the output contains a text.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) {
        self.says_times(text, 1);
    }

    #[track_caller]
    pub(crate) fn says_times(&self, text: &str, times: usize) {
        // If this fails, `drop` prints the whole log.
        let what = format!("{} says `{text}` ({times} times)", self.log.display());
        eventually(&what, || (self.log().matches(text).count() >= times).then_some(()));
    }

    /// Kills the program without a chance to clean up.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and waits for the exit.
    #[track_caller]
    pub(crate) fn end(&mut self) -> std::process::ExitStatus {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        eventually("the end of a program", || self.child.try_wait().unwrap())
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        eventually("the end of a program", || self.child.try_wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// Creates the bridge of the LAN with the server's address.
pub(crate) fn lan(lab: &Lab) {
    let mut netlink = lab.host().netlink();
    let index = netlink.add_bridge(&Bridge { up: true, ..Bridge::new(LAN) }).unwrap().index;
    netlink
        .add_address(index, format!("{SERVER}/24").parse().unwrap(), AddressFlags::default())
        .unwrap();
}

/// Starts dnsmasq for 10.50.0.100 to 10.50.0.150.
pub(crate) fn dnsmasq(lab: &Lab, options: &[&str]) -> Running {
    let range = ["--dhcp-range=10.50.0.100,10.50.0.150,255.255.255.0,1h"];
    dnsmasq_with_range(lab, &[&range, options].concat())
}

/// Starts dnsmasq.
pub(crate) fn dnsmasq_with_range(lab: &Lab, options: &[&str]) -> Running {
    let log = lab.dir().join("dnsmasq.log");
    let mut command = Command::new("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        "--user=root",
        "--group=",
        "--pid-file=",
    ]);
    command.args([
        "--log-dhcp",
        "--log-facility=-",
        "--no-ping",
        "--bind-dynamic",
        "--dhcp-authoritative",
    ]);
    command
        .arg(format!("--interface={LAN}"))
        .arg(format!("--dhcp-leasefile={}", lease_file(lab).display()));
    command.args(options);
    let server = Running::start(&mut command, log);
    server.says("sockets bound exclusively to interface br-lan");
    server
}

fn lease_file(lab: &Lab) -> PathBuf {
    lab.dir().join("dnsmasq.leases")
}

/// Returns the leased addresses of the server's lease file.
pub(crate) fn leased(lab: &Lab) -> Vec<String> {
    let text = std::fs::read_to_string(lease_file(lab)).unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(2)).map(str::to_owned).collect()
}

/// Starts the plugin's daemon.
pub(crate) fn daemon(lab: &Lab, options: &[&str]) -> Running {
    let daemon = daemon_in_vain(lab, options);
    daemon.says("listening");
    daemon
}

/// Starts the daemon, which may fail.
pub(crate) fn daemon_in_vain(lab: &Lab, options: &[&str]) -> Running {
    if !Path::new("/run/rscni-test/bin/dhcp").exists() {
        super::install(lab);
    }
    let log = eventually("a free name", || {
        (0..99).map(|n| lab.dir().join(format!("daemon{n}.log"))).find(|p| !p.exists())
    });
    Running::start(Command::new("/run/rscni-test/bin/dhcp").arg("daemon").args(options), log)
}

/// Returns a network on the LAN with addresses of the server.
pub(crate) fn network(lab: &Lab, keys: &Value) -> Network {
    let mut ipam = json!({ "type": "dhcp" });
    for (key, value) in keys.as_object().unwrap() {
        ipam[key] = value.clone();
    }
    Network::new(lab, "bridge", &json!({ "bridge": LAN, "ipam": ipam }))
}

/// Sets up the LAN, the server and the daemon.
pub(crate) fn set_up(lab: &Lab, server: &[&str]) -> (Running, Running) {
    lan(lab);
    (dnsmasq(lab, server), daemon(lab, &[]))
}

/// Returns the lease files of a daemon.
pub(crate) fn kept(socket: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(format!("{socket}.leases")).into_iter().flatten();
    files.map(|entry| entry.unwrap().path()).collect()
}

/// Returns the address of the container.
pub(crate) fn address(attached: &Attached) -> String {
    attached.v4().to_string()
}
