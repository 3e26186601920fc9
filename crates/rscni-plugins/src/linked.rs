//! Calling plugins of this crate without starting a process.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use rscni::{
    Error,
    invoke::{Exec, Invocation, Outcome, Process, find_plugin},
};

use crate::{
    registry::alias,
    registry::{self, Entry},
};

/// Calls the plugins that are linked in, and starts all others as processes.
///
/// A plugin that is found in `CNI_PATH` wins, since an operator may have put another one there;
/// where what is found is this very program, or nothing is found, and the name is one of
/// [`ALL`](crate::ALL), it is called in-process. An entry under another name, such as
/// `buildkit-cni-bridge`, is [resolved](crate::resolve) as for a process.
///
/// So a program attaches containers to networks where no plugin is installed:
///
/// ```standalone_crate
/// use rscni::runtime::{AttachmentParams, NetConfList, Runtime};
/// use rscni_plugins::Linked;
///
/// # rscni_test::run(|lab| {
/// # let container = lab.container("my-container");
/// let network = NetConfList::from_json(br#"{ "cniVersion": "1.1.0", "name": "my-network", "plugins": [
///     { "type": "bridge", "isGateway": true, "ipam": { "type": "host-local", "subnet": "10.1.0.0/24" } }
/// ] }"#)?;
/// let runtime = Runtime::new(Linked, ["/opt/cni/bin"]);
/// let params = AttachmentParams::new("my-container", "/run/netns/my-container", "eth0");
///
/// let result = runtime.add(&network, &params)?;
/// println!("{:?}", result.ips);
/// # container.ping(result.ips[0].gateway.unwrap());
/// runtime.del(&network, &params)?;
/// # Ok::<(), rscni::Error>(())
/// # });
/// ```
///
/// An [`AsyncRuntime`](https://docs.rs/rscni/latest/rscni/runtime/struct.AsyncRuntime.html) calls them too, on threads
/// that may block: `AsyncRuntime::new(OnThread(Linked), …)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linked;

impl Linked {
    /// The plugin that would be called in-process, if `plugin` is looked for in `path`.
    pub(crate) fn entry(plugin: &str, path: &[PathBuf]) -> Option<&'static Entry> {
        entry_of(plugin, &Self.find(plugin, path).ok()?)
    }

    /// Whether a plugin of that name, looked for in `path`, would be called in-process.
    pub(crate) fn has(plugin: &str, path: &[PathBuf]) -> bool {
        Self::entry(plugin, path).is_some()
    }
}

/// The plugin of this program that `program` is, found as `plugin`.
fn entry_of(plugin: &str, program: &Path) -> Option<&'static Entry> {
    if !is_this_program(program) {
        return None;
    }
    registry::find(plugin).or_else(|| alias::resolve([program]).map(|(entry, _)| entry))
}

impl Exec for Linked {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        match find_plugin(plugin, path) {
            Err(_) if registry::find(plugin).is_some() => Ok(PathBuf::from(THIS_PROGRAM)),
            found => found,
        }
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        match entry_of(&invocation.plugin, &invocation.program) {
            Some(entry) => Ok(entry.reply(&invocation.into()).into()),
            None => Process.exec(invocation),
        }
    }
}

/// Calls the plugins that are linked in, by the names that they have by themselves.
pub(crate) struct InProcess;

impl Exec for InProcess {
    fn find(&self, _: &str, _: &[PathBuf]) -> Result<PathBuf, Error> {
        Ok(PathBuf::from(THIS_PROGRAM))
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        Linked.exec(invocation)
    }
}

const THIS_PROGRAM: &str = "/proc/self/exe";

pub(crate) fn is_this_program(program: &Path) -> bool {
    // What a process runs stays the same, whatever becomes of the file's name.
    static THIS: LazyLock<Option<(u64, u64)>> = LazyLock::new(|| identity(Path::new(THIS_PROGRAM)));
    program == Path::new(THIS_PROGRAM) || THIS.is_some_and(|this| identity(program) == Some(this))
}

fn identity(program: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(program).map(|m| (m.dev(), m.ino())).ok()
}
