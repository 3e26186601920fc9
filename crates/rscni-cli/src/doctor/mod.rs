//! `rscni doctor`: looks at a node, and says of each thing that it finds what it is, why it matters, and what mends it.
//!
//! It changes nothing. Each check is a function that adds findings to a [`Report`]; a finding's id is for programs and
//! stays what it is.

mod attachments;
mod directories;
mod forwarding;
mod kernel;
mod left;
mod neighbours;
mod networks;
mod plugins;
mod ready;
mod reservations;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use rscni::{
    Error,
    invoke::Exec,
    runtime::{Cache, ConfDir, NetConfList, PluginConf, Runtime},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    container::Selector,
    gc::lists,
    network::{CONF_DIR, runtime},
    node::{self, Node},
    output::{self, Format, Style},
    places::{CACHE_DIR, Memory, PLUGIN_DIR, Places},
    table::printable,
};

/// What `doctor` takes.
#[derive(clap::Args)]
pub(crate) struct Doctor {
    /// Look only at what is about this container and its networks: its id, twelve digits of a long
    /// id, or its pod as NAMESPACE/NAME
    container: Option<Selector>,
    /// How to print what is found
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    output: Format,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    memory: Memory,
}

/// How long a plugin may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Ok,
    Warning,
    Error,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    id: &'static str,
    severity: Severity,
    /// What it is.
    what: String,
    /// Why it matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
    /// The command that mends it; of what could not be found out, the one that looks.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// What has been found so far.
#[derive(Default)]
pub(crate) struct Report {
    findings: Vec<Finding>,
}

/// What the checks look at.
pub(crate) struct Patient<'a> {
    conf_dir: &'a Path,
    plugin_path: Vec<PathBuf>,
    cache_dir: &'a Path,
    networks: &'a ConfDir,
    node: Node,
    /// The options that a command needs to look where this one does.
    options: String,
}

impl Report {
    fn add(
        &mut self,
        id: &'static str,
        severity: Severity,
        what: String,
        why: &'static str,
        mend: Option<String>,
    ) {
        self.findings.push(Finding { id, severity, what, why: Some(why), mend });
    }

    fn error(&mut self, id: &'static str, what: String, why: &'static str, mend: Option<String>) {
        self.add(id, Severity::Error, what, why, mend);
    }

    fn warning(&mut self, id: &'static str, what: String, why: &'static str, mend: Option<String>) {
        self.add(id, Severity::Warning, what, why, mend);
    }

    fn ok(&mut self, id: &'static str, what: String) {
        self.findings.push(Finding { id, severity: Severity::Ok, what, why: None, mend: None });
    }

    /// What could not be found out, why that matters, and the command that does.
    fn unknown(&mut self, id: &'static str, what: String, why: &'static str, mend: String) {
        self.add(id, Severity::Ok, what, why, Some(mend));
    }

    /// Runs a check, and says that all is well if it finds nothing that is not.
    fn check(
        &mut self,
        id: &'static str,
        well: &str,
        patient: &Patient<'_>,
        check: fn(&Patient<'_>, &mut Self),
    ) {
        let before = self.findings.len();
        check(patient, self);
        if self.findings[before..].iter().all(|finding| finding.severity == Severity::Ok) {
            self.ok(id, well.to_owned());
        }
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

impl Patient<'_> {
    /// The networks.
    fn lists(&self) -> Vec<&NetConfList> {
        lists(self.networks)
    }

    /// Every plugin of every list, with the list.
    fn plugins(&self) -> impl Iterator<Item = (&NetConfList, &PluginConf)> {
        self.networks
            .networks
            .iter()
            .flat_map(|(_, list)| list.plugins.iter().map(move |plugin| (list, plugin)))
    }

    /// What asks the plugins.
    fn runtime<'a, E>(&self, exec: &'a E) -> Runtime<&'a E>
    where
        &'a E: Exec,
    {
        runtime(exec, &self.plugin_path, Cache::new(self.cache_dir), Some(LIMIT))
    }

    /// Whether a list uses a plugin, as IPAM plugin or as the one that flannel calls too.
    fn uses(&self, name: &str) -> bool {
        self.plugins().any(|(_, plugin)| self.types(plugin).iter().any(|it| self.kind(it) == name))
    }

    /// The name that a plugin has by itself.
    fn kind<'n>(&self, plugin: &'n str) -> &'n str {
        rscni_plugins::kind(plugin, &self.plugin_path)
    }

    /// The plugins that one plugin of a list leads to, itself first.
    fn types<'p>(&self, plugin: &'p PluginConf) -> Vec<&'p str> {
        node::types(plugin, &self.plugin_path)
    }

    /// What has runtimes pass over a network, one of [`lists`](Self::lists). None while containers
    /// are attached to it: their runtime needs the file to detach them.
    fn disabling(&self, list: &NetConfList) -> Option<String> {
        if self.is_in_use(&list.name) {
            return None;
        }
        let of_list = self.networks.networks.iter().find(|(_, other)| std::ptr::eq(other, list));
        of_list.map(|(file, _)| networks::disable(file))
    }

    /// Whether containers are attached to a network.
    fn is_in_use(&self, network: &str) -> bool {
        !self.node.in_use(network).is_empty() || self.node.has_nameless(network)
    }

    /// A command of this program.
    fn command(&self, words: &str) -> String {
        format!("rscni {words}{}", self.options)
    }
}

