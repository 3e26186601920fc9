//! Image builds by `BuildKit`, whose worker attaches each build step to a bridge (`--oci-worker-net=bridge`).
//!
//! `BuildKit` looks for `buildkit-cni-bridge`, `buildkit-cni-loopback`, `buildkit-cni-host-local` and
//! `buildkit-cni-firewall` in `PATH`, and uses these names as plugin types. If they are missing, it uses the plugins'
//! own names in its plugin directory. Both are tried.
//!
//! The steps of a build run at the same time: each connects to a server outside of the node, which answers none of them
//! before all have connected.

use std::{
    fs::{self, File},
    io::Write,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rscni_test::{Namespace, Snapshot};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    PluginSet, image,
    leftovers::{self, Host},
    outside::{self, Outside},
    report,
};
use xtask::{go::Module, program, tally::Tally};

/// `BuildKit`'s daemon and client.
pub(crate) const MODULE: Module = Module {
    path: "github.com/moby/buildkit",
    version: "v0.34.2",
    packages: &["./cmd/buildkitd", "./cmd/buildctl"],
    tags: &[],
    variables: &[],
};

/// The network that `BuildKit`'s configuration defines: its name, the start of its addresses, and its gateway.
const NETWORK: &str = "buildkit";
const ADDRESSES: &str = "10.10.";
const GATEWAY: &str = "10.10.0.1";

/// How many steps of the build run at the same time.
const STEPS: usize = 4;

/// The port of the server outside.
const PORT: u16 = 9000;

/// How long a step, or the start and the end of the daemon, may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the plugins are named.
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
            built(programs, tested, directory, names, &outside)
        });
        report(
            tally,
            &format!("BuildKit builds in bridge mode by {how}, and leaves nothing"),
            outcome,
        );
    }
    Ok(())
}

fn built(
    programs: &Path,
    tested: &PluginSet,
    directory: &Path,
    names: Names,
    outside: &Outside,
) -> Result<()> {
    let directory = directory.join(match names {
        Names::Plugins => "buildkit",
        Names::BuildKit => "buildkit-own-names",
    });
    fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
    // What belongs to the network and stays: our table and iptables' shared chains, forwarding, and where host-local
    // goes on. Processes, and files of containerd, runc and BuildKit, are not the plugins'.
    let stays = [
        "inet rscni",
        "CNI-",
        "forward",
        "/var/lib/cni/",
        "/run/containerd",
        "/run/runc",
        "/run/buildkit",
        "process ",
    ];
    let before =
        stays.iter().fold(Snapshot::of_this_network()?, |snapshot, text| snapshot.ignoring(text));
    let mut daemon = Daemon::start(programs, tested, &directory, names)?;
    let outcome = daemon
        .wait_until_it_answers()
        .and_then(|()| daemon.build(outside.client()))
        .with_context(|| daemon.last_words());
    daemon.stop()?;
    outcome?;
    nothing_left(&before)
}

