//! Fuzz targets: each function takes any bytes and panics if an invariant is violated.
//!
//! Compiled for fuzzers and tests only. `fuzz/` contains the programs around these functions and
//! the seed inputs, which the tests replay.

#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use serde::Deserialize;
use serde_json::Value;

pub use crate::runtime::fuzzing::{cache, chain, network};
use crate::{
    Args, CNIResult, Cni, Command, Error, ErrorReply, NetConf, Plugin, PluginInfo, Reply, Request,
    SpecVersion,
    invoke::{Exit, Outcome},
};

/// A result in any version: writing and reading it in another version keeps what that can express.
pub fn result(data: &[u8]) {
    let result = match CNIResult::from_json(data) {
        Ok(result) => result,
        Err(error) => return assert_eq!(error.code(), 6, "{error}"),
    };
    assert_eq!(through(&result, SpecVersion::V1_1_0), result, "the newest version loses nothing");
    for version in SpecVersion::ALL {
        let written = result.to_json(version);
        assert_eq!(written["cniVersion"], version.as_str());
        let read = through(&result, version);
        assert_eq!(read.to_json(version), written, "{version}");
        for newer in SpecVersion::ALL.into_iter().filter(|newer| *newer > version) {
            assert_eq!(
                through(&read, newer).to_json(version),
                written,
                "{version} by way of {newer}"
            );
        }
    }
}

/// Writes the result in a version and reads it back.
pub(crate) fn through(result: &CNIResult, version: SpecVersion) -> CNIResult {
    let text = result.to_json(version).to_string();
    CNIResult::from_json(text.as_bytes()).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// A plugin's configuration: unchanged after writing and reading it.
pub fn configuration(data: &[u8]) {
    let conf = match NetConf::from_json(data) {
        Ok(conf) => conf,
        Err(error) => return assert!(matches!(error.code(), 1 | 6), "{error}"),
    };
    let text = serde_json::to_vec(&conf).expect("a configuration is JSON");
    let read = NetConf::from_json(&text).expect("what was written is read");
    // The shape of an old version may not hold all of the previous result.
    let shape =
        |conf: &NetConf| conf.prev_result.as_ref().map(|result| result.to_json(conf.cni_version));
    assert_eq!(shape(&read), shape(&conf));
    let without = |conf: NetConf| NetConf { prev_result: None, ..conf };
    assert_eq!(without(read.clone()), without(conf));
    if let Err(error) = (Args { config: Some(read), ..Args::default() }).runtime_config() {
        assert_eq!(error.code(), 7, "{error}");
    }
}

/// A whole call: lines of variables, an empty line, stdin.
pub fn dispatcher(data: &[u8]) {
    let (head, stdin) = split(data, b"\n\n");
    let mut request = Request { stdin: stdin.to_vec(), ..Request::default() };
    for line in head.split(|byte| *byte == b'\n') {
        let (name, value) = split(line, b"=");
        request
            .vars
            .insert(String::from_utf8_lossy(name).into_owned(), OsString::from_vec(value.to_vec()));
    }
    request.netns_is_own = request.vars.contains_key("NETNS_IS_OWN");
    for info in [PluginInfo::default(), PluginInfo::since(SpecVersion::V0_4_0)] {
        let reply = Plugin::default().versions(info.clone()).reply(&ConfiguredPlugin, &request);
        check_reply(&request, &info, &reply);
    }
}

/// A plugin that returns `error` or `result` of its configuration, otherwise `prevResult`.
struct ConfiguredPlugin;

/// A connection between shim and daemon.
#[cfg(feature = "shim")]
pub fn shim(data: &[u8]) {
    crate::shim::fuzzing::messages(data, ConfiguredPlugin, check_reply);
}

#[derive(Deserialize)]
struct ConfiguredReply {
    error: Option<ErrorReply>,
    result: Option<CNIResult>,
}

impl Cni for ConfiguredPlugin {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        args.cni_args()?.refuse_unknown(&["IP", "K8S_POD_NAME"])?;
        args.runtime_config()?;
        let conf = args.conf()?;
        let reply: ConfiguredReply = conf.custom_as()?;
        match reply.error {
            Some(error) => Err(error.into()),
            None => Ok(reply.result.or_else(|| conf.prev_result.clone()).unwrap_or_default()),
        }
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        self.add(args).map(drop)
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        self.add(args).map(drop)
    }

    fn gc(&self, args: Args) -> Result<(), Error> {
        self.add(args).map(drop)
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        self.add(args).map(drop)
    }
}

