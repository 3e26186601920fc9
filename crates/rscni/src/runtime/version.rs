//! What a plugin answers to VERSION (spec: "VERSION: probe plugin version support").

use serde::Deserialize;
use serde_json::Value;

use crate::{Error, PluginInfo, SpecVersion, any_case, invoke::Outcome};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    supported_versions: Vec<String>,
}

/// The versions that a plugin supports, of those that are known here.
pub(super) fn supported(plugin: &str, outcome: Outcome) -> Result<PluginInfo, Error> {
    let stdout = outcome.stdout.clone();
    match outcome.into_success(plugin) {
        // Plugins are older than the command.
        Err(error) if error.to_string().starts_with("unknown CNI_COMMAND") => {
            return Ok(PluginInfo::new([SpecVersion::V0_1_0]));
        }
        ended => ended?,
    }
    let written: Written = serde_json::from_slice::<Value>(&stdout)
        .and_then(any_case::from_value)
        .map_err(|error| Error::FailedToDecode(format!("the answer has no versions: {error}")))?;
    match (written.cni_version.as_str(), written.supported_versions.as_slice()) {
        ("", _) => Err(Error::FailedToDecode("the answer has no cniVersion".into())),
        ("0.2.0", []) => Ok(PluginInfo::new([SpecVersion::V0_1_0, SpecVersion::V0_2_0])),
        (_, []) => Err(Error::FailedToDecode("the answer has no supportedVersions".into())),
        (_, versions) => {
            Ok(PluginInfo::new(versions.iter().filter_map(|version| version.parse().ok())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invoke::Exit;

    fn answer(status: i32, stdout: &str) -> Result<PluginInfo, Error> {
        supported(
            "a",
            Outcome { exit: Exit::Status(status), stdout: stdout.into(), stderr: Vec::new() },
        )
    }

    #[test]
    fn versions_that_are_known_count() {
        let info = answer(
            0,
            r#"{ "cniVersion": "9.0.0", "supportedVersions": ["1.0.0", "9.0.0", "0.4.0"] }"#,
        )
        .unwrap();
        assert_eq!(info.supported_versions(), [SpecVersion::V0_4_0, SpecVersion::V1_0_0]);
    }

    #[test]
    fn plugins_older_than_the_command_or_the_list_have_versions() {
        let info = answer(1, r#"{ "code": 100, "msg": "unknown CNI_COMMAND: VERSION" }"#).unwrap();
        assert_eq!(info.supported_versions(), [SpecVersion::V0_1_0]);
        let info = answer(0, r#"{ "cniVersion": "0.2.0" }"#).unwrap();
        assert_eq!(info.supported_versions(), [SpecVersion::V0_1_0, SpecVersion::V0_2_0]);
    }

    #[test]
    fn an_answer_without_versions_is_an_error() {
        for stdout in [
            "",
            "[]",
            "{}",
            r#"{ "cniVersion": "1.0.0" }"#,
            r#"{ "supportedVersions": ["1.0.0"] }"#,
        ] {
            assert_eq!(answer(0, stdout).unwrap_err().code(), 6, "{stdout}");
        }
        assert_eq!(answer(1, r#"{ "code": 7, "msg": "no" }"#).unwrap_err().code(), 7);
    }
}
