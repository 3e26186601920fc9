//! `cargo xtask fuzz`: runs the fuzzers of `fuzz/`, one after the other.
//!
//! They are built with cargo-fuzz and a nightly toolchain, and then run as programs, in private namespaces: a plugin that
//! is given a configuration may do what it says. What is found out on the way is kept in `fuzz/found`, which is no part
//! of the repository, so that the next run goes on from there; input that fails is kept in `fuzz/artifacts`.
//!
//! With `--properties` it is the property tests that are run for so long, as ordinary tests.

use std::{
    collections::BTreeSet,
    fmt::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use xtask::program;

/// What to run, and for how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many seconds each target runs.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Run the property tests instead, over and over with other cases. Needs no other toolchain.
    #[arg(long, conflicts_with = "targets")]
    properties: bool,
    /// The targets to run; all of them unless given.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// The property tests of what the fuzzers do not reach as well, as `cargo test` takes them: results through all versions,
/// ranges, host-local's store, and networks as chance has them.
const PROPERTIES: [&[&str]; 5] = [
    &["-p", "rscni", "--test", "results"],
    &["-p", "rscni-plugins", "--lib", "host_local::range"],
    &["-p", "rscni-plugins", "--lib", "host_local::index"],
    &["-p", "rscni-plugins", "--test", "host_local_model"],
    &["-p", "rscni-plugins", "--test", "configurations"],
];
/// How many cases of one of them are tried before it is looked at the time.
const CASES: &str = "1000";

/// Builds the targets and runs them; the first finding ends it.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.properties {
        return properties(options.seconds);
    }
    let fuzz = program::workspace_root().join("fuzz");
    let targets = chosen(&all(&fuzz)?, &options.targets)?;
    ensure_tools()?;
    let host = host()?;
    for target in &targets {
        // No sanitizer: there is no unsafe code to look for, and without one it is several times as fast.
        program::foreground(
            cargo_fuzz().args(["build", "--sanitizer", "none", target]).current_dir(&fuzz),
        )?;
    }
    let words = fuzz.join("target").join("words");
    let docs = program::workspace_root().join("docs/plugins");
    std::fs::write(&words, dictionary(&docs)?)
        .with_context(|| format!("write {}", words.display()))?;
    let _lab = rscni_test::enter_private_network()?;
    for target in &targets {
        println!("\n== {target}");
        let program = fuzz.join("target").join(&host).join("release").join(target);
        let [found, seeds, artifacts] =
            ["found", "corpus", "artifacts"].map(|name| fuzz.join(name).join(target));
        for directory in [&found, &artifacts] {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("make {}", directory.display()))?;
        }
        let mut command = Command::new(&program);
        // Nothing of what is on this machine: no program of iptables, for instance, which would be most of the time.
        command
            .env_clear()
            .current_dir(&fuzz)
            .arg(format!("-artifact_prefix={}/", artifacts.display()));
        // This namespace's own directory in memory: on a disk, most of the time is waiting for that, and files stay behind.
        command.env("TMPDIR", "/run");
        command.args([
            &format!("-max_total_time={}", options.seconds),
            "-timeout=20",
            "-print_final_stats=1",
        ]);
        command.arg(format!("-dict={}", words.display())).args([&found, &seeds]);
        // libFuzzer notices a signal on the stack that it comes from, which must have room for that.
        program::foreground(&mut command).with_context(|| {
            format!(
                "{target}: a finding, unless it says otherwise; the input is in fuzz/artifacts, or nowhere if the \
                 stack was full"
            )
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Each property's tests for so long; the first finding ends it.
fn properties(seconds: u32) -> Result<ExitCode> {
    for test in PROPERTIES {
        println!("\n== {}", test.join(" "));
        let end = Instant::now() + Duration::from_secs(seconds.into());
        while Instant::now() < end {
            let mut command = program::cargo();
            command
                .args(["test", "--quiet", "--locked", "--release"])
                .args(test)
                .env("PROPTEST_CASES", CASES);
            program::foreground(&mut command)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The targets that there are, by the names of their files.
fn all(fuzz: &Path) -> Result<Vec<String>> {
    let directory = fuzz.join("fuzz_targets");
    let files =
        std::fs::read_dir(&directory).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let files = files.with_context(|| format!("list {}", directory.display()))?;
    let stem = |file: PathBuf| Some(file.file_stem()?.to_str()?.to_owned());
    let mut names: Vec<_> = files.iter().filter_map(|file| stem(file.path())).collect();
    names.sort();
    Ok(names)
}

fn chosen(all: &[String], wanted: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown}; there are {}", all.join(", "));
    }
    Ok(if wanted.is_empty() { all.to_vec() } else { wanted.to_vec() })
}

/// Words that the fuzzers would hardly come upon, as libFuzzer reads them: all that the documentation of the plugins
/// names, and what may be a key of JSON as one, too.
fn dictionary(docs: &Path) -> Result<String> {
    let mut words = BTreeSet::new();
    for file in std::fs::read_dir(docs).with_context(|| format!("list {}", docs.display()))? {
        let text = std::fs::read_to_string(file?.path())?;
        for code in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            words.extend(
                [code].into_iter().chain(code.split(['.', '/', '[', ']', '='])).map(str::to_owned),
            );
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

fn cargo_fuzz() -> Command {
    let mut command = Command::new("rustup");
    // This task was started by another toolchain's cargo, which has said so in the environment.
    command.args(["run", "nightly", "cargo", "fuzz"]).env_remove("CARGO").env_remove("RUSTFLAGS");
    command
}

/// Says what is missing, and how it comes onto the machine.
fn ensure_tools() -> Result<()> {
    let runs = |command: &mut Command| program::capture(command).is_ok();
    ensure!(
        runs(Command::new("rustup").args(["run", "nightly", "rustc", "--version"])),
        "fuzzing needs a nightly toolchain. Type this, then start again:\n\n    rustup toolchain install nightly\n"
    );
    ensure!(
        runs(cargo_fuzz().arg("--version")),
        "fuzzing needs cargo-fuzz. Type this, then start again:\n\n    cargo install cargo-fuzz\n"
    );
    ensure!(
        runs(Command::new("c++").arg("--version")),
        "fuzzing needs a C++ compiler, for libFuzzer: install one, the Debian package g++ for instance"
    );
    Ok(())
}

/// The target that cargo-fuzz builds for.
fn host() -> Result<String> {
    let text = program::capture(Command::new("rustup").args([
        "run",
        "nightly",
        "rustc",
        "--version",
        "--verbose",
    ]))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc says no host")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds_and_an_entry_in_its_package() {
        let fuzz = program::workspace_root().join("fuzz");
        let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        let targets = all(&fuzz).unwrap();
        assert!(!targets.is_empty());
        for target in &targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
            let seeds: Vec<_> =
                std::fs::read_dir(fuzz.join("corpus").join(target)).unwrap().collect();
            assert!((1..=60).contains(&seeds.len()), "{target} has {} seeds", seeds.len());
            for seed in seeds {
                let seed = seed.unwrap();
                assert!(
                    seed.metadata().unwrap().len() <= 4096,
                    "{} is no small file",
                    seed.path().display()
                );
            }
        }
        assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
        assert_eq!(std::fs::read_dir(fuzz.join("corpus")).unwrap().count(), targets.len());
    }

    #[test]
    fn the_words_to_try_are_those_of_the_plugins() {
        let words = dictionary(&program::workspace_root().join("docs/plugins")).unwrap();
        for word in
            [r#""\"ipMasq\":""#, r#""rangeStart""#, r#""10.25.0.10""#, r#""CNI-HOSTPORT-DNAT""#]
        {
            assert!(words.lines().any(|line| line == word), "{word} is not in {words}");
        }
        assert!(
            words
                .lines()
                .all(|line| line.is_ascii() && line.starts_with('"') && line.ends_with('"'))
        );
    }

    #[test]
    fn the_property_tests_are_where_it_looks_for_them() {
        for test in PROPERTIES {
            let [_, package, kind, name] = test else { panic!("{test:?}") };
            let file = match *kind {
                "--test" => format!("tests/{name}.rs"),
                _ => format!("src/{}.rs", name.replace("::", "/")),
            };
            let file = program::workspace_root().join("crates").join(package).join(file);
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(
                ["proptest! {", "TestRunner::new("].iter().any(|way| text.contains(way)),
                "{}",
                file.display()
            );
        }
    }

    #[test]
    fn a_target_that_is_not_there_is_refused_with_the_names_of_those_that_are() {
        let all = ["dhcp".to_owned(), "nft".to_owned()];
        assert_eq!(chosen(&all, &[]).unwrap(), all);
        assert_eq!(chosen(&all, &["nft".into()]).unwrap(), ["nft"]);
        let error = chosen(&all, &["ntf".into()]).unwrap_err().to_string();
        assert_eq!(error, "there is no target ntf; there are dhcp, nft");
    }
}
