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
use rscni_catalogue::{Row, Values};
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

struct Job {
    row: Row,
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
    let mut rows = rscni_catalogue::rows();
    for name in &options.plugin {
        let exists = rows.iter().any(|row| row.plugin == *name);
        ensure!(exists, "the catalogue has no plugin {name}");
    }
    rows.retain(|row| options.plugin.is_empty() || options.plugin.contains(&row.plugin));
    if rows.iter().any(Row::needs_uml) {
        packages::ensure("User-Mode Linux", packages::FOR_UML)?;
    }
    let directory = program::temporary_directory("conformance")?;
    let rscni = dist::build_static_for_development()?;
    let ours = directory.path().join("plugins");
    dist::install(&rscni, &ours)?;

    let mut jobs = Vec::new();
    for row in &rows {
        for (plugins, peer) in [(Some(&ours), false), (peer.as_ref(), true)] {
            let has = |set: &&PathBuf| !peer || set.join(&row.plugin).exists();
            let Some(plugins) = plugins.filter(has) else { continue };
            jobs.push(Job {
                row: row.clone(),
                peer,
                plugins: plugins.clone(),
                rscni: rscni.clone(),
                directory: directory.path().join(format!("{}-{peer}", row.plugin)),
            });
        }
    }
    // The Go plugins take longest, mostly waiting.
    jobs.sort_by_key(|job| (!job.peer, job.row.needs_uml()));
    let mut lines = pool::run(jobs, 2 * pool::processors(), |job| {
        let start = Instant::now();
        let line = job.run().with_context(|| job.row.plugin.clone())?;
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

impl Job {
    /// Runs `rscni conformance` and reads its report.
    fn run(&self) -> Result<Line> {
        let (plugin, values) = (&self.row.plugin, Values::default());
        fs::create_dir(&self.directory)?;
        let [list, report] = ["list", "report"].map(|name| self.directory.join(name));
        let config = self.row.list("1.1.0", "conformance", &values);
        fs::write(&list, config.to_string())?;
        let mut command = vec![self.rscni.display().to_string(), "conformance".to_owned()];
        let mut add = |words: [&str; 2]| command.extend(words.map(str::to_owned));
        add(["--plugin", plugin]);
        add(["--config", &list.display().to_string()]);
        add(["--path", &self.plugins.display().to_string()]);
        add(["--format", "json"]);
        add(["--output", &report.display().to_string()]);
        command.extend(self.row.conformance_options(&values, &self.plugins));
        let mut output = Vec::new();
        let code = if self.row.needs_uml() {
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
