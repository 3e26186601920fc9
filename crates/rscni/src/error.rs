//! The errors of the protocol and the error reply.

use std::{error::Error as StdError, fmt, sync::Arc};

use crate::{SpecVersion, json, object::object, request::Command};

/// An error of a CNI call, one variant per code of the spec (section "Error").
///
/// In the error reply the variant becomes `code` and `msg`, its text becomes `details`. The text
/// says what was being done, to which object, what happened, and what to do.
///
/// ```
/// use rscni::Error;
///
/// let error = Error::InvalidNetworkConfig("cniOutput must name a directory".into());
/// assert_eq!(error.code(), 7);
/// assert_eq!(error.to_string(), "invalid network configuration: cniOutput must name a directory");
/// ```
///
/// An error that came from elsewhere, such as from a called plugin or from `?` on an
/// [`io::Error`](std::io::Error), also knows its [`Origin`]. Match on [`kind`](Error::kind), which
/// is the error without its origin:
///
/// ```
/// use rscni::Error;
/// # fn add() -> Result<(), Error> {
/// #     let error = Error::TryAgainLater("the range is full".into());
/// #     Err(error.in_call("host-local", rscni::Command::Add))
/// # }
/// let error = add().unwrap_err();
/// if let Error::TryAgainLater(details) = error.kind() {
///     assert_eq!((error.plugin(), details.as_str()), (Some("host-local"), "the range is full"));
/// }
/// ```
///
/// `?` converts errors of I/O (code 5), of JSON (6), and of parsing addresses and numbers (7).
/// [`Error::other`] converts anything else, such as an `anyhow::Error` (999).
///
/// Codes of 100 and up are a plugin's own:
///
/// ```
/// use rscni::Error;
///
/// /// The peer has no session.
/// fn no_session(peer: &str) -> Error {
///     Error::Custom(100, "no BGP session".into(), format!("{peer} is not established"))
/// }
/// assert_eq!(no_session("10.0.0.1").code(), 100);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// 1: the plugin does not support `cniVersion` of the configuration, or the command does not
    /// exist in it.
    IncompatibleVersion(String),
    /// 2: a key of the configuration is not supported. The text names the key and its value.
    UnsupportedNetworkConfiguration(String),
    /// 3: the container is unknown. Tells the runtime that no DEL is needed.
    NotExist(String),
    /// 4: `CNI_*` variables are missing or invalid. The text names them.
    InvalidEnvValue(String),
    /// 5: I/O failure.
    IOFailure(String),
    /// 6: data such as the configuration cannot be decoded.
    FailedToDecode(String),
    /// 7: the configuration is well-formed but invalid.
    InvalidNetworkConfig(String),
    /// 8: `CNI_NETNS` is not the network namespace of a container.
    InvalidNetns(String),
    /// 11: a temporary condition; the runtime should retry.
    TryAgainLater(String),
    /// 50: STATUS: the plugin cannot service ADD.
    PluginNotAvailable(String),
    /// 51: STATUS: as 50, and existing containers may have limited connectivity.
    PluginNotAvailableLimitedConnectivity(String),
    /// 999: an error in the plugin itself.
    Internal(String),
    /// 7: a plugin is not installed. The text names the plugin and the directories.
    NotInstalled(String),
    /// 999: a plugin was killed because it took longer than its timeout.
    TimedOut(String),
    /// 5: the cache of a runtime cannot be read, written or locked.
    Cache(String),
    /// A plugin's own error: code (100 and up), short message, details.
    Custom(u32, String, String),
    /// An error with its origin.
    Traced(Box<Origin>),
}

/// The origin of an error: the call that returned it and the error that caused it.
#[derive(Clone, Debug)]
pub struct Origin {
    kind: Error,
    /// The short message of an error reply, if it is not the one of the variant.
    msg: Option<String>,
    /// The text of `kind` with its context.
    details: String,
    call: Option<Call>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The call of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    plugin: String,
    command: Command,
    index: Option<usize>,
}

impl Error {
    /// Returns the code of the error reply.
    pub fn code(&self) -> u32 {
        self.parts().0
    }

    /// Returns the short message of the error reply.
    pub fn msg(&self) -> &str {
        self.parts().1
    }

    /// Returns the text of the error.
    pub fn details(&self) -> &str {
        self.parts().2
    }

    /// Returns the error without its origin: never [`Error::Traced`].
    pub fn kind(&self) -> &Self {
        match self {
            Self::Traced(origin) => &origin.kind,
            other => other,
        }
    }

