//! Runs plugins of this crate, as a process of their own or in-process.

use std::{
    io,
    path::{Path, PathBuf},
};

use rscni::{
    Args, CNIResult, Cni, Error, Reply, Request,
    invoke::{Exec, Invocation, Outcome, Process, find_plugin},
};
use rscni_linux::Background;

use crate::{
    plugin::{Call, Command, Failure, Kind, Plugin, PluginExec},
    registry::{
        self,
        alias::{self, THIS_PROGRAM, is_this_program},
    },
};

/// Calls plugins of this crate in-process, and all others as processes.
///
/// A plugin that is found in `CNI_PATH` wins, since an operator may have installed another
/// implementation. If the file is this very program, or nothing is found, and the name is in
/// [`ALL`](crate::ALL), the plugin is called in-process. A file under another name, such as
/// `buildkit-cni-bridge`, is [resolved](crate::resolve) as for a process.
///
/// A program can thus attach containers without any installed plugin:
///
/// ```standalone_crate
/// use rscni::runtime::{AttachmentParams, NetConfList, Runtime};
/// use rscni_plugins::Linked;
///
/// # rscni_test::run(|lab| {
/// # let container = lab.container("my-container");
/// let network = NetConfList::from_json(br#"{
///     "cniVersion": "1.1.0", "name": "my-network", "plugins": [{
///         "type": "bridge", "isGateway": true,
///         "ipam": { "type": "host-local", "subnet": "10.1.0.0/24" }
///     }]
/// }"#)?;
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
/// An [`AsyncRuntime`](https://docs.rs/rscni/latest/rscni/runtime/struct.AsyncRuntime.html) calls
/// them on threads that may block: `AsyncRuntime::new(OnThread(Linked), …)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linked;

impl Exec for Linked {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        Program::IN_PROCESS.find(plugin, path)
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        Program::IN_PROCESS.exec(invocation)
    }
}

/// Calls plugins of this crate in-process even if `CNI_PATH` has a plugin of the same name, and all
/// others as processes.
///
/// For programs that remove what other implementations have left, where the programs that these
/// need, such as iptables, may be missing.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkedFirst;

impl Exec for LinkedFirst {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        Program::IN_PROCESS_FIRST.find(plugin, path)
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        Program::IN_PROCESS_FIRST.exec(invocation)
    }
}

/// The environment variable that makes DEL wait until the kernel has freed the interface.
const WAIT: &str = "RSCNI_DEL_WAIT";

/// This program, as a call of one of its plugins reaches it.
#[derive(Clone, Copy)]
struct Program {
    ends_with_call: bool,
    /// Whether its plugins win over those in `CNI_PATH`.
    is_first: bool,
}

impl Program {
    const IN_PROCESS: Self = Self { ends_with_call: false, is_first: false };
    const IN_PROCESS_FIRST: Self = Self { ends_with_call: false, is_first: true };
    const PROCESS: Self = Self { ends_with_call: true, is_first: false };

    fn reply(self, plugin: &'static Plugin, request: &Request) -> Reply {
        plugin.skeleton().reply(&plugin.linkage(self), request)
    }
}

fn kind(plugin: &'static Plugin) -> Kind {
    Kind { name: plugin.name, ipam: plugin.facts.ipam }
}

/// Returns the plugin of this program that the file `program` is, found as `plugin`.
fn linked(plugin: &str, program: &Path) -> Option<&'static Plugin> {
    if !is_this_program(program) {
        return None;
    }
    registry::find(plugin).or_else(|| alias::resolve([program]).map(|(plugin, _)| plugin))
}

impl Exec for Program {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        if self.is_first && registry::find(plugin).is_some() {
            return Ok(PathBuf::from(THIS_PROGRAM));
        }
        match find_plugin(plugin, path) {
            Err(_) if registry::find(plugin).is_some() => Ok(PathBuf::from(THIS_PROGRAM)),
            found => found,
        }
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        match linked(&invocation.plugin, &invocation.program) {
            Some(plugin) => Ok(self.reply(plugin, &invocation.into()).into()),
            None => Process.exec(invocation),
        }
    }
}

