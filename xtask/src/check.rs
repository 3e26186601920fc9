//! `cargo xtask test`: everything that CI checks, in order, up to the first failure.
//!
//! Debian packages that a step needs are installed, or asked for, before the first step. Only the
//! end-to-end run needs root; for an ordinary user it is left out, and the last line says so.

use std::{
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use xtask::{
    dist::target,
    packages::{self, Package},
    program, rigs,
    tally::Tally,
};

use crate::api;

/// Steps to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only this step; can be given several times.
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Step {
    /// cargo fmt --check
    Format,
    /// cargo clippy with every warning an error; cargo check of the fuzzers and for Windows
    Lint,
    /// cargo doc with every warning an error; cargo xtask api: the recorded public API
    Docs,
    /// licences, sources and versions of the dependencies against deny.toml; packages of our crates
    Supply,
    /// cargo test: unit and integration tests, examples
    Tests,
    /// cargo test --doc: the examples in the documentation
    Doctests,
    /// cargo xtask demo
    Demo,
    /// cargo xtask counts: system calls and processes of each operation
    Counts,
    /// cargo xtask faults: a sample of kills, failing system calls, power losses and churn
    Faults,
    /// the tests that need User-Mode Linux
    Uml,
    /// cargo xtask e2e: containerd, runc, image builds, handover to and from the Go plugins (root)
    E2e,
}

/// Tests run at a time. Most of the time they wait for the kernel to destroy namespaces.
const TEST_THREADS: &str = "8";

impl Step {
    fn headline(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Lint => "lint",
            Self::Docs => "docs and public API",
            Self::Supply => "licences and sources of dependencies, packages",
            Self::Tests => "tests",
            Self::Doctests => "tests in the documentation",
            Self::Demo => "the demo",
            Self::Counts => "counts of system calls and processes",
            Self::Faults => "a sample of faults",
            Self::Uml => "tests in User-Mode Linux",
            Self::E2e => "end to end with containerd",
        }
    }

    fn packages(self) -> &'static [Package] {
        match self {
            Self::Tests | Self::Faults => packages::FOR_TESTS,
            Self::Uml => packages::FOR_UML,
            Self::E2e => packages::FOR_E2E,
            _ => &[],
        }
    }

    fn run(self, tally: &mut Tally) -> Result<()> {
        let mut cargo = program::cargo();
        let mut rig = |arguments: &[&str]| counted(&mut rigs::command(arguments), tally);
        match self {
            Self::Format => program::foreground(cargo.args(["fmt", "--all", "--check"]))
                .context("`cargo fmt` formats the sources"),
            Self::Lint => lint(),
            Self::Docs => {
                cargo.args(["doc", "--quiet", "--workspace", "--all-features", "--no-deps"]);
                program::foreground(cargo.env("RUSTDOCFLAGS", "-D warnings"))?;
                api::run(false)
            }
            Self::Supply => rig(&["supply"]),
            Self::Tests => cargo_test(&["--lib", "--bins", "--tests", "--examples"], tally),
            Self::Doctests => cargo_test(&["--doc"], tally),
            // In a process of its own, which moves into a private network and stays there. The file
            // that this process was started from may have been replaced by the tests' build.
            Self::Demo => program::foreground(Command::new("/proc/self/exe").arg("demo")),
            Self::Counts => rig(&["counts"]),
            Self::Faults => rig(&["faults", "--sample"]),
            Self::Uml => rig(&["uml-tests"]),
            Self::E2e => rig(&["e2e"]),
        }
    }
}

/// Runs the steps; the exit code says whether all of them passed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let (steps, left_out) = plan(&options.only, program::is_root())?;
    for step in &steps {
        if let Err(error) = packages::ensure(step.headline(), step.packages()) {
            eprintln!("error: {error:#}");
            println!("rscni: FAILED before the first step: Debian packages are missing");
            return Ok(ExitCode::FAILURE);
        }
    }
    let mut tally = Tally::default();
    for (index, step) in steps.iter().enumerate() {
        println!("\n== {}/{} {}", index + 1, steps.len(), step.headline());
        let start = Instant::now();
        if let Err(error) = step.run(&mut tally) {
            eprintln!("\nerror: {error:#}");
            println!("\ntests: {tally}\n{}", failure(*step));
            return Ok(ExitCode::FAILURE);
        }
        println!("   {} passed in {:.0?}", step.headline(), start.elapsed());
    }
    if tally != Tally::default() {
        println!("\ntests: {tally}");
    }
    println!("{}", success(&options.only, left_out));
    Ok(ExitCode::SUCCESS)
}

