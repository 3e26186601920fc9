//! `cargo xtask fuzz`: runs the fuzzers of `fuzz/`, one after the other.
//!
//! They are built with cargo-fuzz and a nightly toolchain, and run in private namespaces, since a
//! plugin acts on its configuration. New inputs are kept in `fuzz/found`, outside the repository,
//! for the next run; inputs that fail are kept in `fuzz/artifacts`. With `--write`,
//! `fuzz/results.json` gets the numbers of the run.
//!
//! With `--properties` it runs the property tests instead, as ordinary tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use serde::{Deserialize, Serialize};
use xtask::program;

/// Targets and time.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Run the property tests instead, repeatedly with other cases. Needs no nightly toolchain.
    #[arg(long, conflicts_with = "targets")]
    properties: bool,
    /// Write the numbers of the run into fuzz/results.json.
    #[arg(long, conflicts_with = "properties")]
    write: bool,
    /// Targets to run [default: all].
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// The last run of a target.
#[derive(Serialize, Deserialize)]
struct Run {
    minutes: u64,
    inputs: u64,
}

const RESULTS: &str = "results.json";

/// Property tests of code that the fuzzers reach less well, as arguments of `cargo test`: results
/// in all versions, ranges, host-local's store and index, randomly generated networks.
const PROPERTIES: [&[&str]; 5] = [
    &["-p", "rscni", "--test", "results"],
    &["-p", "rscni-plugins", "--lib", "host_local::range"],
    &["-p", "rscni-plugins", "--lib", "host_local::index"],
    &["-p", "rscni-plugins", "--test", "host_local_model"],
    &["-p", "rscni-plugins", "--test", "configurations"],
];
/// Cases of a property test per call.
const CASES: &str = "1000";

/// Builds and runs the targets; the first finding ends it.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.properties {
        return properties(options.seconds);
    }
    let fuzz = program::workspace_root().join("fuzz");
    let targets = chosen(&all(&fuzz)?, &options.targets)?;
    ensure_tools()?;
    let host = host()?;
    for target in &targets {
        // No sanitizer: the only unsafe code is elsewhere, and without one it is several times as
        // fast.
        let mut build = cargo_fuzz();
        build.args(["build", "--sanitizer", "none", target]);
        program::foreground(build.current_dir(&fuzz))?;
    }
    let dictionary_file = fuzz.join("target/words");
    fs::write(&dictionary_file, dictionary(&program::workspace_root().join("docs/plugins"))?)?;
    let _lab = rscni_test::enter_private_network()?;
    for target in &targets {
        println!("\n== {target}");
        let [found, seeds, artifacts] =
            ["found", "corpus", "artifacts"].map(|name| fuzz.join(name).join(target));
        for directory in [&found, &artifacts] {
            fs::create_dir_all(directory)?;
        }
        let mut command =
            Command::new(fuzz.join("target").join(&host).join("release").join(target));
        command
            // Without PATH, so that no program of this machine is called, such as iptables, which
            // takes most of the time.
            .env_clear()
            // In memory. On a disk the fuzzer mostly waits, and files stay behind.
            .env("TMPDIR", "/run")
            .current_dir(&fuzz)
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(format!("-max_total_time={}", options.seconds))
            .args(["-timeout=20", "-print_final_stats=1"])
            .arg(format!("-dict={}", dictionary_file.display()))
            .args([&found, &seeds])
            .stderr(Stdio::piped());
        let start = Instant::now();
        let mut fuzzer = command.spawn().with_context(|| format!("start {target}"))?;
        let mut inputs = 0;
        program::each_line(fuzzer.stderr.take().expect("stderr is piped"), &mut |line| {
            eprintln!("{line}");
            let count = line.strip_prefix("stat::number_of_executed_units:");
            inputs = count.and_then(|count| count.trim().parse().ok()).unwrap_or(inputs);
        })?;
        let status = fuzzer.wait()?;
        ensure!(
            status.success(),
            "{target}: {status}: a finding; the input is in fuzz/artifacts, or nowhere after a \
             stack overflow"
        );
        if options.write {
            record(&fuzz.join(RESULTS), target, start.elapsed(), inputs)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the numbers of a run into the results file.
fn record(file: &Path, target: &str, time: Duration, inputs: u64) -> Result<()> {
    let mut results: BTreeMap<String, Run> = serde_json::from_slice(&fs::read(file)?)
        .with_context(|| format!("read {}", file.display()))?;
    results.insert(target.to_owned(), Run { minutes: time.as_secs() / 60, inputs });
    Ok(fs::write(file, serde_json::to_string_pretty(&results)? + "\n")?)
}

/// Runs each property test for this time; the first finding ends it.
fn properties(seconds: u32) -> Result<ExitCode> {
    for test in PROPERTIES {
        println!("\n== {}", test.join(" "));
        let end = Instant::now() + Duration::from_secs(seconds.into());
        while Instant::now() < end {
            let mut cargo = program::cargo();
            cargo.args(["test", "--quiet", "--locked", "--release"]).args(test);
            program::foreground(cargo.env("PROPTEST_CASES", CASES))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Names of all targets.
fn all(fuzz: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in fs::read_dir(fuzz.join("fuzz_targets"))? {
        let stem = file?.path().file_stem().unwrap_or_default().to_owned();
        names.extend(stem.into_string());
    }
    names.sort();
    Ok(names)
}

fn chosen(all: &[String], wanted: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown}; the targets are {}", all.join(", "));
    }
    Ok(if wanted.is_empty() { all.to_vec() } else { wanted.to_vec() })
}

/// A dictionary for libFuzzer: words of the plugins' documentation, and those that may be keys also
/// as JSON keys.
fn dictionary(docs: &Path) -> Result<String> {
    let mut words = BTreeSet::new();
    for file in fs::read_dir(docs)? {
        let text = fs::read_to_string(file?.path())?;
        for code in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let parts = code.split(['.', '/', '[', ']', '=']);
            words.extend([code].into_iter().chain(parts).map(str::to_owned));
        }
    }
    let mut dictionary = String::new();
    for word in words.iter().filter(|word| (2..=40).contains(&word.len())) {
        if word.chars().all(|c| c.is_ascii_alphanumeric()) {
            writeln!(dictionary, r#""\"{word}\":""#)?;
        }
        if word.chars().all(|c| c.is_ascii_alphanumeric() || "_.:/-".contains(c)) {
            writeln!(dictionary, "\"{word}\"")?;
        }
    }
    Ok(dictionary)
}

/// A command of the nightly toolchain. Variables that the cargo of this task has set would confuse
/// it.
fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]).env_remove("CARGO").env_remove("RUSTFLAGS");
    command
}