/// Checks a reply against the specification.
fn check_reply(request: &Request, info: &PluginInfo, reply: &Reply) {
    let command = request.vars.get("CNI_COMMAND").filter(|command| !command.is_empty());
    let command = command.map(|command| command.to_string_lossy().parse::<Command>());
    assert_eq!(reply.exit_code() == 0, reply.error.is_none());
    let outcome = Outcome::from(reply.clone());
    let json: Value = serde_json::from_slice(&reply.stdout).unwrap_or_default();
    match (&command, &reply.error) {
        (None, error) => {
            assert!(error.is_none() && reply.stdout.is_empty() && !reply.stderr.is_empty());
        }
        (_, Some(error)) => {
            let written: ErrorReply =
                serde_json::from_slice(&reply.stdout).expect("an error reply");
            assert_eq!(
                (written.code, &*written.msg, &*written.details),
                (error.code(), error.msg(), error.details())
            );
            assert_eq!(outcome.into_success("a").unwrap_err(), written.into(), "as it is read");
        }
        (Some(Ok(Command::Add)), None) => {
            let result = outcome.into_result("a").expect("ADD has a result");
            let version = version_of(&json).expect("a result has a version");
            assert!(info.supports(version));
            assert_eq!(result.to_json(version), json, "a result has no other keys");
        }
        (Some(Ok(Command::Version)), None) => {
            let versions: Vec<SpecVersion> =
                Deserialize::deserialize(&json["supportedVersions"]).expect("versions");
            assert_eq!(versions, info.supported_versions());
        }
        (Some(Ok(_)), None) => assert!(reply.stdout.is_empty(), "no other command has a result"),
        (Some(Err(error)), None) => panic!("success without a command: {error}"),
    }
    if reply.stdout.is_empty() {
        return;
    }
    let version = version_of(&json).expect("a reply has a version");
    let requested =
        serde_json::from_slice::<Value>(&request.stdin).ok().as_ref().and_then(version_of);
    assert!(requested.is_none_or(|requested| requested == version), "{version}: {requested:?}");
}

fn version_of(json: &Value) -> Option<SpecVersion> {
    json.get("cniVersion")?.as_str()?.parse().ok()
}

/// The end of a plugin's process: a letter for the exit, stdout, NUL, stderr.
pub fn outcome(data: &[u8]) {
    let outcome = parse_outcome(data);
    let reply = serde_json::from_slice::<ErrorReply>(&outcome.stdout).ok();
    let success = outcome.clone().into_success("a");
    assert_eq!(success.is_ok(), outcome.exit == Exit::Status(0));
    if let (Err(error), Some(reply), Exit::Status(_) | Exit::Signal(_)) =
        (&success, reply, outcome.exit)
    {
        assert_eq!(*error, Error::from(reply), "a plugin's own error is passed on unchanged");
    }
    if let Err(error) = &success {
        let stdout = serde_json::to_vec(&ErrorReply::new(error, SpecVersion::LATEST))
            .expect("an error reply is JSON");
        let again = Outcome { exit: Exit::Status(1), stdout, stderr: Vec::new() }
            .into_success("b")
            .unwrap_err();
        assert_eq!(
            (again.code(), again.msg(), again.details()),
            (error.code(), error.msg(), error.details()),
            "by the next plugin too"
        );
    }
    match outcome.clone().into_result("a") {
        Ok(result) => assert_eq!(CNIResult::from_json(&outcome.stdout), Ok(result)),
        Err(error) if success.is_ok() => assert_eq!(error.code(), 6, "{error}"),
        Err(error) => assert_eq!(Err(error), success),
    }
    crate::runtime::fuzzing::versions(outcome);
}

/// Parses an outcome: a byte for the exit, stdout, NUL, stderr.
pub(crate) fn parse_outcome(data: &[u8]) -> Outcome {
    let (exit, text) = data.split_first().map_or((b'0', data), |(exit, text)| (*exit, text));
    let exit = match exit {
        b's' => Exit::Signal(9),
        b't' => Exit::TimedOut(std::time::Duration::from_secs(1)),
        b'f' => Exit::Flooded,
        other => Exit::Status((other.wrapping_sub(b'0')).into()),
    };
    let (stdout, stderr) = split(text, b"\0");
    Outcome { exit, stdout: stdout.to_vec(), stderr: stderr.to_vec() }
}

/// Splits at the first `separator`; without one, the second part is empty.
pub(crate) fn split<'a>(data: &'a [u8], separator: &[u8]) -> (&'a [u8], &'a [u8]) {
    match data.windows(separator.len()).position(|window| window == separator) {
        Some(at) => (&data[..at], &data[at + separator.len()..]),
        None => (data, &[]),
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("result", result)]
    #[case("configuration", configuration)]
    #[case("dispatcher", dispatcher)]
    #[case("outcome", outcome)]
    #[case("network", network)]
    #[case("chain", chain)]
    #[case("cache", cache)]
    #[cfg_attr(feature = "shim", case("shim", shim))]
    fn seed_inputs_hold_the_invariants(#[case] name: &str, #[case] target: fn(&[u8])) {
        replay::replay(name, target);
    }
}
