//! A container started by `ctr run --cni`, looked at from inside and outside, and what is left when it has ended.

use std::{
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{
    PluginSet, chain,
    containerd::Containerd,
    image,
    leftovers::{self, Host},
    report, runtime, sandbox,
};
use xtask::{program, tally::Tally};

pub(super) const NETWORK: &str = "e2e";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

/// What the container does: look at its own network, reach the gateway, stay until it is killed. Since sbr has taken
/// the routes for packets from its address alone, it says from where it pings.
const SCRIPT: &str = "ip -o -4 address show dev eth0; ip route show table all; set -- $(ip -o -4 address show dev eth0); \
                      ping -c 2 -W 30 -I ${4%/*} 10.88.0.1; echo READY; exec sleep 300";

/// Runs the container once on each set of plugins, on the Go plugins first, so that a fault of the machine is not taken
/// for one of ours.
///
/// `ctr run` gives DEL no namespace, and most Go plugins of version 1.1 then leave something behind or fail. That is
/// not held against them; against ours it is.
pub(super) fn run(
    containerd: &Containerd,
    go: &PluginSet,
    tested: &PluginSet,
    tally: &mut Tally,
) -> Result<()> {
    let after_go: fn(&Host) -> Result<()> = |_| Ok(());
    for (set, after) in [(go, after_go), (tested, Host::nothing_left)] {
        leftovers::forget()?;
        sandbox::use_plugins(&set.directory)?;
        let id = format!("container-on-{}", set.name);
        let outcome = live(containerd, &id, |_| Ok(()), after);
        let outcome = outcome.map_err(|error| anyhow!("{error:#}\n{}", containerd.last_words()));
        report(tally, &format!("ctr run --cni on the plugins of {}", set.name), outcome);
    }
    let outcome =
        live(containerd, "taken-over", |id| runtime::take_over(tested, id), Host::nothing_left);
    report(tally, "what ctr attached is listed, checked and detached by rscni", outcome);
    Ok(())
}

/// Writes the network, the same for both sets.
pub(super) fn write_network() -> Result<()> {
    let list = Path::new(sandbox::NETWORKS).join("10-e2e.conflist");
    std::fs::write(&list, chain::list(NETWORK, 88).to_string())
        .with_context(|| format!("write {}", list.display()))
}

/// Runs a container, with `meanwhile` called with the id that containerd gives it while it runs.
fn live(
    containerd: &Containerd,
    id: &str,
    meanwhile: impl FnOnce(&str) -> Result<()>,
    after: fn(&Host) -> Result<()>,
) -> Result<()> {
    let mut ctr = containerd
        .ctr()
        .args(["run", "--rm", "--cni", "--snapshotter", "native"])
        .args([image::NAME, id, "/bin/sh", "-c", SCRIPT])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start ctr")?;
    let said = until_ready(&mut ctr)?;
    let address = seen_inside(&said).with_context(|| format!("the container said:\n{said}"))?;
    // The name that go-cni gives the container: containerd's namespace and the id.
    let container_id = format!("default-{id}");
    let host = Host::new(NETWORK, &container_id, vec![address.into()]);
    let seen_outside = seen_outside(&host).and_then(|()| meanwhile(&container_id));

    program::capture(containerd.ctr().args(["task", "kill", "--signal", "SIGKILL", id]))?;
    let output = ctr.wait_with_output().context("wait for ctr")?;
    // `ctr run` ends with the code of the container: 137 is the SIGKILL just sent.
    ensure!(
        output.status.code() == Some(137),
        "ctr run ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    seen_outside.context("while the container ran")?;
    in_the_end(|| after(&host)).context("after the container had ended")
}

/// A link whose namespace has ended goes a moment later, when the kernel gets to it.
fn in_the_end(check: impl Fn() -> Result<()>) -> Result<()> {
    // A minute, on a busy machine.
    for _ in 0..600 {
        if check().is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    check()
}

/// What the container said up to its last word.
fn until_ready(ctr: &mut Child) -> Result<String> {
    let stdout = ctr.stdout.as_mut().expect("stdout was piped");
    let mut said = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read the container's output")?;
        if line == "READY" {
            return Ok(said);
        }
        said.push_str(&line);
        said.push('\n');
    }
    let mut errors = String::new();
    if let Some(stderr) = ctr.stderr.as_mut() {
        std::io::Read::read_to_string(stderr, &mut errors).context("read what ctr says")?;
    }
    let status = ctr.wait().context("wait for ctr")?;
    bail!("ctr run ended early with {status}:\n{said}{errors}")
}

/// From inside: an address from the range, a default route through the gateway, and the gateway answers.
fn seen_inside(said: &str) -> Result<Ipv4Addr> {
    let address = said
        .split_whitespace()
        .skip_while(|word| *word != "inet")
        .nth(1)
        .and_then(|address| address.strip_suffix("/24"))
        .and_then(|address| address.parse::<Ipv4Addr>().ok())
        .context("eth0 has no IPv4 address with /24")?;
    ensure!(
        address.octets()[..3] == GATEWAY.octets()[..3] && address != GATEWAY,
        "{address} is no address for a container in 10.88.0.0/24"
    );
    ensure!(
        said.contains(&format!("default via {GATEWAY} dev eth0")),
        "no default route via {GATEWAY}"
    );
    ensure!(said.contains(" 0% packet loss"), "the gateway does not answer every ping");
    Ok(address)
}

/// From outside: the address is noted, a veth hangs on the bridge, and something masquerades.
fn seen_outside(host: &Host) -> Result<()> {
    ensure!(!host.address_files()?.is_empty(), "host-local noted no address");
    let ports = program::capture(
        Command::new("ip").args(["-o", "link", "show", "master", NETWORK, "type", "veth"]),
    )?;
    ensure!(ports.lines().count() == 1, "not one veth on {NETWORK} but:\n{ports}");
    ensure!(!host.nat_entries()?.is_empty(), "no NAT entry for the container");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "2: eth0    inet 10.88.0.5/24 brd 10.88.0.255 scope global eth0\n\
                        default via 10.88.0.1 dev eth0 \n2 packets transmitted, 2 packets received, 0% packet loss\n";

    #[test]
    fn a_container_with_address_route_and_answers_is_fine() {
        assert_eq!(seen_inside(SAID).unwrap(), Ipv4Addr::new(10, 88, 0, 5));
    }

    #[test]
    fn a_container_that_lacks_any_of_them_is_not() {
        for (from, to) in [
            ("10.88.0.5", "10.99.0.5"),
            ("default via", "10.0.0.0/8 via"),
            (" 0% packet", " 100% packet"),
        ] {
            assert!(seen_inside(&SAID.replace(from, to)).is_err(), "{from} -> {to}");
        }
    }
}
