//! `cargo xtask test`: everything that CI checks, in order, up to the first failure.
//!
//! A step is a headline and a few commands; what a step needs of Debian is installed, or asked for, before the
//! first step starts. Everything works for an ordinary user except the end-to-end run, which needs root: it is
//! left out then, and the last line says so.

use std::{
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use xtask::{
    packages::{self, Package},
    program, rigs,
    tally::Tally,
};

/// What to check.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run this step only; may be given several times.
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Step {
    /// cargo fmt --check
    Format,
    /// cargo clippy, every warning an error; cargo check of the fuzzers
    Lint,
    /// cargo doc, every warning an error
    Docs,
    /// licences, sources and versions of the dependencies, by deny.toml
    Supply,
    /// cargo test: unit and integration tests, examples
    Tests,
    /// cargo test --doc: the examples in the documentation
    Doctests,
    /// cargo xtask demo
    Demo,
    /// cargo xtask counts: system calls and processes of each operation
    Counts,
    /// cargo xtask faults: a sample of kills and failing system calls, power losses, churn
    Faults,
    /// the tests that need User-Mode Linux
    Uml,
    /// containers with containerd and runc, and the handover to and from the Go plugins (root)
    E2e,
}

impl Step {
    fn headline(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Lint => "lint",
            Self::Docs => "docs",
            Self::Supply => "licences and sources of dependencies",
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
        match self {
            Self::Format => program::foreground(program::cargo().args(["fmt", "--all", "--check"]))
                .context("`cargo fmt` puts it right, if it is the format"),
            Self::Lint => lint(),
            Self::Docs => program::foreground(
                program::cargo()
                    .args(["doc", "--quiet", "--workspace", "--all-features", "--no-deps"])
                    .env("RUSTDOCFLAGS", "-D warnings"),
            ),
            Self::Supply => rig(&["supply"], tally),
            Self::Tests => cargo_test(&["--lib", "--bins", "--tests", "--examples"], tally),
            Self::Doctests => cargo_test(&["--doc"], tally),
            // In a process of its own: one that has moved into a private network stays there. The tests may have
            // replaced the file that this process was started from.
            Self::Demo => program::foreground(Command::new("/proc/self/exe").arg("demo")),
            Self::Counts => rig(&["counts"], tally),
            Self::Faults => rig(&["faults", "--sample"], tally),
            Self::Uml => rig(&["uml-tests"], tally),
            Self::E2e => rig(&["e2e"], tally),
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
            println!("\ntests: {tally}");
            println!("{}", failure(*step));
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
    let wanted = |step: &Step| only.is_empty() || only.contains(step);
    let left_out = (only.is_empty() && !is_root).then_some(Step::E2e);
    let steps = Step::value_variants()
        .iter()
        .copied()
        .filter(|step| wanted(step) && Some(*step) != left_out)
        .collect();
    Ok((steps, left_out))
}

fn success(only: &[Step], left_out: Option<Step>) -> String {
    let passed = match only {
        [] => "all steps passed".to_owned(),
        some => format!(
            "passed, of all steps only: {}",
            some.iter().map(|step| step.headline()).collect::<Vec<_>>().join(", ")
        ),
    };
    match left_out {
        None => format!("rscni: {passed}"),
        Some(step) => format!("rscni: {passed}, {} left out: it needs root", step.headline()),
    }
}

fn failure(step: Step) -> String {
    let name = step.to_possible_value().expect("no step is hidden");
    format!(
        "rscni: FAILED at the step {} (again: cargo xtask test --only {})",
        step.headline(),
        name.get_name()
    )
}

/// `--all-targets` leaves out targets with `test = false`, which are the tests for User-Mode Linux. The fuzzers are not
/// part of the workspace; they are compiled without nightly and without a C++ compiler.
fn lint() -> Result<()> {
    let mut command = program::cargo();
    command.args(["clippy", "--quiet", "--workspace", "--all-features", "--all-targets"]);
    program::foreground(command.args(["--test", "uml_*", "--", "-D", "warnings"]))?;
    let mut fuzzers = program::cargo();
    fuzzers.args(["check", "--quiet", "--locked", "--manifest-path", "fuzz/Cargo.toml"]);
    // cargo-fuzz sets the first; the second keeps libfuzzer-sys from compiling libFuzzer, as nothing is linked.
    fuzzers
        .env("RUSTFLAGS", "--cfg fuzzing")
        .env("CUSTOM_LIBFUZZER_PATH", "/nonexistent/libfuzzer.a");
    program::foreground(&mut fuzzers)
}

fn rig(arguments: &[&str], tally: &mut Tally) -> Result<()> {
    program::watched(&mut rigs::command(arguments), |line| tally.read(line))
}

fn cargo_test(targets: &[&str], tally: &mut Tally) -> Result<()> {
    let mut cargo = program::cargo();
    // All of them, even after a failure: one run then shows everything there is to put right.
    cargo.args(["test", "--workspace", "--all-features", "--no-fail-fast"]).args(targets);
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        cargo.env("RUST_TEST_THREADS", AT_ONCE);
    }
    program::watched(&mut cargo, |line| tally.read(line))
}

/// How many tests run at a time: most of the time they wait for the kernel to take namespaces apart.
const AT_ONCE: &str = "8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_root_no_step_is_left_out() {
        let (steps, left_out) = plan(&[], true).unwrap();
        assert_eq!(steps, Step::value_variants());
        assert_eq!(success(&[], left_out), "rscni: all steps passed");
    }

    #[test]
    fn for_an_ordinary_user_the_last_line_says_that_the_end_to_end_run_is_left_out() {
        let (steps, left_out) = plan(&[], false).unwrap();
        assert!(!steps.contains(&Step::E2e) && steps.contains(&Step::Uml));
        assert_eq!(
            success(&[], left_out),
            "rscni: all steps passed, end to end with containerd left out: it needs root"
        );
    }

    #[test]
    fn asking_an_ordinary_user_s_run_for_the_end_to_end_step_is_an_error() {
        let error = plan(&[Step::E2e], false).unwrap_err();
        assert!(error.to_string().contains("needs root"));
    }

    #[test]
    fn a_chosen_step_is_the_only_one_and_the_last_line_does_not_claim_more() {
        let (steps, left_out) = plan(&[Step::Lint], false).unwrap();
        assert_eq!(steps, [Step::Lint]);
        assert_eq!(success(&[Step::Lint], left_out), "rscni: passed, of all steps only: lint");
    }

    #[test]
    fn the_last_line_of_a_failure_names_the_step_and_how_to_run_it_again() {
        assert_eq!(
            failure(Step::Doctests),
            "rscni: FAILED at the step tests in the documentation (again: cargo xtask test --only doctests)"
        );
    }
}
