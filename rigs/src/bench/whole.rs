//! Two whole runs: a hundred containers at once, as a node has them after a restart, and a chain of plugins through a
//! container runtime that lives long.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    call::{Attachment, Call},
    cases::{self, BRIDGE, Side},
    measure::{self, Measure, Rounds, interleaved},
    world::World,
};

/// How many of a node's containers start at a time.
const WORKERS: usize = 16;

/// `count` containers attached by [`WORKERS`] at a time, then detached.
pub(crate) fn at_once(world: &World, count: u16, rounds: Rounds) -> Result<[Measure; 3]> {
    let containers: Vec<Attachment> =
        (0..count).map(|n| world.attachment(&format!("many{n}"), n)).collect();
    let samples = interleaved(&[Side::Ours, Side::Peer], rounds, |side| {
        let adds = containers
            .iter()
            .map(|on| world.add(&BRIDGE, side, on, &Value::Null))
            .collect::<Result<Vec<_>>>()?;
        let (add, answers) = all(&adds)?;
        let dels = containers
            .iter()
            .zip(&answers)
            .map(|(on, answer)| world.del(&BRIDGE, side, on, answer));
        let (del, _) = all(&dels.collect::<Result<Vec<_>>>()?)?;
        Ok([add, del, add + del])
    })?;
    let case = format!("{count} containers at once");
    Ok([
        measure::times(&case, "ADD", &samples[0])?,
        measure::times(&case, "DEL", &samples[1])?,
        measure::times(&case, "both", &samples[2])?,
    ])
}

/// Runs all calls, by [`WORKERS`] at a time. Gives the time from the first start to the last end, and the answers.
fn all(calls: &[Call]) -> Result<(Duration, Vec<Value>)> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Value)>> {
        let mut answers = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(call) = calls.get(index) else { return Ok(answers) };
            answers.push((index, call.timed()?.1));
        }
    };
    let start = Instant::now();
    let answers = std::thread::scope(|scope| -> Result<Vec<_>> {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        let mut answers = Vec::new();
        for worker in workers {
            answers.extend(worker.join().expect("a worker does not panic")?);
        }
        Ok(answers)
    });
    let time = start.elapsed();
    let mut answers = answers?;
    answers.sort_by_key(|(index, _)| *index);
    Ok((time, answers.into_iter().map(|(_, answer)| answer).collect()))
}

const CHAIN: &str = "chain through a runtime";

/// The chain, with the plugins linked into the runtime, and with the peer's as processes.
pub(crate) fn chain(world: &World, rounds: Rounds, on: &Attachment) -> Result<[Measure; 3]> {
    let program = world.directory(Side::Floor).join("runtime");
    let mut ours = LongLived::start(&program, Side::Ours, None)?;
    let mut peer = LongLived::start(&program, Side::Peer, Some(&world.directory(Side::Peer)))?;
    let samples = interleaved(&[Side::Ours, Side::Peer], rounds, |side| {
        let runtime = if side == Side::Ours { &mut ours } else { &mut peer };
        let (add, del) = (runtime.ask("add", on)?, runtime.ask("del", on)?);
        Ok([add, del, add + del])
    })?;
    ours.end()?;
    peer.end()?;
    Ok([
        measure::times(CHAIN, "ADD", &samples[0])?,
        measure::times(CHAIN, "DEL", &samples[1])?,
        measure::times(CHAIN, "both", &samples[2])?,
    ])
}

/// A container runtime that is told what to do line by line.
struct LongLived {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl LongLived {
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

    fn ask(&mut self, command: &str, on: &Attachment) -> Result<Duration> {
        writeln!(self.stdin, "{command} {} {}", on.id, on.netns.display())?;
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
