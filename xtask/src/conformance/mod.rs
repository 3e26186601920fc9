//! `cargo xtask conformance`: `rscni conformance` of every plugin, ours and with `--peer` the Go plugins, each with
//! the configuration that the tests have for it; and the table of what came out.
//!
//! Plugins whose link kinds many kernels lack are called in User-Mode Linux.

mod table;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rscni_catalogue::{Row, Values};

use self::table::Line;
use crate::{dist, go, packages, pool, program, uml};

/// What leaves something behind gets a new place for each requirement, and what fails is waited for.
const UML_LIMIT: Duration = Duration::from_secs(3600);

/// Whom to hold against the specification.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this plugin; may be given several times [default: all].
    #[arg(long, value_name = "NAME")]
    plugin: Vec<String>,
    /// The Go plugins too.
    #[arg(long)]
    peer: bool,
    /// The directory of the Go plugins [default: build them from their module].
    #[arg(long, value_name = "DIR", requires = "peer")]
    go_plugins: Option<PathBuf>,
    /// Write the table into docs/conformance.md.
    #[arg(long, requires = "peer", conflicts_with = "plugin")]
    write: bool,
}

struct Job {
    case: Row,
    peer: bool,
}

/// What there is to call, and where.
struct Place {
    rscni: PathBuf,
    plugins: PathBuf,
    /// The Go plugins, if they are called too.
    peer: Option<PathBuf>,
    directory: PathBuf,
}

/// The task. It fails if one of our plugins does.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    packages::ensure("conformance", packages::FOR_TESTS)?;
    let peer = options.peer.then(|| go::plugins(options.go_plugins.as_deref())).transpose()?;
    let mut jobs = jobs(options, peer.as_deref())?;
    if jobs.iter().any(|job| job.case.needs_uml()) {
        packages::ensure("User-Mode Linux", packages::FOR_UML)?;
    }
    let directory = tempfile::Builder::new()
        .prefix("rscni-conformance-")
        .tempdir_in("/tmp")
        .context("make a directory for the reports in /tmp")?;
    let rscni = dist::build_for_development("rscni-cli", "rscni")?;
    let plugins = directory.path().join("plugins");
    std::fs::create_dir(&plugins)?;
    program::capture(Command::new(&rscni).arg("install").arg(&plugins))?;
    let place = Place { rscni, plugins, peer, directory: directory.path().to_owned() };

    // The Go plugins take the longest, most of the time waiting.
    jobs.sort_by_key(|job| (!job.peer, job.case.needs_uml()));
    let mut lines = pool::share_out(jobs, 2 * pool::processors(), |job| {
        let start = Instant::now();
        let line = hold(&job, &place)
            .with_context(|| format!("{} ({})", job.case.plugin, table::whose(job.peer)))?;
        println!("{line} in {:.0?}", start.elapsed());
        Ok(line)
    })?;
    lines.sort_by_key(|line| (line.plugin.clone(), line.peer));
    if options.write {
        table::write(&lines, &program::workspace_root().join("docs/conformance.md"))?;
    }
    let failed = lines.iter().any(|line| !line.peer && !line.unmet.is_empty());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn jobs(options: &Options, peer: Option<&Path>) -> Result<Vec<Job>> {
    let cases = rscni_catalogue::rows();
    for name in &options.plugin {
        ensure!(
            cases.iter().any(|case| case.plugin == *name),
            "the catalogue has no plugin {name}"
        );
    }
    let is_wanted = |case: &Row| options.plugin.is_empty() || options.plugin.contains(&case.plugin);
    let whose = |case: Row| {
        let is_there = peer.is_some_and(|set| set.join(&case.plugin).exists());
        let peer = is_there.then(|| Job { case: case.clone(), peer: true });
        [Job { case, peer: false }].into_iter().chain(peer)
    };
    Ok(cases.into_iter().filter(is_wanted).flat_map(whose).collect())
}

/// Holds a plugin against the specification, and reads the report.
fn hold(job: &Job, place: &Place) -> Result<Line> {
    let (case, plugin) = (&job.case, &job.case.plugin);
    let values = Values::default();
    let directory = place.directory.join(format!("{plugin}-{}", table::whose(job.peer)));
    std::fs::create_dir(&directory)?;
    let (list, report) = (directory.join("list"), directory.join("report"));
    std::fs::write(&list, case.list("1.1.0", "conformance", &values).to_string())?;
    let plugins = place.peer.as_ref().filter(|_| job.peer).unwrap_or(&place.plugins);
    let mut command = vec![place.rscni.display().to_string(), "conformance".to_owned()];
    let path = |path: &Path| path.display().to_string();
    command.extend(["--plugin".to_owned(), plugin.clone(), "--config".to_owned(), path(&list)]);
    command.extend(["--path".to_owned(), path(plugins), "--format".to_owned(), "json".to_owned()]);
    command.extend(["--output".to_owned(), path(&report)]);
    command.extend(case.conformance_options(&values, plugins));
    let mut told = Vec::new();
    let code = if case.needs_uml() {
        uml::run_in(&command, &directory, Some(&directory), UML_LIMIT, &mut |line| {
            told.push(line.to_owned());
        })?
    } else {
        let output =
            Command::new(&command[0]).args(&command[1..]).output().context("start rscni")?;
        told.push(String::from_utf8_lossy(&output.stderr).into_owned());
        output.status.code().unwrap_or(-1)
    };
    ensure!(code == 0 || code == 1, "there is no report: {}", told.join("\n"));
    let report = std::fs::read(&report).context("read the report")?;
    table::read(plugin, job.peer, &serde_json::from_slice(&report).context("read the report")?)
}
