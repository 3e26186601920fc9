//! The cache of attachments between ADD and DEL, in the files and format of libcni, so that one
//! runtime can check and detach what another has attached.
//!
//! An entry is the file `results/<network>-<container id>-<interface>` with a JSON object of the
//! kind `cniCacheV1`.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use base64::prelude::{BASE64_STANDARD, Engine};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{AttachmentParams, NetConfList, conf_dir::files};
use crate::{
    Attachment, CNIResult, Error, SpecVersion, any_case,
    conf::version_of,
    name::{check_container_id, check_interface_name, check_network_name},
};

/// A directory of cached attachments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    dir: PathBuf,
}

/// A cached attachment.
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

/// The contents of a cache, in the order of the file names.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CacheListing {
    /// The attachments.
    pub entries: Vec<CacheEntry>,
    /// The files that cannot be read, each with an error that names it.
    pub broken: Vec<(PathBuf, Error)>,
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

    fn is_of(&self, network: &str, params: &AttachmentParams) -> bool {
        self.network == network
            && self.params.container_id == params.container_id
            && self.params.ifname == params.ifname
    }
}

impl Default for Cache {
    /// The directory of libcni, `/var/lib/cni`.
    fn default() -> Self {
        Self::new("/var/lib/cni")
    }
}

impl Cache {
    /// The cache in `dir`, which is created with the first entry.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Returns the file of an attachment.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] or [`Error::InvalidEnvValue`] if a name is invalid, or all
    /// together are too long for a file name.
    pub fn file(&self, network: &str, params: &AttachmentParams) -> Result<PathBuf, Error> {
        check_network_name(network)?;
        check_container_id(&params.container_id)?;
        check_interface_name(&params.ifname)?;
        let name = format!("{network}-{}-{}", params.container_id, params.ifname);
        if name.len() > LONGEST_NAME {
            return Err(Error::InvalidEnvValue(format!(
                "{name}: the names of network, container and interface are too long for a cache \
                 file: the maximum is {LONGEST_NAME} bytes"
            )));
        }
        Ok(self.results().join(name))
    }

    /// Loads the entry of an attachment, if there is one.
    ///
    /// Two attachments can share a file name, since names may contain the separator `-`; an entry
    /// of another attachment is ignored.
    ///
    /// # Errors
    /// [`Error::FailedToDecode`] if it is damaged, [`Error::Cache`] if it cannot be read, and
    /// those of [`file`](Self::file).
    pub fn load(
        &self,
        network: &str,
        params: &AttachmentParams,
    ) -> Result<Option<CacheEntry>, Error> {
        let file = self.file(network, params)?;
        let entry =
            read(&file, Some((network, params))).map_err(|error| error.context(file.display()))?;
        Ok(entry.filter(|entry| entry.is_of(network, params)))
    }

    /// Lists all entries; none if the directory does not exist.
    ///
    /// Files of old libcni releases do not name their attachment, so they are listed as broken.
    ///
    /// # Errors
    /// [`Error::Cache`] if the directory cannot be read.
    pub fn list(&self) -> Result<CacheListing, Error> {
        let mut listing = CacheListing::default();
        let results = self.results();
        let files = files(&results, |file| !is_draft(file)).map_err(|error| {
            Error::Cache(format!("cannot list {}: {error}", results.display())).with_source(error)
        })?;
        for file in files {
            match read(&file, None).and_then(|entry| self.check_file(entry, &file)) {
                // Removed since the directory was read.
                Ok(None) => {}
                Ok(Some(entry)) => listing.entries.push(entry),
                Err(error) => {
                    let error = error.context(file.display());
                    listing.broken.push((file, error));
                }
            }
        }
        Ok(listing)
    }

    /// Lists the attachments of a container, and the broken files whose names may refer to it.
    ///
    /// # Errors
    /// [`Error::Cache`] if the directory cannot be read, [`Error::InvalidEnvValue`] if the
    /// container id is invalid.
    pub fn list_of(&self, container_id: &str) -> Result<CacheListing, Error> {
        check_container_id(container_id)?;
        let mut listing = self.list()?;
        let infix = format!("-{container_id}-");
        listing.entries.retain(|entry| entry.params.container_id == container_id);
        listing.broken.retain(|(file, _)| {
            file.file_name().is_some_and(|name| name.to_string_lossy().contains(&infix))
        });
        Ok(listing)
    }

