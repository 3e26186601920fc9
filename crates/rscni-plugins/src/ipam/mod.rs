//! The plugins that allocate addresses.

pub(crate) mod dhcp;
pub(crate) mod host_local;
pub(crate) mod r#static;

use rscni::{Error, NetConf};
use serde_json::{Map, Value};

/// Returns the keys of `ipam`.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if the section is missing.
fn ipam_keys(conf: &NetConf) -> Result<&Map<String, Value>, Error> {
    let ipam = conf.ipam.as_ref();
    let missing = || Error::InvalidNetworkConfig("set \"ipam\": it is missing".into());
    Ok(&ipam.ok_or_else(missing)?.custom)
}
