//! `rscni status`: reports whether networks are ready for containers.

use std::path::PathBuf;

use rscni::{
    Error, PluginInfo,
    invoke::{Exec, find_plugin},
    runtime::{Cache, ConfDir, NetConfList},
};

use crate::{
    network::{TimedExec, is_this_program},
    node,
    options::PluginOptions,
    output,
    table::{columns, printable},
};

/// Arguments of `status`.
#[derive(clap::Args)]
pub(crate) struct Status {
    /// Name of a network in the configuration directory [default: all networks]
    network: Option<String>,
    #[command(flatten)]
    options: PluginOptions,
}

impl Status {
    /// Prints a line for each network and each invalid file.
    ///
    /// # Errors
    /// If a network is not ready or a file is invalid.
    pub(crate) fn run(&self) -> Result<(), Error> {
        let dir = ConfDir::load(self.options.conf_dir())?;
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
            output::line(&format!("invalid file: {}", printable(error.details())));
        }

        let bad = answers.iter().filter(|(_, answer)| answer.is_err()).count();
        match (bad, broken.len()) {
            (0, 0) => Ok(()),
            (0, files) => {
                Err(Error::InvalidNetworkConfig(format!("invalid configuration files: {files}")))
            }
            (bad, _) => Err(Error::PluginNotAvailable(format!(
                "networks that are not ready: {bad} of {}",
                rows.len()
            ))),
        }
    }

    /// Checks whether an ADD could succeed, without running one.
    fn ask(&self, list: &NetConfList) -> Result<(), Error> {
        let (exec, path) = (TimedExec::default(), self.options.plugin_path());
        let runtime = self.options.runtime(&exec, Cache::default());
        let mut names = Vec::new();
        for plugin in &list.plugins {
            (&exec).find(plugin.plugin_type(), &path)?;
            names.push(plugin.plugin_type());
            // From 1.1.0 on, STATUS of the caller covers the plugins that it calls.
            if !list.cni_version.has_gc_and_status() {
                for (caller, called) in node::calls(plugin, &path) {
                    find_for(caller, called, &path)?;
                    names.push(called);
                }
            }
        }
        for name in names {
            // A plugin without a valid VERSION reply may support this version nevertheless.
            let unsupported =
                runtime.version(name).ok().filter(|info| !info.supports(list.cni_version));
            if let Some(info) = unsupported {
                return Err(Error::IncompatibleVersion(format!(
                    "plugin {name} does not support cniVersion {}, but {}",
                    list.cni_version,
                    versions(&info)
                )));
            }
        }
        runtime.status(list)
    }
}

/// Formats the versions that a plugin supports.
pub(crate) fn versions(info: &PluginInfo) -> String {
    let versions: Vec<_> = info.supported_versions().iter().map(|it| it.as_str()).collect();
    versions.join(", ")
}

/// Finds the plugin that another plugin calls.
///
/// Only a plugin of this program can call one that is not installed.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if it does not exist.
fn find_for(caller: &str, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
    let exec = &TimedExec::default();
    let is_inside = is_this_program(&exec.find(caller, path)?);
    let found = if is_inside { exec.find(plugin, path) } else { find_plugin(plugin, path) };
    found.map_err(|error| error.context(format!("{caller} calls another plugin")))
}

/// Returns the networks. Of several with the same name, only the one in use.
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
        "ready, not confirmed: its plugins are installed, but version {} has no STATUS",
        list.cni_version
    )
}

fn not_ready(error: &Error) -> String {
    format!("not ready: {} (code {})", printable(&error.to_string()), error.code())
}