    /// Returns the plugin that failed, if the error comes from a call.
    pub fn plugin(&self) -> Option<&str> {
        self.call().map(|call| call.plugin.as_str())
    }

    /// Returns the command that failed, if the error comes from a call.
    pub fn command(&self) -> Option<Command> {
        self.call().map(|call| call.command)
    }

    /// Returns the position of the failed plugin in its chain, from 0, if a runtime called it.
    pub fn chain_index(&self) -> Option<usize> {
        self.call().and_then(|call| call.index)
    }

    fn call(&self) -> Option<&Call> {
        match self {
            Self::Traced(origin) => origin.call.as_ref(),
            _ => None,
        }
    }

    /// Converts any error or text to [`Error::Internal`]; for `map_err`. The causes that an
    /// `anyhow::Error` shows with `{:#}` are included.
    ///
    /// ```
    /// # fn connect() -> Result<(), String> { Err("refused".into()) }
    /// let error = connect().map_err(rscni::Error::other).unwrap_err();
    /// assert_eq!(error.to_string(), "internal error: refused");
    /// ```
    pub fn other(error: impl fmt::Display) -> Self {
        Self::Internal(format!("{error:#}"))
    }

    /// Sets the error that caused this one, for [`source`](StdError::source).
    ///
    /// ```
    /// use std::error::Error as _;
    ///
    /// let error = std::fs::read("/nowhere/lease").map_err(|error| {
    ///     rscni::Error::TryAgainLater("the lease is not there yet".into()).with_source(error)
    /// });
    /// let error = error.unwrap_err();
    /// assert_eq!(error.to_string(), "try again later: the lease is not there yet");
    /// assert!(error.source().unwrap().is::<std::io::Error>());
    /// ```
    #[must_use]
    pub fn with_source(self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.traced(|origin| origin.source = Some(Arc::new(source)))
    }

    /// Sets the call that returned this error; for an own implementation of delegation.
    ///
    /// ```
    /// use rscni::{Command, Error};
    ///
    /// let error = Error::TryAgainLater("the range is full".into()).in_call("pool", Command::Add);
    /// assert_eq!((error.plugin(), error.command()), (Some("pool"), Some(Command::Add)));
    /// ```
    #[must_use]
    pub fn in_call(self, plugin: impl Into<String>, command: Command) -> Self {
        let plugin = plugin.into();
        self.traced(|origin| origin.call = Some(Call { plugin, command, index: None }))
    }

    /// Sets the call in a chain that returned this error.
    #[cfg(all(feature = "runtime", unix))]
    pub(crate) fn in_chain(self, plugin: &str, command: Command, index: usize) -> Self {
        let call = Call { plugin: plugin.to_owned(), command, index: Some(index) };
        self.traced(|origin| origin.call = Some(call))
    }

    /// Replaces the text of [`details`](Error::details), but not that of the kind.
    pub(crate) fn with_details(self, details: String) -> Self {
        self.traced(|origin| origin.details = details)
    }

    fn traced(self, change: impl FnOnce(&mut Origin)) -> Self {
        let mut origin = match self {
            Self::Traced(origin) => origin,
            kind => {
                let details = kind.details().to_owned();
                Box::new(Origin { kind, msg: None, details, call: None, source: None })
            }
        };
        change(&mut origin);
        Self::Traced(origin)
    }

    /// Returns the code, the short message and the text.
    fn parts(&self) -> (u32, &str, &str) {
        match self {
            Self::IncompatibleVersion(text) => (1, "incompatible CNI version", text),
            Self::UnsupportedNetworkConfiguration(text) => {
                (2, "unsupported field in network configuration", text)
            }
            Self::NotExist(text) => (3, "container unknown or does not exist", text),
            Self::InvalidEnvValue(text) => (4, "invalid environment variables", text),
            Self::IOFailure(text) | Self::Cache(text) => (5, "I/O failure", text),
            Self::FailedToDecode(text) => (6, "failed to decode content", text),
            Self::InvalidNetworkConfig(text) | Self::NotInstalled(text) => {
                (7, "invalid network configuration", text)
            }
            Self::InvalidNetns(text) => (8, "invalid network namespace", text),
            Self::TryAgainLater(text) => (11, "try again later", text),
            Self::PluginNotAvailable(text) => (50, "plugin not available", text),
            Self::PluginNotAvailableLimitedConnectivity(text) => (
                51,
                "plugin not available, existing containers may have limited connectivity",
                text,
            ),
            Self::Internal(text) | Self::TimedOut(text) => (999, "internal error", text),
            Self::Custom(code, msg, text) => (*code, msg, text),
            Self::Traced(origin) => {
                let (code, msg, _) = origin.kind.parts();
                (code, origin.msg.as_deref().unwrap_or(msg), &origin.details)
            }
        }
    }

