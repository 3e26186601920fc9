//! The dispatcher: from a request to the reply of a plugin.
//!
//! All styles of plugins use [`prepare`], which validates the call, and [`finish`], which shapes
//! the reply. Both do no I/O.

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
    plugin::Cni,
    removal,
    request::{Command, Reply, Request, reserve_stdout},
    result::CNIResult,
    span::Traced,
    trace::TraceContext,
    version::{PluginInfo, SpecVersion},
};

/// The self-description of a plugin.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) info: PluginInfo,
    pub(crate) about: String,
}

pub(crate) fn run<C: Cni + ?Sized>(plugin: &C, identity: &Identity) -> Result<(), Error> {
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
