//! What a runtime remembers of an attachment between ADD and DEL, in libcni's files and format, so that a network
//! attached by one runtime can be checked and detached by another.
//!
//! An entry is the file `results/<network>-<container id>-<interface>` with a JSON object of the kind `cniCacheV1`.

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

use super::{AttachmentParams, NetConfList};
use crate::{
    Attachment, CNIResult, Error, SpecVersion, any_case,
    conf::version_of,
    name::{check_container_id, check_interface_name, check_network_name},
};

/// The entries of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    dir: PathBuf,
}

/// An attachment as it was made.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CacheEntry {
    /// The network's name.
    pub network: String,
    /// The parameters of the ADD.
    pub params: AttachmentParams,
    /// The network's configuration as it was written; empty where a runtime has not kept it.
    pub config: Vec<u8>,
    /// The result of the chain.
    pub result: CNIResult,
    /// The version in which the result is kept.
    pub version: SpecVersion,
    /// When its file was written; none for an entry that is not from a file.
    pub modified: Option<SystemTime>,
}

/// What a cache holds, in the order of the files' names.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CacheListing {
    /// The attachments.
    pub entries: Vec<CacheEntry>,
    /// The files that cannot be read, each with what is wrong; the text names the file.
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

    /// The attachment, as GC names it.
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
    /// The directory that libcni has, `/var/lib/cni`.
    fn default() -> Self {
        Self::new("/var/lib/cni")
    }
}

impl Cache {
    /// The cache in `dir`; it is made with the first entry.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The file of an attachment.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] or [`Error::InvalidEnvValue`] if a name is none by the spec's rules, or all
    /// together are longer than a file's name.
    pub fn file(&self, network: &str, params: &AttachmentParams) -> Result<PathBuf, Error> {
        check_network_name(network)?;
        check_container_id(&params.container_id)?;
        check_interface_name(&params.ifname)?;
        let name = format!("{network}-{}-{}", params.container_id, params.ifname);
        if name.len() > LONGEST_NAME {
            let problem = "the names of network, container and interface are too long to remember the attachment by";
            return Err(Error::InvalidEnvValue(format!(
                "{name}: {problem}: {LONGEST_NAME} bytes are possible"
            )));
        }
        Ok(self.results().join(name))
    }

    /// The entry of an attachment, if there is one.
    ///
    /// Names may hold the `-` that divides them in the file's name; an entry that turns out to be another
    /// attachment's is none.
    ///
    /// # Errors
    /// [`Error::FailedToDecode`] if it is damaged, [`Error::IOFailure`] if it cannot be read, and those of
    /// [`file`](Self::file).
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

    /// Every attachment that is remembered. A directory that does not exist holds none.
    ///
    /// Files that older releases of libcni wrote do not say whose they are, and so count as broken.
    ///
    /// # Errors
    /// [`Error::IOFailure`] if the directory cannot be read.
    pub fn list(&self) -> Result<CacheListing, Error> {
        let mut listing = CacheListing::default();
        for file in files(&self.results())? {
            match read(&file, None).and_then(|entry| self.in_its_place(entry, &file)) {
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

    /// The attachments of one container, and the broken files whose names may mean it.
    ///
    /// # Errors
    /// [`Error::IOFailure`] if the directory cannot be read, [`Error::InvalidEnvValue`] if that is no container's id.
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

    /// An entry that stands where its own names say; no other would be found again.
    fn in_its_place(
        &self,
        entry: Option<CacheEntry>,
        file: &Path,
    ) -> Result<Option<CacheEntry>, Error> {
        if let Some(entry) = &entry {
            let place = self.file(&entry.network, &entry.params)?;
            if place != file {
                let text = format!("what it holds belongs into {}", place.display());
                return Err(Error::FailedToDecode(text));
            }
        }
        Ok(entry)
    }

    /// Writes an entry. A reader sees the one before or this one, never a part.
    ///
    /// # Errors
    /// [`Error::IOFailure`] if it cannot be written, and those of [`file`](Self::file).
    pub fn store(&self, entry: &CacheEntry) -> Result<(), Error> {
        let file = self.file(&entry.network, &entry.params)?;
        let bytes = encode(entry)?;
        self.write(&file, &bytes)
            .map_err(|e| Error::IOFailure(format!("write {}: {e}", file.display())))
    }

    /// Removes the entry of an attachment, damaged or not, if there is one.
    ///
    /// # Errors
    /// [`Error::IOFailure`] if it cannot be removed, and those of [`file`](Self::file).
    pub fn remove(&self, network: &str, params: &AttachmentParams) -> Result<(), Error> {
        let file = self.file(network, params)?;
        if let Ok(None) = self.load(network, params) {
            // An ADD may have been ended before it was complete.
            let _ = fs::remove_file(draft_of(&file));
            return Ok(());
        }
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::IOFailure(format!("remove {}: {error}", file.display())))
            }
            _ => Ok(()),
        }
    }

    /// Entries that were begun and are not complete, each with the file whose lock its writer holds if it lives.
    pub(super) fn drafts(&self) -> Vec<(PathBuf, PathBuf)> {
        let entries = fs::read_dir(self.results()).into_iter().flatten().flatten();
        let drafts = entries.filter_map(|entry| {
            let name = entry.file_name().to_str()?.strip_prefix('.')?.to_owned();
            Some((entry.path(), self.dir.join("locks/attachments").join(name)))
        });
        drafts.collect()
    }

    /// The file whose lock keeps operations on a network apart.
    pub(super) fn network_lock(&self, network: &str) -> Result<PathBuf, Error> {
        check_network_name(network)?;
        Ok(self.dir.join("locks/networks").join(network))
    }

