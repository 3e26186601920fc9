//! The cost of a call through the shim beside the same work in the plugin's own process.
//!
//! `cargo bench -p thick --bench shim` prints it, and fails if a limit is exceeded. The calls
//! alternate, since the load of the machine varies.

use std::{
    process::{Child, Command, ExitCode, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use rscni_test::{Container, Plugin, eventually};
use serde_json::{Value, json};

const ROUNDS: usize = 200;
const STORMS: usize = 10;
const CONTAINERS: usize = 100;
const WORKERS: usize = 16;

/// The limits of the medians, as a ratio.
const LIMITS: [(&str, f64); 5] =
    [("ADD", 1.2), ("DEL", 1.2), ("storm ADD", 1.0), ("storm DEL", 1.0), ("storm", 1.0)];

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn config(number: usize) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": "thick",
        "hostAddress": format!("10.9.{number}.1/24"),
        "containerAddress": format!("10.9.{number}.2/24"),
    })
}

/// Makes a call; returns the time from the start of the process to its end.
fn time(plugin: &Plugin, command: &str, container: &Container, number: usize) -> Duration {
    let mut elapsed = Duration::ZERO;
    let call = plugin.call(command).alone().attachment(container, "eth0").config(&config(number));
    let outcome = call.run_with(|process| {
        let mut stdin = tempfile::tempfile()?;
        std::io::Write::write_all(&mut stdin, process.stdin)?;
        std::io::Seek::rewind(&mut stdin)?;
        let mut command = process.command();
        command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        let status = command.spawn()?.wait()?;
        elapsed = start.elapsed();
        Ok::<_, std::io::Error>(Output { status, stdout: Vec::new(), stderr: Vec::new() })
    });
    assert_eq!(outcome.unwrap().exit_code(), Some(0));
    elapsed
}

/// Makes a call for each container, [`WORKERS`] at a time.
fn storm(plugin: &Plugin, command: &str, containers: &[Container]) -> Duration {
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let number = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(container) = containers.get(number)
                {
                    time(plugin, command, container, number);
                }
            });
        }
    });
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn main() -> ExitCode {
    let is_async = std::env::args().any(|argument| argument == "async");
    let daemons = [env!("CARGO_BIN_EXE_thick-daemon"), env!("CARGO_BIN_EXE_thick-async-daemon")];
    let daemon = daemons[usize::from(is_async)];
    let lab = rscni_test::enter_private_network().expect("a private network");
    let _daemon = Daemon(Command::new(daemon).spawn().expect("start the daemon"));
    let plugins = [env!("CARGO_BIN_EXE_thick"), env!("CARGO_BIN_EXE_thick-alone")].map(Plugin::at);
    eventually("the daemon to listen", || {
        (plugins[0].status(&config(0)).exit_code() == Some(0)).then_some(())
    });
    let containers: Vec<_> =
        (0..CONTAINERS).map(|number| lab.container(&format!("c{number}"))).collect();

    let mut times = [(); 5].map(|()| [Vec::new(), Vec::new()]);
    for round in 0..ROUNDS + STORMS {
        for side in 0..2 {
            // Each side is first in every second round.
            let side = (round + side) % 2;
            let plugin = &plugins[side];
            if round < ROUNDS {
                times[0][side].push(time(plugin, "ADD", &containers[0], 0));
                times[1][side].push(time(plugin, "DEL", &containers[0], 0));
            } else {
                let add = storm(plugin, "ADD", &containers);
                let del = storm(plugin, "DEL", &containers);
                for (index, time) in [(2, add), (3, del), (4, add + del)] {
                    times[index][side].push(time);
                }
            }
        }
    }
    println!("{:<10} {:>10} {:>10} {:>6}", "", "shim", "alone", "ratio");
    let mut is_within = true;
    for ((name, limit), times) in LIMITS.into_iter().zip(times) {
        let [shim, alone] = times.map(median);
        println!("{name:<10} {shim:>7.2} ms {alone:>7.2} ms {:>6.2}", shim / alone);
        is_within &= shim / alone <= limit;
    }
    if is_within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
