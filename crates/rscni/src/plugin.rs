//! The plugin side of the protocol: one dispatcher, and the ways to write a plugin on top of it.
//!
//! A plugin is three functions ([`Plugin::new`]), a value with the trait [`Cni`] ([`Plugin::default`], then
//! [`run`](Plugin::run)), or an asynchronous one ([`async_cni`](crate::async_cni), with the feature `async`).
//! All of them go through [`prepare`] and [`finish`], which validate the call and shape the reply, and do no I/O.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    args::{Args, parse_bool},
    conf::{NetConf, version_for_error},
    error::{Error, ErrorReply},
    name::{check_container_id, check_interface_name, check_network_name},
    removal,
    request::{Command, Reply, Request, reserve_stdout},
    result::CNIResult,
    version::{PluginInfo, SpecVersion},
};

/// A plugin, as a type with state.
///
/// The skeleton calls it with a validated [`Args`] and turns what it returns into the reply. Only ADD has a result.
pub trait Cni {
    /// ADD: attach the container, or change the attachment that the plugins before have made.
    fn add(&self, args: Args) -> Result<CNIResult, Error>;

    /// DEL: undo what ADD did, as far as it is there. A second DEL, or one without namespace, succeeds.
    fn del(&self, args: Args) -> Result<(), Error>;

    /// CHECK: see that everything is as ADD left it. Unless provided, it finds nothing to complain of.
    fn check(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }

    /// GC: remove what belongs to attachments that are not in [`NetConf::valid_attachments`]. Unless provided, there
    /// is nothing to remove.
    fn gc(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }

    /// STATUS: whether ADD could be serviced. Unless provided, it could.
    fn status(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }
}

/// The type of a plugin's functions. The result of DEL and CHECK is not written.
pub type CmdFn = fn(Args) -> Result<CNIResult, Error>;

/// Three functions as a plugin; made by [`Plugin::new`].
#[derive(Clone, Copy, Debug)]
pub struct Functions {
    add: CmdFn,
    del: CmdFn,
    check: CmdFn,
}

impl Cni for Functions {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        (self.add)(args)
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        (self.del)(args).map(drop)
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        (self.check)(args).map(drop)
    }
}

/// A plugin with the versions that it supports and a text about it.
///
/// With functions:
///
/// ```no_run
/// use rscni::{Args, CNIResult, Error, Plugin, PluginInfo};
///
/// fn add(args: Args) -> Result<CNIResult, Error> {
///     Ok(args.config.and_then(|conf| conf.prev_result).unwrap_or_default())
/// }
/// fn nothing(_: Args) -> Result<CNIResult, Error> {
///     Ok(CNIResult::default())
/// }
///
/// fn main() -> Result<(), Error> {
///     Plugin::new(add, nothing, nothing, PluginInfo::default(), "passes on what it is given").run()
/// }
/// ```
///
/// With the trait [`Cni`]:
///
/// ```no_run
/// use rscni::{Args, CNIResult, Cni, Error, Plugin};
///
/// struct Mine;
/// impl Cni for Mine {
///     fn add(&self, _: Args) -> Result<CNIResult, Error> { Ok(CNIResult::default()) }
///     fn del(&self, _: Args) -> Result<(), Error> { Ok(()) }
/// }
///
/// fn main() -> Result<(), Error> {
///     Plugin::default().msg("my plugin").run(&Mine)
/// }
/// ```
///
/// The caller is told of a failure before `run` returns it. What is left for `main` is to end with a status other
/// than 0: by returning the error, as above, or by a panic over it.
///
/// ```no_run
/// # use rscni::{Args, CNIResult, Error, Plugin, PluginInfo};
/// # fn add(_: Args) -> Result<CNIResult, Error> { Ok(CNIResult::default()) }
/// # fn nothing(_: Args) -> Result<CNIResult, Error> { Ok(CNIResult::default()) }
/// fn main() {
///     let plugin = Plugin::new(add, nothing, nothing, PluginInfo::default(), "passes on what it is given");
///     plugin.run().expect("the CNI call failed");
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Plugin<F = ()> {
    functions: F,
    identity: Identity,
}

/// What a plugin says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) info: PluginInfo,
    pub(crate) about: String,
}

impl Plugin<Functions> {
    /// A plugin made of three functions; GC and STATUS succeed without doing anything.
    pub fn new(
        add: CmdFn,
        del: CmdFn,
        check: CmdFn,
        info: PluginInfo,
        about: impl Into<String>,
    ) -> Self {
        Self {
            functions: Functions { add, del, check },
            identity: Identity { info, about: about.into() },
        }
    }

    /// Answers the call that this process was started with.
    ///
    /// From here on stdout is the reply's alone: what the plugin prints, and what its children write to stdout, goes to
    /// stderr.
    ///
    /// # Errors
    /// The error that was told to the caller on stdout; `main` need only end with a non-zero status.
    pub fn run(&self) -> Result<(), Error> {
        run(&self.functions, &self.identity)
    }

    /// Answers `request`, without I/O of its own.
    pub fn reply(&self, request: &Request) -> Reply {
        reply(&self.functions, &self.identity, request)
    }
}

