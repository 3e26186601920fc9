//! The answer of a plugin, and assertions about it.
//!
//! A failed assertion shows the whole call: program, variables, configuration, exit status and
//! output.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt::{self, Display, Formatter},
    net::IpAddr,
    ops::Deref,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use ipnet::IpNet;
use serde_json::Value;

const ABORT: i32 = rustix::process::Signal::ABORT.as_raw();

/// The end of a call.
#[derive(Debug, Clone)]
pub(crate) enum End {
    Exited(ExitStatus),
    /// Killed at the time limit, with a description.
    Overdue(String),
}

/// A call of a plugin and its answer. Assert the result with [`success`](Self::success),
/// [`error`](Self::error) or [`failure`](Self::failure). `Display` shows the whole call.
#[derive(Debug, Clone)]
#[must_use = "say what is expected: `.success()` or `.error(code)`"]
pub struct Outcome {
    pub(crate) program: PathBuf,
    pub(crate) variables: BTreeMap<String, OsString>,
    pub(crate) stdin: Vec<u8>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) end: End,
}

impl Outcome {
    /// The file that was executed.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The `CNI_*` variables, and others that were set for the call.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &OsStr)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_os_str()))
    }

    /// The plugin's stdin.
    pub fn stdin(&self) -> String {
        String::from_utf8_lossy(&self.stdin).into_owned()
    }

    /// The exit status or the time limit, as text.
    pub fn end(&self) -> String {
        match &self.end {
            End::Exited(status) => status.to_string(),
            End::Overdue(what) => what.clone(),
        }
    }

    /// Whether the call reached the time limit.
    pub fn is_overdue(&self) -> bool {
        matches!(self.end, End::Overdue(_))
    }

    /// The plugin's stdout.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The plugin's stderr.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The exit code, unless a signal or the time limit ended it.
    pub fn exit_code(&self) -> Option<i32> {
        match &self.end {
            End::Exited(status) => status.code(),
            End::Overdue(_) => None,
        }
    }

    /// Asserts that the plugin succeeded and answered as the specification has it: exit code 0; for
    /// ADD exactly one JSON object on stdout, in the version of the configuration; for VERSION one
    /// with `supportedVersions`; for the other commands nothing.
    ///
    /// # Panics
    ///
    /// If not; the message shows the whole call.
    #[track_caller]
    #[allow(clippy::must_use_candidate, clippy::return_self_not_must_use)]
    pub fn success(&self) -> Reply {
        match self.read_success() {
            Ok(json) => Reply { json },
            Err(why) => panic!("expected success, but {why}\n{self}"),
        }
    }

    /// Asserts that the plugin failed with this error code and answered as the specification has
    /// it: an exit code that is not 0 (or an abort: that is how a `main` ends that panics over the
    /// error, where panics abort), and on stdout exactly one JSON object with `cniVersion`, `code`,
    /// `msg` and, if any, `details`.
    ///
    /// # Panics
    ///
    /// If not; the message shows the whole call.
    #[track_caller]
    pub fn error(&self, code: u64) -> ErrorReply {
        let reply = self.read_error().and_then(|reply| match reply.json["cniVersion"].as_str() {
            None | Some("") => Err("its error reply has no `cniVersion`".to_owned()),
            Some(_) => Ok(reply),
        });
        match reply {
            Ok(reply) if reply.code() == code => reply,
            Ok(reply) => panic!(
                "expected error {code}, but it was {}: {}\n{self}",
                reply.code(),
                reply.msg()
            ),
            Err(why) => panic!("expected error {code}, but {why}\n{self}"),
        }
    }

    /// Asserts that the plugin failed with any error reply. It may lack `cniVersion`, as those of
    /// the Go plugins do.
    ///
    /// # Panics
    ///
    /// If not; the message shows the whole call.
    #[track_caller]
    #[allow(clippy::must_use_candidate)]
    pub fn failure(&self) -> ErrorReply {
        match self.read_error() {
            Ok(reply) => reply,
            Err(why) => panic!("expected an error, but {why}\n{self}"),
        }
    }

    fn command(&self) -> &str {
        self.variables.get("CNI_COMMAND").and_then(|command| command.to_str()).unwrap_or_default()
    }

    fn exited(&self) -> Result<ExitStatus, String> {
        match &self.end {
            End::Exited(status) => Ok(*status),
            End::Overdue(what) => Err(what.clone()),
        }
    }

    fn read_success(&self) -> Result<Value, String> {
        let status = self.exited()?;
        if !status.success() {
            return Err(format!("it ended with {status}"));
        }
        match self.command() {
            "ADD" => {
                let json = one_object(&self.stdout)?;
                let config: Value = serde_json::from_slice(&self.stdin).unwrap_or_default();
                let wanted = config["cniVersion"].as_str().unwrap_or("0.1.0");
                match json["cniVersion"].as_str() {
                    // Before there were versions in results, one without was 0.1.0.
                    said if said.unwrap_or("0.1.0") == wanted => Ok(json),
                    said => Err(format!(
                        "its result has cniVersion {said:?}; the configuration has {wanted:?}"
                    )),
                }
            }
            "VERSION" => {
                let json = one_object(&self.stdout)?;
                match json["supportedVersions"].as_array() {
                    Some(_) => Ok(json),
                    None => Err("its result has no `supportedVersions`".to_owned()),
                }
            }
            _ if self.stdout.is_empty() => Ok(Value::Null),
            command => Err(format!("{command} must print nothing on stdout")),
        }
    }

    fn read_error(&self) -> Result<ErrorReply, String> {
        let status = self.exited()?;
        match (status.code(), status.signal()) {
            (Some(0), _) => return Err("it succeeded".to_owned()),
            (Some(_), _) | (None, Some(ABORT)) => {}
            (None, _) => return Err(format!("it ended with {status}")),
        }
        let json = one_object(&self.stdout)?;
        if json["code"].as_u64().is_none_or(|code| code == 0) {
            return Err("its error reply has no `code`".to_owned());
        }
        if json["msg"].as_str().is_none_or(str::is_empty) {
            return Err("its error reply has no `msg`".to_owned());
        }
        if !matches!(json.get("details"), None | Some(Value::String(_))) {
            return Err("the `details` of its error reply are no text".to_owned());
        }
        Ok(ErrorReply { json })
    }
}

