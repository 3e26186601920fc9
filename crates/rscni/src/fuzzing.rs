//! What the fuzzers call: each function takes any bytes, and panics if what must always hold does not.
//!
//! It is there for fuzzers and tests only, so nothing of it is part of the crate. `fuzz/` has the programs around these
//! functions and the bytes to begin with, which the tests replay.

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

/// A result in any version's shape: it survives in every version that can hold it.
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

/// The result as it is read by whoever gets it in this version.
pub(crate) fn through(result: &CNIResult, version: SpecVersion) -> CNIResult {
    let text = result.to_json(version).to_string();
    CNIResult::from_json(text.as_bytes()).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// A plugin's configuration: written and read again it is the same.
pub fn configuration(data: &[u8]) {
    let conf = match NetConf::from_json(data) {
        Ok(conf) => conf,
        Err(error) => return assert!(matches!(error.code(), 1 | 6), "{error}"),
    };
    let text = serde_json::to_vec(&conf).expect("a configuration is JSON");
    let read = NetConf::from_json(&text).expect("what was written is read");
    // An old version's shape may hold less of the previous result.
    let shape =
        |conf: &NetConf| conf.prev_result.as_ref().map(|result| result.to_json(conf.cni_version));
    assert_eq!(shape(&read), shape(&conf));
    let without = |conf: NetConf| NetConf { prev_result: None, ..conf };
    assert_eq!(without(read.clone()), without(conf));
    if let Err(error) = (Args { config: Some(read), ..Args::default() }).runtime_config() {
        assert_eq!(error.code(), 7, "{error}");
    }
}

/// A whole call: lines of variables, an empty line, stdin. The plugin gives what its configuration says.
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
        let reply = Plugin::default().versions(info.clone()).reply(&Obedient, &request);
        is_as_the_spec_says(&request, &info, &reply);
    }
}

/// A plugin that does what its configuration says: `error` fails, `result` is the result, and else that of the plugin
/// before is passed on.
struct Obedient;

#[derive(Deserialize)]
struct Orders {
    error: Option<ErrorReply>,
    result: Option<CNIResult>,
}

impl Obedient {
    fn obey(args: &Args) -> Result<CNIResult, Error> {
        args.cni_args()?.refuse_unknown(&["IP", "K8S_POD_NAME"])?;
        args.runtime_config()?;
        let orders: Orders = args.conf()?.custom_as()?;
        match orders.error {
            Some(reply) => Err(reply.into()),
            None => Ok(orders
                .result
                .or_else(|| args.conf().ok()?.prev_result.clone())
                .unwrap_or_default()),
        }
    }
}

impl Cni for Obedient {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        Self::obey(&args)
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        Self::obey(&args).map(drop)
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        Self::obey(&args).map(drop)
    }

    fn gc(&self, args: Args) -> Result<(), Error> {
        Self::obey(&args).map(drop)
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        Self::obey(&args).map(drop)
    }
}

/// Holds a reply against the specification, whatever the request was.
fn is_as_the_spec_says(request: &Request, info: &PluginInfo, reply: &Reply) {
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
            let told: ErrorReply = serde_json::from_slice(&reply.stdout).expect("an error is told");
            assert_eq!(
                (told.code, &*told.msg, &*told.details),
                (error.code(), error.msg(), error.details())
            );
            assert_eq!(
                outcome.into_success("a").unwrap_err(),
                told.into(),
                "and read as it was told"
            );
        }
        (Some(Ok(Command::Add)), None) => {
            let result = outcome.into_result("a").expect("ADD has a result");
            let version = json["cniVersion"]
                .as_str()
                .and_then(|text| text.parse().ok())
                .expect("it has a version");
            assert!(info.supports(version));
            assert_eq!(result.to_json(version), json, "and nothing else");
        }
        (Some(Ok(Command::Version)), None) => {
            let versions: Vec<SpecVersion> =
                Deserialize::deserialize(&json["supportedVersions"]).expect("versions");
            assert_eq!(versions, info.supported_versions());
        }
        (Some(Ok(_)), None) => assert!(reply.stdout.is_empty(), "no other command has a result"),
        (Some(Err(error)), None) => panic!("no command, but success: {error}"),
    }
    if reply.stdout.is_empty() {
        return;
    }
    let version: SpecVersion =
        json["cniVersion"].as_str().and_then(|text| text.parse().ok()).expect("it has a version");
    let asked = serde_json::from_slice::<Value>(&request.stdin).ok();
    let asked = asked
        .as_ref()
        .and_then(|stdin| stdin.get("cniVersion")?.as_str()?.parse::<SpecVersion>().ok());
    assert!(asked.is_none_or(|asked| asked == version), "{version} instead of the configuration's");
}

/// The end of a plugin's process: a letter for how it ended, stdout, NUL, stderr.
pub fn outcome(data: &[u8]) {
    let outcome = ending(data);
    let said = serde_json::from_slice::<ErrorReply>(&outcome.stdout).ok();
    let success = outcome.clone().into_success("a");
    assert_eq!(success.is_ok(), outcome.exit == Exit::Status(0));
    if let (Err(error), Some(said), Exit::Status(_) | Exit::Signal(_)) =
        (&success, said, outcome.exit)
    {
        assert_eq!(*error, Error::from(said), "the plugin's own error is passed on as it came");
    }
    if let Err(error) = &success {
        let told = serde_json::to_vec(&ErrorReply::new(error, SpecVersion::LATEST))
            .expect("an error can be told");
        let again = Outcome { exit: Exit::Status(1), stdout: told, stderr: Vec::new() }
            .into_success("b")
            .unwrap_err();
        assert_eq!(
            (again.code(), again.msg(), again.details()),
            (error.code(), error.msg(), error.details()),
            "and by the next one too"
        );
    }
    match outcome.clone().into_result("a") {
        Ok(result) => assert_eq!(CNIResult::from_json(&outcome.stdout), Ok(result)),
        Err(error) if success.is_ok() => assert_eq!(error.code(), 6, "{error}"),
        Err(error) => assert_eq!(Err(error), success),
    }
    crate::runtime::fuzzing::versions(outcome);
}

/// An outcome from bytes: the first says how the plugin ended, then come stdout and, after a NUL, stderr.
pub(crate) fn ending(data: &[u8]) -> Outcome {
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

/// What is before and after the first `separator`; all and nothing if there is none.
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
    fn what_fuzzing_began_with_holds(#[case] name: &str, #[case] target: fn(&[u8])) {
        replay::replay(name, target);
    }
}