impl Default for Plugin<()> {
    /// A plugin that supports every version, and says nothing about itself yet.
    fn default() -> Self {
        Self { functions: (), identity: Identity::default() }
    }
}

impl Plugin<()> {
    /// Sets the text about the plugin, written to stderr when it is started without `CNI_COMMAND`.
    /// A line with the supported versions of the protocol follows.
    ///
    /// Programs that look for the version of a plugin expect `CNI <name> plugin v<version>` as the
    /// first line, such as `concat!("CNI mine plugin v", env!("CARGO_PKG_VERSION"))`.
    #[must_use]
    pub fn msg(mut self, about: impl Into<String>) -> Self {
        self.identity.about = about.into();
        self
    }

    /// Sets the versions that the plugin supports.
    #[must_use]
    pub fn versions(mut self, info: PluginInfo) -> Self {
        self.identity.info = info;
        self
    }

    /// Answers, with `plugin`, the call that this process was started with.
    ///
    /// From here on stdout is the reply's alone: what the plugin prints, and what its children write to stdout, goes to
    /// stderr.
    ///
    /// # Errors
    /// The error that was told to the caller on stdout; `main` need only end with a non-zero status.
    pub fn run<C: Cni + ?Sized>(&self, plugin: &C) -> Result<(), Error> {
        run(plugin, &self.identity)
    }

    /// Answers `request` with `plugin`, without I/O of its own.
    pub fn reply<C: Cni + ?Sized>(&self, plugin: &C, request: &Request) -> Reply {
        reply(plugin, &self.identity, request)
    }
}

fn run<C: Cni + ?Sized>(plugin: &C, identity: &Identity) -> Result<(), Error> {
    reserve_stdout();
    deliver(match Request::from_process() {
        Ok(request) => {
            answer_abort(&request);
            reply(plugin, identity, &request)
        }
        Err(error) => failure(error, SpecVersion::LATEST),
    })
}

fn reply<C: Cni + ?Sized>(plugin: &C, identity: &Identity, request: &Request) -> Reply {
    let (command, args) = match prepare(request, identity) {
        Prepared::Call(command, args) => (command, *args),
        Prepared::Done(reply) => return reply,
    };
    let version = args.version();
    let outcome = catch_unwind(AssertUnwindSafe(|| match command {
        Command::Add => plugin.add(args).map(Some),
        Command::Del => plugin.del(args).map(|()| None),
        Command::Check => plugin.check(args).map(|()| None),
        Command::Gc => plugin.gc(args).map(|()| None),
        Command::Status => plugin.status(args).map(|()| None),
        Command::Version => Ok(None),
    }));
    finish(version, outcome.unwrap_or_else(|panic| Err(panicked(&*panic))))
}

/// A call that is ready for the plugin, or one that is answered already.
pub(crate) enum Prepared {
    Call(Command, Box<Args>),
    Done(Reply),
}

/// Validates a request.
pub(crate) fn prepare(request: &Request, identity: &Identity) -> Prepared {
    let command = match request.vars.get("CNI_COMMAND").filter(|command| !command.is_empty()) {
        None => return Prepared::Done(about(identity)),
        Some(command) => command.to_string_lossy().parse(),
    };
    match command {
        Err(error) => Prepared::Done(failure(error, version_for_error(&request.stdin))),
        Ok(Command::Version) => Prepared::Done(Reply {
            stdout: identity.info.reply(&request.stdin),
            ..Reply::default()
        }),
        Ok(command) => match args(command, request, &identity.info) {
            Ok(args) => Prepared::Call(command, Box::new(args)),
            Err((error, version)) => Prepared::Done(failure(error, version)),
        },
    }
}

/// Shapes the reply to a call.
pub(crate) fn finish(version: SpecVersion, outcome: Result<Option<CNIResult>, Error>) -> Reply {
    match outcome {
        Ok(Some(result)) => {
            Reply { stdout: result.to_json(version).to_string().into_bytes(), ..Reply::default() }
        }
        Ok(None) => Reply::default(),
        Err(error) => failure(error, version),
    }
}

/// The error that stands for a panic.
pub(crate) fn panicked(payload: &(dyn Any + Send)) -> Error {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    Error::Internal(format!("the plugin panicked: {}", text.unwrap_or("without a message")))
}

/// Whether this process has given its answer. There is one per process, whoever gives it.
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// Where panics abort there is nothing to catch: answers `request` from the panic hook, before the process ends.
///
/// A panic that comes after the answer, such as that of a `main` that ends in `expect`, adds nothing to it.
pub(crate) fn answer_abort(request: &Request) {
    if cfg!(panic = "abort") {
        let previous = std::panic::take_hook();
        let stdin = request.stdin.clone();
        std::panic::set_hook(Box::new(move |info| {
            previous(info);
            if !ANSWERED.swap(true, Ordering::SeqCst) {
                // The result is the error that is being written.
                let _ = failure(panicked(info.payload()), version_for_error(&stdin)).emit();
            }
        }));
    }
}

/// Gives the answer of this process.
pub(crate) fn deliver(reply: Reply) -> Result<(), Error> {
    ANSWERED.store(true, Ordering::SeqCst);
    reply.emit()
}

