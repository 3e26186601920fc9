//! The plugin side of the protocol: the dispatcher, and the styles of plugins on top of it.
//!
//! A plugin is three functions ([`Plugin::new`]), a type with the trait [`Cni`]
//! ([`Plugin::default`], then [`run`](Plugin::run)), or an async one
//! ([`async_cni`](crate::async_cni)). All of them use [`prepare`], which validates the call, and
//! [`finish`], which shapes the reply. Both do no I/O.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    args::Args,
    cni_args::parse_bool,
    conf::{NetConf, version_for_error},
    error::{Error, ErrorReply},
    json,
    name::{check_container_id, check_interface_name, check_network_name},
    object::to_map,
    removal,
    request::{Command, Reply, Request, reserve_stdout},
    result::CNIResult,
    span::Traced,
    trace::TraceContext,
    version::{PluginInfo, SpecVersion},
};

/// A plugin as a type with state.
///
/// The dispatcher calls it with validated [`Args`] and turns the return value into the reply. Only
/// ADD has a result.
pub trait Cni {
    /// ADD: attaches the container, or changes the attachment made by the previous plugins.
    fn add(&self, args: Args) -> Result<CNIResult, Error>;

    /// DEL: removes what ADD made and still exists. A second DEL, or one without a network
    /// namespace, succeeds.
    fn del(&self, args: Args) -> Result<(), Error>;

    /// CHECK: compares the attachment with the result of ADD. Succeeds by default.
    fn check(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }

    /// GC: removes what attachments left that are not in [`NetConf::valid_attachments`]. Does
    /// nothing by default.
    fn gc(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }

    /// STATUS: fails if the plugin cannot service ADD. Succeeds by default.
    fn status(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }
}

/// Implements [`Cni`] for a pointer to a plugin.
macro_rules! cni_by_pointer {
    ($($pointer:ty),*) => {$(
        impl<C: Cni + ?Sized> Cni for $pointer {
            fn add(&self, args: Args) -> Result<CNIResult, Error> {
                (**self).add(args)
            }

            fn del(&self, args: Args) -> Result<(), Error> {
                (**self).del(args)
            }

            fn check(&self, args: Args) -> Result<(), Error> {
                (**self).check(args)
            }

            fn gc(&self, args: Args) -> Result<(), Error> {
                (**self).gc(args)
            }

            fn status(&self, args: Args) -> Result<(), Error> {
                (**self).status(args)
            }
        }
    )*};
}
cni_by_pointer!(&C, Box<C>, std::sync::Arc<C>);

/// A function for ADD, DEL or CHECK. The result of DEL and CHECK is not written.
pub type CmdFn = fn(Args) -> Result<CNIResult, Error>;

/// A function for GC or STATUS.
pub type NodeFn = fn(Args) -> Result<(), Error>;

/// Functions or closures as a plugin; made by [`Plugin::new`].
#[derive(Clone, Copy, Debug)]
pub struct Functions<A = CmdFn, D = CmdFn, C = CmdFn, G = NodeFn, S = NodeFn> {
    pub(crate) add: A,
    pub(crate) del: D,
    pub(crate) check: C,
    pub(crate) gc: G,
    pub(crate) status: S,
}

impl<A, D, C, G, S> Cni for Functions<A, D, C, G, S>
where
    A: Fn(Args) -> Result<CNIResult, Error>,
    D: Fn(Args) -> Result<CNIResult, Error>,
    C: Fn(Args) -> Result<CNIResult, Error>,
    G: Fn(Args) -> Result<(), Error>,
    S: Fn(Args) -> Result<(), Error>,
{
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        (self.add)(args)
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        (self.del)(args).map(drop)
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        (self.check)(args).map(drop)
    }

    fn gc(&self, args: Args) -> Result<(), Error> {
        (self.gc)(args)
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        (self.status)(args)
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
///     let about = "passes on the result of the previous plugin";
///     Plugin::new(add, nothing, nothing, PluginInfo::default(), about).run()
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
/// Functions may be closures, and there are setters for [`gc`](Plugin::gc) and
/// [`status`](Plugin::status).
///
/// `run` writes the error reply before it returns the error. A `main` that returns the error, as
/// above, prints it to stderr too; [`main`](Plugin::main) returns only the exit code.
#[derive(Clone, Debug)]
pub struct Plugin<F = ()> {
    functions: F,
    identity: Identity,
}

/// The self-description of a plugin.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) info: PluginInfo,
    pub(crate) about: String,
}