    /// Puts `context` before the text: `bridge: make veth: …`.
    ///
    /// ```
    /// fn port(text: &str) -> Result<u16, rscni::Error> {
    ///     let parsed = text.parse().map_err(rscni::Error::from);
    ///     parsed.map_err(|error| error.context(format!("port: {text:?}")))
    /// }
    /// let error = port("http").unwrap_err();
    /// assert_eq!(error.details(), "port: \"http\": invalid digit found in string");
    /// ```
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        let (Self::IncompatibleVersion(text)
        | Self::UnsupportedNetworkConfiguration(text)
        | Self::NotExist(text)
        | Self::InvalidEnvValue(text)
        | Self::IOFailure(text)
        | Self::FailedToDecode(text)
        | Self::InvalidNetworkConfig(text)
        | Self::InvalidNetns(text)
        | Self::TryAgainLater(text)
        | Self::PluginNotAvailable(text)
        | Self::PluginNotAvailableLimitedConnectivity(text)
        | Self::Internal(text)
        | Self::NotInstalled(text)
        | Self::TimedOut(text)
        | Self::Cache(text)
        | Self::Custom(_, _, text)) = &mut self
        else {
            let details = match self.details() {
                "" => context.to_string(),
                details => format!("{context}: {details}"),
            };
            return self.with_details(details);
        };
        *text = if text.is_empty() { context.to_string() } else { format!("{context}: {text}") };
        self
    }
}

impl PartialEq for Error {
    /// Compares what the error reply contains, and the call; not the source.
    fn eq(&self, other: &Self) -> bool {
        let variant = |error: &Self| std::mem::discriminant(error.kind());
        self.parts() == other.parts()
            && variant(self) == variant(other)
            && self.call() == other.call()
    }
}

impl Eq for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.msg(), self.details()) {
            (msg, "") => f.write_str(msg),
            ("", details) => f.write_str(details),
            (msg, details) => write!(f, "{msg}: {details}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Traced(origin) => origin.source.as_deref().map(|source| source as _),
            _ => None,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::IOFailure(error.to_string()).with_source(error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        let text = error.to_string();
        if error.is_io() { Self::IOFailure(text) } else { Self::FailedToDecode(text) }
            .with_source(error)
    }
}

/// Implements the conversion of errors that occur while a value of the configuration is parsed.
macro_rules! invalid_value {
    ($($error:ty),*) => {$(
        impl From<$error> for Error {
            /// The text does not name the value; add it with [`context`](Error::context).
            fn from(error: $error) -> Self {
                Self::InvalidNetworkConfig(error.to_string()).with_source(error)
            }
        }
    )*};
}
invalid_value!(std::net::AddrParseError, ipnet::AddrParseError, std::num::ParseIntError);

impl From<&Error> for u32 {
    fn from(error: &Error) -> Self {
        error.code()
    }
}

/// The error reply on stdout (spec: "Error").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorReply {
    /// The version in use. Go plugins omit it.
    pub cni_version: String,
    /// The code.
    pub code: u32,
    /// The short message.
    pub msg: String,
    /// The longer text.
    pub details: String,
}

object! {
    ErrorReply: "an error reply, an object",
    keys: { "cniVersion": cni_version, "code": code, "msg": msg, "details": details },
    required: ["code"]
}

impl ErrorReply {
    /// Reads an error reply, with keys in any case; `None` if the bytes are not one.
    pub(crate) fn from_json(bytes: &[u8]) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        json::read(&json, "").ok()
    }

    /// Creates the reply for `error` in `version`.
    pub fn new(error: &Error, version: SpecVersion) -> Self {
        Self {
            cni_version: version.to_string(),
            code: error.code(),
            msg: error.msg().to_owned(),
            details: error.details().to_owned(),
        }
    }
}

