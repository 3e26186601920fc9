//! Runs each test in new user, network and mount namespaces.
//!
//! Only a single-threaded process can create a user namespace, so a test re-executes its binary
//! under `unshare` for one test.

use std::{
    env,
    process::{Command, Stdio},
};

const INSIDE: &str = "RSCNI_LINUX_TEST_INSIDE";

/// Runs `body` as root of a private network; fails if it cannot be created.
pub(crate) fn private_network(body: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        reset_settings();
        ip("link set lo up");
        body();
        return;
    }
    let name = std::thread::current().name().expect("a test has a name").to_owned();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--"])
        .arg(env::current_exe().expect("a test is a file"))
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .expect("unshare(1) of util-linux is needed to make a private network");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name} in a private network: {}\n{text}\n{errors}",
        output.status
    );
}

/// Turns off forwarding and reverse path filtering, which a new network namespace inherits from the
/// machine.
fn reset_settings() {
    for setting in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"]
        .into_iter()
        .chain(["ipv4/ip_forward", "ipv6/conf/all/forwarding"])
    {
        let path = format!("/proc/sys/net/{setting}");
        std::fs::write(&path, "0").unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// Creates a network namespace with forwarding off.
#[allow(dead_code, reason = "not every test binary makes namespaces")]
pub(crate) fn namespace() -> rscni_linux::Netns {
    let netns = rscni_linux::Netns::create().expect("make a network namespace");
    netns.enter(reset_settings).expect("enter a network namespace");
    netns
}

/// Runs `ip`, which must succeed, and returns its output.
pub(crate) fn ip(words: &str) -> String {
    run("ip", words)
}

/// Runs a tool, which must succeed, and returns its output.
pub(crate) fn run(tool: &str, words: &str) -> String {
    let output = Command::new(tool)
        .args(words.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("{tool}: {error}"));
    assert!(output.status.success(), "{tool} {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("tools print text")
}

/// Runs a tool and parses its output as JSON.
#[allow(dead_code, reason = "not every test binary reads JSON")]
pub(crate) fn json(tool: &str, words: &str) -> serde_json::Value {
    serde_json::from_str(&run(tool, words)).expect("the tool prints JSON")
}
