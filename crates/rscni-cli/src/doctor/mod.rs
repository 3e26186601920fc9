//! `rscni doctor`: finds problems on a node, and for each its effect and the command that fixes it.
//!
//! It changes nothing. Each check is a function that adds findings to a [`Report`]. Programs rely
//! on the ids of findings, which never change.

mod attachments;
mod conflicts;
mod directories;
mod forwarding;
mod kernel;
mod networks;
mod plugins;
mod ready;
mod reservations;
mod stale;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use rscni::{
    Error,
    invoke::Exec,
    runtime::{Cache, CacheEntry, ConfDir, NetConfList, PluginConf, Runtime},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    container::Selector,
    gc::lists,
    network::{CONF_DIR, runtime},
    node::{self, Node},
    options::{CACHE_DIR, PLUGIN_DIR, RuntimeOptions},
    output::{self, Format, Style},
    table::printable,
};

/// Arguments of `doctor`.
#[derive(clap::Args)]
pub(crate) struct Doctor {
    /// Check only this container and its networks: its id, the first twelve digits of a long id, or
    /// its pod as NAMESPACE/NAME
    container: Option<Selector>,
    /// Output format
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    output: Format,
    #[command(flatten)]
    options: RuntimeOptions,
}

/// Time limit of each plugin call.
const LIMIT: Duration = Duration::from_secs(10);

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Ok,
    Warning,
    Error,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    id: &'static str,
    severity: Severity,
    /// The problem.
    what: String,
    /// Its effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
    /// The command that fixes it, or the one that finds out what doctor could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// The findings so far.
#[derive(Default)]
pub(crate) struct Report {
    findings: Vec<Finding>,
}

/// The configuration and state of the node that the checks inspect.
pub(crate) struct Context<'a> {
    conf_dir: &'a Path,
    plugin_path: Vec<PathBuf>,
    cache_dir: &'a Path,
    networks: &'a ConfDir,
    node: Node,
    /// The options for commands of this program that doctor suggests.
    options: String,
}

/// Adds the findings of a check to a report.
type Check = fn(&Context<'_>, &mut Report);

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

    /// Adds a finding about something that could not be checked, with the command that does.
    fn unknown(&mut self, id: &'static str, what: String, why: &'static str, mend: String) {
        self.add(id, Severity::Ok, what, why, Some(mend));
    }

    /// Runs a check. Adds the text with severity ok if it finds no problem.
    fn check(&mut self, id: &'static str, text: &str, context: &Context<'_>, check: Check) {
        let before = self.findings.len();
        check(context, self);
        if self.findings[before..].iter().all(|finding| finding.severity == Severity::Ok) {
            self.ok(id, text.to_owned());
        }
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

impl Context<'_> {
    /// Returns the networks.
    fn lists(&self) -> Vec<&NetConfList> {
        lists(self.networks)
    }

    /// Returns every plugin of every list, with the list.
    fn plugins(&self) -> impl Iterator<Item = (&NetConfList, &PluginConf)> {
        self.networks
            .networks
            .iter()
            .flat_map(|(_, list)| list.plugins.iter().map(move |plugin| (list, plugin)))
    }

    /// Returns a runtime for plugin calls.
    fn runtime<'a, E>(&self, exec: &'a E) -> Runtime<&'a E>
    where
        &'a E: Exec,
    {
        runtime(exec, &self.plugin_path, Cache::new(self.cache_dir), Some(LIMIT))
    }

    /// Whether a network uses the plugin, also indirectly through another plugin.
    fn uses(&self, name: &str) -> bool {
        self.plugins().any(|(_, plugin)| self.types(plugin).iter().any(|it| self.kind(it) == name))
    }

    /// Returns the plugin behind a `type`.
    fn kind<'n>(&self, plugin: &'n str) -> &'n str {
        rscni_plugins::kind(plugin, &self.plugin_path)
    }

    /// Returns the plugin of a list and the plugins that it calls.
    fn types<'p>(&self, plugin: &'p PluginConf) -> Vec<&'p str> {
        node::types(plugin, &self.plugin_path)
    }

    /// Returns the command that disables a network of [`lists`](Self::lists).
    ///
    /// Returns `None` while containers are attached: their runtime needs the file to detach them.
    fn disabling(&self, list: &NetConfList) -> Option<String> {
        if self.is_in_use(&list.name) {
            return None;
        }
        let of_list = self.networks.networks.iter().find(|(_, other)| std::ptr::eq(other, list));
        of_list.map(|(file, _)| networks::disable(file))
    }

    /// Whether containers are attached to the network.
    fn is_in_use(&self, network: &str) -> bool {
        !self.node.in_use(network).is_empty() || self.node.has_unnamed(network)
    }

    /// Returns a command line of this program.
    fn command(&self, words: &str) -> String {
        format!("rscni {words}{}", self.options)
    }

    /// Returns the command that removes the stale resources of a network.
    fn gc(&self, network: &str) -> String {
        self.command(&format!("gc {} --auto", quoted(network)))
    }

    /// Returns the command that repairs an attachment.
    fn repair(&self, entry: &CacheEntry) -> String {
        let (network, id) = (quoted(&entry.network), quoted(&entry.params.container_id));
        self.command(&format!("repair {network} {id}"))
    }
}

