//! Image builds by `BuildKit`, whose worker attaches each build step to a bridge
//! (`--oci-worker-net=bridge`).
//!
//! `BuildKit` looks for `buildkit-cni-bridge`, `buildkit-cni-loopback`, `buildkit-cni-host-local`
//! and `buildkit-cni-firewall` in `PATH`, and uses these names as plugin types. If they are
//! missing, it uses the plugins' own names in its plugin directory. Both are tested.
//!
//! The steps of a build run at the same time: each connects to a server outside the node, which
//! answers none of them before all have connected.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use rscni_test::{Namespace, Snapshot};
use xtask::{go::Module, program, tally::Tally};

use super::{
    PluginSet, image,
    leftovers::{self, Host},
    outside::{self, Outside},
    report, snapshot_ignoring,
};
use crate::daemon::{Daemon, until_ok};

/// `BuildKit`'s daemon and client.
pub(crate) const MODULE: Module = Module {
    path: "github.com/moby/buildkit",
    version: "v0.34.2",
    packages: &["./cmd/buildkitd", "./cmd/buildctl"],
    tags: &[],
    variables: &[],
    omitted: &[],
};

/// Name, address prefix and gateway of the network in `BuildKit`'s configuration.
const NETWORK: &str = "buildkit";
const ADDRESSES: &str = "10.10.";
const GATEWAY: &str = "10.10.0.1";

/// Build steps that run at the same time.
const STEPS: usize = 4;

/// Port of the server outside.
const PORT: u16 = 9000;

/// Timeout of a step, and of the daemon's start and end, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Names of the plugins.
#[derive(Clone, Copy)]
enum Names {
    Plugins,
    BuildKit,
}

/// Builds with both sets of names.
pub(super) fn run(
    programs: &Path,
    tested: &PluginSet,
    directory: &Path,
    tally: &mut Tally,
) -> Result<()> {
    let outside = Outside::new()?;
    leftovers::forget()?;
    for (names, how) in [(Names::Plugins, "the plugins' names"), (Names::BuildKit, "its own names")]
    {
        let outcome = outside::while_nothing_is_forwarded(|| {
            let buildkit = BuildKit::new(programs, tested, directory, names)?;
            buildkit.build_and_leave_nothing(outside.client())
        });
        let name = format!("BuildKit builds in bridge mode by {how}, and leaves nothing");
        report(tally, &name, outcome);
    }
    Ok(())
}

/// Things that stay: our table and the shared chains of iptables, forwarding, host-local's last
/// address. Processes, and files of containerd, runc and `BuildKit`, are not the plugins'.
const STAYS: [&str; 8] = [
    "inet rscni",
    "CNI-",
    "forward",
    "/var/lib/cni/",
    "/run/containerd",
    "/run/runc",
    "/run/buildkit",
    "process ",
];

/// Fails if a link, address, route, rule or reservation of a step is left.
fn nothing_left(before: &Snapshot) -> Result<()> {
    let host = Host::new(NETWORK, "a step of a build", Vec::new());
    until_ok(TIMEOUT, || {
        let mut left = before.changes_to(&Snapshot::of_this_network()?);
        left.extend(host.address_files()?);
        for command in ["nft list ruleset", "iptables-save"] {
            let rules = program::output_of(command)?;
            let own = rules.lines().filter(|line| line.contains(ADDRESSES));
            left.extend(own.map(str::to_owned));
        }
        ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        Ok(())
    })
}

/// The daemon's programs, options and directory.
struct BuildKit<'a> {
    programs: &'a Path,
    directory: PathBuf,
    plugins: PathBuf,
    /// Directory with the plugins under `BuildKit`'s names.
    own_names: Option<PathBuf>,
}

impl<'a> BuildKit<'a> {
    fn new(programs: &'a Path, tested: &PluginSet, directory: &Path, names: Names) -> Result<Self> {
        let directory = directory.join(match names {
            Names::Plugins => "buildkit",
            Names::BuildKit => "buildkit-own-names",
        });
        fs::create_dir(&directory)?;
        let (plugins, own_names) = match names {
            Names::Plugins => (tested.directory.clone(), None),
            Names::BuildKit => {
                let own_names = directory.join("own-names");
                let mut install = Command::new(tested.directory.join("rscni"));
                install.args(["install", "--only", ""]);
                for plugin in ["bridge", "loopback", "host-local", "firewall"] {
                    install.arg("--as").arg(format!("buildkit-cni-{plugin}={plugin}"));
                }
                program::capture(install.arg(&own_names))?;
                (directory.join("no-plugins"), Some(own_names))
            }
        };
        Ok(Self { programs, directory, plugins, own_names })
    }

    fn build_and_leave_nothing(&self, client: &Namespace) -> Result<()> {
        let before = snapshot_ignoring(&STAYS)?;
        let mut daemon = self.start()?;
        let mut workers = self.buildctl();
        workers.args(["debug", "workers"]);
        daemon.wait_until(TIMEOUT, || program::capture(&mut workers))?;
        let outcome = self.build(client).with_context(|| daemon.log());
        // On SIGTERM it detaches the namespaces that it keeps for later steps.
        daemon.stop(TIMEOUT)?;
        outcome?;
        nothing_left(&before)
    }