/// No link, address, route, rule or reservation of a step is left.
fn nothing_left(before: &Snapshot) -> Result<()> {
    let host = Host::new(NETWORK, "a step of a build", Vec::new());
    let left = || -> Result<Vec<String>> {
        let mut left = before.changes_to(&Snapshot::of_this_network()?);
        left.extend(host.address_files()?);
        let mut rules = program::capture(Command::new("nft").args(["list", "ruleset"]))?;
        rules.push_str(&program::capture(&mut Command::new("iptables-save"))?);
        left.extend(rules.lines().filter(|line| line.contains(ADDRESSES)).map(str::to_owned));
        Ok(left)
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = left()?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "left behind:\n{}", left.join("\n"));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A running buildkitd.
struct Daemon {
    programs: PathBuf,
    directory: PathBuf,
    child: Child,
}

impl Daemon {
    fn start(programs: &Path, tested: &PluginSet, directory: &Path, names: Names) -> Result<Self> {
        let nowhere = directory.join("no-plugins");
        let (plugins, path) = match names {
            Names::Plugins => (tested.directory.clone(), None),
            Names::BuildKit => (nowhere, Some(install_under_own_names(tested, directory)?)),
        };
        let log = directory.join(LOG);
        let log = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new(programs.join("buildkitd"));
        command
            .arg("--root")
            .arg(directory.join("root"))
            .args(["--containerd-worker=false", "--oci-worker=true", "--oci-worker-net=bridge"])
            .args(["--oci-worker-snapshotter=native", "--oci-cni-pool-size=2"])
            .arg("--oci-cni-binary-dir")
            .arg(plugins)
            .arg("--addr")
            .arg(address(directory))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if let Some(first) = path {
            let usual = std::env::var_os("PATH").unwrap_or_default();
            let all = std::iter::once(first).chain(std::env::split_paths(&usual));
            command.env("PATH", std::env::join_paths(all)?);
        }
        let child = command.spawn().context("start buildkitd")?;
        Ok(Self { programs: programs.to_owned(), directory: directory.to_owned(), child })
    }

    fn buildctl(&self) -> Command {
        let mut command = Command::new("timeout");
        command.arg(PATIENCE.as_secs().to_string());
        command.arg(self.programs.join("buildctl")).arg("--addr").arg(address(&self.directory));
        command
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().context("wait for buildkitd")? {
                bail!("buildkitd ended at its start ({status})");
            }
            match program::capture(self.buildctl().args(["debug", "workers"])) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Builds an image whose steps run at the same time, and looks at what each of them has seen.
    fn build(&self, client: &Namespace) -> Result<()> {
        let [context, output] = ["context", "output"].map(|name| self.directory.join(name));
        fs::create_dir(&context).with_context(|| format!("make {}", context.display()))?;
        fs::write(context.join("rootfs.tar"), image::layer()?)?;
        fs::write(context.join("Dockerfile"), dockerfile())?;
        let mut build = self.buildctl();
        build.args(["build", "--frontend", "dockerfile.v0", "--no-cache", "--progress", "plain"]);
        for local in ["context", "dockerfile"] {
            build.arg("--local").arg(format!("{local}={}", context.display()));
        }
        build.arg("--output").arg(format!("type=local,dest={}", output.display()));
        let listener = client.run(|| TcpListener::bind(("0.0.0.0", PORT)));
        let listener = listener.context("listen outside of the node")?;
        let meeting = std::thread::spawn(move || meet(&listener));
        let outcome = program::capture(&mut build);
        let met = meeting.join().expect("the server does not panic");
        outcome?;
        for peer in met? {
            ensure!(
                peer.ip().to_string() == Outside::NODE[0],
                "a step was seen as {peer}: it is not masqueraded"
            );
        }
        let mut addresses = Vec::new();
        for step in 0..STEPS {
            let file = output.join(step.to_string());
            let said =
                fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            addresses.push(seen(&said).with_context(|| format!("step {step} said:\n{said}"))?);
        }
        addresses.sort_unstable();
        addresses.dedup();
        ensure!(addresses.len() == STEPS, "{STEPS} steps had the addresses {addresses:?} only");
        Ok(())
    }

    /// The end of its log, for the message of a failure.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.directory.join(LOG)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!(
            "buildkitd's log ends:\n  {}\n",
            lines[lines.len().saturating_sub(LAST_LINES)..].join("\n  ")
        )
    }

    /// Ends it as a service manager does, which has it detach the namespaces that it keeps for later steps.
    fn stop(&mut self) -> Result<()> {
        if self.child.try_wait().context("wait for buildkitd")?.is_some() {
            return Ok(());
        }
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("stop buildkitd")?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().context("wait for buildkitd")?.is_none() {
            if Instant::now() > deadline {
                self.child.kill().context("kill buildkitd")?;
                bail!("buildkitd did not end when it was told to; {}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

const LOG: &str = "log";

/// How much of the log a failure shows: an error comes with a stack of calls.
const LAST_LINES: usize = 30;

fn address(directory: &Path) -> String {
    format!("unix://{}", directory.join("socket").display())
}

/// A directory with the plugins under the names that `BuildKit` ships them by, and nothing else.
fn install_under_own_names(tested: &PluginSet, directory: &Path) -> Result<PathBuf> {
    let place = directory.join("own-names");
    let mut install = Command::new(tested.directory.join("rscni"));
    install.args(["install", "--only", ""]);
    for plugin in ["bridge", "loopback", "host-local", "firewall"] {
        install.arg("--as").arg(format!("buildkit-cni-{plugin}={plugin}"));
    }
    program::capture(install.arg(&place))?;
    Ok(place)
}

/// Waits until all steps have connected, then lets them go on; gives whom it has seen.
fn meet(listener: &TcpListener) -> Result<Vec<SocketAddr>> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + PATIENCE;
    let mut steps: Vec<(TcpStream, SocketAddr)> = Vec::new();
    while steps.len() < STEPS {
        match listener.accept() {
            Ok(step) => steps.push(step),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                ensure!(
                    Instant::now() < deadline,
                    "{} of {STEPS} steps connected at the same time",
                    steps.len()
                );
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error).context("wait for the steps of the build"),
        }
    }
    for (step, _) in &mut steps {
        step.write_all(b"all are there\n").context("answer a step")?;
    }
    Ok(steps.into_iter().map(|(_, peer)| peer).collect())
}

/// Stages that depend on nothing but the first run at the same time. Each has a command of its own, since `BuildKit` runs
/// equal commands once.
fn dockerfile() -> String {
    let script = format!(
        "ip -o -4 address show dev eth0 >/said && ping -c 2 -W 30 {GATEWAY} >>/said && \
         nc -w {} {} {PORT} </dev/null >>/said",
        PATIENCE.as_secs(),
        Outside::CLIENT[0],
    );
    let stages =
        (0..STEPS).map(|step| format!("FROM base AS step{step}\nRUN : {step} && {script}\n"));
    let results = (0..STEPS).map(|step| format!("COPY --from=step{step} /said /{step}\n"));
    let [stages, results] = [stages.collect::<Vec<_>>(), results.collect()].map(|all| all.concat());
    format!("FROM scratch AS base\nADD rootfs.tar /\n{stages}FROM scratch\n{results}")
}

/// A step has an address of the network, its gateway answers, and the server outside does. Gives the address.
fn seen(said: &str) -> Result<IpAddr> {
    let address = said.split_whitespace().skip_while(|word| *word != "inet").nth(1);
    let address = address.and_then(|address| address.split('/').next()?.parse().ok());
    let address: IpAddr = address.context("eth0 has no IPv4 address")?;
    ensure!(
        address.to_string().starts_with(ADDRESSES),
        "{address} is not an address of BuildKit's network"
    );
    ensure!(said.contains(" 0% packet loss"), "the gateway does not answer every ping");
    ensure!(said.contains("all are there"), "the server outside does not answer");
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "2: eth0    inet 10.10.0.5/16 brd 10.10.255.255 scope global eth0\n\
                        2 packets transmitted, 2 packets received, 0% packet loss\nall are there\n";

    #[test]
    fn a_step_needs_an_address_its_gateway_and_the_server() {
        assert_eq!(seen(SAID).unwrap().to_string(), "10.10.0.5");
        for (from, to) in
            [("10.10.0.5", "10.9.0.5"), ("inet", "inet6"), (" 0% p", " 50% p"), ("all are", "")]
        {
            assert!(seen(&SAID.replace(from, to)).is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn no_step_depends_on_another() {
        let file = dockerfile();
        assert_eq!(file.matches("\nFROM base AS step").count(), STEPS, "{file}");
        assert_eq!(file.matches("\nCOPY --from=step").count(), STEPS, "{file}");
    }
}