fn about(identity: &Identity) -> Reply {
    let separator = if identity.about.is_empty() { "" } else { "\n" };
    let stderr = format!(
        "{}{separator}CNI protocol versions supported: {}\n",
        identity.about,
        identity.info.list()
    );
    Reply { stderr, ..Reply::default() }
}

pub(crate) fn failure(error: Error, version: SpecVersion) -> Reply {
    let stdout = serde_json::to_vec(&ErrorReply::new(&error, version)).unwrap_or_default();
    Reply { stdout, stderr: String::new(), error: Some(error) }
}

/// Builds the arguments of a call. An error comes with the version that its reply is to be in.
fn args(
    command: Command,
    request: &Request,
    info: &PluginInfo,
) -> Result<Args, (Error, SpecVersion)> {
    // The configuration decides the version of every reply, so it is read first, even where another error is told.
    let mut config = NetConf::from_json(&request.stdin);
    if let (Command::Del, Err(Error::FailedToDecode(_))) = (command, &config)
        && let Some(readable) = removal::read(&request.stdin)
    {
        config = Ok(readable);
    }
    let version =
        config.as_ref().map_or_else(|_| version_for_error(&request.stdin), |conf| conf.cni_version);
    validate(command, request, info, config).map_err(|error| (error, version))
}

fn validate(
    command: Command,
    request: &Request,
    info: &PluginInfo,
    config: Result<NetConf, Error>,
) -> Result<Args, Error> {
    let vars = Variables::read(command, request)?;
    let config = config?;
    check_version(command, info, config.cni_version)?;
    check_network_name(&config.name)?;
    if command.has_attachment() {
        check_container_id(&vars.container_id)?;
        check_interface_name(&vars.ifname)?;
    }
    let is_host = request.netns_is_own && !vars.netns_override;
    if command == Command::Add && is_host {
        return Err(Error::InvalidNetns(format!(
            "CNI_NETNS={} is the plugin's own network namespace; give the container's, or set CNI_NETNS_OVERRIDE=1",
            vars.netns
        )));
    }
    // `/proc/PID/ns/net` of a container that is gone leads here once a process of the host has its number. What is
    // held outside of the container can be freed all the same, and only that.
    let is_nowhere = vars.netns.is_empty() || (command == Command::Del && is_host);
    Ok(Args {
        container_id: vars.container_id,
        netns: if is_nowhere { None } else { Some(vars.netns.into()) },
        ifname: vars.ifname,
        args: vars.args,
        path: vars.path.split(':').filter(|path| !path.is_empty()).map(Into::into).collect(),
        config: Some(config),
        stdin: request.stdin.clone(),
        netns_override: vars.netns_override,
    })
}

fn check_version(command: Command, info: &PluginInfo, version: SpecVersion) -> Result<(), Error> {
    if !info.supports(version) {
        return Err(Error::IncompatibleVersion(format!(
            "the configuration has cniVersion {version}, the plugin supports {}",
            info.list()
        )));
    }
    let (exists, since) = match command {
        Command::Check => (version.has_check(), SpecVersion::V0_4_0),
        Command::Gc | Command::Status => (version.has_gc_and_status(), SpecVersion::V1_1_0),
        Command::Add | Command::Del | Command::Version => return Ok(()),
    };
    if exists {
        return Ok(());
    }
    Err(Error::IncompatibleVersion(format!(
        "the configuration has cniVersion {version}, {command} exists from {since} on"
    )))
}

/// The `CNI_*` variables of a call, as text.
struct Variables {
    container_id: String,
    netns: String,
    ifname: String,
    args: Option<String>,
    path: String,
    netns_override: bool,
}

impl Variables {
    fn read(command: Command, request: &Request) -> Result<Self, Error> {
        let is_missing =
            |name: &&&str| request.vars.get(**name).is_none_or(|value| value.is_empty());
        let missing: Vec<_> =
            command.required_variables().iter().filter(is_missing).copied().collect();
        if !missing.is_empty() {
            return Err(Error::InvalidEnvValue(format!(
                "{command} needs {}: set it",
                missing.join(", ")
            )));
        }
        let get = |name: &str| match request.vars.get(name) {
            None => Ok(None),
            Some(value) => match value.to_str() {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(Error::InvalidEnvValue(format!("{name} is not UTF-8"))),
            },
        };
        // A command without attachment has no container, whatever the caller's environment may hold.
        let of_attachment = |name| if command.has_attachment() { get(name) } else { Ok(None) };
        Ok(Self {
            container_id: of_attachment("CNI_CONTAINERID")?.unwrap_or_default(),
            netns: of_attachment("CNI_NETNS")?.unwrap_or_default(),
            ifname: of_attachment("CNI_IFNAME")?.unwrap_or_default(),
            args: of_attachment("CNI_ARGS")?.filter(|args| !args.is_empty()),
            path: get("CNI_PATH")?.unwrap_or_default(),
            netns_override: get("CNI_NETNS_OVERRIDE")?
                .is_some_and(|text| parse_bool(&text) == Some(true)),
        })
    }
}
