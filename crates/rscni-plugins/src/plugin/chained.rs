//! What the plugins share that work on an interface which a plugin before them in the list has made.

use rscni::{CNIResult, Error, NetConf};

use crate::plugin::failure::Result;

/// The result of the plugins before this one, which its ADD passes on.
pub(crate) fn require_prev_result(conf: &NetConf) -> Result<&CNIResult> {
    conf.prev_result.as_ref().ok_or_else(|| {
        Error::InvalidNetworkConfig(format!(
            "{} needs a prevResult: list it after the plugin that makes the interface",
            conf.r#type
        ))
        .into()
    })
}
