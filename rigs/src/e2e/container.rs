//! A container started by `ctr run --cni`, inspected from inside and outside, and the host after
//! its end.

use std::{
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use xtask::{program, tally::Tally};

use super::{
    PluginSet, chain,
    containerd::Containerd,
    image,
    leftovers::{self, Host},
    report, runtime, sandbox,
};
use crate::daemon::until_ok;

pub(super) const NETWORK: &str = "e2e";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

/// The container shows its network, pings the gateway, and stays until it is killed. sbr has moved
/// the routes to a table for its address, so the ping names its source.
const SCRIPT: &str = "ip -o -4 address show dev eth0; ip route show table all; \
                      set -- $(ip -o -4 address show dev eth0); \
                      ping -c 2 -W 30 -I ${4%/*} 10.88.0.1; echo READY; exec sleep 300";

/// Runs the container on each set of plugins: on the Go plugins first, to detect faults of the
/// machine.
///
/// `ctr run` calls DEL without a namespace. Most Go plugins of version 1.1 then leave something
/// behind or fail; this is checked only for ours.
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
        let outcome = run_container(containerd, &id, |_| Ok(()), after);
        let outcome = outcome.map_err(|error| anyhow!("{error:#}\n{}", containerd.log()));
        report(tally, &format!("ctr run --cni on the plugins of {}", set.name), outcome);
    }
    let take_over = |id: &str| runtime::take_over(tested, id);
    let outcome = run_container(containerd, "taken-over", take_over, Host::nothing_left);
    report(tally, "an attachment by ctr is listed, checked and detached by rscni", outcome);
    Ok(())
}

/// Writes the network list, the same for both sets.
pub(super) fn write_network() -> Result<()> {
    let list = Path::new(sandbox::NETWORKS).join("10-e2e.conflist");
    Ok(fs_err::write(list, chain::list(NETWORK, 88).to_string())?)
}

/// Runs a container. While it runs, calls `meanwhile` with the id that containerd passes to CNI.
fn run_container(
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
    let output = until_ready(&mut ctr)?;
    let address =
        check_inside(&output).with_context(|| format!("the container printed:\n{output}"))?;
    // go-cni's name for the container: containerd's namespace and the id.
    let container_id = format!("default-{id}");
    let host = Host::new(NETWORK, &container_id, vec![address.into()]);
    let outside = check_outside(&host).and_then(|()| meanwhile(&container_id));

    program::capture(containerd.ctr().args(["task", "kill", "--signal", "SIGKILL", id]))?;
    let output = ctr.wait_with_output().context("wait for ctr")?;
    // `ctr run` exits with the code of the container: 137 for the SIGKILL.
    ensure!(
        output.status.code() == Some(137),
        "ctr run ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    outside.context("while the container ran")?;
    // The kernel removes a link some time after its namespace has ended.
    until_ok(Duration::from_secs(60), || after(&host)).context("after the container had ended")
}

/// The output of the container up to `READY`.
fn until_ready(ctr: &mut Child) -> Result<String> {
    let stdout = ctr.stdout.as_mut().expect("stdout is piped");
    let mut output = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read the container's output")?;
        if line == "READY" {
            return Ok(output);
        }
        output += &line;
        output.push('\n');
    }
    let errors = std::io::read_to_string(ctr.stderr.as_mut().expect("stderr is piped"))?;
    bail!("ctr run ended early with {}:\n{output}{errors}", ctr.wait().context("wait for ctr")?)
}

/// Checks the container's view: an address of the range, a default route through the gateway, and
/// answers from it.
fn check_inside(output: &str) -> Result<Ipv4Addr> {
    let address = output
        .split_whitespace()
        .skip_while(|word| *word != "inet")
        .nth(1)
        .and_then(|address| address.strip_suffix("/24")?.parse::<Ipv4Addr>().ok())
        .context("eth0 has no IPv4 address with /24")?;
    ensure!(
        address.octets()[..3] == GATEWAY.octets()[..3] && address != GATEWAY,
        "{address} is no address for a container in 10.88.0.0/24"
    );
    let route = format!("default via {GATEWAY} dev eth0");
    ensure!(output.contains(&route), "no default route via {GATEWAY}");
    ensure!(output.contains(" 0% packet loss"), "the gateway does not answer every ping");
    Ok(address)
}

/// Checks the host's view: the reservation, one veth on the bridge, and masquerading.
fn check_outside(host: &Host) -> Result<()> {
    ensure!(!host.address_files()?.is_empty(), "host-local has no reservation");
    let ports = program::output_of(&format!("ip -o link show master {NETWORK} type veth"))?;
    ensure!(ports.lines().count() == 1, "not one veth on {NETWORK} but:\n{ports}");
    ensure!(!host.nat_entries()?.is_empty(), "no NAT entry for the container");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "2: eth0    inet 10.88.0.5/24 brd 10.88.0.255 scope global eth0\n\
                          default via 10.88.0.1 dev eth0 \n\
                          2 packets transmitted, 2 packets received, 0% packet loss\n";

    #[test]
    fn a_container_needs_an_address_a_route_and_answers() {
        assert_eq!(check_inside(OUTPUT).unwrap(), Ipv4Addr::new(10, 88, 0, 5));
        for (from, to) in [
            ("10.88.0.5", "10.99.0.5"),
            ("default via", "10.0.0.0/8 via"),
            (" 0% packet", " 100% packet"),
        ] {
            assert!(check_inside(&OUTPUT.replace(from, to)).is_err(), "{from} -> {to}");
        }
    }
}
