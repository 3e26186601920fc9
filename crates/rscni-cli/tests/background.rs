//! The child process in which a DEL waits until the kernel has freed the interface.

mod support;

use std::process::Command;

use rscni_test::Lab;
use rustix::process::{
    Pid, WaitId, WaitIdOptions, WaitOptions, getpid, set_child_subreaper, wait, waitid,
};
use serde_json::json;

use support::{BIN, Network, V4, assert_gone};

/// Attachments of a test.
const MANY: usize = 100;

/// Whether this is the initial PID namespace, the only one in which DEL starts a child. Tests may
/// run in a container.
fn is_initial_pid_namespace() -> bool {
    let link = std::fs::read_link("/proc/self/ns/pid").expect("read the PID namespace");
    link.to_str() == Some("pid:[4026531836]")
}

/// Reaps orphans that have ended, or `None` if there are no processes left.
fn reap() -> Option<usize> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let mut reaped = 0;
    loop {
        match waitid(WaitId::All, options) {
            Ok(Some(_)) => reaped += 1,
            Ok(None) => return Some(reaped),
            Err(_) if reaped > 0 => return Some(reaped),
            Err(_) => return None,
        }
    }
}

/// Attaches and detaches containers, and returns the number of orphans that this process reaps as
/// process 1 does.
fn orphans_of(network: &Network, lab: &Lab) -> usize {
    set_child_subreaper(Some(getpid())).expect("become a subreaper");
    let container = lab.container("a");
    let mut orphans = 0;
    for _ in 0..MANY {
        network.attach_as(&container, "eth0").del().success();
        orphans += reap().unwrap_or_default();
    }
    rscni_test::eventually("the end of all orphans", || match reap() {
        Some(reaped) => {
            orphans += reaped;
            None
        }
        None => Some(()),
    });
    assert_gone(lab, &["veth"]);
    orphans
}

#[rstest::rstest]
fn each_del_leaves_one_child_that_ends(#[values("bridge", "ptp")] plugin: &str) {
    rscni_test::run(|lab| {
        let network = match plugin {
            "bridge" => Network::bridge(lab, &[V4], &json!({ "ipMasq": true })),
            _ => Network::ptp(lab, &[V4], &json!({})),
        };
        let expected = if is_initial_pid_namespace() { MANY } else { 0 };
        assert_eq!(orphans_of(&network, lab), expected);
    });
}

/// A runtime that reaps its own children only: 20 workers with 50 attachments each.
const RUNTIME: &str = r#"
call() { CNI_COMMAND=$1 CNI_IFNAME=eth$worker "$PLUGIN" <"$CONF" >/dev/null || exit 1; }
work() { for _ in $(seq 50); do call ADD; call DEL; done; }
for worker in $(seq 20); do work & workers="$workers $!"; done
for worker in $workers; do wait "$worker" || exit 1; done
"#;

#[test]
fn a_thousand_dels_of_a_runtime_leave_neither_a_process_nor_a_zombie() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({}));
        let container = lab.container("a");
        let conf = lab.dir().join("bridge.conf");
        std::fs::write(&conf, network.config.to_string()).expect("write the configuration");
        // This process is process 1 of the runtime.
        set_child_subreaper(Some(getpid())).expect("become a subreaper");
        #[expect(clippy::zombie_processes, reason = "`wait` reaps it as it does the others")]
        let runtime = Command::new("sh")
            .args(["-c", RUNTIME])
            .env("PLUGIN", format!("{BIN}/bridge"))
            .env("CONF", conf)
            .env("CNI_CONTAINERID", container.id())
            .env("CNI_NETNS", container.path())
            .env("CNI_PATH", BIN)
            .spawn()
            .expect("start the runtime");
        let (mut orphans, mut exit_status) = (0, None);
        // An error if no child is left, neither a running one nor a zombie.
        while let Ok(ended) = wait(WaitOptions::empty()) {
            match ended.expect("a child has ended") {
                (pid, status) if pid == Pid::from_child(&runtime) => {
                    exit_status = status.exit_status();
                }
                _ => orphans += 1,
            }
        }
        assert_eq!(exit_status, Some(0), "a call failed");
        assert_eq!(orphans, if is_initial_pid_namespace() { 1000 } else { 0 });
        assert_gone(lab, &["veth"]);
    });
}

#[test]
fn del_starts_no_child_with_rscni_del_wait() {
    rscni_test::run(|lab| {
        let mut network = Network::ptp(lab, &[V4], &json!({}));
        network.plugin = network.plugin.env("RSCNI_DEL_WAIT", "1");
        assert_eq!(orphans_of(&network, lab), 0);
    });
}

#[test]
fn attachment_is_added_again_while_its_previous_interface_is_freed() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({ "ipMasq": true }));
        let container = lab.container("a");
        for _ in 0..20 {
            let attached = network.attach_as(&container, "eth0");
            attached.check().success();
            attached.ping("10.1.0.1");
            attached.del().success();
        }
        assert_gone(lab, &["veth"]);
    });
}