    /// The file whose lock says who may wait for that of the network.
    pub(super) fn gate(&self, network: &str) -> Result<PathBuf, Error> {
        check_network_name(network)?;
        Ok(self.dir.join("locks/gates").join(network))
    }

    /// The file whose lock keeps operations on an attachment apart, or on all that share its entry's file.
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

    /// Writes a file beside the other and renames it over that. Not synced to the disk: what an entry describes does
    /// not outlive the kernel that a crash takes down.
    fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()> {
        let dir = self.results();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let temporary = draft_of(file);
        let written =
            create_anew(&temporary)?.write_all(bytes).and_then(|()| fs::rename(&temporary, file));
        if written.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

/// Where an entry is written before it is complete. Not in anyone's way: names do not begin with a dot.
fn draft_of(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default();
    let mut draft = OsString::from(".");
    draft.push(name);
    file.with_file_name(draft)
}

/// Makes a file that has not been there: what the one before holds is of a process that was ended, or is being renamed.
fn create_anew(path: &Path) -> io::Result<fs::File> {
    loop {
        match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(path)?,
            made => return made,
        }
    }
}

const KIND: &str = "cniCacheV1";

/// The longest name of an entry: with a dot before it, as long as a file's may be.
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
        // Before release 1.2 libcni did not keep the namespace, but results say where the interfaces are.
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

/// The files of a directory in lexical order, without those that are being written.
fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let list =
        || fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    let mut names = match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(|e| Error::IOFailure(format!("list {}: {e}", dir.display())))?,
    };
    names.retain(|name| !name.as_encoded_bytes().starts_with(b"."));
    names.sort();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// Opens a file to be read. A link that somebody has put in its place is not followed, and a pipe not waited for.
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
        Err(error) => return Err(Error::IOFailure(format!("read: {error}"))),
        Ok(file) => file.metadata().and_then(|metadata| metadata.modified()).ok(),
    };
    Ok(Some(CacheEntry { modified, ..decode(&bytes, of)? }))
}

/// An entry as it stands in its file.
pub(super) fn encode(entry: &CacheEntry) -> Result<Vec<u8>, Error> {
    Ok(serde_json::to_vec(&Stored::from(entry))?)
}

/// Reads an entry; before it had kinds, libcni kept nothing but the result, and so it must be known whose that is.
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
        (kind, _) => Err(Error::FailedToDecode(format!("an entry of kind {kind:?}, not {KIND:?}"))),
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
    fn an_entry_has_libcnis_place_format_and_modes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("cni"));
        cache.store(&entry()).unwrap();
        let file = dir.path().join("cni/results/net-box-eth0");
        let json: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(
            json,
            json!({
                "kind": "cniCacheV1", "containerId": "box", "ifName": "eth0", "networkName": "net",
                "config": BASE64_STANDARD.encode(CONFIG.as_bytes()), "netns": "/run/netns/box", "cniArgs": [["K", "v"]],
                "capabilityArgs": { "mac": "00:11:22:33:44:55" },
                "result": { "cniVersion": "1.0.0", "ips": [{ "address": "10.0.0.2/24" }], "dns": {} }
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
    fn a_bare_result_of_an_old_libcni_is_understood() {
        let (_dir, cache) = with_text(
            r#"{ "cniVersion": "0.4.0", "ips": [{ "version": "4", "address": "10.0.0.2/24" }] }"#,
        );
        let entry = cache.load("net", &params()).unwrap().unwrap();
        assert_eq!((entry.result.ips.len(), entry.version), (1, SpecVersion::V0_4_0));
    }

    #[test]
    fn a_damaged_entry_is_named_and_can_be_removed() {
        let whole = serde_json::to_string(&Stored::from(&entry())).unwrap();
        let config = BASE64_STANDARD.encode(CONFIG);
        let cut_off = whole.replace(&config, &config[..config.len() - 1]);
        assert_ne!(cut_off, whole);
        let other = [r#"{ "kind": "other" }"#, r#"{ "kind": "cniCacheV1" }"#];
        for text in ["", "[]", "{}", other[0], other[1], &cut_off, &whole[..whole.len() / 2]] {
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
    fn an_entry_of_another_attachment_is_neither_taken_nor_removed() {
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
    fn names_that_would_leave_the_directory_are_refused() {
        let cache = Cache::new("/nowhere");
        assert_eq!(cache.file("../x", &params()).unwrap_err().code(), 7);
        for (container_id, ifname) in [("..", "eth0"), ("a/b", "eth0"), ("a", "../x")] {
            assert_eq!(
                cache
                    .file("net", &AttachmentParams::new(container_id, "/n", ifname))
                    .unwrap_err()
                    .code(),
                4
            );
        }
    }

    #[test]
    fn a_listing_has_every_attachment_and_every_broken_file() {
        let (dir, cache) = with_text("{ cut off");
        let results = dir.path().join("results");
        for (container_id, ifname) in [("b", "eth0"), ("a", "eth1"), ("a", "eth0")] {
            let params = AttachmentParams {
                container_id: container_id.into(),
                ifname: ifname.into(),
                ..params()
            };
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
        for ((file, error), part) in
            listing.broken.iter().zip(["key must be", "belongs into", "an entry of kind None"])
        {
            assert!(
                error.details().starts_with(file.to_str().unwrap())
                    && error.details().contains(part),
                "{error}"
            );
        }
        assert_eq!(names(&cache.list_of("a").unwrap()), ["a eth0", "a eth1"]);
        assert_eq!(cache.list_of("box").unwrap().broken.len(), 1);
        assert_eq!(cache.list_of("../a").unwrap_err().code(), 4);
        assert_eq!(Cache::new("/nowhere").list(), Ok(CacheListing::default()));
    }

    #[test]
    fn a_failed_write_leaves_the_entry_before() {
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
