//! The reply of a plugin to VERSION (spec: "VERSION: probe plugin version support").

use serde::Deserialize;
use serde_json::Value;

use crate::{Error, PluginInfo, SpecVersion, any_case, invoke::Outcome};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionReply {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    supported_versions: Vec<String>,
}

/// Reads the versions that a plugin supports, without those that this library does not know.
pub(super) fn supported(plugin: &str, outcome: Outcome) -> Result<PluginInfo, Error> {
    let stdout = outcome.stdout.clone();
    match outcome.into_success(plugin) {
        // A plugin older than the command.
        Err(error) if error.to_string().starts_with("unknown CNI_COMMAND") => {
            return Ok(PluginInfo::new([SpecVersion::V0_1_0]));
        }
        ended => ended?,
    }
    let reply: VersionReply = serde_json::from_slice::<Value>(&stdout)
        .and_then(any_case::from_value)
        .map_err(|error| Error::FailedToDecode(format!("the reply is invalid: {error}")))?;
    match (reply.cni_version.as_str(), reply.supported_versions.as_slice()) {
        ("", _) => Err(Error::FailedToDecode("the reply has no cniVersion".into())),
        ("0.2.0", []) => Ok(PluginInfo::new([SpecVersion::V0_1_0, SpecVersion::V0_2_0])),
        (_, []) => Err(Error::FailedToDecode("the reply has no supportedVersions".into())),
        (_, versions) => {
            Ok(PluginInfo::new(versions.iter().filter_map(|version| version.parse().ok())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invoke::Exit;

    fn reply(status: i32, stdout: &str) -> Result<PluginInfo, Error> {
        let exit = Exit::Status(status);
        supported("a", Outcome { exit, stdout: stdout.into(), stderr: Vec::new() })
    }

    #[test]
    fn unknown_versions_are_ignored() {
        let text = r#"{ "cniVersion": "9.0.0", "supportedVersions": ["1.0.0", "9.0.0", "0.4.0"] }"#;
        let info = reply(0, text).unwrap();
        assert_eq!(info.supported_versions(), [SpecVersion::V0_4_0, SpecVersion::V1_0_0]);
    }

    #[test]
    fn plugins_older_than_version_or_supported_versions_have_the_oldest_versions() {
        let info = reply(1, r#"{ "code": 100, "msg": "unknown CNI_COMMAND: VERSION" }"#).unwrap();
        assert_eq!(info.supported_versions(), [SpecVersion::V0_1_0]);
        let info = reply(0, r#"{ "cniVersion": "0.2.0" }"#).unwrap();
        assert_eq!(info.supported_versions(), [SpecVersion::V0_1_0, SpecVersion::V0_2_0]);
    }

    #[test]
    fn a_reply_without_versions_is_an_error() {
        let (only_one, only_list) =
            (r#"{ "cniVersion": "1.0.0" }"#, r#"{ "supportedVersions": ["1.0.0"] }"#);
        for stdout in ["", "[]", "{}", only_one, only_list] {
            assert_eq!(reply(0, stdout).unwrap_err().code(), 6, "{stdout}");
        }
        assert_eq!(reply(1, r#"{ "code": 7, "msg": "no" }"#).unwrap_err().code(), 7);
    }
}