/// Prefixes a command with `sudo` unless the caller is root.
fn as_root(command: &str) -> String {
    let sudo = if rustix::process::geteuid().is_root() { "" } else { "sudo " };
    format!("{sudo}{command}")
}

/// Quotes a path or a name for a shell.
pub(crate) fn quoted(text: impl AsRef<std::ffi::OsStr>) -> String {
    let text = text.as_ref().to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:+@%,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

impl Doctor {
    /// Runs the checks and prints the findings. The exit status says whether there is an error.
    pub(crate) fn run(&self) -> Result<ExitCode, Error> {
        let mut networks = ConfDir::load(self.options.plugins.conf_dir())?;
        let cache_dir = self.options.cache.dir();
        let mut node = Node::inspect(&Cache::new(cache_dir), &lists(&networks))?;
        if let Some(selector) = &self.container {
            narrow(selector, &mut node, &mut networks)?;
        }
        let context = Context {
            conf_dir: self.options.plugins.conf_dir(),
            plugin_path: self.options.plugins.plugin_path(),
            cache_dir,
            node,
            networks: &networks,
            options: self.shown_options(),
        };
        let mut report = Report::default();
        let checks: [(_, _, Check); 9] = [
            ("directories", "directories exist and only root can change them", directories::check),
            ("networks", "network configurations are valid", networks::check),
            ("plugins", "plugins are installed and support their networks", plugins::check),
            ("kernel", "the kernel has the features that the networks need", kernel::check),
            ("forwarding", "packets of containers are forwarded", forwarding::check),
            ("attachments", "running attachments are intact", attachments::check),
            ("reservations", "address reservations are consistent", reservations::check),
            ("ready", "no network reports that it is not ready", ready::check),
            ("left", "there are no stale resources", stale::check),
        ];
        for (id, text, check) in checks {
            if id != "networks" || self.container.is_none() {
                report.check(id, text, &context, check);
            }
        }
        match self.output {
            Format::Json => output::json(&json!({ "findings": report.findings })),
            Format::Text => output::text(&as_text(&report, Style::of_stdout())),
        }
        Ok(if report.count(Severity::Error) > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Returns the directories that differ from the defaults, as options of a command line.
    fn shown_options(&self) -> String {
        let mut options = String::new();
        let plugin_dirs =
            std::env::join_paths(self.options.plugins.plugin_path()).unwrap_or_default();
        for (name, value, default) in [
            ("conf-dir", self.options.plugins.conf_dir().as_os_str(), CONF_DIR),
            ("plugin-dir", &plugin_dirs, PLUGIN_DIR),
            ("cache-dir", self.options.cache.dir().as_os_str(), CACHE_DIR),
        ] {
            if value != default {
                let _ = write!(options, " --{name} {}", quoted(value));
            }
        }
        options
    }
}

/// Limits the checks to the selected containers and their networks.
///
/// # Errors
/// [`Error::NotExist`] if no container matches.
fn narrow(selector: &Selector, node: &mut Node, networks: &mut ConfDir) -> Result<(), Error> {
    let ids = node.containers(selector);
    if ids.is_empty() {
        return Err(Error::NotExist(format!(
            "{selector} has no attachment: `rscni ls --all` lists the attachments"
        )));
    }
    node.retain_containers(&ids);
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
    fn findings_are_printed_with_why_and_mend() {
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
    fn quoted_protects_words_from_the_shell() {
        assert_eq!(quoted("/etc/cni/net.d/10-a.conflist"), "/etc/cni/net.d/10-a.conflist");
        assert_eq!(quoted("it's $HOME"), "'it'\\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }
}
