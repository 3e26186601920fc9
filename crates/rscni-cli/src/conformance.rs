//! `rscni conformance`: what there is to test, and where the report goes. The tests are those of `rscni-conformance`.

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
    output::{self, Style},
};

/// The hidden subcommand that [`work`] is.
pub(crate) const WORKER: &str = "conformance-worker";

const PLUGIN_DIR: &str = "/opt/cni/bin";
/// There is nothing to test, or no place for it.
const USAGE: u8 = 2;

/// What to test, and how to tell.
#[derive(clap::Args)]
pub(crate) struct Conformance {
    /// The plugin: its name, or the path of its program
    #[arg(long, value_name = "NAME", required_unless_present = "list")]
    plugin: Option<String>,
    /// Its configuration, or a network list: then the plugins before it are called too, and it is tested on what they made
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    config: Option<PathBuf>,
    #[arg(
        long,
        value_name = "DIR",
        help = "A directory of plugins; may be given several times. Otherwise those of CNI_PATH, or /opt/cni/bin"
    )]
    path: Vec<PathBuf>,
    /// The name of the interface in the container
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    ifname: String,
    /// An interface that the private host is to have, for plugins that need one: a dummy, or a veth where the kernel
    /// has no dummies; may be given several times
    #[arg(long, value_name = "NAME")]
    host_interface: Vec<String>,
    /// A command of a shell that is run on the private host before the plugin is called; what it starts in the
    /// background stays until the end; may be given several times
    #[arg(long, value_name = "COMMAND")]
    setup: Vec<String>,
    /// How the report is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Where the report is written, instead of stdout
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only these requirements, by their ids, divided by ','; may be given several times
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// Fail where something is not as it SHOULD be, too
    #[arg(long)]
    strict: bool,
    /// End a call that takes longer than this, such as 2m [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// List the requirements, and call nothing
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// An object with all requirements in an array
    Json,
    /// XML of `JUnit`, for systems of continuous integration
    Junit,
}

impl Conformance {
    /// Tests, and says whether the plugin has passed.
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
        // Opened before anything is called, so that a report is not lost for a mistake in its name.
        let file = self.output.as_ref().map(|file| match std::fs::File::create(file) {
            Ok(opened) => Ok(opened),
            Err(error) => Err(format!("{}: {error}", file.display())),
        });
        let mut file = file.transpose()?;
        let own = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
        let _orphans = Orphans::adopt();
        let report =
            rscni_conformance::run(&subject, &requirements, (&own, &[WORKER]), &mut progress)?;
        let text = self.written(&report, file.is_none());
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
                "there is no requirement {unknown}; `rscni conformance --list` shows them all"
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

    fn written(&self, report: &Report, to_stdout: bool) -> String {
        match self.format {
            Format::Text => report.text(to_stdout && Style::of_stdout().bold),
            Format::Json => report.json(),
            Format::Junit => report.junit(self.strict),
        }
    }
}

/// Somebody who waits at a terminal sees how far it has come.
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

/// Does the part of the work that is in the namespaces.
pub(crate) fn work() -> ExitCode {
    match rscni_conformance::work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rscni {WORKER}: {error}");
            ExitCode::FAILURE
        }
    }
}
