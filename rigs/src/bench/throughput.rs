//! A hundred containers at once, as after a restart of the node; and a chain of plugins through a
//! long-lived runtime.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    call::{Attachment, Call},
    cases::{self, BRIDGE, Side},
    host::BenchHost,
    measure::{self, Measure, Rounds, interleaved},
};
use crate::pool;

/// Containers that a node starts at a time.
const WORKERS: usize = 16;

const COMMANDS: [&str; 3] = ["ADD", "DEL", "both"];

/// Attaches `count` containers, [`WORKERS`] at a time, then detaches them.
pub(crate) fn at_once(host: &BenchHost, count: u16, rounds: Rounds) -> Result<[Measure; 3]> {
    let containers: Vec<Attachment> =
        (0..count).map(|n| host.attachment(&format!("many{n}"), n)).collect();
    let samples = interleaved(&[Side::Ours, Side::Peer], rounds, |side| {
        let adds = containers.iter().map(|on| host.add(&BRIDGE, side, on, &Value::Null));
        let (add, answers) = all(adds.collect::<Result<_>>()?)?;
        let dels = containers.iter().zip(&answers);
        let dels = dels.map(|(on, answer)| host.del(&BRIDGE, side, on, answer));
        let (del, _) = all(dels.collect::<Result<_>>()?)?;
        Ok([add, del, add + del])
    })?;
    measure::measures(&format!("{count} containers at once"), COMMANDS, &samples)
}

/// Runs all calls; returns the time from the first start to the last end, and the answers.
fn all(calls: Vec<Call>) -> Result<(Duration, Vec<Value>)> {
    let start = Instant::now();
    let answers = pool::run(calls, WORKERS, |call| Ok(call.timed()?.1));
    Ok((start.elapsed(), answers?))
}

/// The chain with our plugins linked into the runtime, and with the peer's as processes.
pub(crate) fn chain(host: &BenchHost, rounds: Rounds, on: &Attachment) -> Result<[Measure; 3]> {
    let program = host.directory(Side::Floor).join("runtime");
    let mut ours = Runtime::start(&program, Side::Ours, None)?;
    let mut peer = Runtime::start(&program, Side::Peer, Some(&host.directory(Side::Peer)))?;
    let samples = interleaved(&[Side::Ours, Side::Peer], rounds, |side| {
        let runtime = if side == Side::Ours { &mut ours } else { &mut peer };
        let (add, del) = (runtime.call("add", on)?, runtime.call("del", on)?);
        Ok([add, del, add + del])
    })?;
    ours.end()?;
    peer.end()?;
    measure::measures("chain through a runtime", COMMANDS, &samples)
}

/// The program `runtime`, which reads commands line by line.
struct Runtime {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Runtime {
    fn start(program: &Path, side: Side, plugins: Option<&Path>) -> Result<Self> {
        let mut child = Command::new(program)
            .arg(cases::chain(side).to_string())
            .arg(format!("/var/lib/cni/runtime-{}", side.name()))
            .args(plugins)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let stdin = child.stdin.take().expect("stdin is a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        Ok(Self { child, stdin, stdout })
    }

    fn call(&mut self, command: &str, on: &Attachment) -> Result<Duration> {
        writeln!(self.stdin, "{command} {} {}", on.container.id(), on.container.path().display())?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let nanoseconds =
            line.trim().parse().with_context(|| format!("the runtime's answer to {command}"))?;
        Ok(Duration::from_nanos(nanoseconds))
    }

    fn end(mut self) -> Result<()> {
        drop(self.stdin);
        let status = self.child.wait()?;
        ensure!(status.success(), "the runtime failed ({status})");
        Ok(())
    }
}
