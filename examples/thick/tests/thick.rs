//! The shim with each daemon, and packets between container and host.

use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rscni_test::{Lab, Plugin, eventually, run};
use serde_json::{Value, json};

const DAEMONS: [&str; 2] =
    [env!("CARGO_BIN_EXE_thick-daemon"), env!("CARGO_BIN_EXE_thick-async-daemon")];

/// A daemon, killed on drop.
struct Daemon(Child);

impl Daemon {
    fn start(program: &str) -> Self {
        Self::started(&mut Command::new(program))
    }

    /// Starts it where the files of namespaces are not mounted.
    fn start_without_namespaces(program: &str, directory: &Path) -> Self {
        let script = "umount $0/* && exec $1";
        let unshare = ["--mount", "sh", "-c", script];
        Self::started(Command::new("unshare").args(unshare).arg(directory).arg(program))
    }

    fn started(command: &mut Command) -> Self {
        let daemon = Self(command.spawn().unwrap());
        let shim = shim();
        eventually("the daemon to listen", || {
            (shim.status(&config()).exit_code() == Some(0)).then_some(())
        });
        daemon
    }

    fn signal(&mut self, signal: Signal) -> std::process::ExitStatus {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shim() -> Plugin {
    Plugin::at(env!("CARGO_BIN_EXE_thick"))
}

fn config() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": "thick",
        "hostAddress": "10.9.0.1/24", "containerAddress": "10.9.0.2/24",
    })
}

/// Attaches a container, sends packets and detaches it.
fn attach_and_detach(lab: &Lab, plugin: &Plugin) {
    let a = lab.container("a");
    let before = lab.snapshot();
    let outcome = plugin.add(&a, "eth0", &config());
    let reply = outcome.success();
    let interfaces = &reply.json()["interfaces"];
    assert_eq!(interfaces[1]["sandbox"], a.path().to_str().unwrap(), "the path of the runtime");
    let name = interfaces[0]["name"].as_str().unwrap();
    assert_eq!(outcome.stderr(), format!("thick: {name} leads to {}\n", a.id()));

    a.ping(reply.gateways()[0]);
    lab.tcp(lab.host(), &a, reply.ips()[0].addr(), 8080);

    let config = reply.follow(&config());
    plugin.check(&a, "eth0", &config).success();
    plugin.add(&a, "eth0", &config).error(5).mentions("exist");
    plugin.del(&a, "eth0", &config).success();
    plugin.check(&a, "eth0", &config).error(5).mentions("does not exist");
    plugin.del(&a, "eth0", &config).success();
    lab.assert_unchanged_since(&before);
}

#[test]
fn a_container_is_attached_through_the_daemon() {
    for program in DAEMONS {
        run(|lab| {
            let _daemon = Daemon::start(program);
            attach_and_detach(lab, &shim());
        });
    }
}

#[test]
fn the_plugin_works_without_a_daemon_too() {
    run(|lab| attach_and_detach(lab, &Plugin::at(env!("CARGO_BIN_EXE_thick-alone"))));
}

#[test]
fn a_daemon_does_not_need_the_mounts_of_the_namespaces() {
    for program in DAEMONS {
        run(|lab| {
            let a = lab.container("a");
            let directory = a.path().parent().unwrap();
            let _daemon = Daemon::start_without_namespaces(program, directory);
            let reply = shim().add(&a, "eth0", &config()).success();
            a.ping(reply.gateways()[0]);
            shim().del(&a, "eth0", &config()).success();
        });
    }
}

#[test]
fn a_killed_daemon_is_retried_and_replaced() {
    for program in DAEMONS {
        run(|lab| {
            let a = lab.container("a");
            let mut daemon = Daemon::start(program);
            let reply = shim().add(&a, "eth0", &config()).success();
            assert_eq!(daemon.signal(Signal::SIGKILL).signal(), Some(9));
            shim().del(&a, "eth0", &config()).error(11).mentions("is it running?");
            shim().status(&config()).error(50);
            shim().version().success();

            // The attachment outlives the daemon, and the next one detaches it.
            a.ping(reply.gateways()[0]);
            let _daemon = Daemon::start(program);
            shim().del(&a, "eth0", &config()).success();
        });
    }
}

#[test]
fn a_daemon_ends_at_sigterm() {
    for program in DAEMONS {
        run(|_| {
            assert!(Daemon::start(program).signal(Signal::SIGTERM).success());
            shim().status(&config()).error(50);
        });
    }
}

#[test]
fn a_second_daemon_does_not_replace_a_running_one() {
    run(|_| {
        let _daemon = Daemon::start(DAEMONS[0]);
        let second = Command::new(DAEMONS[1]).output().unwrap();
        let stderr = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(
            !second.status.success() && stderr.contains("a daemon listens already"),
            "{stderr}"
        );
        shim().status(&config()).success();
    });
}

#[test]
fn gc_removes_stale_attachments_of_its_network() {
    run(|lab| {
        let _daemon = Daemon::start(DAEMONS[0]);
        let mut other = config();
        other["name"] = "network".into();
        let [a, b, c] = ["a", "b", "c"].map(|name| lab.container(name));
        for (container, config) in [(&a, &config()), (&b, &config()), (&c, &other)] {
            shim().add(container, "eth0", config).success();
        }
        let mut gc = config();
        let valid = json!([{ "containerID": a.id(), "ifname": "eth0" }]);
        gc["cni.dev/valid-attachments"] = valid;
        shim().gc(&gc).success();
        let links = lab.host().netlink().links().unwrap();
        let owners: Vec<_> = links.into_iter().filter_map(|link| link.alias).collect();
        let kept = [format!("thick/net/{}/eth0", a.id()), format!("thick/network/{}/eth0", c.id())];
        assert_eq!(owners.len(), 2, "{owners:?}");
        assert!(kept.iter().all(|owner| owners.contains(owner)), "{owners:?}");
    });
}
