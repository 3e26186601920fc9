//! `cargo xtask conformance`: runs `rscni conformance` on every plugin, and with `--peer` on the Go
//! plugins, each with the configuration of the tests; and prints a table of the results.
//!
//! Plugins whose link kinds many kernels lack run in User-Mode Linux.

mod table;

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde::Deserialize;
use serde_json::Value;
use xtask::{dist, go, packages, program};

use self::table::Line;
use crate::{pool, uml};

/// Time limit in User-Mode Linux. A plugin that leaves something behind gets a new host for each
/// requirement.
const UML_LIMIT: Duration = Duration::from_secs(3600);

/// Plugins to check.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this plugin; can be given several times [default: all].
    #[arg(long, value_name = "NAME")]
    plugin: Vec<String>,
    /// Check the Go plugins too.
    #[arg(long)]
    peer: bool,
    /// The directory of the Go plugins [default: build them from their module].
    #[arg(long, value_name = "DIR", requires = "peer")]
    go_plugins: Option<PathBuf>,
    /// Write the table into docs/conformance.md.
    #[arg(long, requires = "peer", conflicts_with = "plugin")]
    write: bool,
}

/// A plugin and its configuration.
#[derive(Clone, Deserialize)]
struct Case {
    plugin: String,
    uml: bool,
    options: Vec<String>,
    config: Value,
}

struct Job {
    case: Case,
    /// Whether the Go plugin is checked.
    peer: bool,
    plugins: PathBuf,
    rscni: PathBuf,
    directory: PathBuf,
}

/// Checks the plugins; the exit code says whether ours conform.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    packages::ensure("conformance", packages::FOR_TESTS)?;
    let peer = options.peer.then(|| go::plugins(options.go_plugins.as_deref())).transpose()?;
    let cases = cases(&options.plugin)?;
    if cases.iter().any(|case| case.uml) {
        packages::ensure("User-Mode Linux", packages::FOR_UML)?;
    }
    let directory = program::temporary_directory("conformance")?;
    let rscni = dist::build_static_for_development()?;
    let ours = directory.path().join("plugins");
    dist::install(&rscni, &ours)?;

    let mut jobs = Vec::new();
    for case in &cases {
        for (plugins, peer) in [(Some(&ours), false), (peer.as_ref(), true)] {
            let has = |set: &&PathBuf| !peer || set.join(&case.plugin).exists();
            let Some(plugins) = plugins.filter(has) else { continue };
            jobs.push(Job {
                case: case.clone(),
                peer,
                plugins: plugins.clone(),
                rscni: rscni.clone(),
                directory: directory.path().join(format!("{}-{peer}", case.plugin)),
            });
        }
    }
    // The Go plugins take longest, mostly waiting.
    jobs.sort_by_key(|job| (!job.peer, job.case.uml));
    let mut lines = pool::run(jobs, 2 * pool::processors(), |job| {
        let start = Instant::now();
        let line = job.run().with_context(|| job.case.plugin.clone())?;
        println!("{line} in {:.0?}", start.elapsed());
        Ok(line)
    })?;
    lines.sort_by_key(|line| (line.plugin.clone(), line.peer));
    if options.write {
        table::write(&lines, &program::workspace_root().join("docs/conformance.md"))?;
    }
    let conforms = lines.iter().all(|line| line.peer || line.unmet.is_empty());
    Ok(if conforms { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn cases(only: &[String]) -> Result<Vec<Case>> {
    let file = program::workspace_root().join("crates/rscni-cli/tests/conformance/plugins.json");
    let mut cases: Vec<Case> = serde_json::from_slice(&fs::read(&file)?)
        .with_context(|| format!("read {}", file.display()))?;
    for name in only {
        let exists = cases.iter().any(|case| case.plugin == *name);
        ensure!(exists, "{} has no plugin {name}", file.display());
    }
    cases.retain(|case| only.is_empty() || only.contains(&case.plugin));
    Ok(cases)
}

impl Job {
    /// Runs `rscni conformance` and reads its report.
    fn run(&self) -> Result<Line> {
        let Case { plugin, uml, options, config } = &self.case;
        fs::create_dir(&self.directory)?;
        let [list, report] = ["list", "report"].map(|name| self.directory.join(name));
        fs::write(&list, config.to_string())?;
        let mut command = vec![self.rscni.display().to_string(), "conformance".to_owned()];
        let mut add = |words: [&str; 2]| command.extend(words.map(str::to_owned));
        add(["--plugin", plugin]);
        add(["--config", &list.display().to_string()]);
        add(["--path", &self.plugins.display().to_string()]);
        add(["--format", "json"]);
        add(["--output", &report.display().to_string()]);
        let daemon = format!("{}/dhcp daemon", self.plugins.display());
        command.extend(options.iter().map(|option| option.replace("DHCP_DAEMON", &daemon)));
        let mut output = Vec::new();
        let code = if *uml {
            let job = uml::Job {
                writable: Some(self.directory.clone()),
                limit: UML_LIMIT,
                ..uml::Job::new(command, &self.directory)
            };
            job.run(&mut |line| output.push(line.to_owned()))?
        } else {
            let ended = Command::new(&command[0]).args(&command[1..]).output()?;
            output.push(String::from_utf8_lossy(&ended.stderr).into_owned());
            ended.status.code().unwrap_or(-1)
        };
        ensure!(code == 0 || code == 1, "there is no report: {}", output.join("\n"));
        let report = serde_json::from_slice(&fs::read(report)?).context("read the report")?;
        table::read(plugin, self.peer, &report)
    }
}