/// A command of root's, as somebody calls it who is not.
fn as_root(command: &str) -> String {
    let sudo = if rustix::process::geteuid().is_root() { "" } else { "sudo " };
    format!("{sudo}{command}")
}

/// A path or a name as a word of a shell's command line.
pub(crate) fn quoted(text: impl AsRef<std::ffi::OsStr>) -> String {
    let text = text.as_ref().to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:+@%,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

impl Doctor {
    /// Looks, prints, and says by its status whether there is an error.
    pub(crate) fn run(&self) -> Result<ExitCode, Error> {
        let mut networks = ConfDir::load(self.places.conf_dir())?;
        let cache_dir = self.memory.dir();
        let mut node = Node::look(&Cache::new(cache_dir), &lists(&networks))?;
        if let Some(selector) = &self.container {
            narrow(selector, &mut node, &mut networks)?;
        }
        let patient = Patient {
            conf_dir: self.places.conf_dir(),
            plugin_path: self.places.plugin_path(),
            cache_dir,
            node,
            networks: &networks,
            options: self.options(),
        };
        let mut report = Report::default();
        report.check(
            "directories",
            "directories are there, and are root's alone",
            &patient,
            directories::check,
        );
        if self.container.is_none() {
            report.check(
                "networks",
                "network configurations can be read",
                &patient,
                networks::check,
            );
        }
        report.check(
            "plugins",
            "plugins are there, and support their networks",
            &patient,
            plugins::check,
        );
        report.check("kernel", "the kernel has what the networks need", &patient, kernel::check);
        report.check(
            "forwarding",
            "packets are forwarded where they have to be",
            &patient,
            forwarding::check,
        );
        report.check(
            "attachments",
            "what is attached is as it was left",
            &patient,
            attachments::check,
        );
        report.check(
            "reservations",
            "addresses are reserved as they should be",
            &patient,
            reservations::check,
        );
        report.check(
            "ready",
            "no network says that it cannot take a container",
            &patient,
            ready::check,
        );
        report.check("left", "nothing is left of containers that are gone", &patient, left::check);
        match self.output {
            Format::Json => output::json(&json!({ "findings": report.findings })),
            Format::Text => output::text(&as_text(&report, Style::of_stdout())),
        }
        Ok(if report.count(Severity::Error) > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn options(&self) -> String {
        let mut options = String::new();
        let plugin_dirs = std::env::join_paths(self.places.plugin_path()).unwrap_or_default();
        for (name, value, default) in [
            ("conf-dir", self.places.conf_dir().as_os_str(), CONF_DIR),
            ("plugin-dir", &plugin_dirs, PLUGIN_DIR),
            ("cache-dir", self.memory.dir().as_os_str(), CACHE_DIR),
        ] {
            if value != default {
                let _ = write!(options, " --{name} {}", quoted(value));
            }
        }
        options
    }
}

/// Leaves only what is about the containers that are meant, and the networks that they are attached
/// to.
///
/// # Errors
/// [`Error::NotExist`] if there is no such container.
fn narrow(selector: &Selector, node: &mut Node, networks: &mut ConfDir) -> Result<(), Error> {
    let ids = node.containers(selector);
    if ids.is_empty() {
        return Err(Error::NotExist(format!(
            "{selector} has no attachment: `rscni ls --all` shows what is remembered"
        )));
    }
    node.keep(&ids);
    let attached = node.networks();
    networks.networks.retain(|(_, list)| attached.contains(&list.name));
    networks.broken.clear();
    Ok(())
}

fn as_text(report: &Report, style: Style) -> String {
    let mut text = String::new();
    for Finding { id, severity, what, why, mend } in &report.findings {
        let severity = match severity {
            Severity::Ok => "ok     ".to_owned(),
            Severity::Warning => style.bold("warning"),
            Severity::Error => style.bold("error  "),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{severity}  {id}: {}", printable(what));
        for (title, line) in [("why: ", *why), ("mend:", mend.as_deref())] {
            if let Some(line) = line {
                let _ = writeln!(text, "         {title} {}", printable(line));
            }
        }
    }
    let count = |severity, one: &str| match report.count(severity) {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    };
    let _ = writeln!(
        text,
        "{}, {}",
        count(Severity::Error, "error"),
        count(Severity::Warning, "warning")
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_has_a_line_for_each_thing_that_there_is_to_say() {
        let mut report = Report::default();
        report.ok("networks", "fine".into());
        report.error("list-unreadable", "a\u{1b}b".into(), "it is skipped", Some("mv a b".into()));
        report.warning("range-full", "full".into(), "no more", None);
        assert_eq!(
            as_text(&report, Style::default()),
            "\
ok       networks: fine
error    list-unreadable: a\\u{1b}b
         why:  it is skipped
         mend: mv a b
warning  range-full: full
         why:  no more
1 error, 1 warning
"
        );
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_change_them() {
        assert_eq!(quoted("/etc/cni/net.d/10-a.conflist"), "/etc/cni/net.d/10-a.conflist");
        assert_eq!(quoted("it's $HOME"), "'it'\\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }
}
