//! Runs a suite in a private network, and returns the result of each case.
//!
//! A case that fails among the others runs again alone in a new network, since an earlier case may
//! have left something behind.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xtask::program;

use super::sources::Prepared;
use crate::uml;

/// Name of the hidden command.
pub(crate) const INSIDE: &str = "upstream-inside";

/// Arguments of the hidden command.
#[derive(clap::Args)]
pub(crate) struct InsideOptions {
    /// The file with the job.
    job: PathBuf,
}

/// A built test suite.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Suite {
    pub(super) plugin: String,
    pub(super) program: PathBuf,
    /// The directory in which Go would run it.
    pub(super) directory: PathBuf,
}

/// A set of plugins.
#[derive(Clone, Copy)]
pub(super) enum Set {
    Theirs,
    Ours,
}

/// The kernel that the suites run on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    Running,
    UserModeLinux,
}

/// The result of a case.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Case {
    /// Unique within the suite.
    pub(super) name: String,
    /// Ginkgo's name, which several cases may share.
    pub(super) text: String,
    pub(super) passed: bool,
    /// Whether it called a plugin. Other cases test upstream's own functions.
    pub(super) calls_plugin: bool,
    /// Reason of the failure.
    pub(super) message: String,
}

/// A suite, its plugins, and the directory for results.
#[derive(Serialize, Deserialize)]
struct Job {
    suite: Suite,
    tools: PathBuf,
    plugins: PathBuf,
    /// Whether error messages may differ from upstream's.
    own_words: bool,
    scratch: PathBuf,
}

/// File with the results in the job's scratch directory.
const CASES: &str = "cases.json";

/// Time limit for a whole suite. Those of dhcp and bandwidth wait a lot.
const SUITE_LIMIT: Duration = Duration::from_secs(900);

/// Time limit for one case alone.
const CASE_LIMIT: Duration = Duration::from_secs(180);

/// Time limit in User-Mode Linux, including retries.
const UML_LIMIT: Duration = Duration::from_secs(2400);

/// Prepares the namespaces of a suite. The first argument is its directory, the others are the
/// suite and its arguments.
const SETUP: &str = "
set -e
mount -t sysfs none /sys
for directory in /run /var/lib; do mount -t tmpfs none $directory; done
mkdir -p /run/netns $TMPDIR /var/lib/misc
ip link set lo up
cd $1
shift
exec \"$@\"";

/// Runs a suite with a set of plugins.
pub(super) fn run(
    suite: &Suite,
    prepared: &Prepared,
    set: Set,
    kernel: Kernel,
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
    if kernel == Kernel::Running {
        return job.run();
    }
    let [file, rigs, cases] = ["job.json", "rigs", CASES].map(|name| scratch.join(name));
    fs::write(&file, serde_json::to_vec(&job)?)?;
    let _ = fs::remove_file(&cases);
    if !rigs.exists() {
        program::copy_self(&rigs)?;
    }
    let command = [&rigs, Path::new(INSIDE), &file].map(|part| part.display().to_string());
    let in_uml = uml::Job {
        writable: Some(scratch.to_owned()),
        limit: UML_LIMIT,
        ..uml::Job::new(command.to_vec(), scratch)
    };
    let code = in_uml.run(&mut |line| println!("{line}"))?;
    ensure!(code == 0, "the suite of {} could not be run inside User-Mode Linux", suite.plugin);
    Ok(serde_json::from_slice(&fs::read(cases)?)?)
}

/// Runs a job inside User-Mode Linux.
pub(crate) fn run_inside(options: &InsideOptions) -> Result<ExitCode> {
    let job: Job = serde_json::from_slice(&fs::read(&options.job)?)?;
    fs::write(job.scratch.join(CASES), serde_json::to_vec(&job.run()?)?)?;
    Ok(ExitCode::SUCCESS)
}

impl Job {
    fn run(&self) -> Result<Vec<Case>> {
        let timeout = |limit: Duration| format!("--ginkgo.timeout={}s", limit.as_secs());
        let mut report = self.attempt(&[timeout(SUITE_LIMIT)], SUITE_LIMIT)?;
        if report.is_none() {
            // A panic can end the whole suite. A dry run still lists the cases.
            report = self.attempt(&["--ginkgo.dry-run".to_owned()], CASE_LIMIT)?;
            report.iter_mut().flat_map(|report| &mut report.cases).for_each(|c| c.passed = false);
        }
        let plugin = &self.suite.plugin;
        let report = report.with_context(|| format!("the suite of {plugin} lists no cases"))?;
        let mut cases = report.cases;
        for case in cases.iter_mut().filter(|case| !case.passed) {
            let name = escaped(&format!("{} {}", report.description, case.text));
            let focus = format!("--ginkgo.focus=^{name}$");
            match self.attempt(&[timeout(CASE_LIMIT), focus], CASE_LIMIT)? {
                Some(alone) => {
                    let same = alone.cases.into_iter().find(|other| other.name == case.name);
                    *case = same.unwrap_or_else(|| case.clone());
                }
                None => "it ended the whole suite".clone_into(&mut case.message),
            }
        }
        Ok(cases)
    }

