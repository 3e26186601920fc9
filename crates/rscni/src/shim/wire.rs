//! The wire format between shim and daemon, without I/O. [`shim`](super) describes it.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{ErrorReply, Reply};

/// The newest version of the format, and the only one so far.
///
/// A new field is no new version, since unknown fields are ignored.
pub(super) const VERSION: u32 = 1;

/// Limit of an answer in bytes.
pub(super) const MAX_ANSWER: usize = 64 << 20;

/// Bytes of the length before a message.
const PREFIX: usize = 4;

/// A call, from the shim to the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Call {
    pub(super) version: u32,
    /// The variables of the call.
    pub(super) vars: BTreeMap<String, String>,
    /// The configuration.
    pub(super) stdin: String,
    /// `CNI_NETNS`, if the message has the descriptor of that namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) netns: Option<String>,
}

/// The answer of the daemon. All versions can read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Answer {
    /// The newest version that the daemon supports.
    pub(super) version: u32,
    /// Exit status of the plugin.
    pub(super) exit_code: u8,
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// The reason why the daemon did not call the plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refusal: Option<Refusal>,
}

/// The code and the text of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    pub(super) code: u32,
    pub(super) details: String,
}

impl Answer {
    pub(super) fn refused(code: u32, details: impl Into<String>) -> Self {
        let refusal = Some(Refusal { code, details: details.into() });
        Self { version: VERSION, refusal, ..Self::default() }
    }

    /// The reply of the plugin. `None` for a failure without an error reply.
    pub(super) fn into_reply(self) -> Option<Reply> {
        let error = match self.exit_code {
            0 => None,
            _ => Some(ErrorReply::from_json(self.stdout.as_bytes())?.into()),
        };
        Some(Reply { stdout: self.stdout.into_bytes(), stderr: self.stderr, error })
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self {
            version: VERSION,
            exit_code: reply.exit_code(),
            stdout: String::from_utf8_lossy(&reply.stdout).into_owned(),
            stderr: reply.stderr,
            refusal: None,
        }
    }
}

/// Writes a message: its length as four bytes, the most significant first, and JSON.
pub(super) fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![0; PREFIX];
    serde_json::to_writer(&mut bytes, message).expect("text and numbers are JSON");
    let length = u32::try_from(bytes.len() - PREFIX).expect("a message is shorter than 4 GiB");
    bytes[..PREFIX].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// Reads the JSON of a message.
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(body)
}

/// A message that arrives in parts.
#[derive(Debug)]
pub(super) struct Frame {
    limit: usize,
    bytes: Vec<u8>,
}

/// A message is longer than the limit.
#[derive(Debug)]
pub(super) struct TooLong {
    length: usize,
    limit: usize,
}

impl Frame {
    /// A message of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, bytes: Vec::new() }
    }

    /// Appends a part. Returns true if the message is complete; bytes after it are dropped.
    pub(super) fn push(&mut self, part: &[u8]) -> Result<bool, TooLong> {
        self.bytes.extend_from_slice(part);
        let Some(prefix) = self.bytes.first_chunk::<PREFIX>() else { return Ok(false) };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > self.limit {
            return Err(TooLong { length, limit: self.limit });
        }
        if self.bytes.len() < PREFIX + length {
            return Ok(false);
        }
        self.bytes.truncate(PREFIX + length);
        Ok(true)
    }

    /// The JSON of a complete message.
    pub(super) fn body(&self) -> &[u8] {
        self.bytes.get(PREFIX..).unwrap_or_default()
    }
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a message of {} bytes exceeds the limit of {}", self.length, self.limit)
    }
}

impl std::error::Error for TooLong {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn a_message_is_complete_at_its_last_byte() {
        let call = Call { version: VERSION, stdin: "{}".into(), ..Call::default() };
        let bytes = encode(&call);
        let mut frame = Frame::new(bytes.len());
        let (last, first) = bytes.split_last().unwrap();
        for byte in first {
            assert!(!frame.push(&[*byte]).unwrap());
        }
        assert!(frame.push(&[*last, b'x']).unwrap());
        assert_eq!(decode::<Call>(frame.body()).unwrap(), call);
    }

    #[test]
    fn a_message_over_the_limit_is_rejected_at_its_length() {
        let error = Frame::new(10).push(&[0, 0, 0, 11]).unwrap_err();
        assert_eq!(error.to_string(), "a message of 11 bytes exceeds the limit of 10");
        assert!(!Frame::new(10).push(&[0, 0, 0, 10]).unwrap());
        assert!(Frame::new(10).push(&[0, 0, 0, 0]).unwrap());
    }

    #[test]
    fn the_bytes_of_version_1_do_not_change() {
        let call = Call {
            version: 1,
            vars: [("CNI_COMMAND".to_owned(), "ADD".to_owned())].into(),
            stdin: "{}".into(),
            netns: Some("/run/netns/a".into()),
        };
        let text =
            r#"{"version":1,"vars":{"CNI_COMMAND":"ADD"},"stdin":"{}","netns":"/run/netns/a"}"#;
        assert_eq!(encode(&call), [&[0, 0, 0, 78], text.as_bytes()].concat());
        let text = r#"{"version":1,"exitCode":0,"stdout":"{}","stderr":"log"}"#;
        let reply = Reply { stdout: b"{}".to_vec(), stderr: "log".into(), error: None };
        assert_eq!(encode(&Answer::from(reply))[4..], *text.as_bytes());
    }

    #[test]
    fn unknown_fields_are_ignored_and_missing_ones_have_defaults() {
        let call: Call = decode(br#"{ "version": 7, "new": [1], "stdin": "x" }"#).unwrap();
        assert_eq!(call, Call { version: 7, stdin: "x".into(), ..Call::default() });
        let answer: Answer = decode(br#"{ "version": 7, "new": {}, "stderr": "log" }"#).unwrap();
        assert_eq!(answer, Answer { version: 7, stderr: "log".into(), ..Answer::default() });
    }

    #[test]
    fn a_failure_has_the_error_of_its_reply() {
        let error = Error::Custom(123, "msg".into(), "details".into());
        let reply = crate::dispatcher::failure(error.clone(), crate::SpecVersion::V1_0_0);
        assert_eq!(Answer::from(reply.clone()).into_reply(), Some(reply));
        let silent = Answer { exit_code: 1, ..Answer::default() };
        assert_eq!(silent.into_reply(), None);
    }
}
