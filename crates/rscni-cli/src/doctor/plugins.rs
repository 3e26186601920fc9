//! The plugins that the networks name: are they there, do they answer, do they support their networks' versions.

use std::{
    collections::BTreeSet,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use rscni::invoke::find_plugin;

use super::{Patient, Report, quoted};
use crate::network::Watched;

pub(super) use crate::network::is_this_program as is_this;

pub(super) fn check(patient: &Patient<'_>, report: &mut Report) {
    let names = patient.plugins().flat_map(|(_, plugin)| patient.types(plugin));
    let names: BTreeSet<String> = names.map(ToOwned::to_owned).collect();
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for name in names.iter().map(String::as_str) {
        match find_plugin(name, &patient.plugin_path) {
            Ok(program) => {
                if is_this(&program) {
                    ours.push(name);
                } else {
                    others.push(name);
                }
                answers(patient, name, &program, report);
            }
            Err(_) => missing(patient, name, report),
        }
        several(patient, name, report);
    }
    let replaced: Vec<_> =
        others.into_iter().filter(|name| is_inside(patient.kind(name))).collect();
    if !ours.is_empty() && !replaced.is_empty() {
        let what = format!(
            "plugins of several kinds work together: {} of rscni, {} of others",
            ours.join(", "),
            replaced.join(", ")
        );
        report.ok("plugins-mixed", what);
    }
}

fn is_inside(name: &str) -> bool {
    rscni_plugins::find(name).is_some()
}

/// The command that installs one of our plugins.
fn install(patient: &Patient<'_>, name: &str) -> Option<String> {
    let dir = patient.plugin_path.first()?;
    let kind = patient.kind(name);
    // Nothing under the plugin's own name is replaced: it may be another project's, and in use.
    let names =
        if kind == name { kind.to_owned() } else { format!("'' --as {}={kind}", quoted(name)) };
    is_inside(kind).then(|| format!("rscni install {} --only {names}", quoted(dir)))
}

fn missing(patient: &Patient<'_>, name: &str, report: &mut Report) {
    let there = patient.plugin_path.iter().map(|dir| dir.join(name)).find(|file| file.is_file());
    if let Some(file) = there {
        let what = format!("{} is not executable", file.display());
        let mend = format!("chmod 755 {}", quoted(&file));
        return report.error("plugin-not-executable", what, "runtimes do not find it", Some(mend));
    }
    let networks = patient.plugins().filter(|(_, plugin)| patient.types(plugin).contains(&name));
    let mut networks: Vec<_> = networks.map(|(list, _)| &*list.name).collect();
    networks.dedup();
    let dirs: Vec<_> = patient.plugin_path.iter().map(|dir| dir.display().to_string()).collect();
    let what = format!("plugin {name} of {} is not in {}", networks.join(", "), dirs.join(", "));
    let why = "runtimes start it from there; `rscni add` works without, if it is a plugin of this program";
    let mend = install(patient, name);
    // Where nothing is installed, no runtime is meant to be served.
    if mend.is_some() && !patient.plugin_path.iter().any(|dir| dir.is_dir()) {
        report.warning("plugin-missing", what, why, mend);
    } else {
        report.error("plugin-missing", what, why, mend);
    }
}

fn answers(patient: &Patient<'_>, name: &str, program: &Path, report: &mut Report) {
    let watched = Watched::default();
    let shown = program.display();
    let info = match patient.runtime(&watched).version(name) {
        Ok(info) => info,
        Err(error) => {
            let what =
                format!("{shown} does not say which versions it supports: {}", error.details());
            return report.error(
                "plugin-broken",
                what,
                "it is no plugin, or for another kind of machine",
                install(patient, name),
            );
        }
    };
    for list in patient.lists() {
        let is_used = list.plugins.iter().any(|plugin| patient.types(plugin).contains(&name));
        if is_used && !info.supports(list.cni_version) {
            let known: Vec<_> =
                info.supported_versions().iter().map(|version| version.as_str()).collect();
            let what = format!(
                "{shown} does not support cniVersion {} of network {}, but {}",
                list.cni_version,
                list.name,
                known.join(", ")
            );
            let why = "every ADD to the network fails";
            report.error("plugin-version", what, why, install(patient, name));
        }
    }
}

/// Different programs of one name: only the first is used.
fn several(patient: &Patient<'_>, name: &str, report: &mut Report) {
    let files =
        patient.plugin_path.iter().map(|dir| dir.join(name)).filter(|file| is_executable(file));
    let mut files = files.filter_map(|file| Some((identity(&file)?, file)));
    let Some((first, used)) = files.next() else { return };
    for (_, file) in files.filter(|(other, _)| *other != first) {
        let what = format!("{} is never used: {} comes first", file.display(), used.display());
        let why = "an update of the wrong one changes nothing, and another order of directories changes all";
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