fn one_object(stdout: &[u8]) -> Result<Value, String> {
    let mut values = serde_json::Deserializer::from_slice(stdout).into_iter::<Value>();
    let first = values.next().ok_or("there is nothing on its stdout")?;
    let first = first.map_err(|error| format!("its stdout is not JSON: {error}"))?;
    if !first.is_object() {
        return Err("its stdout is not a JSON object".to_owned());
    }
    match values.next() {
        None => Ok(first),
        Some(_) => Err("there is more on its stdout than one JSON object".to_owned()),
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "  plugin   {}", self.program.display())?;
        for (name, value) in &self.variables {
            writeln!(f, "  env      {name}={}", value.to_string_lossy())?;
        }
        writeln!(f, "  ended    {}", self.end())?;
        for (name, bytes) in
            [("stdin", &self.stdin), ("stdout", &self.stdout), ("stderr", &self.stderr)]
        {
            let text = String::from_utf8_lossy(bytes);
            let mut label = name;
            for line in text.lines() {
                writeln!(f, "  {label:8} {line}")?;
                label = "";
            }
            if text.is_empty() {
                writeln!(f, "  {name:8} (empty)")?;
            }
        }
        Ok(())
    }
}

/// The answer of a successful call. It derefs to the JSON, so `reply["dns"]["domain"]` works. It is
/// `null` if the command has no answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    json: Value,
}

impl Deref for Reply {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.json
    }
}

impl Reply {
    /// The answer as JSON.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// The addresses, from a result of any version.
    ///
    /// # Panics
    ///
    /// If one is not an address with a prefix length.
    #[track_caller]
    pub fn ips(&self) -> Vec<IpNet> {
        self.ip_entries("address", "ip").iter().map(|text| parse(text)).collect()
    }

    /// The gateways, of those addresses that have one.
    ///
    /// # Panics
    ///
    /// If one is not an address.
    #[track_caller]
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.ip_entries("gateway", "gateway").iter().map(|text| parse(text)).collect()
    }

    /// `ips` since 0.3.0, `ip4` and `ip6` before.
    fn ip_entries(&self, key: &str, legacy_key: &str) -> Vec<&str> {
        let now = self["ips"].as_array().into_iter().flatten().filter_map(|ip| ip[key].as_str());
        let before =
            ["ip4", "ip6"].into_iter().filter_map(|family| self[family][legacy_key].as_str());
        now.chain(before).collect()
    }

    /// The destinations of the routes, from a result of any version.
    ///
    /// # Panics
    ///
    /// If one is not a network.
    #[track_caller]
    pub fn routes(&self) -> Vec<IpNet> {
        [&self["routes"], &self["ip4"]["routes"], &self["ip6"]["routes"]]
            .into_iter()
            .filter_map(Value::as_array)
            .flatten()
            .map(|route| parse(route["dst"].as_str().unwrap_or_default()))
            .collect()
    }

    /// The names of the interfaces, the host's and the container's, in the order of the result.
    pub fn interfaces(&self) -> Vec<&str> {
        let interfaces = self["interfaces"].as_array().into_iter().flatten();
        interfaces.filter_map(|interface| interface["name"].as_str()).collect()
    }

    /// Returns `config` with this answer as `prevResult`, for CHECK, DEL, or the next plugin of a
    /// list.
    ///
    /// # Panics
    ///
    /// If `config` is not an object.
    #[track_caller]
    pub fn follow(&self, config: &Value) -> Value {
        let mut config = config.clone();
        config["prevResult"] = self.json.clone();
        config
    }
}

#[track_caller]
fn parse<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("`{text}` in the result is not an address"))
}

/// The error reply of a plugin. It derefs to the JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorReply {
    json: Value,
}

impl Deref for ErrorReply {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.json
    }
}

impl ErrorReply {
    /// The error code.
    pub fn code(&self) -> u64 {
        self["code"].as_u64().unwrap_or_default()
    }

    /// The short message.
    pub fn msg(&self) -> &str {
        self["msg"].as_str().unwrap_or_default()
    }

    /// The long message, empty if there is none.
    pub fn details(&self) -> &str {
        self["details"].as_str().unwrap_or_default()
    }

    /// Asserts that the short or the long message contains `text`.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[track_caller]
    #[allow(clippy::return_self_not_must_use)]
    pub fn mentions(&self, text: &str) -> &Self {
        assert!(
            self.msg().contains(text) || self.details().contains(text),
            "the error does not mention `{text}`: {}",
            self.json
        );
        self
    }
}
