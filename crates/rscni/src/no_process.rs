//! Stands in for `process` on systems other than Unix, where no plugin is called as a process.

use std::io;

use crate::invoke::{Exec, Invocation, Outcome};

/// Starts plugins as processes; on Unix only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

impl Exec for Process {
    fn exec(&self, _: &Invocation) -> io::Result<Outcome> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