    /// Checks that an entry is in the file of its attachment; it would not be found otherwise.
    fn check_file(
        &self,
        entry: Option<CacheEntry>,
        file: &Path,
    ) -> Result<Option<CacheEntry>, Error> {
        if let Some(entry) = &entry {
            let own = self.file(&entry.network, &entry.params)?;
            if own != file {
                let text = format!("the entry belongs into {}", own.display());
                return Err(Error::FailedToDecode(text));
            }
        }
        Ok(entry)
    }

    /// Writes an entry. A reader sees the previous entry or this one, never a part.
    ///
    /// # Errors
    /// [`Error::Cache`] if it cannot be written, and those of [`file`](Self::file).
    pub fn store(&self, entry: &CacheEntry) -> Result<(), Error> {
        let file = self.file(&entry.network, &entry.params)?;
        let bytes = encode(entry)?;
        self.write(&file, &bytes).map_err(|e| {
            Error::Cache(format!("cannot write {}: {e}", file.display())).with_source(e)
        })
    }

    /// Removes the entry of an attachment, even a damaged one, if there is one.
    ///
    /// # Errors
    /// [`Error::Cache`] if it cannot be removed, and those of [`file`](Self::file).
    pub fn remove(&self, network: &str, params: &AttachmentParams) -> Result<(), Error> {
        let file = self.file(network, params)?;
        if let Ok(None) = self.load(network, params) {
            // Left by an ADD that was killed.
            let _ = fs::remove_file(draft_of(&file));
            return Ok(());
        }
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let text = format!("cannot remove {}: {error}", file.display());
                Err(Error::Cache(text).with_source(error))
            }
            _ => Ok(()),
        }
    }

    /// Returns incomplete entries, each with the lock file that its writer holds while it is alive.
    pub(super) fn drafts(&self) -> Vec<(PathBuf, PathBuf)> {
        let entries = fs::read_dir(self.results()).into_iter().flatten().flatten();
        let drafts = entries.filter_map(|entry| {
            let name = entry.file_name().to_str()?.strip_prefix('.')?.to_owned();
            Some((entry.path(), self.dir.join("locks/attachments").join(name)))
        });
        drafts.collect()
    }

    /// Returns the lock file of a network.
    pub(super) fn network_lock(&self, network: &str) -> Result<PathBuf, Error> {
        check_network_name(network)?;
        Ok(self.dir.join("locks/networks").join(network))
    }

    /// Returns the lock file of a network's gate, held while waiting for the network's lock.
    pub(super) fn gate(&self, network: &str) -> Result<PathBuf, Error> {
        check_network_name(network)?;
        Ok(self.dir.join("locks/gates").join(network))
    }

    /// Returns the lock file of an attachment, and of all others with the same entry file.
    pub(super) fn attachment_lock(
        &self,
        network: &str,
        params: &AttachmentParams,
    ) -> Result<PathBuf, Error> {
        let entry = self.file(network, params)?;
        Ok(self.dir.join("locks/attachments").join(entry.file_name().unwrap_or_default()))
    }

    fn results(&self) -> PathBuf {
        self.dir.join("results")
    }

    /// Writes a draft and renames it. It is not synced: an attachment does not outlive a kernel
    /// crash.
    fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()> {
        let dir = self.results();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let draft = draft_of(file);
        let written = create_new(&draft)?.write_all(bytes).and_then(|()| fs::rename(&draft, file));
        if written.is_err() {
            // Best effort: returns the first error.
            let _ = fs::remove_file(&draft);
        }
        written
    }
}

fn is_draft(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// The file of an incomplete entry; network names do not begin with a dot.
fn draft_of(file: &Path) -> PathBuf {
    let mut draft = OsString::from(".");
    draft.push(file.file_name().unwrap_or_default());
    file.with_file_name(draft)
}

/// Creates a new file; an existing one was left by a killed process or is being renamed.
fn create_new(path: &Path) -> io::Result<fs::File> {
    loop {
        match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(path)?,
            made => return made,
        }
    }
}

const KIND: &str = "cniCacheV1";

/// Maximum length of an entry's file name; a draft has one more byte.
const LONGEST_NAME: usize = 254;

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

/// Opens a file for reading. Does not follow a symbolic link and does not block on a pipe.
fn open(file: &Path) -> io::Result<fs::File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    fs::OpenOptions::new().read(true).custom_flags(flags).open(file)
}