impl PluginExec for Program {
    fn linked(&self, name: &str, path: &[PathBuf]) -> Option<Kind> {
        linked(name, &self.find(name, path).ok()?).map(kind)
    }

    fn kind(&self, name: &str, path: &[PathBuf]) -> Option<Kind> {
        alias::plugin(name, path).map(kind)
    }

    fn background(&self) -> Option<Background> {
        if !self.ends_with_call {
            return Some(Background::Thread);
        }
        std::env::var_os(WAIT).is_none_or(|value| value.is_empty()).then_some(Background::Process)
    }
}

/// A plugin behind the trait of the protocol.
struct Linkage {
    plugin: &'static Plugin,
    program: Program,
    /// Its CHECK, or a step of a repair instead.
    check: Command,
}

impl Linkage {
    fn call<T>(
        &self,
        args: &Args,
        command: impl FnOnce(&Call<'_>) -> crate::plugin::Result<T>,
    ) -> Result<T, Error> {
        let outcome = Call::new(args, &self.program).and_then(|call| command(&call));
        outcome.map_err(|Failure(error)| {
            // The caller often gets the error from the plugin that called IPAM.
            if self.plugin.facts.ipam.is_some() { error.context(self.plugin.name) } else { error }
        })
    }
}

impl Cni for Linkage {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        self.call(&args, self.plugin.commands.add)
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        self.call(&args, self.plugin.commands.del)
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        self.call(&args, self.check)
    }

    fn gc(&self, args: Args) -> Result<(), Error> {
        self.call(&args, self.plugin.commands.gc)
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        self.call(&args, self.plugin.commands.status)
    }
}

/// The release of the Go plugins (containernetworking/plugins) that these plugins are equivalent
/// to.
///
/// Other programs compare it: nerdctl asks firewall whether it is at least v1.7.1 before it uses
/// `isolated`. Raise it when the plugins do what a newer release does.
pub const EQUIVALENT_RELEASE: &str = "v1.10.0";

impl Plugin {
    /// Answers the call that this process was started with.
    ///
    /// # Errors
    /// The error that was written to stdout for the caller.
    pub fn run(&'static self) -> Result<(), Error> {
        self.skeleton().run(&self.linkage(Program::PROCESS))
    }

    /// Answers `request` in this process.
    pub fn reply(&'static self, request: &Request) -> Reply {
        Program::IN_PROCESS.reply(self, request)
    }

    /// Writes the version line and the supported protocol versions to stderr, as the plugin does
    /// without `CNI_COMMAND`. A closed stderr is not an error.
    pub fn write_version(&'static self) -> Result<(), Error> {
        self.reply(&Request::default()).emit()
    }

    /// Answers a CHECK with what a running attachment has lost. Returns `None` if the plugin
    /// cannot restore anything.
    pub fn look(&'static self, request: &Request) -> Option<Reply> {
        Some(self.repair_step(self.facts.repair.as_ref()?.look, request))
    }

    /// Answers a CHECK by restoring what the attachment has lost. Returns `None` if the plugin
    /// cannot restore anything.
    pub fn restore(&'static self, request: &Request) -> Option<Reply> {
        Some(self.repair_step(self.facts.repair.as_ref()?.restore, request))
    }

    /// Whether the plugin can restore what a running attachment has lost.
    pub fn can_restore(&self) -> bool {
        self.facts.repair.is_some()
    }

    fn repair_step(&'static self, step: Command, request: &Request) -> Reply {
        let linkage = Linkage { check: step, ..self.linkage(Program::IN_PROCESS) };
        self.skeleton().reply(&linkage, request)
    }

    fn linkage(&'static self, program: Program) -> Linkage {
        Linkage { plugin: self, program, check: self.commands.check }
    }

    /// The first line is that of the Go plugins. Other programs parse it, so nothing may be added.
    fn skeleton(&self) -> rscni::Plugin {
        rscni::Plugin::default().msg(format!(
            "CNI {} plugin {EQUIVALENT_RELEASE}+rscni.{}",
            self.name,
            env!("CARGO_PKG_VERSION"),
        ))
    }
}
