//! `rscni conformance`: the command line of `rscni-conformance`.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::ValueEnum;
use rscni_conformance::{
    ALL, Entry, Orphans, Report, Requirement, Result as Verdict, Subject, SubjectOptions,
};

use crate::{
    duration::duration,
    network::split_path,
    options::PLUGIN_DIR,
    output::{self, Style},
};

/// The hidden subcommand that runs [`work`].
pub(crate) const WORKER: &str = "conformance-worker";

/// Exit status if there is nothing to test or the test environment cannot be created.
const USAGE: u8 = 2;

/// Arguments of `conformance`.
#[derive(clap::Args)]
pub(crate) struct Conformance {
    /// Plugin to test: its name, or the path of its program
    #[arg(long, value_name = "NAME", required_unless_present = "list")]
    plugin: Option<String>,
    /// Configuration of the plugin, or a network list: the plugins before it in the list are called
    /// first
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    config: Option<PathBuf>,
    #[arg(
        long,
        value_name = "DIR",
        help = "Directory of plugins; may be repeated [default: $CNI_PATH, or /opt/cni/bin]"
    )]
    path: Vec<PathBuf>,
    /// Name of the interface in the container
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    ifname: String,
    /// Create this interface on the private host, for plugins that need one: a dummy, or a veth if
    /// the kernel has no dummy; may be repeated
    #[arg(long, value_name = "NAME")]
    host_interface: Vec<String>,
    /// Run this shell command on the private host before the plugin is called; its background
    /// processes run until the end; may be repeated
    #[arg(long, value_name = "COMMAND")]
    setup: Vec<String>,
    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write the report to this file instead of stdout
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Check only the requirements with these ids, separated by ','; may be repeated
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// Also fail if a SHOULD requirement is not met
    #[arg(long)]
    strict: bool,
    /// Kill a plugin call that takes longer than this, such as 2m [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// List the requirements and exit
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Readable text
    Text,
    /// An object with an array of all requirements
    Json,
    /// `JUnit` XML for CI systems
    Junit,
}

impl Conformance {
    /// Runs the checks. The exit status says whether the plugin passed.
    pub(crate) fn run(self) -> ExitCode {
        self.try_run().unwrap_or_else(|why| {
            let _ = writeln!(std::io::stderr(), "rscni: {why}");
            ExitCode::from(USAGE)
        })
    }

    fn try_run(self) -> Result<ExitCode, String> {
        let requirements = self.requirements()?;
        if self.list {
            list(&requirements);
            return Ok(ExitCode::SUCCESS);
        }
        let file = self.config.clone().unwrap_or_default();
        let about_file = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let config = std::fs::read_to_string(&file).map_err(|error| about_file(&error))?;
        let subject = Subject::find(SubjectOptions {
            plugin: self.plugin.clone().unwrap_or_default(),
            path: self.path(),
            config,
            ifname: self.ifname.clone(),
            host_interfaces: self.host_interface.clone(),
            setup: self.setup.clone(),
            time_limit: self.timeout,
        })
        .map_err(|error| about_file(&error))?;
        // Opened before any call, so that a wrong path does not lose the report.
        let create = |file: &PathBuf| {
            std::fs::File::create(file).map_err(|error| format!("{}: {error}", file.display()))
        };
        let mut file = self.output.as_ref().map(create).transpose()?;
        let own = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
        let _orphans = Orphans::adopt();
        let report =
            rscni_conformance::run(&subject, &requirements, (&own, &[WORKER]), &mut progress)?;
        let text = self.format(&report, file.is_none());
        match &mut file {
            None => output::text(&text),
            Some(file) => file
                .write_all(text.as_bytes())
                .map_err(|error| format!("write the report: {error}"))?,
        }
        let counts = report.counts();
        let failed = counts.failed_must + if self.strict { counts.failed_should } else { 0 };
        Ok(if failed == 0 && !report.gave_up { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn requirements(&self) -> Result<Vec<&'static Requirement>, String> {
        if let Some(unknown) =
            self.only.iter().find(|id| !ALL.iter().any(|requirement| requirement.id == **id))
        {
            return Err(format!(
                "unknown requirement {unknown}; `rscni conformance --list` lists them"
            ));
        }
        let wanted = |requirement: &&Requirement| {
            self.only.is_empty() || self.only.iter().any(|id| id == requirement.id)
        };
        Ok(ALL.iter().filter(wanted).collect())
    }

    fn path(&self) -> Vec<PathBuf> {
        if !self.path.is_empty() {
            return self
                .path
                .iter()
                .map(|dir| std::path::absolute(dir).unwrap_or_else(|_| dir.clone()))
                .collect();
        }
        let variable = std::env::var_os("CNI_PATH").filter(|path| !path.is_empty());
        split_path(&variable.unwrap_or_else(|| OsString::from(PLUGIN_DIR)))
    }

    fn format(&self, report: &Report, to_stdout: bool) -> String {
        match self.format {
            Format::Text => report.text(to_stdout && Style::of_stdout().bold),
            Format::Json => report.json(),
            Format::Junit => report.junit(self.strict),
        }
    }
}

/// Shows progress on a terminal.
fn progress(entry: &Entry) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() && std::io::stdout().is_terminal() {
        let sign = match entry.result {
            Verdict::Pass => ".",
            Verdict::Fail(_) => "F",
            Verdict::NotApplicable { .. } => "-",
        };
        let _ = write!(stderr, "{sign}").and_then(|()| stderr.flush());
    }
}

fn list(requirements: &[&Requirement]) {
    let mut section = "";
    for requirement in requirements {
        if requirement.section != section {
            section = requirement.section;
            output::line(section);
        }
        let (id, level, text) = (requirement.id, requirement.level.as_str(), requirement.text);
        output::line(&format!("  {id:26} {level:6} {text}"));
    }
}

/// Runs the worker process, which calls the plugin in private namespaces.
pub(crate) fn work() -> ExitCode {
    match rscni_conformance::work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rscni {WORKER}: {error}");
            ExitCode::FAILURE
        }
    }
}