    fn start(&self) -> Result<Daemon> {
        let mut command = Command::new(self.programs.join("buildkitd"));
        command
            .args(["--containerd-worker=false", "--oci-worker=true", "--oci-worker-net=bridge"])
            .args(["--oci-worker-snapshotter=native", "--oci-cni-pool-size=2"])
            .arg("--root")
            .arg(self.directory.join("root"))
            .arg("--oci-cni-binary-dir")
            .arg(&self.plugins)
            .args(["--addr", &self.address()]);
        if let Some(own_names) = &self.own_names {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let all = std::iter::once(own_names.clone()).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(all)?);
        }
        Daemon::start("buildkitd", &mut command, self.directory.join("log"))
    }

    fn address(&self) -> String {
        format!("unix://{}", self.directory.join("socket").display())
    }

    fn buildctl(&self) -> Command {
        let mut command = Command::new("timeout");
        command.arg(TIMEOUT.as_secs().to_string()).arg(self.programs.join("buildctl"));
        command.args(["--addr", &self.address()]);
        command
    }

    /// Builds an image whose steps run at the same time, and checks what each step saw.
    fn build(&self, client: &Namespace) -> Result<()> {
        let [context, output] = ["context", "output"].map(|name| self.directory.join(name));
        fs::create_dir(&context)?;
        fs::write(context.join("rootfs.tar"), image::layer()?)?;
        fs::write(context.join("Dockerfile"), dockerfile())?;
        let mut build = self.buildctl();
        build.args(["build", "--frontend", "dockerfile.v0", "--no-cache", "--progress", "plain"]);
        for local in ["context", "dockerfile"] {
            build.arg("--local").arg(format!("{local}={}", context.display()));
        }
        build.arg("--output").arg(format!("type=local,dest={}", output.display()));
        let listener = client.run(|| TcpListener::bind(("0.0.0.0", PORT)));
        let listener = listener.context("listen outside the node")?;
        let server = std::thread::spawn(move || serve(&listener));
        let outcome = program::capture(&mut build);
        let clients = server.join().expect("the server does not panic");
        outcome?;
        for client in clients? {
            let is_masqueraded = client.ip().to_string() == Outside::NODE[0];
            ensure!(is_masqueraded, "a step was seen as {client}: it is not masqueraded");
        }
        let mut addresses = Vec::new();
        for step in 0..STEPS {
            let said = fs::read_to_string(output.join(step.to_string()))?;
            let address = check_step(&said);
            addresses.push(address.with_context(|| format!("step {step} printed:\n{said}"))?);
        }
        addresses.sort_unstable();
        addresses.dedup();
        ensure!(addresses.len() == STEPS, "{STEPS} steps had only the addresses {addresses:?}");
        Ok(())
    }
}

/// Waits until all steps have connected, then answers them; returns their addresses.
fn serve(listener: &TcpListener) -> Result<Vec<SocketAddr>> {
    listener.set_nonblocking(true)?;
    let mut steps = Vec::new();
    while steps.len() < STEPS {
        let accepted = until_ok(TIMEOUT, || Ok(listener.accept()?));
        let connected = steps.len();
        steps.push(accepted.with_context(|| {
            format!("only {connected} of {STEPS} steps connected at the same time")
        })?);
    }
    for (step, _) in &mut steps {
        step.write_all(b"all connected\n").context("answer a step")?;
    }
    Ok(steps.into_iter().map(|(_, client)| client).collect())
}

/// Stages that depend only on the first one run at the same time. Each has a different command,
/// since `BuildKit` runs equal commands once.
fn dockerfile() -> String {
    let script = format!(
        "ip -o -4 address show dev eth0 >/said && ping -c 2 -W 30 {GATEWAY} >>/said && \
         nc -w {} {} {PORT} </dev/null >>/said",
        TIMEOUT.as_secs(),
        Outside::CLIENT[0],
    );
    let stages =
        (0..STEPS).map(|step| format!("FROM base AS step{step}\nRUN : {step} && {script}\n"));
    let results = (0..STEPS).map(|step| format!("COPY --from=step{step} /said /{step}\n"));
    let [stages, results] = [stages.collect::<Vec<_>>(), results.collect()].map(|all| all.concat());
    format!("FROM scratch AS base\nADD rootfs.tar /\n{stages}FROM scratch\n{results}")
}

/// Checks the output of a step: an address of the network, answers of the gateway and of the server
/// outside. Returns the address.
fn check_step(output: &str) -> Result<IpAddr> {
    let address = output.split_whitespace().skip_while(|word| *word != "inet").nth(1);
    let address = address.and_then(|address| address.split('/').next()?.parse().ok());
    let address: IpAddr = address.context("eth0 has no IPv4 address")?;
    let is_of_network = address.to_string().starts_with(ADDRESSES);
    ensure!(is_of_network, "{address} is not an address of BuildKit's network");
    ensure!(output.contains(" 0% packet loss"), "the gateway does not answer every ping");
    ensure!(output.contains("all connected"), "the server outside does not answer");
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "2: eth0    inet 10.10.0.5/16 brd 10.10.255.255 scope global eth0\n\
                          2 packets transmitted, 2 packets received, 0% packet loss\n\
                          all connected\n";

    #[test]
    fn a_step_needs_an_address_its_gateway_and_the_server() {
        assert_eq!(check_step(OUTPUT).unwrap().to_string(), "10.10.0.5");
        for (from, to) in
            [("10.10.0.5", "10.9.0.5"), ("inet", "inet6"), (" 0% p", " 50% p"), ("all con", "")]
        {
            assert!(check_step(&OUTPUT.replace(from, to)).is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn no_step_depends_on_another() {
        let file = dockerfile();
        assert_eq!(file.matches("\nFROM base AS step").count(), STEPS, "{file}");
        assert_eq!(file.matches("\nCOPY --from=step").count(), STEPS, "{file}");
    }
}
