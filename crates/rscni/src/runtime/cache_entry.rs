//! A cached attachment and the format of its file: a JSON object of the kind `cniCacheV1`, as
//! libcni writes it.

use std::time::SystemTime;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Map, Value};

use super::{AttachmentParams, NetConfList};
use crate::{Attachment, CNIResult, Error, SpecVersion, any_case, conf::version_of};

/// A cached attachment.
///
/// Serde reads and writes the format of its file, without `modified`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CacheEntry {
    /// The network's name.
    pub network: String,
    /// The parameters of the ADD.
    pub params: AttachmentParams,
    /// The network's configuration; empty if the runtime did not store it.
    pub config: Vec<u8>,
    /// The result of the chain.
    pub result: CNIResult,
    /// The version of the stored result.
    pub version: SpecVersion,
    /// Modification time of its file; `None` if it was not read from a file.
    pub modified: Option<SystemTime>,
}

impl CacheEntry {
    /// The entry of an attachment to `list`.
    pub fn new(list: &NetConfList, params: &AttachmentParams, result: &CNIResult) -> Self {
        Self {
            network: list.name.clone(),
            params: params.clone(),
            config: list.source().to_vec(),
            result: result.clone(),
            version: list.cni_version,
            modified: None,
        }
    }

    /// Returns the attachment as GC passes it to plugins.
    pub fn attachment(&self) -> Attachment {
        Attachment {
            container_id: self.params.container_id.clone(),
            ifname: self.params.ifname.clone(),
        }
    }

    /// Returns the network list of the ADD. A list that the runtime assembled from a single plugin
    /// is read as well.
    ///
    /// # Errors
    /// [`Error::FailedToDecode`] or [`Error::InvalidNetworkConfig`] if the entry has no valid list
    /// of its network.
    pub fn list(&self) -> Result<NetConfList, Error> {
        let list = NetConfList::from_json(&self.config);
        let list =
            list.or_else(|error| NetConfList::from_plugin_json(&self.config).map_err(|_| error))?;
        if list.name != self.network {
            let text = format!("the configuration is that of network {}", list.name);
            return Err(Error::InvalidNetworkConfig(text));
        }
        Ok(list)
    }

    /// Whether it is the entry of this attachment.
    pub(super) fn is_of(&self, network: &str, params: &AttachmentParams) -> bool {
        self.network == network
            && self.params.container_id == params.container_id
            && self.params.ifname == params.ifname
    }
}

const KIND: &str = "cniCacheV1";

/// The members of an entry's file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    kind: String,
    container_id: String,
    config: Option<String>,
    if_name: String,
    network_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cni_args: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    capability_args: Map<String, Value>,
    #[serde(default)]
    result: Map<String, Value>,
}

impl From<&CacheEntry> for Stored {
    fn from(entry: &CacheEntry) -> Self {
        let result = match entry.result.to_json(entry.version) {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        Self {
            kind: KIND.into(),
            container_id: entry.params.container_id.clone(),
            config: Some(BASE64_STANDARD.encode(&entry.config)),
            if_name: entry.params.ifname.clone(),
            network_name: entry.network.clone(),
            netns: entry.params.netns.as_ref().map(|path| path.to_string_lossy().into_owned()),
            cni_args: entry.params.args.clone(),
            capability_args: entry.params.capability_args.clone(),
            result,
        }
    }
}

impl Serialize for CacheEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Stored::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for CacheEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_map(Map::deserialize(deserializer)?, None).map_err(D::Error::custom)
    }
}

impl Stored {
    fn into_entry(self) -> Result<CacheEntry, Error> {
        let config = self.config.unwrap_or_default();
        let version = version_of(&self.result)?;
        let result: CNIResult = any_case::from_value(self.result)?;
        // libcni before 1.2 did not store the network namespace, but results contain it.
        let sandbox = || result.interfaces.iter().find_map(|interface| interface.sandbox.clone());
        let netns = self.netns.filter(|path| !path.is_empty()).or_else(sandbox);
        Ok(CacheEntry {
            network: self.network_name,
            params: AttachmentParams {
                container_id: self.container_id,
                netns: netns.map(Into::into),
                ifname: self.if_name,
                args: self.cni_args,
                capability_args: self.capability_args,
                netns_override: false,
            },
            config: BASE64_STANDARD
                .decode(config)
                .map_err(|error| Error::FailedToDecode(format!("config is not base64: {error}")))?,
            version,
            result,
            modified: None,
        })
    }
}

/// Encodes an entry for its file.
pub(super) fn encode(entry: &CacheEntry) -> Result<Vec<u8>, Error> {
    Ok(serde_json::to_vec(entry)?)
}

/// Decodes an entry. An old libcni stored only the result, so its attachment must be given in `of`.
pub(super) fn decode(
    bytes: &[u8],
    of: Option<(&str, &AttachmentParams)>,
) -> Result<CacheEntry, Error> {
    from_map(serde_json::from_slice(bytes)?, of)
}

fn from_map(
    map: Map<String, Value>,
    of: Option<(&str, &AttachmentParams)>,
) -> Result<CacheEntry, Error> {
    match (any_case::get(&map, "kind").and_then(Value::as_str), of) {
        (Some(KIND), _) => any_case::from_value::<Stored>(map)?.into_entry(),
        (None, Some((network, params))) if any_case::get(&map, "cniVersion").is_some() => {
            Ok(CacheEntry {
                network: network.into(),
                params: AttachmentParams {
                    container_id: params.container_id.clone(),
                    ifname: params.ifname.clone(),
                    ..AttachmentParams::default()
                },
                config: Vec::new(),
                version: version_of(&map)?,
                result: any_case::from_value(map)?,
                modified: None,
            })
        }
        (kind, _) => Err(Error::FailedToDecode(format!("kind {kind:?} is not {KIND:?}"))),
    }
}