fn cargo_fuzz() -> Command {
    let mut command = nightly("cargo");
    command.arg("fuzz");
    command
}

/// Checks that the tools are installed; an error says how to install them.
fn ensure_tools() -> Result<()> {
    for (mut command, instructions) in [
        (
            nightly("rustc"),
            "fuzzing needs a nightly toolchain. Type this, then start again:\n\n    \
             rustup toolchain install nightly\n",
        ),
        (
            cargo_fuzz(),
            "fuzzing needs cargo-fuzz. Type this, then start again:\n\n    \
             cargo install cargo-fuzz\n",
        ),
        (
            Command::new("c++"),
            "fuzzing needs a C++ compiler for libFuzzer, such as the Debian package g++",
        ),
    ] {
        ensure!(program::capture(command.arg("--version")).is_ok(), instructions);
    }
    Ok(())
}

/// The target that cargo-fuzz builds for.
fn host() -> Result<String> {
    let text = program::capture(nightly("rustc").args(["--version", "--verbose"]))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc prints no host")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds_results_and_an_entry_in_the_manifest() {
        let fuzz = program::workspace_root().join("fuzz");
        let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        let results = fs::read(fuzz.join(RESULTS)).unwrap();
        let results: BTreeMap<String, Run> = serde_json::from_slice(&results).unwrap();
        let targets = all(&fuzz).unwrap();
        assert!(!targets.is_empty());
        for target in &targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
            assert!(results.contains_key(target), "{target} is not in {RESULTS}");
            let seeds = fs::read_dir(fuzz.join("corpus").join(target)).unwrap();
            let seeds: Vec<_> = seeds.map(|seed| seed.unwrap().path()).collect();
            assert!((1..=60).contains(&seeds.len()), "{target} has {} seeds", seeds.len());
            for seed in seeds {
                assert!(fs::metadata(&seed).unwrap().len() <= 4096, "{} is large", seed.display());
            }
        }
        assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
        assert_eq!(fs::read_dir(fuzz.join("corpus")).unwrap().count(), targets.len());
    }

    #[test]
    fn the_results_file_has_the_last_run_of_each_target() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), r#"{"dhcp": {"minutes": 1, "inputs": 2}}"#).unwrap();
        record(file.path(), "nft", Duration::from_secs(180), 7).unwrap();
        record(file.path(), "nft", Duration::from_secs(240), 9).unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        assert!(text.contains("\"dhcp\"") && text.contains("\"minutes\": 4"), "{text}");
    }

    #[test]
    fn the_dictionary_has_words_of_the_plugins() {
        let words = dictionary(&program::workspace_root().join("docs/plugins")).unwrap();
        for word in
            [r#""\"ipMasq\":""#, r#""rangeStart""#, r#""10.25.0.10""#, r#""CNI-HOSTPORT-DNAT""#]
        {
            assert!(words.lines().any(|line| line == word), "{word} is not in {words}");
        }
        let is_entry = |line: &str| line.is_ascii() && line.starts_with('"') && line.ends_with('"');
        assert!(words.lines().all(is_entry));
    }

    #[test]
    fn the_property_tests_exist() {
        for test in PROPERTIES {
            let [_, package, kind, name] = test else { panic!("{test:?}") };
            let directory = program::workspace_root().join("crates").join(package);
            let files = if *kind == "--test" {
                vec![directory.join(format!("tests/{name}.rs"))]
            } else {
                // A module of the crate, or of one of its folders.
                let file = name.replace("::", "/") + ".rs";
                let folders = fs::read_dir(directory.join("src")).unwrap();
                let folders = folders.map(|folder| folder.unwrap().path());
                folders.chain([directory.join("src")]).map(|folder| folder.join(&file)).collect()
            };
            let text = files.iter().find_map(|file| fs::read_to_string(file).ok()).expect(name);
            let is_property_test =
                text.contains("proptest! {") || text.contains("TestRunner::new(");
            assert!(is_property_test, "{name}");
        }
    }

    #[test]
    fn an_unknown_target_is_an_error_that_lists_the_targets() {
        let all = ["dhcp".to_owned(), "nft".to_owned()];
        assert_eq!(chosen(&all, &[]).unwrap(), all);
        assert_eq!(chosen(&all, &["nft".into()]).unwrap(), ["nft"]);
        let error = chosen(&all, &["ntf".into()]).unwrap_err().to_string();
        assert_eq!(error, "there is no target ntf; the targets are dhcp, nft");
    }
}
