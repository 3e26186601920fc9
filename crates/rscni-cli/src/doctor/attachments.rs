//! Whether running attachments are as ADD left them, as far as this program's own plugins can tell.

use std::{
    io,
    path::{Path, PathBuf},
};

use rscni::{
    Error,
    invoke::{Exec, Exit, Invocation, Outcome},
};

use super::{Patient, Report, quoted};
use crate::{
    network::{Watched, is_this_program},
    node::{configuration, is_there, named},
    repair::checkable,
};

pub(super) fn check(patient: &Patient<'_>, report: &mut Report) {
    let is_root = rustix::process::geteuid().is_root();
    for entry in &patient.node.listing.entries {
        // What is gone, another check tells.
        if entry.params.netns.as_deref().is_none_or(|path| path == Path::new(""))
            || !is_there(entry)
        {
            continue;
        }
        let Some(list) = configuration(entry) else { continue };
        let own = Own(Watched::default());
        let runtime = patient.runtime(&own);
        let Err(error) = runtime.check(&checkable(list), &entry.params) else { continue };
        // The code of a CHECK that found something changed. Other codes say that it could not look.
        if error.code() != CHANGED || !is_root {
            continue;
        }
        let words =
            format!("repair {} {}", quoted(&entry.network), quoted(&entry.params.container_id));
        report.error(
            "attachment-damaged",
            format!(
                "{} is attached to {} and is not as it was left: {}",
                named(entry),
                entry.network,
                error.details()
            ),
            "its packets may be dropped or leave with a wrong address; a flush of the host's rules does that",
            Some(patient.command(&words)),
        );
    }
}

/// The code by which the plugins of this program say that an attachment is not as ADD left it.
const CHANGED: u32 = 100;

/// Calls the plugins of this program. Others pass: their CHECK may change something.
pub(super) struct Own(Watched);

impl Exec for &Own {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        (&self.0).find(plugin, path)
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        if is_this_program(&invocation.program) {
            return (&self.0).exec(invocation);
        }
        Ok(Outcome { exit: Exit::Status(0), stdout: Vec::new(), stderr: Vec::new() })
    }
}
