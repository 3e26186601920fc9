//! Checks that the plugins of the networks are installed, work, and support their networks'
//! versions.

use std::{
    collections::BTreeSet,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use rscni::invoke::find_plugin;

use super::{Context, Report, quoted};
use crate::{
    network::{TimedExec, is_this_program},
    status::versions,
};

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    let names = context.plugins().flat_map(|(_, plugin)| context.types(plugin));
    let names: BTreeSet<String> = names.map(ToOwned::to_owned).collect();
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for name in names.iter().map(String::as_str) {
        match find_plugin(name, &context.plugin_path) {
            Ok(program) => {
                if is_this_program(&program) {
                    ours.push(name);
                } else {
                    others.push(name);
                }
                check_version(context, name, &program, report);
            }
            Err(_) => missing(context, name, report),
        }
        check_shadowed(context, name, report);
    }
    let replaced: Vec<_> =
        others.into_iter().filter(|name| is_inside(context.kind(name))).collect();
    if !ours.is_empty() && !replaced.is_empty() {
        let what = format!(
            "plugins of several projects are in use: {} of rscni, {} of others",
            ours.join(", "),
            replaced.join(", ")
        );
        report.ok("plugins-mixed", what);
    }
}

fn is_inside(name: &str) -> bool {
    rscni_plugins::find(name).is_some()
}

/// Returns the command that installs a plugin of this program.
fn install(context: &Context<'_>, name: &str) -> Option<String> {
    let dir = context.plugin_path.first()?;
    let kind = context.kind(name);
    // An alias must not replace a file with the plugin's own name: it may be another project's.
    let names =
        if kind == name { kind.to_owned() } else { format!("'' --as {}={kind}", quoted(name)) };
    is_inside(kind).then(|| format!("rscni install {} --only {names}", quoted(dir)))
}

fn missing(context: &Context<'_>, name: &str, report: &mut Report) {
    let file = context.plugin_path.iter().map(|dir| dir.join(name)).find(|file| file.is_file());
    if let Some(file) = file {
        let what = format!("{} is not executable", file.display());
        let mend = format!("chmod 755 {}", quoted(&file));
        return report.error("plugin-not-executable", what, "runtimes do not find it", Some(mend));
    }
    let networks = context.plugins().filter(|(_, plugin)| context.types(plugin).contains(&name));
    let mut networks: Vec<_> = networks.map(|(list, _)| &*list.name).collect();
    networks.dedup();
    let dirs: Vec<_> = context.plugin_path.iter().map(|dir| dir.display().to_string()).collect();
    let what = format!("plugin {name} of {} is not in {}", networks.join(", "), dirs.join(", "));
    let why = "runtimes execute it from there; only rscni itself works without it";
    let mend = install(context, name);
    // Without any plugin directory, the node does not serve a container runtime.
    if mend.is_some() && !context.plugin_path.iter().any(|dir| dir.is_dir()) {
        report.warning("plugin-missing", what, why, mend);
    } else {
        report.error("plugin-missing", what, why, mend);
    }
}

fn check_version(context: &Context<'_>, name: &str, program: &Path, report: &mut Report) {
    let exec = TimedExec::default();
    let shown = program.display();
    let info = match context.runtime(&exec).version(name) {
        Ok(info) => info,
        Err(error) => {
            let what = format!("{shown} does not answer VERSION: {}", error.details());
            let why = "it is not a plugin, or built for another architecture";
            return report.error("plugin-broken", what, why, install(context, name));
        }
    };
    for list in context.lists() {
        let is_used = list.plugins.iter().any(|plugin| context.types(plugin).contains(&name));
        if is_used && !info.supports(list.cni_version) {
            let what = format!(
                "{shown} does not support cniVersion {} of network {}, but {}",
                list.cni_version,
                list.name,
                versions(&info)
            );
            let why = "every ADD to the network fails";
            report.error("plugin-version", what, why, install(context, name));
        }
    }
}

/// Reports further programs of the same name, since only the first one is used.
fn check_shadowed(context: &Context<'_>, name: &str, report: &mut Report) {
    let files =
        context.plugin_path.iter().map(|dir| dir.join(name)).filter(|file| is_executable(file));
    let mut files = files.filter_map(|file| Some((identity(&file)?, file)));
    let Some((first, used)) = files.next() else { return };
    for (_, file) in files.filter(|(other, _)| *other != first) {
        let what = format!("{} is never used: {} comes first", file.display(), used.display());
        let why = "updating it has no effect, and another order of the directories would select it";
        report.warning("plugin-shadowed", what, why, Some(format!("rm {}", quoted(&file))));
    }
}

fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn identity(file: &Path) -> Option<(u64, u64)> {
    file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
