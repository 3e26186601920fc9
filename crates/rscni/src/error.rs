//! The errors of the protocol and the error reply.

use serde::{Deserialize, Serialize};

use crate::{SpecVersion, any_case};

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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// A plugin's own error: code (100 and up), short message, details.
    ///
    /// Also carries the error of a delegated plugin, whatever its code, to pass it on unchanged.
    Custom(u32, String, String),
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

    /// Returns the code, the short message and the text.
    fn parts(&self) -> (u32, &str, &str) {
        match self {
            Self::IncompatibleVersion(text) => (1, "incompatible CNI version", text),
            Self::UnsupportedNetworkConfiguration(text) => {
                (2, "unsupported field in network configuration", text)
            }
            Self::NotExist(text) => (3, "container unknown or does not exist", text),
            Self::InvalidEnvValue(text) => (4, "invalid environment variables", text),
            Self::IOFailure(text) => (5, "I/O failure", text),
            Self::FailedToDecode(text) => (6, "failed to decode content", text),
            Self::InvalidNetworkConfig(text) => (7, "invalid network configuration", text),
            Self::InvalidNetns(text) => (8, "invalid network namespace", text),
            Self::TryAgainLater(text) => (11, "try again later", text),
            Self::PluginNotAvailable(text) => (50, "plugin not available", text),
            Self::PluginNotAvailableLimitedConnectivity(text) => (
                51,
                "plugin not available, existing containers may have limited connectivity",
                text,
            ),
            Self::Internal(text) => (999, "internal error", text),
            Self::Custom(code, msg, text) => (*code, msg, text),
        }
    }

    /// Puts `context` before the text: `bridge: make veth: …`.
    #[must_use]
    pub fn context(mut self, context: impl std::fmt::Display) -> Self {
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
        | Self::Custom(_, _, text)) = &mut self;
        *text = if text.is_empty() { context.to_string() } else { format!("{context}: {text}") };
        self
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.msg(), self.details()) {
            (msg, "") => f.write_str(msg),
            ("", details) => f.write_str(details),
            (msg, details) => write!(f, "{msg}: {details}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::IOFailure(error.to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        if error.is_io() {
            Self::IOFailure(error.to_string())
        } else {
            Self::FailedToDecode(error.to_string())
        }
    }
}

impl From<&Error> for u32 {
    fn from(error: &Error) -> Self {
        error.code()
    }
}

/// The error reply on stdout (spec: "Error").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorReply {
    /// The version in use. Go plugins omit it.
    #[serde(default)]
    pub cni_version: String,
    /// The code.
    pub code: u32,
    /// The short message.
    #[serde(default)]
    pub msg: String,
    /// The longer text.
    #[serde(default)]
    pub details: String,
}

impl ErrorReply {
    /// Reads an error reply, with keys in any case; `None` if the bytes are not one.
    pub(crate) fn from_json(bytes: &[u8]) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        any_case::from_value(json).ok()
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
    /// Keeps code, message and details unchanged.
    fn from(reply: ErrorReply) -> Self {
        Self::Custom(reply.code, reply.msg, reply.details)
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
            (Error::Custom(123, "m".into(), t()), 123),
        ];
        for (error, code) in codes {
            assert_eq!(error.code(), code, "{error:?}");
            assert_eq!(error.details(), "t");
            assert_eq!(error.clone().context("c").details(), "c: t");
            let passed_on = Error::from(ErrorReply::new(&error, SpecVersion::LATEST));
            assert_eq!(
                (passed_on.code(), passed_on.msg(), passed_on.details()),
                (error.code(), error.msg(), error.details())
            );
        }
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
    fn errors_of_io_and_serde_become_codes_5_and_6() {
        assert_eq!(Error::from(std::io::Error::other("disk")).code(), 5);
        assert_eq!(Error::from(serde_json::from_str::<u8>("{").unwrap_err()).code(), 6);
    }
}
