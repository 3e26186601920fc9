//! `rscni status`: whether networks could take another container.

use std::path::PathBuf;

use rscni::{
    Error,
    invoke::{Exec, find_plugin},
    runtime::{Cache, ConfDir, NetConfList},
};

use crate::{
    network::{Watched, is_this_program},
    node, output,
    places::Places,
    table::{columns, printable},
};

/// What `status` takes.
#[derive(clap::Args)]
pub(crate) struct Status {
    /// Name of a network in the configuration directory [default: all of them]
    network: Option<String>,
    #[command(flatten)]
    places: Places,
}

impl Status {
    /// Prints a line for each network and for each file that should be one. One that is not ready is an error.
    pub(crate) fn run(&self) -> Result<(), Error> {
        let dir = ConfDir::load(self.places.conf_dir())?;
        let (networks, broken) = match &self.network {
            Some(name) => (vec![dir.find(name)?], &[][..]),
            None => (effective(&dir), &dir.broken[..]),
        };
        if networks.is_empty() && broken.is_empty() {
            return Err(Error::PluginNotAvailable(format!(
                "{} has no network configuration",
                dir.path.display()
            )));
        }
        let answers: Vec<_> = networks.iter().map(|list| (list, self.ask(list))).collect();
        let rows: Vec<_> = answers
            .iter()
            .map(|(list, answer)| {
                [list.name.clone(), answer.as_ref().map_or_else(not_ready, |()| ready(list))]
            })
            .collect();
        for line in columns(&rows) {
            output::line(&line);
        }
        for (_, error) in broken {
            output::line(&format!("cannot be used: {}", printable(error.details())));
        }

        let bad = answers.iter().filter(|(_, answer)| answer.is_err()).count();
        match (bad, broken.len()) {
            (0, 0) => Ok(()),
            (0, files) => Err(Error::InvalidNetworkConfig(format!(
                "configuration files that cannot be used: {files}"
            ))),
            (bad, _) => Err(Error::PluginNotAvailable(format!(
                "networks that are not ready: {bad} of {}",
                rows.len()
            ))),
        }
    }

    /// What stands in the way of an ADD, as far as can be known without one.
    fn ask(&self, list: &NetConfList) -> Result<(), Error> {
        let (watched, path) = (Watched::default(), self.places.plugin_path());
        let runtime = self.places.runtime(&watched, Cache::default());
        let mut names = Vec::new();
        for plugin in &list.plugins {
            (&watched).find(plugin.plugin_type(), &path)?;
            names.push(plugin.plugin_type());
            // From 1.1.0 on, a plugin answers STATUS for those that it calls.
            if !list.cni_version.has_gc_and_status() {
                for (caller, called) in node::calls(plugin, &path) {
                    find_for(caller, called, &path)?;
                    names.push(called);
                }
            }
        }
        for name in names {
            // One that does not say its versions may support this one nevertheless.
            let unsupported =
                runtime.version(name).ok().filter(|info| !info.supports(list.cni_version));
            if let Some(info) = unsupported {
                let known = info
                    .supported_versions()
                    .iter()
                    .map(|version| version.as_str())
                    .collect::<Vec<_>>();
                return Err(Error::IncompatibleVersion(format!(
                    "plugin {name} does not support cniVersion {}, but {}",
                    list.cni_version,
                    known.join(", ")
                )));
            }
        }
        runtime.status(list)
    }
}

/// Finds the plugin that another one calls. Only a plugin of this program can call one that is not
/// installed.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if there is none.
fn find_for(caller: &str, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
    let watched = Watched::default();
    let is_inside = is_this_program(&(&watched).find(caller, path)?);
    let found = if is_inside { (&watched).find(plugin, path) } else { find_plugin(plugin, path) };
    found.map_err(|error| error.context(format!("{caller} calls another plugin")))
}

/// The networks, each once: of several with a name, the one that would be used.
fn effective(dir: &ConfDir) -> Vec<&NetConfList> {
    let is_used =
        |list: &&NetConfList| dir.find(&list.name).is_ok_and(|used| std::ptr::eq(used, *list));
    dir.networks.iter().map(|(_, list)| list).filter(is_used).collect()
}

fn ready(list: &NetConfList) -> String {
    if list.cni_version.has_gc_and_status() {
        return "ready".to_owned();
    }
    format!(
        "ready, as far as can be known: its plugins are there, but version {} has no STATUS",
        list.cni_version
    )
}

fn not_ready(error: &Error) -> String {
    format!("not ready: {} (code {})", printable(&error.to_string()), error.code())
}
