//! Runs a suite in a private network, and gives what became of each case.
//!
//! A case that does not pass in the company of the others is tried again alone, in a network that nobody has used:
//! what an earlier case left behind is not its fault.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Prepared;
use crate::uml;
use xtask::program;

/// The name of the hidden task.
pub(crate) const INSIDE: &str = "upstream-inside";

/// What the inside needs to know.
#[derive(clap::Args)]
pub(crate) struct InsideOptions {
    /// The file with the job.
    job: PathBuf,
}

/// A test suite, built.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Suite {
    pub(super) plugin: String,
    pub(super) program: PathBuf,
    /// Where Go would run it.
    pub(super) directory: PathBuf,
}

/// Whose plugins.
#[derive(Clone, Copy)]
pub(super) enum Set {
    Theirs,
    Ours,
}

/// Which kernel the suites run on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    RunningKernel,
    UserModeLinux,
}

/// What became of a case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Case {
    pub(super) name: String,
    /// What Ginkgo calls it; several may have the same text.
    pub(super) text: String,
    pub(super) passed: bool,
    /// Whether it called a plugin at all; others are about upstream's own functions.
    pub(super) calls_plugin: bool,
    /// Why it did not pass.
    pub(super) message: String,
}

/// A suite, the plugins that it is to call, and where the cases are to be written.
#[derive(Serialize, Deserialize)]
struct Job {
    suite: Suite,
    tools: PathBuf,
    plugins: PathBuf,
    /// Errors may be told in other words than upstream's.
    own_words: bool,
    scratch: PathBuf,
}

/// The file in the job's scratch directory for what became of the cases.
const CASES: &str = "cases.json";

/// For a whole suite; those of dhcp and bandwidth wait a lot.
const SUITE_LIMIT: Duration = Duration::from_secs(900);

/// For one case alone.
const CASE_LIMIT: Duration = Duration::from_secs(180);

/// For a run in User-Mode Linux, with all that is tried again.
const UML_LIMIT: Duration = Duration::from_secs(2400);

/// What becomes of the namespaces before a suite starts in them: its directory is the first argument, the suite and
/// its arguments the others.
const FURNISH: &str = "
set -e
mount -t sysfs none /sys
for directory in /run /var/lib; do mount -t tmpfs none $directory; done
mkdir -p /run/netns $TMPDIR /var/lib/misc
ip link set lo up
cd $1
shift
exec \"$@\"";

/// Runs a suite with a set of plugins. `scratch` is for files.
pub(super) fn run(
    suite: &Suite,
    prepared: &Prepared,
    set: Set,
    place: Place,
    scratch: &Path,
) -> Result<Vec<Case>> {
    if !prepared.plugins(set).join(&suite.plugin).exists() {
        println!("there is no plugin {} among {set}", suite.plugin);
        return Ok(Vec::new());
    }
    let job = Job {
        suite: suite.clone(),
        tools: prepared.tools.clone(),
        plugins: prepared.plugins(set).to_path_buf(),
        own_words: matches!(set, Set::Ours),
        scratch: scratch.to_path_buf(),
    };
    if place == Place::RunningKernel {
        return job.run();
    }
    let (file, this_program, cases) =
        (scratch.join("job.json"), scratch.join("rigs"), scratch.join(CASES));
    fs::write(&file, serde_json::to_vec(&job)?)
        .with_context(|| format!("write {}", file.display()))?;
    let _ = fs::remove_file(&cases);
    if !this_program.exists() {
        program::copy_self(&this_program)?;
    }
    let command = [&this_program, Path::new(INSIDE), &file].map(|part| part.display().to_string());
    let code =
        uml::run_in(&command, scratch, Some(scratch), UML_LIMIT, &mut |line| println!("{line}"))?;
    ensure!(code == 0, "the suite of {} could not be run inside User-Mode Linux", job.suite.plugin);
    serde_json::from_slice(&fs::read(&cases)?).with_context(|| format!("read {}", cases.display()))
}

/// The inside of User-Mode Linux.
pub(crate) fn run_inside(options: &InsideOptions) -> Result<ExitCode> {
    let job = fs::read(&options.job).with_context(|| format!("read {}", options.job.display()))?;
    let job: Job = serde_json::from_slice(&job)?;
    fs::write(job.scratch.join(CASES), serde_json::to_vec(&job.run()?)?)
        .context("write the cases")?;
    Ok(ExitCode::SUCCESS)
}

impl Job {
    fn run(&self) -> Result<Vec<Case>> {
        let limit = format!("--ginkgo.timeout={}s", SUITE_LIMIT.as_secs());
        let report = match self.attempt(&[limit], SUITE_LIMIT)? {
            Some(report) => report,
            // A panic in the wrong place ends the whole suite; its cases are there nevertheless.
            None => self
                .attempt(&["--ginkgo.dry-run".to_owned()], CASE_LIMIT)?
                .with_context(|| {
                    format!("the suite of {} does not even list its cases", self.suite.plugin)
                })?
                .nothing_ran(),
        };
        let mut cases = report.cases.clone();
        for case in cases.iter_mut().filter(|case| !case.passed) {
            let limit = format!("--ginkgo.timeout={}s", CASE_LIMIT.as_secs());
            let focus = format!(
                "--ginkgo.focus=^{}$",
                escaped(&format!("{} {}", report.description, case.text))
            );
            match self.attempt(&[limit, focus], CASE_LIMIT)? {
                Some(alone) => {
                    *case = alone
                        .cases
                        .into_iter()
                        .find(|c| c.name == case.name)
                        .unwrap_or_else(|| case.clone());
                }
                None => "it ended the whole suite".clone_into(&mut case.message),
            }
        }
        Ok(cases)
    }