impl<A, D, C> Plugin<Functions<A, D, C>>
where
    A: Fn(Args) -> Result<CNIResult, Error>,
    D: Fn(Args) -> Result<CNIResult, Error>,
    C: Fn(Args) -> Result<CNIResult, Error>,
{
    /// A plugin made of three functions or closures; GC and STATUS succeed without doing anything.
    pub fn new(add: A, del: D, check: C, info: PluginInfo, about: impl Into<String>) -> Self {
        let nothing: NodeFn = |_| Ok(());
        Self {
            functions: Functions { add, del, check, gc: nothing, status: nothing },
            identity: Identity { info, about: about.into() },
        }
    }
}

impl<A, D, C, G, S> Plugin<Functions<A, D, C, G, S>> {
    /// Sets the function for GC.
    #[must_use]
    pub fn gc<F: Fn(Args) -> Result<(), Error>>(self, gc: F) -> Plugin<Functions<A, D, C, F, S>> {
        let Functions { add, del, check, status, .. } = self.functions;
        let functions = Functions { add, del, check, gc, status };
        Plugin { functions, identity: self.identity }
    }

    /// Sets the function for STATUS.
    #[must_use]
    pub fn status<F: Fn(Args) -> Result<(), Error>>(
        self,
        status: F,
    ) -> Plugin<Functions<A, D, C, G, F>> {
        let Functions { add, del, check, gc, .. } = self.functions;
        let functions = Functions { add, del, check, gc, status };
        Plugin { functions, identity: self.identity }
    }
}

impl<A, D, C, G, S> Plugin<Functions<A, D, C, G, S>>
where
    Functions<A, D, C, G, S>: Cni,
{
    /// Answers the call that this process was started with.
    ///
    /// Reserves stdout for the reply: output of the plugin and its children to stdout goes to
    /// stderr.
    ///
    /// # Errors
    /// The error of the error reply, which is already written; `main` only has to exit with a
    /// non-zero status.
    pub fn run(&self) -> Result<(), Error> {
        run(&self.functions, &self.identity)
    }

    /// Answers the call that this process was started with; for a `main` that returns an exit code.
    pub fn main(&self) -> ExitCode {
        exit_code(&self.run())
    }

    /// Answers `request`, without I/O of its own.
    pub fn reply(&self, request: &Request) -> Reply {
        reply(&self.functions, &self.identity, request)
    }
}

/// Implements the default and the setters of the blocking and the async `Plugin`.
macro_rules! plugin_settings {
    () => {
        impl Default for Plugin<()> {
            /// A plugin that supports all versions, without a text about itself.
            fn default() -> Self {
                Self { functions: (), identity: Identity::default() }
            }
        }

        impl Plugin<()> {
            /// Sets the text about the plugin, written to stderr when it is started without
            /// `CNI_COMMAND`. A line with the supported versions of the protocol follows.
            ///
            /// Programs that look for the version of a plugin expect `CNI <name> plugin v<version>`
            /// as the first line: `concat!("CNI mine plugin v", env!("CARGO_PKG_VERSION"))`.
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
        }
    };
}
#[cfg(feature = "async")]
pub(crate) use plugin_settings;

plugin_settings!();

impl Plugin<()> {
    /// Answers, with `plugin`, the call that this process was started with.
    ///
    /// Reserves stdout for the reply: output of the plugin and its children to stdout goes to
    /// stderr.
    ///
    /// # Errors
    /// The error of the error reply, which is already written; `main` only has to exit with a
    /// non-zero status.
    pub fn run<C: Cni + ?Sized>(&self, plugin: &C) -> Result<(), Error> {
        run(plugin, &self.identity)
    }