impl From<ErrorReply> for Error {
    /// Converts to the variant of the code; keeps message and details unchanged.
    fn from(reply: ErrorReply) -> Self {
        let ErrorReply { code, msg, details, .. } = reply;
        let kind = match code {
            1 => Self::IncompatibleVersion(details),
            2 => Self::UnsupportedNetworkConfiguration(details),
            3 => Self::NotExist(details),
            4 => Self::InvalidEnvValue(details),
            5 => Self::IOFailure(details),
            6 => Self::FailedToDecode(details),
            7 => Self::InvalidNetworkConfig(details),
            8 => Self::InvalidNetns(details),
            11 => Self::TryAgainLater(details),
            50 => Self::PluginNotAvailable(details),
            51 => Self::PluginNotAvailableLimitedConnectivity(details),
            999 => Self::Internal(details),
            _ => return Self::Custom(code, msg, details),
        };
        if kind.msg() == msg { kind } else { kind.traced(|origin| origin.msg = Some(msg)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_the_code_of_the_spec() {
        let t = || "t".to_owned();
        let codes = [
            (Error::IncompatibleVersion(t()), 1),
            (Error::UnsupportedNetworkConfiguration(t()), 2),
            (Error::NotExist(t()), 3),
            (Error::InvalidEnvValue(t()), 4),
            (Error::IOFailure(t()), 5),
            (Error::FailedToDecode(t()), 6),
            (Error::InvalidNetworkConfig(t()), 7),
            (Error::InvalidNetns(t()), 8),
            (Error::TryAgainLater(t()), 11),
            (Error::PluginNotAvailable(t()), 50),
            (Error::PluginNotAvailableLimitedConnectivity(t()), 51),
            (Error::Internal(t()), 999),
            (Error::NotInstalled(t()), 7),
            (Error::TimedOut(t()), 999),
            (Error::Cache(t()), 5),
            (Error::Custom(123, "m".into(), t()), 123),
        ];
        for (error, code) in codes {
            assert_eq!(error.code(), code, "{error:?}");
            assert_eq!(error.details(), "t");
            assert_eq!(error.clone().context("c").details(), "c: t");
            let passed_on = Error::from(ErrorReply::new(&error, SpecVersion::LATEST));
            assert_eq!(passed_on.parts(), error.parts());
            assert_eq!(passed_on.kind().code(), code);
            assert!(!matches!(passed_on, Error::Traced(_)));
        }
    }

    #[test]
    fn a_reply_becomes_the_variant_of_its_code_and_keeps_its_message() {
        let reply = ErrorReply {
            cni_version: "1.1.0".into(),
            code: 11,
            msg: "no free address".into(),
            details: "10.1.0.0/30".into(),
        };
        let error = Error::from(reply);
        assert!(matches!(error.kind(), Error::TryAgainLater(text) if text == "10.1.0.0/30"));
        assert_eq!(error.to_string(), "no free address: 10.1.0.0/30");
    }

    #[test]
    fn the_call_and_the_plain_details_survive_context() {
        let error = Error::TryAgainLater("full".into()).in_chain("host-local", Command::Add, 1);
        let error = error.context("network a");
        assert_eq!((error.plugin(), error.chain_index()), (Some("host-local"), Some(1)));
        assert_eq!(error.command(), Some(Command::Add));
        assert_eq!(error.details(), "network a: full");
        assert_eq!(*error.kind(), Error::TryAgainLater("full".into()));
        assert_ne!(error, *error.kind());
    }

    #[test]
    fn a_reply_is_read_with_its_keys_in_any_case() {
        let text = br#"{ "CNIVERSION": "1.0.0", "Code": 1e1, "code": 11.0, "Msg": "m",
            "MSG": "n", "details": null }"#;
        let reply = ErrorReply::from_json(text).unwrap();
        assert_eq!((reply.code, &*reply.msg, &*reply.cni_version), (11, "m", "1.0.0"));
        assert!(ErrorReply::from_json(b"{}").is_none());
    }

    #[test]
    fn question_mark_converts_errors_of_std_and_serde_and_keeps_them_as_source() {
        let errors: [(Error, u32); 5] = [
            (std::io::Error::other("disk").into(), 5),
            (serde_json::from_str::<u8>("{").unwrap_err().into(), 6),
            ("10.0.0".parse::<std::net::IpAddr>().unwrap_err().into(), 7),
            ("10.0.0.0/33".parse::<ipnet::IpNet>().unwrap_err().into(), 7),
            ("x".parse::<u16>().unwrap_err().into(), 7),
        ];
        for (error, code) in errors {
            assert_eq!(error.code(), code);
            assert_eq!(error.source().unwrap().to_string(), error.details());
        }
    }
}