/// Reads a file, if it exists.
fn read(file: &Path, of: Option<(&str, &AttachmentParams)>) -> Result<Option<CacheEntry>, Error> {
    let mut bytes = Vec::new();
    let read = open(file).and_then(|mut file| file.read_to_end(&mut bytes).map(|_| file));
    let modified = match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Error::Cache(format!("cannot read: {error}")).with_source(error));
        }
        Ok(file) => file.metadata().and_then(|metadata| metadata.modified()).ok(),
    };
    Ok(Some(CacheEntry { modified, ..decode(&bytes, of)? }))
}

/// Encodes an entry for its file.
pub(super) fn encode(entry: &CacheEntry) -> Result<Vec<u8>, Error> {
    Ok(serde_json::to_vec(&Stored::from(entry))?)
}

/// Decodes an entry. An old libcni stored only the result, so its attachment must be given in `of`.
pub(super) fn decode(
    bytes: &[u8],
    of: Option<(&str, &AttachmentParams)>,
) -> Result<CacheEntry, Error> {
    let map: Map<String, Value> = serde_json::from_slice(bytes)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    const CONFIG: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"noop"}]}"#;

    fn params() -> AttachmentParams {
        AttachmentParams {
            args: vec![("K".into(), "v".into())],
            capability_args: json!({ "mac": "00:11:22:33:44:55" }).as_object().unwrap().clone(),
            ..AttachmentParams::new("box", "/run/netns/box", "eth0")
        }
    }

    fn entry() -> CacheEntry {
        let result = json!({ "ips": [{ "address": "10.0.0.2/24" }], "dns": {} });
        let list = NetConfList::from_json(CONFIG.as_bytes()).unwrap();
        CacheEntry::new(&list, &params(), &serde_json::from_value(result).unwrap())
    }

    fn with_text(text: &str) -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        fs::create_dir(dir.path().join("results")).unwrap();
        fs::write(cache.file("net", &params()).unwrap(), text).unwrap();
        (dir, cache)
    }

    #[test]
    fn an_entry_has_the_file_format_and_modes_of_libcni() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("cni"));
        cache.store(&entry()).unwrap();
        let file = dir.path().join("cni/results/net-box-eth0");
        let json: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(
            json,
            json!({
                "kind": "cniCacheV1", "containerId": "box", "ifName": "eth0", "networkName": "net",
                "config": BASE64_STANDARD.encode(CONFIG.as_bytes()), "netns": "/run/netns/box",
                "cniArgs": [["K", "v"]], "capabilityArgs": { "mac": "00:11:22:33:44:55" },
                "result": { "cniVersion": "1.0.0", "ips": [{ "address": "10.0.0.2/24" }],
                            "dns": {} }
            })
        );
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn an_entry_is_replaced_found_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        assert_eq!(cache.load("net", &params()), Ok(None));
        assert_eq!(cache.remove("net", &params()), Ok(()));
        let mut changed = entry();
        cache.store(&changed).unwrap();
        changed.params.args.clear();
        cache.store(&changed).unwrap();
        let loaded = cache.load("net", &params()).unwrap().unwrap();
        assert!(loaded.modified.is_some());
        assert_eq!(CacheEntry { modified: None, ..loaded }, changed);
        assert_eq!(
            fs::read_dir(dir.path().join("results")).unwrap().count(),
            1,
            "no temporary file is left"
        );
        cache.remove("net", &params()).unwrap();
        assert_eq!(cache.load("net", &params()), Ok(None));
    }

    #[test]
    fn a_bare_result_of_an_old_libcni_is_read() {
        let (_dir, cache) = with_text(
            r#"{ "cniVersion": "0.4.0", "ips": [{ "version": "4", "address": "10.0.0.2/24" }] }"#,
        );
        let entry = cache.load("net", &params()).unwrap().unwrap();
        assert_eq!((entry.result.ips.len(), entry.version), (1, SpecVersion::V0_4_0));
    }

    #[test]
    fn a_damaged_entry_is_reported_and_can_be_removed() {
        let whole = serde_json::to_string(&Stored::from(&entry())).unwrap();
        let config = BASE64_STANDARD.encode(CONFIG);
        let truncated = whole.replace(&config, &config[..config.len() - 1]);
        assert_ne!(truncated, whole);
        let other = [r#"{ "kind": "other" }"#, r#"{ "kind": "cniCacheV1" }"#];
        for text in ["", "[]", "{}", other[0], other[1], &truncated, &whole[..whole.len() / 2]] {
            let (_dir, cache) = with_text(text);
            let error = cache.load("net", &params()).unwrap_err();
            assert!(
                error.code() == 6 && error.details().contains("net-box-eth0"),
                "{text}: {error}"
            );
            cache.remove("net", &params()).unwrap();
            assert_eq!(cache.load("net", &params()), Ok(None));
        }
    }

    #[test]
    fn an_entry_of_another_attachment_is_neither_loaded_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let other = CacheEntry {
            network: "net-box".into(),
            params: AttachmentParams { container_id: "a".into(), ..params() },
            ..entry()
        };
        cache.store(&other).unwrap();
        let same_file = AttachmentParams { container_id: "box-a".into(), ..params() };
        assert_eq!(cache.load("net", &same_file), Ok(None));
        cache.remove("net", &same_file).unwrap();
        assert_eq!(cache.load("net-box", &other.params).unwrap().unwrap().network, "net-box");
        assert_eq!(cache.list().unwrap().entries[0].attachment(), other.attachment());
    }

    #[test]
    fn names_that_would_leave_the_directory_are_rejected() {
        let cache = Cache::new("/nowhere");
        assert_eq!(cache.file("../x", &params()).unwrap_err().code(), 7);
        for (container_id, ifname) in [("..", "eth0"), ("a/b", "eth0"), ("a", "../x")] {
            let params = AttachmentParams::new(container_id, "/n", ifname);
            assert_eq!(cache.file("net", &params).unwrap_err().code(), 4);
        }
    }

    #[test]
    fn a_listing_contains_all_attachments_and_broken_files() {
        let (dir, cache) = with_text("{ truncated");
        let results = dir.path().join("results");
        for (container_id, ifname) in [("b", "eth0"), ("a", "eth1"), ("a", "eth0")] {
            let params = AttachmentParams::new(container_id, "/run/netns/box", ifname);
            cache.store(&CacheEntry { params, ..entry() }).unwrap();
        }
        fs::write(results.join(".1.0.tmp"), "half").unwrap();
        fs::write(results.join("net-old-eth0"), r#"{ "cniVersion": "0.4.0" }"#).unwrap();
        fs::copy(results.join("net-a-eth0"), results.join("net-copy-eth0")).unwrap();
        let listing = cache.list().unwrap();
        let names = |listing: &CacheListing| -> Vec<_> {
            listing
                .entries
                .iter()
                .map(|entry| format!("{} {}", entry.params.container_id, entry.params.ifname))
                .collect()
        };
        assert_eq!(names(&listing), ["a eth0", "a eth1", "b eth0"]);
        assert!(
            listing
                .entries
                .iter()
                .all(|entry| entry.modified.is_some() && entry.config == CONFIG.as_bytes())
        );
        let broken: Vec<_> =
            listing.broken.iter().map(|(file, _)| file.strip_prefix(&results).unwrap()).collect();
        assert_eq!(broken, ["net-box-eth0", "net-copy-eth0", "net-old-eth0"].map(Path::new));
        let problems = ["key must be", "belongs into", "kind None is not"];
        for ((file, error), problem) in listing.broken.iter().zip(problems) {
            let details = error.details();
            assert!(details.starts_with(file.to_str().unwrap()), "{error}");
            assert!(details.contains(problem), "{error}");
        }
        assert_eq!(names(&cache.list_of("a").unwrap()), ["a eth0", "a eth1"]);
        assert_eq!(cache.list_of("box").unwrap().broken.len(), 1);
        assert_eq!(cache.list_of("../a").unwrap_err().code(), 4);
        assert_eq!(Cache::new("/nowhere").list(), Ok(CacheListing::default()));
    }

    #[test]
    fn a_failed_write_keeps_the_previous_entry() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let file = cache.file("net", &params()).unwrap();
        fs::create_dir_all(&file).unwrap();
        let error = cache.store(&entry()).unwrap_err();
        assert!(error.code() == 5 && error.details().contains("net-box-eth0"), "{error}");
        assert_eq!(
            fs::read_dir(dir.path().join("results")).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }
}