    /// Answers, with `plugin`, the call that this process was started with.
    ///
    /// ```no_run
    /// # use rscni::{Args, CNIResult, Cni, Error};
    /// # struct Mine;
    /// # impl Cni for Mine {
    /// #     fn add(&self, _: Args) -> Result<CNIResult, Error> { Ok(CNIResult::default()) }
    /// #     fn del(&self, _: Args) -> Result<(), Error> { Ok(()) }
    /// # }
    /// fn main() -> std::process::ExitCode {
    ///     rscni::Plugin::default().msg("my plugin").main(&Mine)
    /// }
    /// ```
    pub fn main<C: Cni + ?Sized>(&self, plugin: &C) -> ExitCode {
        exit_code(&self.run(plugin))
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

pub(crate) fn reply<C: Cni + ?Sized>(plugin: &C, identity: &Identity, request: &Request) -> Reply {
    let (command, args) = match prepare(request, identity) {
        Prepared::Call(command, args) => (command, *args),
        Prepared::Done(reply) => return reply,
    };
    let version = args.version();
    finish(version, call(plugin, command, args))
}

/// Calls the plugin; a panic in it becomes an error.
pub(crate) fn call<C: Cni + ?Sized>(
    plugin: &C,
    command: Command,
    args: Args,
) -> Result<Option<CNIResult>, Error> {
    let span = Traced::call(&args);
    let call = AssertUnwindSafe(|| match command {
        Command::Add => plugin.add(args).map(Some),
        Command::Del => plugin.del(args).map(|()| None),
        Command::Check => plugin.check(args).map(|()| None),
        Command::Gc => plugin.gc(args).map(|()| None),
        Command::Status => plugin.status(args).map(|()| None),
        Command::Version => Ok(None),
    });
    span.run(|| catch_unwind(call).unwrap_or_else(|panic| Err(panicked(&*panic))))
}

/// A validated call, or the reply to one that does not reach the plugin.
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
        Ok(Some(result)) => Reply { stdout: result.to_text(version), ..Reply::default() },
        Ok(None) => Reply::default(),
        Err(error) => failure(error, version),
    }
}

/// Converts the payload of a panic to an error.
pub(crate) fn panicked(payload: &(dyn Any + Send)) -> Error {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    Error::Internal(format!("the plugin panicked: {}", text.unwrap_or("without a message")))
}

/// Whether this process has written its reply.
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// With `panic = "abort"`, installs a panic hook that replies to `request`, since nothing can be
/// caught. A panic after the reply, such as an `expect` in `main`, writes no second one.
pub(crate) fn answer_abort(request: &Request) {
    if cfg!(panic = "abort") {
        let previous = std::panic::take_hook();
        let stdin = request.stdin.clone();
        std::panic::set_hook(Box::new(move |info| {
            previous(info);
            if !ANSWERED.swap(true, Ordering::SeqCst) {
                // `emit` returns the error that it wrote.
                let _ = failure(panicked(info.payload()), version_for_error(&stdin)).emit();
            }
        }));
    }
}

/// Writes the reply of this process.
pub(crate) fn deliver(reply: Reply) -> Result<(), Error> {
    ANSWERED.store(true, Ordering::SeqCst);
    reply.emit()
}

/// Returns the exit code of a plugin whose reply is already written.
pub(crate) fn exit_code(outcome: &Result<(), Error>) -> ExitCode {
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
    let stdout = json::to_text(to_map(&ErrorReply::new(&error, version)));
    Reply { stdout, stderr: String::new(), error: Some(error) }
}

/// Builds the arguments of a call. An error comes with the version of its reply.
fn args(
    command: Command,
    request: &Request,
    info: &PluginInfo,
) -> Result<Args, (Error, SpecVersion)> {
    // The configuration decides the version of all replies, so it is read first.
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
            "CNI_NETNS={} is the plugin's own network namespace; pass the container's, \
             or set CNI_NETNS_OVERRIDE=1",
            vars.netns
        )));
    }
    // `/proc/PID/ns/net` of a container that is gone can lead here, once a process of the host has
    // its PID. DEL then only removes what is outside of the container.
    let has_no_netns = vars.netns.is_empty() || (command == Command::Del && is_host);
    Ok(Args {
        command,
        container_id: vars.container_id,
        netns: (!has_no_netns).then(|| vars.netns.into()),
        ifname: vars.ifname,
        args: vars.args,
        path: vars.path.split(':').filter(|path| !path.is_empty()).map(Into::into).collect(),
        config: Some(config),
        stdin: request.stdin.clone(),
        netns_override: vars.netns_override,
        exec: request.exec.clone(),
        trace: TraceContext::of(&request.vars),
    })
}

fn check_version(command: Command, info: &PluginInfo, version: SpecVersion) -> Result<(), Error> {
    if !info.supports(version) {
        return Err(Error::IncompatibleVersion(format!(
            "cniVersion {version} of the configuration is not supported by the plugin; \
             supported are {}",
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
        "the configuration has cniVersion {version}, but {command} requires {since}"
    )))
}

/// The `CNI_*` variables of a call as text.
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
                "{command} requires {}",
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
        // GC and STATUS ignore the variables of an attachment in the caller's environment.
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