    /// Runs the suite in new namespaces. There is no report if it ended before it could write one.
    fn attempt(&self, arguments: &[String], limit: Duration) -> Result<Option<Report>> {
        let file = self.scratch.join("report.json");
        let _ = fs::remove_file(&file);
        let mut command = Command::new("setpriv");
        command
            // With this task goes `unshare`, and with `unshare` everything in there.
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
            ])
            .args(if program::is_root() { &[][..] } else { &["--user", "--map-root-user"] })
            // Ginkgo ends at its own limit; this is for one that does not.
            .args([
                "--mount-proc",
                "timeout",
                "--signal=KILL",
                &(limit + CASE_LIMIT).as_secs().to_string(),
            ])
            .args(["sh", "-c", FURNISH, "sh"])
            .args([&self.suite.directory, &self.suite.program])
            // The seed keeps the order, and with it cases of the same name apart.
            .args([
                "--ginkgo.no-color".to_owned(),
                "--ginkgo.seed=1".to_owned(),
                format!("--ginkgo.json-report={}", file.display()),
            ])
            .args(arguments)
            .env("TMPDIR", "/run/tmp")
            .env("UPSTREAM_PLUGINS", &self.plugins)
            .env("UPSTREAM_TOOLS", &self.tools)
            .env("PATH", self.path()?)
            .stdin(Stdio::null());
        if self.own_words {
            command.env("UPSTREAM_OWN_WORDS", "1");
        }
        let output = command
            .output()
            .with_context(|| format!("start the suite of {}", self.suite.plugin))?;
        if file.exists() {
            return Report::read(&file).map(Some);
        }
        let lines = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let last: Vec<&str> = lines.lines().rev().take(20).collect();
        println!("no report ({}):", output.status);
        last.iter().rev().for_each(|line| println!("    {line}"));
        Ok(None)
    }

    /// Upstream's tests take the directories of programs for those of plugins, so the plugins are first among them.
    fn path(&self) -> Result<std::ffi::OsString> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let first = [self.plugins.clone(), self.tools.clone()];
        std::env::join_paths(first.into_iter().chain(std::env::split_paths(&path)))
            .context("make the variable PATH")
    }
}

/// What Ginkgo reports of a run.
#[derive(Debug)]
struct Report {
    description: String,
    cases: Vec<Case>,
}

impl Report {
    fn read(file: &Path) -> Result<Self> {
        let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let json: Value =
            serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()))?;
        let suite = &json[0];
        let specs =
            suite["SpecReports"].as_array().context("Ginkgo's report has no SpecReports")?;
        let cases =
            numbered(specs.iter().filter(|spec| spec["LeafNodeType"] == "It").map(case).collect());
        Ok(Self { description: text_of(&suite["SuiteDescription"]).to_owned(), cases })
    }

    fn nothing_ran(mut self) -> Self {
        self.cases.iter_mut().for_each(|case| case.passed = false);
        self
    }
}

fn case(spec: &Value) -> Case {
    let containers = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten();
    let texts: Vec<&str> = containers.chain([&spec["LeafNodeText"]]).map(text_of).collect();
    let state = text_of(&spec["State"]);
    let failure = &spec["Failure"];
    let place =
        Path::new(text_of(&failure["Location"]["FileName"])).file_name().unwrap_or_default();
    Case {
        name: texts.join(" "),
        text: texts.join(" "),
        passed: state == "passed",
        calls_plugin: spec["ReportEntries"].as_array().is_some_and(|entries| !entries.is_empty()),
        message: format!(
            "{state} at {}:{}: {}",
            place.to_string_lossy(),
            failure["Location"]["LineNumber"],
            text_of(&failure["Message"])
        ),
    }
}

fn text_of(json: &Value) -> &str {
    json.as_str().unwrap_or_default()
}

/// Tells cases of the same name apart.
fn numbered(mut cases: Vec<Case>) -> Vec<Case> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for case in &mut cases {
        let times = seen.entry(case.name.clone()).or_default();
        *times += 1;
        if *times > 1 {
            case.name = format!("{} ({times})", case.name);
        }
    }
    cases
}

/// A regular expression of Go's that means the text.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        if letter.is_ascii_punctuation() {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

impl Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Theirs => "upstream's plugins",
            Self::Ours => "ours",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_case_is_read_from_ginkgo_s_report() {
        let failed = case(&json!({
            "ContainerHierarchyTexts": ["ptp Operations"], "LeafNodeText": "[1.0.0] works", "LeafNodeType": "It",
            "State": "failed", "ReportEntries": [{"Name": "calls the program"}],
            "Failure": {"Message": "Expected success", "Location": {"FileName": "/a/ptp_test.go", "LineNumber": 7}},
        }));
        assert_eq!(failed.name, "ptp Operations [1.0.0] works");
        assert!(!failed.passed && failed.calls_plugin);
        assert_eq!(failed.message, "failed at ptp_test.go:7: Expected success");
        let passed = case(&json!({"LeafNodeText": "computes", "State": "passed"}));
        assert!(passed.passed && !passed.calls_plugin);
    }

    #[test]
    fn a_focus_means_one_name() {
        assert_eq!(escaped("[0.1.0] a-b (c)"), r"\[0\.1\.0\] a\-b \(c\)");
    }

    #[test]
    fn cases_of_the_same_name_are_told_apart() {
        let case = case(&json!({"LeafNodeText": "works"}));
        let names: Vec<String> =
            numbered(vec![case.clone(), case]).into_iter().map(|case| case.name).collect();
        assert_eq!(names, ["works", "works (2)"]);
    }
}
