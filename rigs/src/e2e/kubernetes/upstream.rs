//! The upstream end-to-end tests of the network, against the pod network of the cluster.

use std::{collections::BTreeMap, path::Path, process::Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use fs_err as fs;
use serde_json::Value;
use xtask::tally::Tally;

use super::{CLUSTER, cluster::Cluster, images, kubectl, scenarios};
use crate::{daemon::bound_to_thread, pool};

/// Directory of the tests in the cluster's namespaces.
const TESTS: &str = "/mnt/tests";

/// Processes that run tests at a time. Most of the time they wait for pods.
const AT_ONCE: usize = 4;

/// The tests that run: those of the network whose features are the pod network's and whose packets
/// stay in the cluster. docs/upstream.md has the reasons for the others.
const LABELS: &str = "sig-network && !Serial && !Disruptive && !Slow && !Alpha \
                      && Feature: isSubsetOf {IPv6DualStack, NoSNAT}";

/// A test that needs timeouts of the kernel that the nodes share with the machine.
const SKIPPED: &str = "should set TCP CLOSE_WAIT timeout";

/// Runs all tests, and counts them.
pub(super) fn run(cluster: &Cluster, tally: &mut Tally) -> Result<()> {
    images::import_for_upstream(cluster, Path::new(TESTS))?;
    scenarios::serve_names(cluster.node(0))?;
    for node in cluster.nodes() {
        kubectl::run(&format!("label node {0} topology.kubernetes.io/zone=zone-{0}", node.name))?;
    }
    let registries = Path::new(CLUSTER).join("registries.yaml");
    fs::write(&registries, images::registries().to_string())?;
    let tests = list(&registries)?;
    println!("  {} tests, {AT_ONCE} at a time", tests.len());
    // Each job is one process, whose start takes seconds.
    let jobs = (0..AT_ONCE * 2)
        .map(|job| tests.iter().skip(job).step_by(AT_ONCE * 2).cloned().collect::<Vec<_>>())
        .enumerate()
        .collect();
    let outcomes = pool::run(jobs, AT_ONCE, |(job, tests)| run_tests(&registries, job, &tests))?;
    let outcomes: BTreeMap<_, _> = outcomes.into_iter().flatten().collect();
    ensure!(outcomes.len() == tests.len(), "{} of {} tests ran", outcomes.len(), tests.len());
    for (test, outcome) in outcomes {
        match outcome {
            Outcome::Passed => super::report(tally, &test, Ok(())),
            Outcome::Failed(why) => super::report(tally, &test, Err(anyhow!(why))),
            Outcome::DoesNotApply(why) => println!("left out  {test}: {why}"),
        }
    }
    Ok(())
}

enum Outcome {
    Passed,
    Failed(String),
    /// The test itself found that the cluster lacks what it needs.
    DoesNotApply(String),
}

/// The names of all tests.
fn list(registries: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for spec in specs(registries, "list", &["--ginkgo.dry-run"])? {
        if spec["State"] == "passed" {
            names.push(name(&spec));
        }
    }
    ensure!(!names.is_empty(), "no test has the labels {LABELS}");
    Ok(names)
}

/// Runs tests one after the other, and returns the failure of each that has one.
fn run_tests(registries: &Path, job: usize, tests: &[String]) -> Result<Vec<(String, Outcome)>> {
    let names: Vec<_> = tests.iter().map(|test| regex_lite::escape(test)).collect();
    // The name of the suite comes before that of a test.
    let focus = format!("--ginkgo.focus=({})$", names.join("|"));
    let specs = specs(registries, &format!("job{job}"), &[&focus])?;
    let outcome = |spec: &Value| {
        // More lines have whole objects.
        let first = |text: &str| text.lines().take(5).collect::<Vec<_>>().join("\n");
        let message = spec["Failure"]["Message"].as_str().map(first);
        match (spec["State"].as_str(), message) {
            (Some("passed"), _) => Outcome::Passed,
            (Some("skipped"), Some(why)) => Outcome::DoesNotApply(why),
            (_, why) => Outcome::Failed(why.unwrap_or_else(|| "it did not run".to_owned())),
        }
    };
    let specs = specs.iter().map(|spec| (name(spec), spec));
    let of_job = specs.filter(|(name, _)| tests.contains(name));
    Ok(of_job.map(|(name, spec)| (name, outcome(spec))).collect())
}

/// The full name of a test, to which `--ginkgo.focus` applies.
fn name(spec: &Value) -> String {
    let containers = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten();
    let texts = containers.chain([&spec["LeafNodeText"]]).filter_map(Value::as_str);
    texts.collect::<Vec<_>>().join(" ")
}

/// Runs the program with more options, and returns its report about all tests.
fn specs(registries: &Path, run: &str, options: &[&str]) -> Result<Vec<Value>> {
    let report = Path::new(CLUSTER).join(format!("upstream-{run}.json"));
    let log = fs::File::create(report.with_extension("log"))?.into_parts().0;
    let mut command = bound_to_thread(Path::new(TESTS).join("network"));
    command
        .env("KUBE_TEST_REPO_LIST", registries)
        .arg(format!("--kubeconfig={CLUSTER}/admin.conf"))
        .args(["--provider=skeleton", "--ginkgo.no-color", "--ginkgo.timeout=60m"])
        .arg(format!("--ginkgo.label-filter={LABELS}"))
        .arg(format!("--ginkgo.skip={SKIPPED}"))
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .args(options)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let status = command.status().context("start the upstream tests")?;
    let text = fs::read(&report).with_context(|| format!("no report ({status})"))?;
    let report: Value = serde_json::from_slice(&text)?;
    let specs = report[0]["SpecReports"].as_array().cloned().unwrap_or_default();
    let (tests, suite): (Vec<_>, Vec<_>) =
        specs.into_iter().partition(|spec| spec["LeafNodeType"] == "It");
    for node in suite {
        ensure!(node["State"] == "passed", "{}: {}", node["LeafNodeType"], node["Failure"]);
    }
    Ok(tests)
}