/// The steps to run, and the one that is left out because it needs root.
fn plan(only: &[Step], is_root: bool) -> Result<(Vec<Step>, Option<Step>)> {
    if only.contains(&Step::E2e) && !is_root {
        bail!("the step e2e ({}) needs root", Step::E2e.headline());
    }
    let left_out = (only.is_empty() && !is_root).then_some(Step::E2e);
    let mut steps = Step::value_variants().to_vec();
    steps.retain(|step| only.is_empty() || only.contains(step));
    steps.retain(|step| Some(*step) != left_out);
    Ok((steps, left_out))
}

fn success(only: &[Step], left_out: Option<Step>) -> String {
    let only: Vec<_> = only.iter().map(|step| step.headline()).collect();
    let passed = if only.is_empty() {
        "all steps passed".to_owned()
    } else {
        format!("passed, of all steps only: {}", only.join(", "))
    };
    match left_out {
        None => format!("rscni: {passed}"),
        Some(step) => format!("rscni: {passed}, {} left out: it needs root", step.headline()),
    }
}

fn failure(step: Step) -> String {
    format!(
        "rscni: FAILED at the step {} (again: cargo xtask test --only {})",
        step.headline(),
        step.to_possible_value().expect("no step is hidden").get_name()
    )
}

/// `--all-targets` leaves out targets with `test = false`, which are the tests for User-Mode Linux.
/// The fuzzers are not part of the workspace; they are checked without nightly and without a C++
/// compiler.
fn lint() -> Result<()> {
    let mut workspace = program::cargo();
    workspace.args(["clippy", "--quiet", "--workspace", "--all-features", "--all-targets"]);
    program::foreground(workspace.args(["--test", "uml_*", "--", "-D", "warnings"]))?;
    let mut fuzzers = program::cargo();
    fuzzers.args(["check", "--quiet", "--locked", "--manifest-path", "fuzz/Cargo.toml"]);
    // cargo-fuzz sets the first; the second keeps libfuzzer-sys from compiling libFuzzer, as
    // nothing is linked.
    fuzzers
        .env("RUSTFLAGS", "--cfg fuzzing")
        .env("CUSTOM_LIBFUZZER_PATH", "/nonexistent/libfuzzer.a");
    program::foreground(&mut fuzzers)?;
    portable()
}

/// The protocol compiles without Unix, and a plugin needs no feature.
fn portable() -> Result<()> {
    const WINDOWS: &str = "x86_64-pc-windows-gnu";
    target::ensure(WINDOWS)?;
    for features in [&[][..], &["--all-features"]] {
        let mut cargo = program::cargo();
        cargo.args(["check", "--quiet", "--package", "rscni", "--target", WINDOWS]).args(features);
        program::foreground(cargo.env("RUSTFLAGS", "-D warnings"))?;
    }
    Ok(())
}

fn cargo_test(targets: &[&str], tally: &mut Tally) -> Result<()> {
    let mut cargo = program::cargo();
    // All tests even after a failure, so that one run shows every failure.
    cargo.args(["test", "--workspace", "--all-features", "--no-fail-fast"]).args(targets);
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        cargo.env("RUST_TEST_THREADS", TEST_THREADS);
    }
    counted(&mut cargo, tally)
}

/// Shows the output of a command, and counts the tests that it reports.
fn counted(command: &mut Command, tally: &mut Tally) -> Result<()> {
    program::watched(command, &mut |line| {
        println!("{line}");
        tally.read(line);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_runs_every_step() {
        let (steps, left_out) = plan(&[], true).unwrap();
        assert_eq!(steps, Step::value_variants());
        assert_eq!(success(&[], left_out), "rscni: all steps passed");
    }

    #[test]
    fn the_last_line_tells_an_ordinary_user_that_the_end_to_end_run_is_left_out() {
        let (steps, left_out) = plan(&[], false).unwrap();
        assert!(!steps.contains(&Step::E2e) && steps.contains(&Step::Uml));
        assert_eq!(
            success(&[], left_out),
            "rscni: all steps passed, end to end with containerd left out: it needs root"
        );
    }

    #[test]
    fn the_end_to_end_step_is_an_error_for_an_ordinary_user() {
        let error = plan(&[Step::E2e], false).unwrap_err();
        assert!(error.to_string().contains("needs root"));
    }

    #[test]
    fn the_last_line_names_the_chosen_steps() {
        let (steps, left_out) = plan(&[Step::Lint], false).unwrap();
        assert_eq!(steps, [Step::Lint]);
        assert_eq!(success(&[Step::Lint], left_out), "rscni: passed, of all steps only: lint");
    }

    #[test]
    fn the_last_line_of_a_failure_names_the_step_and_how_to_run_it_again() {
        assert_eq!(
            failure(Step::Doctests),
            "rscni: FAILED at the step tests in the documentation \
             (again: cargo xtask test --only doctests)"
        );
    }
}
