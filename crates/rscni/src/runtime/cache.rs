//! The cache of attachments between ADD and DEL, in the files and format of libcni, so that one
//! runtime can check and detach what another has attached.
//!
//! An entry is the file `results/<network>-<container id>-<interface>`.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::{Serialize, Serializer};

use super::{
    AttachmentParams, CacheEntry,
    cache_entry::{decode, encode},
    conf_dir::files,
    failures::Described,
};
use crate::{
    Error,
    name::{check_container_id, check_interface_name, check_network_name},
};

/// A directory of cached attachments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    dir: PathBuf,
}

/// The contents of a cache, in the order of the file names.
///
/// ```no_run
/// use rscni::runtime::Cache;
///
/// for entry in &Cache::default().list()? {
///     println!("{} {}: {:?}", entry.network, entry.params.container_id, entry.result.ips);
/// }
/// # Ok::<(), rscni::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CacheListing {
    /// The attachments.
    pub entries: Vec<CacheEntry>,
    /// The files that cannot be read, each with an error that names it.
    #[serde(serialize_with = "broken_files")]
    pub broken: Vec<(PathBuf, Error)>,
}

impl CacheListing {
    /// Iterates over the attachments.
    pub fn iter(&self) -> std::slice::Iter<'_, CacheEntry> {
        self.entries.iter()
    }
}

impl<'a> IntoIterator for &'a CacheListing {
    type Item = &'a CacheEntry;
    type IntoIter = std::slice::Iter<'a, CacheEntry>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

impl IntoIterator for CacheListing {
    type Item = CacheEntry;
    type IntoIter = std::vec::IntoIter<CacheEntry>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

/// Writes objects with `file` and `error`.
fn broken_files<S: Serializer>(
    broken: &[(PathBuf, Error)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Broken<'a> {
        file: &'a Path,
        error: Described<'a>,
    }
    serializer
        .collect_seq(broken.iter().map(|(file, error)| Broken { file, error: Described(error) }))
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
        self.list_files(|_| true)
    }

    /// Lists the entries in the files whose names match.
    fn list_files(&self, matches: impl Fn(&str) -> bool) -> Result<CacheListing, Error> {
        let mut listing = CacheListing::default();
        let is_entry = |file: &Path| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            !name.starts_with('.') && matches(&name)
        };
        let results = self.results();
        let files = files(&results, is_entry).map_err(|error| {
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
    /// Files with other names are not read.
    ///
    /// # Errors
    /// [`Error::Cache`] if the directory cannot be read, [`Error::InvalidEnvValue`] if the
    /// container id is invalid.
    pub fn list_of(&self, container_id: &str) -> Result<CacheListing, Error> {
        check_container_id(container_id)?;
        let infix = format!("-{container_id}-");
        let mut listing = self.list_files(|name| name.contains(&infix))?;
        listing.entries.retain(|entry| entry.params.container_id == container_id);
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

/// Maximum length of an entry's file name; a draft has one more byte.
const LONGEST_NAME: usize = 254;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SpecVersion, runtime::NetConfList};
    use base64::prelude::{BASE64_STANDARD, Engine};
    use serde_json::{Value, json};
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
        assert_eq!(serde_json::to_value(entry()).unwrap(), json);
        assert_eq!(serde_json::from_value::<CacheEntry>(json).unwrap(), entry());
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
        let whole = serde_json::to_string(&entry()).unwrap();
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
        assert!((&listing).into_iter().eq(&listing.entries));
        let json = serde_json::to_value(&listing).unwrap();
        assert_eq!(json["entries"], json!(listing.clone().into_iter().collect::<Vec<_>>()));
        assert_eq!(json["broken"][0]["file"], json!(results.join("net-box-eth0")));
        assert_eq!(json["broken"][2]["error"]["code"], 6);
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