    /// Runs the suite in new namespaces. Returns `None` if it ended before it wrote a report.
    fn attempt(&self, arguments: &[String], limit: Duration) -> Result<Option<Report>> {
        let file = self.scratch.join("report.json");
        let _ = fs::remove_file(&file);
        let mut command = Command::new("setpriv");
        command
            // Ends `unshare` and everything in the namespaces if this process ends.
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork"])
            .args(if program::is_root() { &[][..] } else { &["--user", "--map-root-user"] })
            // Ginkgo ends at its own limit; this is for a suite that does not.
            .args(["--kill-child", "--mount-proc", "timeout", "--signal=KILL"])
            .arg((limit + CASE_LIMIT).as_secs().to_string())
            .args(["sh", "-c", SETUP, "sh"])
            .args([&self.suite.directory, &self.suite.program])
            // The seed fixes the order, and with it the numbers of cases of the same name.
            .args(["--ginkgo.no-color", "--ginkgo.seed=1"])
            .arg(format!("--ginkgo.json-report={}", file.display()))
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
            return Report::read(&fs::read(&file)?).map(Some);
        }
        let lines = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let last: Vec<&str> = lines.lines().rev().take(20).collect();
        println!("no report ({}):", output.status);
        last.iter().rev().for_each(|line| println!("    {line}"));
        Ok(None)
    }

    /// `PATH` begins with the plugins: upstream's tests take its directories for those of plugins.
    fn path(&self) -> Result<std::ffi::OsString> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let first = [self.plugins.clone(), self.tools.clone()];
        std::env::join_paths(first.into_iter().chain(std::env::split_paths(&path)))
            .context("make the variable PATH")
    }
}

/// Ginkgo's report of a run.
#[derive(Debug)]
struct Report {
    description: String,
    cases: Vec<Case>,
}

impl Report {
    fn read(json: &[u8]) -> Result<Self> {
        let json: Value = serde_json::from_slice(json).context("read Ginkgo's report")?;
        let suite = &json[0];
        let specs =
            suite["SpecReports"].as_array().context("Ginkgo's report has no SpecReports")?;
        let cases = specs.iter().filter(|spec| spec["LeafNodeType"] == "It").map(case);
        let description = text_of(&suite["SuiteDescription"]).to_owned();
        Ok(Self { description, cases: numbered(cases.collect()) })
    }
}

fn case(spec: &Value) -> Case {
    let containers = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten();
    let texts: Vec<&str> = containers.chain([&spec["LeafNodeText"]]).map(text_of).collect();
    let state = text_of(&spec["State"]);
    let (location, message) = (&spec["Failure"]["Location"], text_of(&spec["Failure"]["Message"]));
    let file = text_of(&location["FileName"]).rsplit('/').next().unwrap_or_default();
    Case {
        name: texts.join(" "),
        text: texts.join(" "),
        passed: state == "passed",
        calls_plugin: spec["ReportEntries"].as_array().is_some_and(|entries| !entries.is_empty()),
        message: format!("{state} at {file}:{}: {message}", location["LineNumber"]),
    }
}

fn text_of(json: &Value) -> &str {
    json.as_str().unwrap_or_default()
}

/// Numbers the cases of the same name.
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

/// The regular expression (Go syntax) that matches the text.
fn escaped(text: &str) -> String {
    let escape = |c: char| if c.is_ascii_punctuation() { format!("\\{c}") } else { c.to_string() };
    text.chars().map(escape).collect()
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
    use serde_json::json;

    use super::*;

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
    fn a_focus_matches_one_name() {
        assert_eq!(escaped("[0.1.0] a-b (c)"), r"\[0\.1\.0\] a\-b \(c\)");
    }

    #[test]
    fn cases_of_the_same_name_are_numbered() {
        let case = case(&json!({"LeafNodeText": "works"}));
        let names: Vec<String> =
            numbered(vec![case.clone(), case]).into_iter().map(|case| case.name).collect();
        assert_eq!(names, ["works", "works (2)"]);
    }
}
